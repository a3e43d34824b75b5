"""What computes in integers inside branches, loops and functions is explained as it is outside of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from control_nets import graph, node, tensor, truth, whole
from onnx import TensorProto, helper, numpy_helper
from quantised_cases import Case, built

from onnxlrp import Explainer
from onnxlrp.checks import verify

Array = np.ndarray[Any, Any]
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("local", 1)]

CLOSE = {"DynamicQuantizeLSTM": 0.05, "DynamicQuantizeMatMul": 0.01, "QAttention": 0.01, "MatMulNBits": 1e-3}
CLOSE |= {"MatMulNBits-fast": 0.05}
"""Of the largest relevance, where kernels round their input themselves: bodies go on with the kernel's numbers."""


def alone(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


def assert_explained_alike(
    outside: onnx.ModelProto, inside: onnx.ModelProto, feeds: dict[str, Array], close: float = 1e-5, **more: Any
) -> None:
    """Outputs to the bit, and gradient and LRP as of the same model without subgraphs."""
    expected = alone(inside, feeds | more)
    seed = np.ones(next(iter(expected.values())).shape, np.float32)
    for choices in ({"method": "gradient"}, {"preset": "epsilon"}):
        ours, theirs = (
            Explainer(model, providers="cpu", inputs=list(feeds), **choices).explain(given, target=seed)  # type: ignore[arg-type]
            for model, given in ((inside, feeds | more), (outside, feeds))
        )
        for name, array in expected.items():
            np.testing.assert_array_equal(ours.outputs[name], array, err_msg=name)
        for name, array in theirs.relevance.items():
            size = float(np.abs(array).max())
            np.testing.assert_allclose(ours.relevance[name], array, rtol=0, atol=close * size, err_msg=str(choices))
        assert any(array.any() for array in ours.relevance.values())


# --- every operator, in a branch and in a function -------------------------------------------------------------------


def in_a_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """All nodes in a branch that a fed truth value chooses; the other one gives a number."""
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.output}
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    for n in nodes:
        n.output[:] = [f"{name}_inside" if name in ranks else name for name in n.output]
    ones = {name: helper.make_tensor("one", TensorProto.FLOAT, [1] * rank, [1.0]) for name, rank in ranks.items()}
    others = [node("Constant", [], [f"{name}_other"], value=one) for name, one in ones.items()]
    then, otherwise = (
        graph(written, [], [helper.make_tensor_value_info(f"{name}_{end}", TensorProto.FLOAT, None) for name in ranks])
        for written, end in ((nodes, "inside"), (others, "other"))
    )
    chosen = node("If", ["chosen"], list(ranks), "branch", then_branch=then, else_branch=otherwise)
    return net([chosen], [*model.graph.input, truth("chosen")], model.graph)


def in_a_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """All nodes in a function of the model's own, its weights given as operands."""
    names = [value.name for value in [*model.graph.input, *model.graph.initializer]]
    outputs = [value.name for value in model.graph.output]
    function = helper.make_function("local", "Whole", names, outputs, model.graph.node, OPSETS[:2])
    wrapped = net([node("Whole", names, outputs, "call", domain="local")], model.graph.input, model.graph)
    wrapped.functions.append(function)
    return wrapped


def net(nodes: list[onnx.NodeProto], inputs: Any, of: onnx.GraphProto) -> onnx.ModelProto:
    wrapped = helper.make_graph(nodes, "net", inputs, of.output, of.initializer)
    return helper.make_model(wrapped, opset_imports=OPSETS, ir_version=9)


@pytest.mark.parametrize("case", built(), ids=lambda case: case.name)
def test_an_operator_in_a_branch_is_explained_as_outside(case: Case) -> None:
    model = case.model()
    close = max([1e-5, *(c for name, c in CLOSE.items() if case.name.startswith(name))])
    assert_explained_alike(model, in_a_branch(model), case.feeds, close, chosen=np.array(True))


IN_FUNCTIONS = ("QLinearConv", "MatMulInteger-", "DynamicQuantizeLinear", "QLinearAdd", "MatMulNBits-four")
"""What onnxruntime itself runs in functions, and some more."""


@pytest.mark.parametrize("case", [c for c in built() if c.name.startswith(IN_FUNCTIONS)], ids=lambda case: case.name)
def test_an_operator_in_a_function_is_explained_as_outside(case: Case) -> None:
    model = case.model()
    assert_explained_alike(model, in_a_function(model), case.feeds)


# --- a recurrent layer in integers ------------------------------------------------------------------------------------

TIME, BATCH, WIDE, HIDDEN = 4, 2, 3, 5
RANDOM = np.random.default_rng(7)
WEIGHTS = {
    "w": RANDOM.integers(-90, 90, (WIDE, HIDDEN)).astype(np.int8),
    "r": RANDOM.integers(-60, 60, (HIDDEN, HIDDEN)).astype(np.int8),
    "w_scale": np.array(0.01, np.float32),
    "w_zero": np.array(0, np.int8),
    "scale": np.array(0.02, np.float32),
    "zero": np.array(120, np.uint8),
    "first": np.zeros((BATCH, HIDDEN), np.float32),
    "turns": np.array(TIME, np.int64),
    "go": np.array(True),
}
FEEDS = {"x": RANDOM.standard_normal((TIME, BATCH, WIDE)).astype(np.float32)}
ENDS = ["scale", "zero"]
WEIGHT_ENDS = ["w_scale", "w_zero"]


def as_qlinear(x: str, h: str, to: str, t: str) -> list[onnx.NodeProto]:
    """h' = dequantise(quantise(x W) + quantise(h R)), saturated."""
    return [
        node("QuantizeLinear", [x, *ENDS], [f"xq{t}"]),
        node("QuantizeLinear", [h, *ENDS], [f"hq{t}"]),
        node("QLinearMatMul", [f"xq{t}", *ENDS, "w", *WEIGHT_ENDS, *ENDS], [f"a{t}"]),
        node("QLinearMatMul", [f"hq{t}", *ENDS, "r", *WEIGHT_ENDS, *ENDS], [f"b{t}"]),
        node("QLinearAdd", [f"a{t}", *ENDS, f"b{t}", *ENDS, *ENDS], [f"c{t}"], domain="com.microsoft"),
        node("DequantizeLinear", [f"c{t}", *ENDS], [f"d{t}"]),
        node("Tanh", [f"d{t}"], [to]),
    ]


def as_pairs(x: str, h: str, to: str, t: str) -> list[onnx.NodeProto]:
    """The same between QuantizeLinear and DequantizeLinear."""

    def rounded(value: str) -> list[onnx.NodeProto]:
        names = f"{value}_q{t}", f"{value}_d{t}"
        return [
            node("QuantizeLinear", [value, *ENDS], [names[0]]),
            node("DequantizeLinear", [names[0], *ENDS], [names[1]]),
        ]

    return [
        *rounded(x),
        *rounded(h),
        node("DequantizeLinear", ["w", *WEIGHT_ENDS], [f"wd{t}"]),
        node("DequantizeLinear", ["r", *WEIGHT_ENDS], [f"rd{t}"]),
        node("MatMul", [f"{x}_d{t}", f"wd{t}"], [f"a{t}"]),
        node("MatMul", [f"{h}_d{t}", f"rd{t}"], [f"b{t}"]),
        *rounded(f"a{t}"),
        *rounded(f"b{t}"),
        node("Add", [f"a{t}_d{t}", f"b{t}_d{t}"], [f"c{t}"]),
        *rounded(f"c{t}"),
        node("Tanh", [f"c{t}_d{t}"], [to]),
    ]


def as_dynamic(x: str, h: str, to: str, t: str) -> list[onnx.NodeProto]:
    """As quantize_dynamic writes it."""

    def product(value: str, weight: str, y: str) -> list[onnx.NodeProto]:
        q, s, z = (f"{y}_{end}" for end in ("q", "s", "z"))
        return [
            node("DynamicQuantizeLinear", [value], [q, s, z]),
            node("MatMulInteger", [q, weight, z, "w_zero"], [f"{y}_i"]),
            node("Cast", [f"{y}_i"], [f"{y}_f"], to=TensorProto.FLOAT),
            node("Mul", [s, "w_scale"], [f"{y}_m"]),
            node("Mul", [f"{y}_f", f"{y}_m"], [y]),
        ]

    products = [*product(x, "w", f"a{t}"), *product(h, "r", f"b{t}")]
    return [*products, node("Add", [f"a{t}", f"b{t}"], [f"c{t}"]), node("Tanh", [f"c{t}"], [to])]


Cell = Callable[[str, str, str, str], list[onnx.NodeProto]]
CELLS: dict[str, Cell] = {"QLinear": as_qlinear, "QDQ": as_pairs, "dynamic": as_dynamic}


def recurrent(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]
    weights += [numpy_helper.from_array(np.array(t), f"t{t}") for t in range(TIME)]
    ends = [tensor("x", TIME, BATCH, WIDE)], [tensor("y", BATCH, HIDDEN)]
    return helper.make_model(helper.make_graph(nodes, "net", *ends, weights), opset_imports=OPSETS, ir_version=9)


def unrolled(cell: Cell) -> onnx.ModelProto:
    nodes, h = [], "first"
    for t in range(TIME):
        after = "y" if t == TIME - 1 else f"h{t}"
        nodes += [node("Gather", ["x", f"t{t}"], [f"x{t}"], axis=0), *cell(f"x{t}", h, after, f"{t}")]
        h = after
    return recurrent(nodes)


def in_a_loop(cell: Cell) -> onnx.ModelProto:
    inputs = [whole("t"), truth("on"), tensor("h", BATCH, HIDDEN)]
    nodes = [
        node("Gather", ["x", "t"], ["x_now"], axis=0),
        *cell("x_now", "h", "after", ""),
        node("Identity", ["on"], ["still"]),
    ]
    body = graph(nodes, inputs, [truth("still"), tensor("after", BATCH, HIDDEN)])
    return recurrent([node("Loop", ["turns", "go", "first"], ["y"], body=body)])


def in_a_scan(cell: Cell) -> onnx.ModelProto:
    inputs = [tensor("h", BATCH, HIDDEN), tensor("x_now", BATCH, WIDE)]
    body = graph(cell("x_now", "h", "after", ""), inputs, [tensor("after", BATCH, HIDDEN)])
    return recurrent([node("Scan", ["first", "x"], ["y"], body=body, num_scan_inputs=1)])


@pytest.mark.parametrize("wrapped", [in_a_loop, in_a_scan])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_layer_in_integers_is_explained_as_when_unrolled(
    cell: str, wrapped: Callable[[Cell], onnx.ModelProto]
) -> None:
    assert_explained_alike(unrolled(CELLS[cell]), wrapped(CELLS[cell]), FEEDS)


@pytest.mark.parametrize("cell", CELLS)
def test_verify_holds_inside(cell: str) -> None:
    verdict = verify(in_a_loop(CELLS[cell]), FEEDS, providers="cpu")
    assert verdict.holds, str(verdict)
    assert all(found.measured is not None for found in verdict.findings if "finite differences" in found.check)
