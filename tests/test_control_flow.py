"""If, Loop and Scan: the gradient agrees with finite differences, LRP conserves, and a loop that computes what an
operator computes is explained as that operator is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from control_nets import (
    BATCH,
    BIAS,
    HIDDEN,
    NETS,
    RNN_FEEDS,
    RNN_INPUTS,
    RNN_OUTPUTS,
    TIME,
    WIDE,
    Net,
    R,
    W,
    branches,
    graph,
    node,
    numbers,
    rnn_as_loop,
    rnn_as_scan,
    scan_without_state,
    tensor,
    truth,
)
from one_node import close
from onnx import TensorProto, helper, numpy_helper

import onnxlrp
from onnxlrp.checks import verify
from onnxlrp.errors import ChoiceError, NoRule, Unsupported
from onnxlrp.report.graph_drawing import relevance_graph

Array = np.ndarray[Any, Any]

STEP = 1e-3

CASES = [(name, output.name) for name, make in NETS.items() for output in make().outputs]
IDS = [f"{name}: {output}" for name, output in CASES]


# --- what holds for all of them --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "output"), CASES, ids=IDS)
def test_gradient_agrees_with_finite_differences(name: str, output: str) -> None:
    net = NETS[name]()
    session = _session(net.model)
    random = np.random.default_rng(0)
    y = session.run([output], net.feeds)[0]
    cotangent = random.normal(size=y.shape).astype(np.float32)
    gradient = net.relevance(output, cotangent, "gradient")

    def score(t: float, direction: dict[str, Array]) -> float:
        moved = {key: (net.feeds[key] + t * step).astype(np.float32) for key, step in direction.items()}
        return float((session.run([output], net.feeds | moved)[0].astype(float) * cotangent).sum())

    for _ in range(3):
        direction = {key: random.normal(size=net.feeds[key].shape) for key in net.explained}
        wanted = (score(STEP, direction) - score(-STEP, direction)) / (2 * STEP)
        size = np.sqrt(sum(float(((gradient[key] * step) ** 2).sum()) for key, step in direction.items()))
        found = sum(float((gradient[key] * step).sum()) for key, step in direction.items())
        assert abs(found - wanted) <= 3e-3 * size, f"{found} against {wanted}"


@pytest.mark.parametrize(("name", "output"), CASES, ids=IDS)
def test_relevance_is_conserved(name: str, output: str) -> None:
    net = NETS[name]()
    y = _session(net.model).run([output], net.feeds)[0]
    cotangent = np.abs(numbers(*y.shape, seed=3))
    found = net.relevance(output, cotangent, bias="distribute")
    assert set(found) == set(net.explained)
    start = float((cotangent.astype(float) * y).sum())
    arrived = sum(float(relevance.astype(float).sum()) for relevance in found.values())
    if name != "the other branch":  # whose Add to a constant takes its share
        assert abs(arrived - start) <= net.conserves * float(np.abs(cotangent * y).sum())


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


# --- loops that compute what an operator computes ---------------------------------------------------------------------


def rnn_operator() -> Net:
    both = np.concatenate([BIAS, np.zeros(HIDDEN, np.float32)])[None]
    nodes = [
        node("Unsqueeze", ["h0", "zeros"], ["first"]),
        node("RNN", ["x", "W", "R", "bias", "", "first"], ["directions", "finals"], hidden_size=HIDDEN),
        node("Squeeze", ["directions", "ones"], ["Y"]),
        node("Squeeze", ["finals", "zeros"], ["last"]),
    ]
    constants = {"W": W.T[None].copy(), "R": R.T[None].copy(), "bias": both}
    constants |= {"zeros": np.zeros(1, np.int64), "ones": np.ones(1, np.int64)}
    return Net(nodes, RNN_INPUTS, RNN_OUTPUTS, RNN_FEEDS, constants)


@pytest.mark.parametrize("method", ["lrp", "gradient"])
@pytest.mark.parametrize("output", ["Y", "last"])
@pytest.mark.parametrize("make", [rnn_as_scan, rnn_as_loop])
def test_an_rnn_as_a_loop_is_explained_as_the_operator(make: Callable[[], Net], output: str, method: str) -> None:
    choices = {"preset": "epsilon"} if method == "lrp" else {}
    shape = (TIME, BATCH, HIDDEN) if output == "Y" else (BATCH, HIDDEN)
    cotangent = numbers(*shape, seed=4)
    found = make().relevance(output, cotangent, method, **choices)
    wanted = rnn_operator().relevance(output, cotangent, method, **choices)
    for name, relevance in wanted.items():
        close(found[name], relevance, 2e-4 if method == "lrp" else 2e-5)


def test_a_scan_without_state_is_the_operator_on_all_rows() -> None:
    net = scan_without_state()
    cotangent = numbers(4, 3, seed=5)
    flat = Net([node("Mul", ["x", "scale"], ["Y"])], net.inputs, net.outputs, net.feeds)
    found, wanted = net.relevance("Y", cotangent), flat.relevance("Y", cotangent)
    for name in wanted:
        close(found[name], wanted[name])


# --- what the user sees ----------------------------------------------------------------------------------------------


def test_the_plan_shows_what_is_inside_and_rules_reach_it() -> None:
    net = branches(1.0)
    net.feeds.pop("W")
    net.inputs, net.constants = net.inputs[:2], net.constants | {"W": W}
    plan = net.explainer("lrp", "y", rules={"MatMul": "z-plus"}).plan
    rows = {name.strip(): (name, rule) for name, _, rule, _ in plan.rows()}
    assert rows["If_1/then/MatMul_1"] == ("  If_1/then/MatMul_1", "z-plus")
    assert str(plan.rule_of("If_1/then/MatMul_1")) == "z-plus"
    assert "If_1/else/Mul_1" in rows
    found = net.relevance("y", numbers(BATCH, HIDDEN), rules={"If": "stop"})
    assert all(not relevance.any() for relevance in found.values())
    with pytest.raises(ChoiceError, match="control flow"):
        net.explainer("lrp", "y", rules={"If": "pass"})


def test_everything_without_a_rule_is_listed_with_what_is_inside() -> None:
    body = graph([node("Unheard", ["m"], ["d"], domain="of.elsewhere")], [tensor("m", 2, 2)], [tensor("d")])
    nodes = [
        node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1),
        node("Unheard", ["x"], ["d2"], domain="of.elsewhere"),
    ]
    nodes.append(node("Add", ["y", "d2"], ["z"]))
    net = Net(nodes, [tensor("x", 3, 2, 2)], [tensor("z", 3)], {"x": numbers(3, 2, 2)})
    with pytest.raises(NoRule) as caught:
        net.explainer("lrp", "z")
    assert caught.value.missing == {"Unheard": ["Scan_1/Unheard_1", "Unheard_1"]}


def test_random_numbers_inside_are_refused() -> None:
    then = graph([node("RandomNormalLike", ["x"], ["n"]), node("Mul", ["n", "x"], ["a"])], [], [tensor("a", 3)])
    other = graph([node("Identity", ["x"], ["b"])], [], [tensor("b", 3)])
    net = Net(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        [tensor("x", 3), truth("c")],
        [tensor("y", 3)],
        {"x": numbers(3), "c": np.array(True)},
    )
    with pytest.raises(Unsupported, match="random numbers"):
        net.relevance("y", np.ones(3, np.float32))


def test_a_loop_that_forgets_what_is_captured_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxlrp.rules import control

    monkeypatch.setattr(control.Backwards, "contributions", lambda self, results: [None] * self._step.count)
    with pytest.raises(AssertionError):
        test_gradient_agrees_with_finite_differences("an RNN as Loop", "Y")


# --- rewrites look inside --------------------------------------------------------------------------------------------


def test_a_fixed_batch_becomes_dynamic_inside_too() -> None:
    shape = {"as_two": np.array([2, 1, WIDE], np.int64), "ones": np.array([1], np.int64), "none": np.float32(0)}
    then = graph(
        [
            node("Reshape", ["x", "as_two"], ["r"]),
            node("Squeeze", ["r", "ones"], ["s"]),
            node("MatMul", ["s", "W"], ["a"]),
        ],
        [],
        [tensor("a", 2, HIDDEN)],
    )
    other = graph([node("Gemm", ["x", "W", "bias"], ["b"])], [], [tensor("b", 2, HIDDEN)])
    nodes = [
        node("ReduceSum", ["W"], ["total"], keepdims=0),
        node("Greater", ["total", "none"], ["c"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    x = numbers(6, WIDE)
    for weights in (np.abs(W), -np.abs(W)):
        constants = shape | {"W": weights, "bias": BIAS}
        net = Net(nodes, [tensor("x", 2, WIDE)], [tensor("y", 2, HIDDEN)], {"x": x[:2]}, constants)
        explainer = onnxlrp.Explainer(net.model, preset="epsilon", providers="cpu")
        assert any("made dynamic" in note for note in explainer.model.notes)
        found = explainer.explain(x).relevance["x"]
        wanted = np.concatenate([explainer.explain(x[i : i + 2]).relevance["x"] for i in (0, 2, 4)])
        close(found, wanted)


def test_half_precision_is_widened_inside() -> None:
    net = rnn_as_scan()
    half = Net(net.nodes, net.inputs, net.outputs, net.feeds, net.constants).model
    for value in [*half.graph.input, *half.graph.output, *half.graph.node[0].attribute[0].g.input]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for attribute in half.graph.node[0].attribute:
        for value in [*attribute.g.input, *attribute.g.output]:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    weights = [
        numpy_helper.from_array(numpy_helper.to_array(w).astype(np.float16), w.name) for w in half.graph.initializer
    ]
    del half.graph.initializer[:]
    half.graph.initializer.extend(weights)
    feeds = {name: array.astype(np.float16) for name, array in net.feeds.items()}
    cotangent = numbers(TIME, BATCH, HIDDEN, seed=6)
    explainer = onnxlrp.Explainer(half, preset="epsilon", output="Y", providers="cpu", batch_size=10**9)
    found = explainer.explain(feeds, target=cotangent).relevance
    wanted = net.relevance("Y", cotangent, preset="epsilon")
    for name in wanted:
        close(found[name], wanted[name], 2e-2)


def test_deeplift_is_refused_where_runs_may_differ() -> None:
    with pytest.raises(Unsupported, match="other branches"):
        rnn_as_loop().relevance("last", numbers(BATCH, HIDDEN), "deeplift")


def test_the_drawing_shows_what_is_inside() -> None:
    drawn = relevance_graph(branches(1.0).explainer("lrp", "y").plan)
    assert {"If_1/then/MatMul_1", "If_1/else/Mul_1"} <= set(drawn.successors("If_1")) | set(drawn)
    assert drawn.has_edge("If_1", "If_1/then/MatMul_1")
    assert drawn.nodes["If_1/else/Mul_1"]["rule"]


def test_verify_judges_loops_and_lists() -> None:
    for name in ("an RNN as Loop", "a list filled by a loop", "a branch in a Scan in a Loop", "a Scan without state"):
        net = NETS[name]()
        verdict = verify(net.model, net.feeds, inputs=net.explained, output=net.outputs[0].name)
        assert verdict.holds, f"{name}: {verdict}"


@pytest.mark.parametrize("method", ["lrp", "deeplift"])
def test_a_branch_that_is_always_taken_stands_in_the_place_of_its_if(method: str) -> None:
    """The question is about a size that is known; both branches call their tensors by the same names."""
    inner = [node("MatMul", ["x", "W"], ["a"]), node("Relu", ["a"], ["b"])]
    then = graph([*inner, node("Neg", ["b"], ["c"])], [], [tensor("c", "batch", HIDDEN)])
    other = graph([*inner, node("Exp", ["b"], ["c"])], [], [tensor("c", "batch", HIDDEN)])
    nodes = [
        node("Shape", ["x"], ["sizes"], start=1),
        node("Equal", ["sizes", "wide"], ["is_wide"]),
        node("Squeeze", ["is_wide"], ["asked"]),
        node("If", ["asked"], ["first"], then_branch=then, else_branch=other),
        node("If", ["asked"], ["second"], then_branch=then, else_branch=other),
        node("Add", ["first", "second"], ["y"]),
    ]
    constants = {"W": W, "wide": np.array([WIDE], np.int64)}
    x = {"x": numbers(BATCH, WIDE)}
    net = Net(nodes, [tensor("x", "batch", WIDE)], [tensor("y", "batch", HIDDEN)], x, constants)
    plain = [*inner, node("Neg", ["b"], ["c"]), node("Add", ["c", "c"], ["y"])]
    flat = Net(plain, net.inputs, net.outputs, x, constants)
    cotangent = numbers(BATCH, HIDDEN, seed=7)
    explainer = net.explainer(method, "y")
    assert "If" not in {decision.unit.op_type for decision in explainer.plan.all()}
    found = explainer.explain(x, target=cotangent).relevance["x"]
    close(found, flat.relevance("y", cotangent, method)["x"])


def test_a_list_among_the_inputs_is_not_explained_by_default() -> None:
    nodes = [node("SequenceInsert", ["l", "x"], ["more"]), node("ConcatFromSequence", ["more"], ["y"], axis=0)]
    several = helper.make_tensor_sequence_value_info("l", TensorProto.FLOAT, [2, 3])
    net = Net(nodes, [several, tensor("x", 2, 3)], [tensor("y", "n", 3)], {})
    assert onnxlrp.Explainer(net.model, providers="cpu").explained == ["x"]
    with pytest.raises(ChoiceError, match="list"):
        onnxlrp.Explainer(net.model, inputs=["l"], providers="cpu")
