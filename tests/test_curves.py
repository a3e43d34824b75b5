"""Perturbation curves: what is replaced, in which order, by what, and the numbers that come of it."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from nets import Array, Net, signed
from onnx import TensorProto
from onnxlrp_cli import main
from shared import SHARED, needs

from onnxlrp import ChoiceError, Explainer, InputError, Unsupported
from onnxlrp.curves import Protocol, measure_curves, surroundings
from onnxlrp.data.sample import Sample
from onnxlrp.perturbation.predictor import Predictor, head_of
from onnxlrp.perturbation.regions import Regions, grid, ranked, regions_for
from onnxlrp.perturbation.replacements import REPLACEMENTS, Removal, Surroundings, replacement
from onnxlrp.perturbation.samples import Skipped, read_classes
from onnxlrp.perturbation.statistics import Curves, Series, bootstrap
from onnxlrp.perturbation.store import Record

W = signed(np.random.default_rng(0), 6, 3)
RANDOM, MORF, LERF = "random", "morf", "lerf"


def linear() -> onnx.ModelProto:
    net = Net()
    return net.model(net.MatMul(net.input("x", ["batch", 6]), net.weight(W), out="logits"))


def picture_net(head: str = "") -> onnx.ModelProto:
    """Conv → Relu → mean → dense, over (3, 10, 10)."""
    random = np.random.default_rng(1)
    net = Net()
    x = net.input("x", ["batch", 3, 10, 10])
    hidden = net.Relu(net.Conv(x, net.weight(signed(random, 5, 3, 3, 3)), pads=[1, 1, 1, 1]))
    flat = net.Flatten(net.MaxPool(hidden, kernel_shape=[5, 5], strides=[5, 5]))
    y = net.MatMul(flat, net.weight(signed(random, 20, 4) / 8))
    return net.model(net.add(head, [y]) if head else y)


def explainer(model: Any = None, method: str = "gradient-x-input", **choices: Any) -> Explainer:
    return Explainer(picture_net() if model is None else model, method, providers="cpu", **choices)


def pictures(count: int = 5, seed: int = 2) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [Sample(f"photo{i}", {"x": random.standard_normal((1, 3, 10, 10)).astype(np.float32)}) for i in range(count)]


def protocol(**choices: Any) -> Protocol:
    return Protocol(**({"steps": 6, "region": 4, "around": surroundings("NCHW", 3)} | choices))


def of(curves: Curves, method: str, order: str = MORF, score: str = "logit") -> Array:
    return curves.decrease(Series(method, order), score)


# --- order -----------------------------------------------------------------------------------------------------------


def test_on_a_linear_model_gradient_times_input_removes_the_largest_parts_first() -> None:
    x = signed(np.random.default_rng(3), 1, 6)
    choices = Protocol(steps=6, replace="constant", orders=(MORF, LERF), layout="NF")
    curves = measure_curves({"gi": explainer(linear())}, [Sample("one", {"x": x})], choices, target=1)
    parts = np.sort(x[0] * W[:, 1])
    assert np.allclose(of(curves, "gi")[0, 0], [0, *np.cumsum(parts[::-1])], atol=1e-5)
    assert np.allclose(of(curves, "gi", LERF)[0, 0], [0, *np.cumsum(parts)], atol=1e-5)


def test_no_other_order_of_a_linear_model_has_a_larger_area() -> None:
    x = signed(np.random.default_rng(4), 1, 6)
    choices = Protocol(steps=6, replace="constant", layout="NF")
    curves = measure_curves({"gi": explainer(linear())}, [Sample("one", {"x": x})], choices, target=0)
    parts = x[0] * W[:, 0]
    areas = [np.mean([0, *np.cumsum(parts[list(order)])]) for order in itertools.permutations(range(6))]
    assert curves.areas("logit")[0].aopc.mean == pytest.approx(max(areas), abs=1e-5)


def test_ties_fall_by_chance_and_not_by_position() -> None:
    flat = np.zeros(100)
    first = ranked(flat, np.random.default_rng(0))
    assert not np.array_equal(first, np.arange(100)) and sorted(first) == list(range(100))
    assert np.array_equal(first, ranked(flat, np.random.default_rng(0)))


# --- regions ---------------------------------------------------------------------------------------------------------


def test_regions_at_the_border_are_cut_and_every_pixel_lies_in_one() -> None:
    regions = regions_for((3, 10, 10), "NCHW", 4)
    assert regions.count == 9
    assert sorted(len(cells) // 3 for cells in regions.cells) == [4, 8, 8, 8, 8, 16, 16, 16, 16]
    assert sorted(np.concatenate(regions.cells)) == list(range(300))


def test_the_score_of_a_region_is_the_sum_of_the_map_inside() -> None:
    relevance = np.random.default_rng(0).standard_normal((3, 10, 10))
    regions = regions_for((3, 10, 10), "NCHW", 4)
    assert regions.sums(relevance)[4] == pytest.approx(relevance[:, 4:8, 4:8].sum())


@pytest.mark.parametrize(
    ("shape", "layout", "size", "count"),
    [
        ((7,), "NF", 9, 7),
        ((100,), "NL", 9, 12),
        ((100, 6), "NLF", 10, 10),
        ((3, 8, 20, 20), "NCTHW", {"T": 1}, 8),
        ((8, 3, 20, 20), "NTCHW", {"T": 4, "H": 10, "W": 10}, 8),
        ((10, 10, 3), "NHWC", 5, 4),
        ((5, 5), "NHW", {"H": 1}, 5),
    ],
    ids=str,
)
def test_columns_windows_frames_and_blocks_are_regions(shape: Any, layout: str, size: Any, count: int) -> None:
    assert regions_for(shape, layout, size).count == count


def test_a_flattened_picture_has_patches_too() -> None:
    regions = regions_for((784,), "NCHW", 14, picture=(28, 28))
    assert regions.count == 4
    assert regions.cells[1][:3].tolist() == [14, 15, 16]


def test_a_mask_may_leave_elements_out_and_broadcast_over_channels() -> None:
    labels = np.full((1, 10, 10), -1)
    labels[0, :2], labels[0, 8:] = 7, 3
    regions = Regions.of(labels, (3, 10, 10))
    assert regions.count == 2
    assert [len(cells) for cells in regions.cells] == [60, 60]
    assert regions.sums(np.ones((3, 10, 10))).tolist() == [60, 60]


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.zeros((9, 9), int), r"\[9, 9\].*\[3, 10, 10\]"),
        (np.zeros((10, 10)), "float64"),
        (np.full((10, 10), -1), "zero"),
    ],
    ids=["shape", "floats", "nothing"],
)
def test_a_mask_that_does_not_fit_is_refused_with_what_was_met(labels: Array, word: str) -> None:
    with pytest.raises(InputError, match=word):
        Regions.of(labels, (3, 10, 10))


def test_an_axis_that_the_layout_lacks_is_refused() -> None:
    with pytest.raises(ChoiceError, match="no axis 'T'"):
        regions_for((3, 10, 10), "NCHW", {"T": 1})
    with pytest.raises(ChoiceError, match="region=0"):
        grid((4,), [0])


# --- replacements ----------------------------------------------------------------------------------------------------


PATCHES = regions_for((3, 10, 10), "CHW", 4)
PHOTO = np.random.default_rng(5).random((3, 10, 10)).astype(np.float32)


def fill(name: str, x: Array = PHOTO, regions: Regions = PATCHES, **around: Any) -> Array:
    known = Surroundings(**({"spatial": (1, 2)} | around))
    """Every region replaced in turn, each in an untouched copy."""
    replacing, found = replacement(name, known), x.copy()
    filled = replacing.fill(x, regions, np.random.default_rng(0))
    for number, cells in enumerate(regions.cells):
        copy = x.copy()
        replacing.replace(copy, regions, number, filled)
        found.reshape(-1)[cells] = copy.reshape(-1)[cells]
    return found


def test_uniform_noise_fills_the_box_of_each_channel() -> None:
    low, high = np.array([-1, 0, 5.0]).reshape(3, 1, 1), np.array([1, 0.5, 9.0]).reshape(3, 1, 1)
    noise = fill("uniform", low=low, high=high)
    assert noise.dtype == np.float32
    assert (noise >= low).all() and (noise <= high).all()
    assert np.abs(noise.mean(axis=(1, 2)) - [0, 0.25, 7]).max() < 0.3
    assert len(np.unique(noise)) == noise.size


def test_without_a_box_noise_has_the_samples_own_range() -> None:
    noise = fill("uniform")
    assert PHOTO.min() <= noise.min() and noise.max() <= PHOTO.max()


def test_blur_keeps_what_is_even_and_the_mean_of_channels_is_kept_by_mean() -> None:
    even = np.full((3, 10, 10), 0.25, np.float32)
    for name in ("blur", "mean", "neighbourhood", "inpainting"):
        if name != "inpainting" or importlib.util.find_spec("skimage"):
            assert np.allclose(fill(name, even), even, atol=1e-6), name
    assert np.allclose(fill("mean").mean(axis=(1, 2)), PHOTO.mean(axis=(1, 2)), atol=1e-6)
    assert fill("blur").std() < PHOTO.std() / 2


def test_noise_of_the_neighbourhood_follows_what_lies_around() -> None:
    ramp = np.broadcast_to(np.repeat([0.0, 10.0], 5)[:, None], (1, 10, 10)).astype(np.float32)
    regions = regions_for(ramp.shape, "CHW", 2)
    found = fill("neighbourhood", ramp, regions)
    assert found[0, :2].max() < 1 and found[0, 8:].min() > 9


def test_permutation_takes_the_same_place_of_another_sample() -> None:
    others = np.arange(4 * 6, dtype=np.float32).reshape(4, 6)
    found = fill("permutation", np.zeros(6, np.float32), regions_for((6,), "F"), background=others)
    assert (found % 6 == np.arange(6)).all()


def test_the_mean_of_columns_is_the_backgrounds() -> None:
    others = np.array([[0, 10.0], [2, 30]], np.float32)
    found = fill("mean", np.zeros(2, np.float32), regions_for((2,), "F"), background=others, spatial=())
    assert found.tolist() == [1, 20]
    with pytest.raises(ChoiceError, match="background"):
        fill("mean", np.zeros(2, np.float32), regions_for((2,), "F"), spatial=())


def test_removed_tokens_let_the_rest_move_up() -> None:
    tokens = np.array([5, 6, 7, 8])
    removal = Removal(Surroundings(value=1))
    assert removal.compact(tokens, np.array([False, True, True, False])).tolist() == [5, 8, 1, 1]


def test_inpainting_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(Unsupported, match=r"scikit-image.*onnxlrp\[inpainting\]"):
        fill("inpainting")


def test_unknown_replacements_and_missing_neighbours_are_refused() -> None:
    with pytest.raises(ChoiceError, match="Did you mean 'uniform'"):
        replacement("unifrom", Surroundings())
    with pytest.raises(ChoiceError, match="neighbours"):
        fill("blur", spatial=())


@pytest.mark.parametrize("name", [n for n in REPLACEMENTS if n not in ("permutation", "inpainting", "removal")])
def test_every_replacement_runs_through_the_same_code(name: str) -> None:
    curves = measure_curves({"gi": explainer()}, pictures(2), protocol(replace=name))
    assert of(curves, "gi").shape == (2, 1, 7)


@pytest.mark.parametrize("name", ["neighbourhood", "inpainting"])
def test_what_was_taken_away_does_not_come_back_through_its_neighbours(name: str) -> None:
    """The middle of a black strip is white; once that is gone, what stands beside it cannot know of it."""
    if name == "inpainting":
        pytest.importorskip("skimage")
    strip = np.zeros((1, 1, 30), np.float32)
    strip[..., 10:20] = 1
    regions = Regions.of(np.arange(30)[None, None] // 10, strip.shape)
    replacing = replacement(name, Surroundings(spatial=(1, 2), low=0, high=1))
    filled = replacing.fill(strip, regions, np.random.default_rng(0))
    direct, later = strip.copy(), strip.copy()
    replacing.replace(direct, regions, 0, filled)
    later[..., 10:20] = 0
    replacing.replace(later, regions, 0, filled)
    assert direct[..., :10].max() > 0.2
    assert later[..., :10].max() == 0


def two_inputs() -> onnx.ModelProto:
    net = Net()
    a, b = net.input("a", ["batch", 4]), net.input("b", ["batch", 2, 2])
    left = net.MatMul(a, net.weight(W[:4]))
    return net.model(net.Add(left, net.MatMul(net.Flatten(b), net.weight(W[2:6]))))


def test_several_inputs_are_perturbed_together_or_one_by_name() -> None:
    random = np.random.default_rng(8)
    arrays = {"a": signed(random, 1, 4), "b": signed(random, 1, 2, 2)}
    parts = np.concatenate([(arrays["a"][0] * W[:4, 1]).ravel(), arrays["b"].ravel() * W[2:6, 1]])
    choices = Protocol(steps=8, region=1, replace="constant", layout="NF")
    curves = measure_curves({"gi": explainer(two_inputs())}, [Sample("s", arrays)], choices, target=1)
    assert curves.settings["tensor"] == "a, b"
    by_row = np.sort([*parts[:4], parts[4] + parts[5], parts[6] + parts[7]])[::-1]
    assert np.allclose(of(curves, "gi")[0, 0], [0, *np.cumsum(by_row)], atol=1e-5)
    one = measure_curves({"gi": explainer(two_inputs(), inputs=["a"])}, [Sample("s", arrays)], choices, target=1)
    assert np.allclose(of(one, "gi")[0, 0], [0, *np.cumsum(np.sort(parts[:4])[::-1])], atol=1e-5)


def test_noise_of_several_inputs_is_the_same_for_all_methods() -> None:
    random = np.random.default_rng(9)
    arrays = {"a": signed(random, 1, 4), "b": signed(random, 1, 2, 2)}
    explainers = {"one": explainer(two_inputs()), "other": explainer(two_inputs(), "sensitivity")}
    curves = measure_curves(explainers, [Sample("s", arrays)], Protocol(steps=9, region=1, repeats=2, layout="NF"))
    assert np.allclose(of(curves, "one")[..., -1], of(curves, "other")[..., -1], atol=1e-5)
    assert not np.allclose(of(curves, "one")[0, 0], of(curves, "one")[0, 1])


def test_what_speaks_of_one_tensor_is_refused_for_several() -> None:
    sample = Sample("s", {"a": np.ones((1, 4), np.float32), "b": np.ones((1, 2, 2), np.float32)})
    for choices in ({"labels": lambda one: np.arange(4)}, {"replace": "removal"}):
        with pytest.raises(ChoiceError, match="a, b are perturbed together"):
            measure_curves({"gi": explainer(two_inputs())}, [sample], Protocol(layout="NF", **choices))


# --- common random numbers -------------------------------------------------------------------------------------------


def test_all_methods_and_orders_meet_the_same_noise() -> None:
    explainers = {"one": explainer(), "same": explainer(), "other": explainer(method="sensitivity")}
    curves = measure_curves(explainers, pictures(), protocol(steps=9, orders=(MORF, LERF), repeats=2))
    assert np.array_equal(of(curves, "one"), of(curves, "same"))
    last = [of(curves, s.method, s.order)[..., -1] for s in curves.series]
    assert all(np.allclose(last[0], other, atol=1e-5) for other in last), "everything replaced is the same copy"
    assert not np.allclose(last[0][:, 0], last[0][:, 1]), "repeats differ"


def test_noise_depends_on_the_photo_and_neither_on_its_name_nor_its_place() -> None:
    samples = pictures(3)
    there = measure_curves({"gi": explainer()}, samples, protocol())
    moved = [Sample(f"renamed{i}", one.arrays) for i, one in enumerate(reversed(samples))]
    back = measure_curves({"gi": explainer()}, moved, protocol())
    assert np.allclose(of(there, "gi"), of(back, "gi")[::-1], atol=1e-5)
    assert np.allclose(of(there, RANDOM, RANDOM), of(back, RANDOM, RANDOM)[::-1], atol=1e-5)


def test_the_seed_decides() -> None:
    first, again, other = (measure_curves({"gi": explainer()}, pictures(2), protocol(seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(of(first, "gi"), of(again, "gi"))
    assert not np.allclose(of(first, "gi"), of(other, "gi"))


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 64])
def test_numbers_do_not_depend_on_the_batch_size(size: int) -> None:
    reference = measure_curves({"gi": explainer(batch_size=16)}, pictures(), protocol(repeats=2))
    found = measure_curves({"gi": explainer(batch_size=size)}, pictures(), protocol(repeats=2))
    for series in reference.series:
        a, b = (curves.decrease(series, "logit") for curves in (reference, found))
        assert np.allclose(a, b, atol=1e-5)


def test_copies_run_in_full_batches_and_heatmaps_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    one, explained, sizes = explainer(batch_size=4), [], []
    explain = one.explain

    def counted(x: Any, **choices: Any) -> Any:
        explained.append(len(x["x"]))
        return explain(x, **choices)

    monkeypatch.setattr(one, "explain", counted)

    run = Predictor.__call__
    monkeypatch.setattr(
        Predictor, "__call__", lambda self, rows, rest: sizes.append(len(rows["x"])) or run(self, rows, rest)
    )
    measure_curves({"gi": one}, pictures(4), protocol(steps=9))
    assert explained == [4]
    assert sum(sizes) == 4 * (1 + 2 * 9) and sizes.count(4) >= len(sizes) - 4


def test_a_run_says_how_long_it_was_inside_onnxruntime() -> None:
    seconds = measure_curves({"gi": explainer()}, pictures(2), protocol()).seconds
    assert 0 < seconds["onnxruntime"] < seconds["total"]
    assert seconds["forward"] + seconds["heatmaps"] < seconds["total"]


def test_samples_are_read_one_batch_at_a_time() -> None:
    """So that memory does not grow with their number."""
    read: list[int] = []
    ahead: list[int] = []

    def stream() -> Iterator[Sample]:
        for number, sample in enumerate(pictures(12)):
            read.append(number)
            yield sample

    measure_curves(
        {"gi": explainer(batch_size=4)}, stream(), protocol(), progress=lambda done: ahead.append(len(read) - done)
    )
    assert max(ahead) <= 1


def test_a_model_without_a_batch_axis_is_one_sample() -> None:
    net = Net()
    x = net.input("x", [6])
    model = net.model(net.MatMul(x, net.weight(W), out="logits"))
    values = signed(np.random.default_rng(0), 6)
    curves = measure_curves(
        {"gi": explainer(model)}, [Sample("one", {"x": values})], Protocol(steps=6, replace="constant", layout="F")
    )
    best = int((values @ W).argmax())
    assert np.allclose(of(curves, "gi")[0, 0], [0, *np.cumsum(np.sort(values * W[:, best])[::-1])], atol=1e-5)


# --- words -----------------------------------------------------------------------------------------------------------


def words_net() -> onnx.ModelProto:
    net = Net()
    table = signed(np.random.default_rng(6), 20, 5)
    embedded = net.Gather(net.weight(table), net.input("tokens", ["batch", 4], TensorProto.INT64), out="embedded")
    return net.model(
        net.MatMul(net.ReduceMean(embedded, axes=[1], keepdims=0), net.weight(signed(np.random.default_rng(7), 5, 3)))
    )


def test_words_lose_their_embedding_at_an_inner_tensor() -> None:
    tokens = np.array([[3, 7, 7, 1]])
    word_of = np.array([[0], [1], [1], [-1]])
    choices = Protocol(steps=50, replace="zero-embedding", labels=lambda sample: word_of, labels_name="words")
    one = explainer(words_net(), inputs=["embedded"])
    curves = measure_curves({"gi": one}, [Sample("text", {"tokens": tokens})], choices)
    assert curves.steps == 2, "two words, one piece that belongs to none"
    relevance = one.explain(tokens).relevance["embedded"][0].sum(axis=1)
    by_word = np.sort([relevance[0], relevance[1:3].sum()])[::-1]
    assert np.allclose(of(curves, "gi")[0, 0], [0, by_word[0], by_word.sum()], atol=1e-5)


def test_tokens_themselves_may_be_replaced_or_removed() -> None:
    one = explainer(words_net(), "random", inputs=["tokens"])
    samples = [Sample("text", {"tokens": np.array([[3, 7, 8, 2]])})]
    for name in ("token", "removal"):
        around = Surroundings(value=1)
        curves = measure_curves(
            {"r": one}, samples, Protocol(steps=4, replace=name, layout="NL", region=1, around=around)
        )
        every = measure_curves(
            {"r": one}, [Sample("pad", {"tokens": np.ones((1, 4), np.int64)})], Protocol(layout="NL")
        )
        gone = curves.records[0].value[0, 0, 0] - of(curves, "r")[0, 0, -1]
        target = curves.records[0].target
        assert every.records[0].target != target or gone == pytest.approx(every.records[0].value[0, 0, 0], abs=1e-5)


# --- resume ----------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """As if the process had ended."""


def interrupted(store: Path, after: int, **choices: Any) -> None:
    def stop(done: int) -> None:
        if done >= after:
            raise Killed

    with pytest.raises(Killed):
        measure_curves({"gi": explainer(batch_size=2)}, pictures(), protocol(**choices), store=store, progress=stop)


def test_a_killed_run_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    whole = measure_curves({"gi": explainer(batch_size=2)}, pictures(), protocol(repeats=2))
    store = tmp_path / "results.jsonl"
    interrupted(store, 3, repeats=2)
    with store.open("a") as file:
        file.write('{"name": "half a li')
    rest = measure_curves({"gi": explainer(batch_size=2)}, pictures(), protocol(repeats=2), store=store, resume=True)
    assert 0 < rest.runs < whole.runs
    for a, b in zip(whole.records, rest.records, strict=True):
        assert (a.name, a.target) == (b.name, b.target)
        assert np.array_equal(a.value, b.value) and np.array_equal(a.log_probability, b.log_probability)
    assert whole.areas("logit") == rest.areas("logit")
    lines = store.read_text().splitlines()
    assert len(lines) == 6 and all(json.loads(line) for line in lines)


def test_a_kill_inside_a_batch_changes_no_number_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_curves({"gi": explainer(batch_size=2)}, pictures(), protocol(steps=9))
    store = tmp_path / "results.jsonl"
    with monkeypatch.context() as patch:
        run, left = Predictor.__call__, [15]

        def failing(self: Predictor, rows: Array, rest: Any) -> Array:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return run(self, rows, rest)

        patch.setattr(Predictor, "__call__", failing)
        with pytest.raises(Killed):
            measure_curves({"gi": explainer(batch_size=2)}, pictures(), protocol(steps=9), store=store)
    done = len(store.read_text().splitlines()) - 1
    assert done % 2 == 1, "the kill fell between the two samples of a batch"
    rest = measure_curves({"gi": explainer(batch_size=2)}, pictures(), protocol(steps=9), store=store, resume=True)
    assert all(np.array_equal(a.value, b.value) for a, b in zip(whole.records, rest.records, strict=True))


def test_results_of_other_settings_are_not_taken_up(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    interrupted(store, 2)
    with pytest.raises(ChoiceError, match="seed: 0 there, 9 now"):
        measure_curves({"gi": explainer(batch_size=2)}, pictures(), protocol(seed=9), store=store, resume=True)
    store.write_text("no results\n")
    with pytest.raises(InputError, match="holds no results"):
        measure_curves({"gi": explainer(batch_size=2)}, pictures(), protocol(), store=store, resume=True)


def test_without_resume_a_run_starts_anew(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    interrupted(store, 2)
    curves = measure_curves({"gi": explainer(batch_size=2)}, pictures(1), protocol(seed=4), store=store)
    assert len(store.read_text().splitlines()) == 2 and curves.settings["seed"] == 4


# --- bad samples -----------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_skipped_and_counted_and_the_rest_is_measured() -> None:
    good, broken = pictures(3), Sample("nan", {"x": np.full((1, 3, 10, 10), np.nan, np.float32)})
    samples = [good[0], Skipped("torn", "torn.jpg: not a readable picture"), broken, *good[1:]]
    curves = measure_curves({"gi": explainer()}, samples, protocol())
    assert [record.name for record in curves.records] == ["photo0", "photo1", "photo2"]
    assert [one.name for one in curves.skipped] == ["torn", "nan"]
    assert "nan" in curves.skipped[1].reason.lower()
    alone = measure_curves({"gi": explainer()}, good, protocol())
    assert np.allclose(of(curves, "gi"), of(alone, "gi"), atol=1e-5)


def test_a_mask_of_the_wrong_size_skips_its_sample() -> None:
    masks = {"photo0": np.zeros((1, 10, 10), int), "photo1": np.zeros((5, 5), int)}
    choices = protocol(labels=lambda sample: masks[sample.name], labels_name="masks")
    curves = measure_curves({"gi": explainer()}, pictures(2), choices)
    assert [one.name for one in curves.skipped] == ["photo1"]
    assert "[5, 5]" in curves.skipped[0].reason


def test_what_an_explanation_warns_of_is_heard_once_per_method() -> None:
    box = np.zeros((3, 1, 1)), np.full((3, 1, 1), 1e-3)
    boxed = explainer(method="lrp", preset="epsilon-gamma-box", box=box)
    curves = measure_curves({"boxed": boxed, "chance": explainer(method="random")}, pictures(20), protocol())
    (warning,) = curves.warnings
    assert warning.startswith("boxed: ")
    assert "outside the box" in warning


def test_when_nothing_fits_the_reasons_are_said() -> None:
    with pytest.raises(InputError, match="torn"):
        measure_curves({"gi": explainer()}, [Skipped("torn", "torn.jpg: broken")], protocol())


def test_explainers_of_different_models_do_not_compare() -> None:
    with pytest.raises(ChoiceError, match="differ"):
        measure_curves({"a": explainer(), "b": explainer(linear())}, pictures(1), protocol())
    with pytest.raises(ChoiceError, match="At least one"):
        measure_curves({}, pictures(1), protocol())


@pytest.mark.parametrize(
    "choice", [{"steps": 0}, {"repeats": 0}, {"orders": ("best",)}, {"replace": "nothing"}], ids=str
)
def test_a_protocol_says_what_it_does_not_know(choice: dict[str, Any]) -> None:
    with pytest.raises(ChoiceError):
        protocol(**choice)


# --- scores ----------------------------------------------------------------------------------------------------------


def handmade(logs: Any, label: int = -1, best: Any = None, repeats: int = 1) -> Curves:
    """Curves of one sample per entry: method "m" in both orders, and random."""
    records = []
    for number, (morf, lerf, random) in enumerate(logs):
        values = np.repeat(np.array([morf, lerf, random], np.float64)[:, None], repeats, axis=1)
        hits = np.zeros(values.shape, np.int64) if best is None else np.asarray(best)
        records.append(Record(f"s{number}", "0", 9, 0, label, 2 * values, values, hits))
    series = (Series("m", MORF), Series("m", LERF), Series(RANDOM, RANDOM))
    return Curves(series, tuple(records), (), {"steps": len(logs[0][0]) - 1}, "softmax", {}, 0)


def test_area_and_area_between_are_the_formulas() -> None:
    curves = handmade([([0, -2, -4], [0, -1, -1], [0, 0, -3])])
    morf, lerf, chance = curves.areas("log-probability")
    assert (morf.aopc.mean, lerf.aopc.mean, chance.aopc.mean) == pytest.approx((2, 2 / 3, 1))
    assert morf.minus_random is not None and morf.minus_random.mean == pytest.approx(1)
    assert chance.minus_random is None
    assert curves.between("log-probability")["m"].mean == pytest.approx((0 + 1 + 3) / 3)


def test_scores_are_functions_of_one_probability() -> None:
    p = np.array([0.5, 0.1, 0.8])
    curves = handmade([(np.log(p), np.log(p), np.log(p))])
    first = Series("m", MORF)
    assert np.allclose(curves.decrease(first, "probability")[0, 0], 0.5 - p)
    assert np.allclose(curves.decrease(first, "relative")[0, 0], (0.5 - p) / 0.5)
    assert np.allclose(curves.decrease(first, "bounded")[0, 0], [0, 0.8, -0.375])
    assert np.allclose(curves.decrease(first, "logit")[0, 0], 2 * (np.log(0.5) - np.log(p)))


def test_a_relative_decrease_has_a_heavy_tail_where_the_first_score_is_small_and_the_bounded_form_has_none() -> None:
    rise = np.log([0.001, 0.5])
    curves = handmade([(rise, rise, rise)])
    assert curves.decrease(Series("m", MORF), "relative").min() < -400
    assert curves.decrease(Series("m", MORF), "bounded").min() >= -1


def test_accuracy_needs_labels() -> None:
    best = np.array([[[1, 1, 0]]] * 3)
    curves = handmade([([0, 0, 0],) * 3], label=1, best=best)
    assert curves.decrease(Series("m", MORF), "accuracy")[0, 0].tolist() == [0, 0, 1]
    with pytest.raises(ChoiceError, match="--labels-file"):
        handmade([([0, 0, 0],) * 3]).band(Series("m", MORF), "accuracy")


def test_softmax_and_sigmoid_outputs_and_probabilities_are_told_apart() -> None:
    y = np.array([[1.0, -2, 0.5]])
    soft = np.exp(y) / np.exp(y).sum()
    assert head_of(y, soft) == "softmax" and head_of(y, y) == "softmax"
    assert head_of(y, 1 / (1 + np.exp(-y))) == "sigmoid"
    assert head_of(soft, soft) == "probability"


@pytest.mark.parametrize("head", ["", "Softmax", "Sigmoid"])
def test_the_probability_is_the_models_own(head: str) -> None:
    model, samples = picture_net(head), pictures(3)
    one = explainer(model)
    curves = measure_curves({"gi": one}, samples, protocol(steps=1))
    for sample, record in zip(samples, curves.records, strict=True):
        (y,) = one.predict(sample.arrays["x"]).values()
        shown = y[0] if head else np.exp(y[0]) / np.exp(y[0]).sum()
        assert np.exp(record.log_probability[0, 0, 0]) == pytest.approx(shown[record.target], rel=1e-4)
        assert record.target == y[0].argmax()


def test_an_output_that_is_no_vector_of_classes_has_a_value_only() -> None:
    net = Net()
    x = net.input("x", ["batch", 3, 10, 10])
    model = net.model(net.Conv(x, net.weight(signed(np.random.default_rng(0), 2, 3, 1, 1))))
    curves = measure_curves({"gi": explainer(model)}, pictures(1), protocol(), target=1)
    assert curves.scores == ["logit"]
    with pytest.raises(ChoiceError, match="no score 'probability'"):
        curves.areas("probability")


# --- bands -----------------------------------------------------------------------------------------------------------


def test_a_band_has_no_width_where_samples_agree() -> None:
    band = bootstrap(np.ones((5, 2, 3)))
    assert band.mean.tolist() == band.low.tolist() == band.high.tolist() == [1, 1, 1]


def test_a_band_is_as_wide_as_the_error_of_the_mean() -> None:
    values = np.random.default_rng(0).standard_normal((400, 1, 1))
    band = bootstrap(values, scalar=True)
    assert (band.high - band.low) / 2 == pytest.approx(1.96 / np.sqrt(400), rel=0.15)


def test_repeats_of_one_sample_make_a_band_too() -> None:
    assert bootstrap(np.random.default_rng(0).standard_normal((1, 20, 1)), scalar=True).low < 0


def test_pairing_by_sample_narrows_a_comparison() -> None:
    shared = np.random.default_rng(0).standard_normal(50) * 10
    curves = handmade([([0, -a], [0, -a + 1], [0, -a]) for a in shared])
    gap = curves.minus(Series("m", MORF), Series("m", LERF), "log-probability")
    assert gap.low == pytest.approx(gap.high) == pytest.approx(0.5)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    folder = files("onnxlrp.demo")
    for name in ("shapes.onnx", "shapes.toml", "circle.png", "square.png"):
        shutil.copy(str(folder / name), tmp_path / name)
    return tmp_path


@pytest.fixture
def curve(demo: Path) -> Callable[..., Any]:
    def run(*words: str) -> Any:
        out = ["-o", str(demo / "out"), "--steps", "5", "--region", "8"]
        return CliRunner().invoke(main, ["curve", str(demo / "shapes.onnx"), *out, *map(str, words)])

    return run


def test_the_command_writes_tables_a_document_and_a_figure(demo: Path, curve: Callable[..., Any]) -> None:
    result = curve(demo / "circle.png", demo / "square.png", "--method", "lrp", "--method", "sensitivity", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    written = json.loads((demo / "out" / "curve.json").read_text())
    assert document == written | {"holds": True, "minimum": None, "warnings": []}
    assert document["samples"] == 2 and document["score"] == "log-probability"
    rows = list(csv.DictReader((demo / "out" / "curve.csv").read_text().splitlines()))
    assert len(rows) == 5 * 3 * 6
    assert [row["method"] for row in rows[::6]][1:3] == ["sensitivity", "random"]
    for name in ("curve.png", "areas.csv", "samples.csv"):
        assert (demo / "out" / name).stat().st_size > 100


def test_the_gate_exits_1_below_its_minimum(demo: Path, curve: Callable[..., Any]) -> None:
    assert curve(demo / "circle.png", "--min-over-random", "-100").exit_code == 0
    below = curve(demo / "circle.png", "--min-over-random", "100", "--resume")
    assert below.exit_code == 1
    assert "--min-over-random asks for 100" in below.stderr


def test_an_unreadable_image_is_skipped_and_the_exit_code_is_2(demo: Path, curve: Callable[..., Any]) -> None:
    (demo / "torn.png").write_bytes(b"no picture")
    result = curve(demo / "torn.png", demo / "circle.png")
    assert result.exit_code == 2
    assert "1 measured, 1 skipped" in result.stdout and "torn.png: not a readable picture" in result.stderr


def test_metrics_know_where_the_object_is(demo: Path, curve: Callable[..., Any]) -> None:
    (demo / "objects.tsv").write_text("circle.png\t8,8,56,56\n")
    files = (demo / "circle.png", demo / "square.png")
    result = curve(*files, "--metrics", "--objects", demo / "objects.tsv", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["metric"]: row for row in json.loads(result.stdout)["metrics"]}
    assert rows["relevance mass inside"]["samples"] == 1
    assert any("layers redrawn" in metric for metric in rows)
    assert "not in metrics.csv: square: has no object" in result.stderr
    assert curve(*files, "--objects", demo / "objects.tsv").exit_code == 2


def test_words_and_texts_that_do_not_fit_are_skipped_and_counted(tmp_path: Path) -> None:
    """An empty text and one without a known word are skipped; unknown words beside known ones are counted."""
    net = Net()
    tokens = net.input("tokens", ["batch", "length"], TensorProto.INT64)
    embedded = net.Gather(net.weight(signed(np.random.default_rng(0), 3, 4)), tokens, out="embedded")
    y = net.MatMul(net.ReduceMean(embedded, axes=[1], keepdims=0), net.weight(signed(np.random.default_rng(1), 4, 2)))
    onnx.save(net.model(y), tmp_path / "bag.onnx")
    (tmp_path / "vocab.txt").write_text("good\nbad\nfilm\n")
    (tmp_path / "bag.toml").write_text('kind = "text"\nlayout = "NL"\ntokenizer = "vocab.txt"\n')
    texts = {"fine": "good film", "empty": " ", "unknown": "xyz abc", "partly": "good xyz"}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    paths = [str(tmp_path / f"{name}.txt") for name in (*texts, "bytes")]
    words = [str(tmp_path / "bag.onnx"), *paths, "-o", str(tmp_path / "out")]
    curved = CliRunner().invoke(main, ["curve", *words])
    assert curved.exit_code == 2 and "2 measured, 3 skipped" in curved.stdout
    explained = CliRunner().invoke(main, ["explain", *words])
    assert explained.exit_code == 2 and "2 explained, 3 skipped" in explained.stdout
    for result in (curved, explained):
        for reason in ("empty.txt: the text is empty", "unknown.txt: holds no words", "bytes.txt: not a text in UTF-8"):
            assert reason in result.stderr
    document = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert len(document["skipped"]) == 3
    assert "1 of the text's words are unknown to the vocabulary ('xyz')" in explained.stderr
    assert "1 of the text's words are unknown" in curved.stderr


def test_a_mask_file_gives_the_regions_and_its_size_is_checked(demo: Path, curve: Callable[..., Any]) -> None:
    np.save(demo / "mask.npy", np.arange(64 * 64).reshape(64, 64) // 1024)
    result = curve(demo / "circle.png", "--mask", demo / "mask.npy")
    assert result.exit_code == 0 and "4 regions each" in result.stdout
    np.save(demo / "mask.npy", np.zeros((9, 9), int))
    result = curve(demo / "circle.png", "--mask", demo / "mask.npy")
    assert result.exit_code == 2 and "[9, 9]" in result.stderr


def test_accuracy_takes_a_table_of_classes(demo: Path, curve: Callable[..., Any]) -> None:
    (demo / "classes.tsv").write_text("circle.png\tcircle\nsquare\t1\n")
    result = curve(
        demo / "circle.png", demo / "square.png", "--labels-file", demo / "classes.tsv", "--score", "accuracy"
    )
    assert result.exit_code == 0, result.output
    assert "decrease of accuracy" in result.stdout


def test_a_table_of_classes_that_does_not_fit_says_where(tmp_path: Path) -> None:
    table = tmp_path / "classes.tsv"
    table.write_text("a.png\tnobody\n")
    with pytest.raises(InputError, match="line 1"):
        read_classes(table, ("cat", "dog"))
    table.write_text("a.png\tdog\n")
    assert read_classes(table, ("cat", "dog"))(Sample("a", {})) == 1
    with pytest.raises(InputError, match="b: has no class"):
        read_classes(table, ("cat", "dog"))(Sample("b", {}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--region", "big"], "--region 'big'"),
        (["--replace", "permutation"], "background"),
        (["--score", "accuracy"], "--labels-file"),
        (["--order", "lerf", "--min-over-random", "1"], "leave --order morf in"),
        (["--region", "T=1"], "no axis 'T'"),
    ],
    ids=str,
)
def test_mistakes_are_one_message_and_exit_2(demo: Path, curve: Callable[..., Any], words: Any, message: str) -> None:
    result = curve(demo / "circle.png", *words)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.output


def test_the_python_of_the_page_runs(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    (demo / "shapes.onnx").rename(demo / "model.onnx")
    (demo / "shapes.toml").rename(demo / "model.toml")
    page = (Path(__file__).parents[1] / "docs" / "curves.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})


@needs("zoo")
@needs("data", "imagenet-sample")
def test_googlenet_runs_through_the_whole_pipeline(tmp_path: Path) -> None:
    """The Caffe graph with constant weights: explained, drawn, perturbed; its score need not move."""
    photo = sorted((SHARED / "data" / "imagenet-sample").glob("*.jpg"))[0]
    model = SHARED / "zoo" / "onnx--light_inception_v1" / "model.onnx"
    words = [str(model), str(photo), "-o", str(tmp_path), "--preprocessing", "caffe-bgr", "--provider", "cpu"]
    explained = CliRunner().invoke(main, ["explain", *words])
    assert explained.exit_code == 0 and "1 explained" in explained.stdout
    curved = CliRunner().invoke(main, ["curve", *words, "--steps", "3", "--method", "lrp", "--method", "sensitivity"])
    assert curved.exit_code == 0 and "1 measured" in curved.stdout
    assert (tmp_path / "curve.png").exists() and len(list(tmp_path.glob("*-lrp-overlay.png"))) == 1
