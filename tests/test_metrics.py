"""The field's metrics: closed forms, Quantus' numbers on the same arrays, and weights that are redrawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import Array, Net, signed
from onnx import TensorProto

from onnxlrp import Explainer, InputError, metrics, read
from onnxlrp.curves import Protocol
from onnxlrp.data.sample import Sample
from onnxlrp.metric_table import measure_metrics
from onnxlrp.perturbation.objects import read_objects
from onnxlrp.perturbation.regions import Regions, regions_for
from onnxlrp.randomise import randomisation, redrawn, weighted_layers

# --- what Quantus 0.6.0 was run on (torch 2.13.0, one sample at a time, its draws from our generator) -----------------

RANDOM = np.random.default_rng(7)
X = RANDOM.standard_normal((3, 1, 8, 8)).astype(np.float32)
W1 = RANDOM.standard_normal((64, 16)).astype(np.float32) / 8
W2 = RANDOM.standard_normal((16, 4)).astype(np.float32) / 4
MASK = np.zeros((1, 8, 8), np.bool_)
MASK[:, 2:6, 1:5] = True

QUANTUS = {
    "complexity": (3.5736169815, 3.5790159702, 3.7373497486),
    "sparseness": (0.5802430471, 0.5789288020, 0.5004879544),
    "pointing game": (1.0, 0.0, 0.0),
    "relevance mass": (0.3522824049, 0.2333454043, 0.1800680906),
    "relevance rank": (0.1875, 0.25, 0.125),
    "faithfulness correlation": (0.9694957733, 0.9755553603, 0.9458582401),
    "max-sensitivity": (0.1862231195, 0.1781405807, 0.1011228040),
    "infidelity": (0.0052525322, 0.0577368364, 0.0165009666),
}
"""Complexity and sparseness of |R|, mass of |R|; subsets of 12 elements, 100 runs, baseline 0; noise of ±0.2 drawn 10
times around the gradient; blocks of 4×4 at 0, one after another and left so."""


def net(rows: Array) -> Array:
    return np.asarray(np.tanh(rows.reshape(len(rows), -1) @ W1) @ W2)


TARGETS = net(X).argmax(axis=1)


def gradient(rows: Array, target: int) -> Array:
    hidden = np.tanh(rows.reshape(len(rows), -1) @ W1)
    return np.asarray(((1 - hidden**2) * W2[:, target]) @ W1.T).reshape(rows.shape)


def ours(metric: str, number: int) -> float:
    x, target = X[number], int(TARGETS[number])
    slope = gradient(x[None], target)[0]
    relevance = slope * x

    def predict(rows: Array) -> Array:
        return net(rows)[:, target]

    blocks = regions_for((1, 8, 8), "CHW", 4)
    return float(
        {
            "complexity": lambda: metrics.entropy(relevance),
            "sparseness": lambda: metrics.gini(relevance),
            "pointing game": lambda: metrics.pointing_game(relevance, MASK),
            "relevance mass": lambda: metrics.relevance_mass(np.abs(relevance), MASK),
            "relevance rank": lambda: metrics.relevance_rank(relevance, MASK),
            "faithfulness correlation": lambda: metrics.faithfulness_correlation(predict, x, relevance, subset=12),
            "max-sensitivity": lambda: metrics.max_sensitivity(lambda rows: gradient(rows, target), x, slope),
            "infidelity": lambda: metrics.infidelity(
                predict, x, slope, metrics.patch_copies(x, blocks, cumulative=True)
            ),
        }[metric]()
    )


@pytest.mark.parametrize("metric", QUANTUS)
def test_metrics_agree_with_quantus_on_the_same_arrays(metric: str) -> None:
    """To 1e-5: Quantus computes in float32, and adds 1e-7 to each |R| before its Gini index."""
    assert [ours(metric, number) for number in range(3)] == pytest.approx(QUANTUS[metric], rel=1e-5, abs=2e-6)


# --- closed forms ----------------------------------------------------------------------------------------------------

PARTS = np.array([4.0, 2, 1, -3], np.float32)
COLUMNS = regions_for((4,), "F")


def linear(rows: Array) -> Array:
    """f(x) = Σ PARTS·x, so that PARTS is what each element of ones adds."""
    return np.asarray(rows @ PARTS)


ONES = np.ones(4, np.float32)


def test_the_parts_of_a_linear_model_are_faithful() -> None:
    found = metrics.faithfulness_correlation(linear, ONES, PARTS, subset=2, runs=50)
    assert found == pytest.approx(1)
    assert metrics.faithfulness_correlation(linear, ONES, -PARTS, subset=2, runs=50) == pytest.approx(-1)
    assert math.isnan(metrics.faithfulness_correlation(linear, ONES, 0 * PARTS, subset=2, runs=9))


def test_the_gradient_of_a_linear_model_has_no_infidelity() -> None:
    copies = list(metrics.noisy_copies(ONES, 0.3, 20))
    assert metrics.infidelity(linear, ONES, PARTS, copies) == pytest.approx(0, abs=1e-9)
    assert metrics.infidelity(linear, ONES, 0 * PARTS, copies) > 0.1


def test_deletion_and_insertion_are_areas_under_what_is_known() -> None:
    zeros = np.zeros(4, np.float32)
    curve = metrics.removal_curve(linear, ONES, PARTS, COLUMNS, zeros)
    assert curve.tolist() == [4, 0, -2, -3, 0]
    assert metrics.deletion_auc(linear, ONES, PARTS, COLUMNS, zeros) == pytest.approx((2 - 1 - 2.5 - 1.5) / 4)
    assert metrics.insertion_auc(linear, ONES, PARTS, COLUMNS, zeros) == pytest.approx((2 + 5 + 6.5 + 5.5) / 4)
    assert metrics.removal_curve(linear, ONES, PARTS, COLUMNS, zeros, stages=2).tolist() == [4, -2, 0]


def test_a_sufficient_share_keeps_the_score() -> None:
    zeros = np.zeros(4, np.float32)
    assert metrics.sufficiency(linear, ONES, PARTS, COLUMNS, zeros, share=0.5) == pytest.approx(4 - 6)
    assert metrics.sufficiency(linear, ONES, PARTS, COLUMNS, zeros, share=1.0) == pytest.approx(0)


def test_completeness_is_a_share_of_the_score() -> None:
    assert metrics.completeness_gap(PARTS, 4.0) == 0
    assert metrics.completeness_gap(PARTS, 8.0) == pytest.approx(0.5)
    assert metrics.completeness_gap(PARTS, 9.0, 5.0) == 0
    assert metrics.completeness_gap(0 * PARTS, 0.0) == 0 and math.isnan(metrics.completeness_gap(PARTS, 0.0))


def test_complexity_goes_from_one_element_to_all_alike() -> None:
    one, alike = np.eye(1, 8)[0], np.full(8, -0.5)
    assert metrics.entropy(one) == 0 and metrics.entropy(alike) == pytest.approx(math.log(8))
    assert metrics.gini(one) == pytest.approx(1 - 1 / 8) and metrics.gini(alike) == pytest.approx(0)
    assert metrics.effective_complexity(one) == 1 and metrics.effective_complexity(alike) == 8
    assert math.isnan(metrics.entropy(np.zeros(3))) and math.isnan(metrics.gini(np.zeros(3)))


def test_an_explanation_that_never_changes_is_stable() -> None:
    assert metrics.max_sensitivity(lambda rows: np.repeat(PARTS[None], len(rows), axis=0), ONES, PARTS) == 0
    moved = metrics.max_sensitivity(lambda rows: rows * PARTS, ONES, PARTS, radius=0.1)
    assert 0.03 < moved <= 0.1


def test_where_relevance_lies_is_counted_inside_a_mask_or_a_box() -> None:
    heatmap = np.zeros((4, 6))
    heatmap[1, 2], heatmap[3, 5] = 3, 1
    box = metrics.box_mask((4, 6), (0, 1, 2, 4))
    assert box.sum() == 6
    assert metrics.pointing_game(heatmap, box)
    assert metrics.relevance_mass(heatmap, box) == pytest.approx(0.75)
    assert metrics.relevance_rank(heatmap, heatmap > 0) == 1


@pytest.mark.parametrize(
    ("mask", "word"), [(np.ones((3, 3)), r"\[3, 3\]"), (np.zeros((4, 6)), "empty")], ids=["size", "empty"]
)
def test_a_mask_that_does_not_fit_is_refused(mask: Array, word: str) -> None:
    with pytest.raises(InputError, match=word):
        metrics.relevance_mass(np.ones((4, 6)), mask)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="holds nothing"):
        metrics.box_mask((4, 6), (9, 9, 12, 12))
    with pytest.raises(InputError, match="subset=9"):
        metrics.faithfulness_correlation(linear, ONES, PARTS, subset=9)
    with pytest.raises(InputError, match="relevance has shape"):
        metrics.removal_curve(linear, ONES, PARTS[:2], Regions.of(np.arange(4), (4,)), ONES)


def test_rank_correlation_gives_ties_their_mean_rank() -> None:
    assert metrics.spearman(np.array([1, 2, 2, 3]), np.array([10, 20, 20, 99])) == pytest.approx(1)
    assert metrics.spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert metrics.spearman(np.array([1, 1, 2, 3]), np.array([1, 2, 3, 4])) == pytest.approx(0.9486833)


# --- several methods in a table --------------------------------------------------------------------------------------


def dense(head: str = "") -> onnx.ModelProto:
    random = np.random.default_rng(3)
    graph = Net()
    hidden = graph.MatMul(graph.input("x", ["batch", 6]), graph.weight(signed(random, 6, 5)), name="first")
    y = graph.MatMul(graph.Relu(hidden), graph.weight(signed(random, 5, 3)), name="second")
    return graph.model(graph.add(head, [y]) if head else y)


def test_the_table_has_a_row_per_method_and_metric() -> None:
    samples = [Sample(f"s{i}", {"x": signed(np.random.default_rng(i), 1, 6)}) for i in range(3)]
    explainers = {
        name: Explainer(dense("Softmax"), name, providers="cpu") for name in ("gradient-x-input", "sensitivity")
    }
    rows = measure_metrics(explainers, samples, Protocol(replace="constant", layout="NF"))
    found = {(row["method"], row["metric"]): row for row in rows}
    assert len(found) == len(rows) and {row["samples"] for row in rows} <= {2, 3}
    # Without biases and with the path held, a ReLU net is linear: gradient × input adds up to its score.
    assert found["gradient-x-input", "completeness gap"]["mean"] == pytest.approx(0, abs=1e-5)
    assert ("sensitivity", "completeness gap") not in found
    deletion, insertion = (found["gradient-x-input", f"{name} AUC"]["mean"] for name in ("deletion", "insertion"))
    assert 0 <= deletion < insertion <= 1


def test_words_behind_an_embedding_are_judged_without_moving_them() -> None:
    graph = Net()
    table = graph.weight(signed(np.random.default_rng(6), 20, 5))
    embedded = graph.Gather(table, graph.input("tokens", ["batch", 4], TensorProto.INT64), out="embedded")
    pooled = graph.ReduceMean(embedded, axes=[1], keepdims=0)
    model = graph.model(graph.MatMul(pooled, graph.weight(signed(np.random.default_rng(7), 5, 3))))
    one = Explainer(model, "gradient-x-input", inputs=["embedded"], providers="cpu")
    sample = Sample("text", {"tokens": np.array([[3, 7, 8, 2]])})
    rows = measure_metrics({"gi": one}, [sample], Protocol(replace="zero-embedding", layout="NLC", region=1))
    found = {row["metric"]: row["mean"] for row in rows}
    assert "max-sensitivity" not in found
    assert found["completeness gap"] == pytest.approx(0, abs=1e-5)
    assert found["infidelity"] == pytest.approx(0, abs=1e-9), "the net is linear in its embedding"


def test_the_table_tells_what_is_left_when_weights_are_redrawn() -> None:
    samples = [Sample(f"s{i}", {"x": signed(np.random.default_rng(i), 1, 6)}) for i in range(3)]
    one = Explainer(dense(), "gradient-x-input", providers="cpu", batch_size=2)
    rows = {
        row["metric"]: row for row in measure_metrics({"gi": one}, samples, Protocol(replace="constant", layout="NF"))
    }
    after = [rows[f"rank correlation, {count} of 2 layers redrawn"] for count in (1, 2)]
    assert [row["samples"] for row in after] == [3, 3]
    assert all(-1 <= row["low"] <= row["high"] < 1 for row in after)


def test_an_explainer_moves_to_another_model_with_all_its_choices() -> None:
    first = Explainer(
        dense(),
        "lrp",
        "epsilon",
        {"first": "flat"},
        target=2,
        bias="drop",
        providers="cpu",
        batch_size=3,
        compat="lxt",
    )
    there = first.on(read(dense()))
    assert (there.preset, there.rules, there.target, there.bias) == ("epsilon", first.rules, 2, "drop")
    assert (there.batch_size, there.compat) == (3, first.compat)
    x = signed(np.random.default_rng(0), 2, 6)
    assert np.array_equal(first.explain(x).relevance["x"], there.explain(x).relevance["x"])


# --- where the object is ---------------------------------------------------------------------------------------------


def corner_net() -> Any:
    """The sum of the upper left quarter of a picture."""
    weights = np.zeros((1, 1, 6, 8), np.float32)
    weights[..., :3, :4] = 1
    graph = Net()
    product = graph.Mul(graph.input("x", ["batch", 1, 6, 8]), graph.weight(weights))
    return graph.model(graph.ReduceSum(product, graph.weight(np.array([2, 3])), keepdims=0))


def located(tmp_path: Path, line: str) -> dict[str, float]:
    (tmp_path / "objects.tsv").write_text(line, encoding="utf-8")
    sample = Sample("photo", {"x": np.arange(1, 49, dtype=np.float32).reshape(1, 1, 6, 8)})
    one = Explainer(corner_net(), "gradient-x-input", providers="cpu")
    protocol = Protocol(replace="constant", layout="NCHW", region=2)
    rows = measure_metrics({"gi": one}, [sample], protocol, objects=read_objects(tmp_path / "objects.tsv"))
    return {row["metric"]: row["mean"] for row in rows}


def test_relevance_inside_a_box_or_a_mask_is_counted(tmp_path: Path) -> None:
    inside = np.zeros((6, 8))
    inside[:3, :4] = 1
    np.save(tmp_path / "mask.npy", inside)
    for line in ("photo.png\t0,0,4,3\n", "photo\tmask.npy\n", "photo.png\t0,0,4,1\nphoto.png\t0,1,4,3\n"):
        found = located(tmp_path, line)
        assert [found[f"relevance {name} inside"] for name in ("mass", "rank")] == pytest.approx([1, 1]), line
        assert found["pointing game"] == 1 and found["share of the sample inside"] == 0.25
    away = located(tmp_path, "photo\t4,3,8,6\n")
    assert away["pointing game"] == away["relevance mass inside"] == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("photo 1,2,3,4\n", "line 1"),
        ("photo\t0,0,9,3\n", r"box 0,0,9,3 does not fit \[6, 8\].*left,top,right,bottom"),
        ("photo\t0,3\n", "box 0,3 does not fit"),
        ("other\t0,0,1,1\n", "photo: has no object"),
        ("photo\tsmall.npy\n", r"\[2, 2\] cells.*\[6, 8\]"),
        ("photo\tnone.png\n", "none.png: no such file"),
    ],
)
def test_objects_that_do_not_fit_are_said(tmp_path: Path, line: str, words: str) -> None:
    np.save(tmp_path / "small.npy", np.ones((2, 2)))
    with pytest.raises(InputError, match=words):
        located(tmp_path, line)


def test_an_object_along_time_is_from_and_to(tmp_path: Path) -> None:
    (tmp_path / "objects.tsv").write_text("walk\t10,20\n")
    inside = read_objects(tmp_path / "objects.tsv")(Sample("walk", {}), [50])
    assert np.flatnonzero(inside).tolist() == list(range(10, 20))


def test_a_table_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="No sample"):
        measure_metrics({"g": Explainer(dense(), "gradient", providers="cpu")}, [], Protocol())


# --- weights redrawn -------------------------------------------------------------------------------------------------


def heatmaps(model: Any) -> Array:
    x = signed(np.random.default_rng(9), 4, 6)
    found = Explainer(model, "gradient-x-input", providers="cpu").explain(x, target=1).relevance["x"]
    return np.asarray(found)


def test_layers_are_named_from_the_output_down() -> None:
    assert weighted_layers(read(dense())) == ["second", "first"]


def test_redrawing_leaves_the_model_itself_and_other_layers_as_they_were() -> None:
    model = read(dense())
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    changed = redrawn(model, ["second"])
    now = {name: value.const_value.numpy() for name, value in changed.graph.initializers.items() if value.const_value}
    assert [name for name in weights if not np.array_equal(weights[name], now[name])] == ["w1"]
    same = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    assert all(np.array_equal(weights[name], same[name]) for name in weights)
    again = redrawn(model, ["first", "second"])
    assert np.array_equal(again.graph.initializers["w1"].const_value.numpy(), now["w1"])  # type: ignore[union-attr]


def test_randomisation_cascades_and_compares_with_the_trained_model() -> None:
    steps = list(randomisation(read(dense()), heatmaps))
    assert [(step.layer, step.redrawn) for step in steps] == [("second", 1), ("first", 2)]
    assert all(-1 <= step.signed < 0.999 and -1 <= step.magnitude < 1 for step in steps)
    assert steps == list(randomisation(read(dense()), heatmaps))


def test_an_explanation_that_ignores_the_model_does_not_notice() -> None:
    fixed = np.arange(12.0).reshape(2, 6)
    assert [step.signed for step in randomisation(read(dense()), lambda model: fixed)] == pytest.approx([1, 1])


def test_a_model_without_float_weights_is_refused() -> None:
    graph = Net()
    with pytest.raises(InputError, match="no float weights"):
        list(randomisation(read(graph.model(graph.Relu(graph.input("x", ["batch", 6])))), heatmaps))
