"""Quantised models: explained as deployed, with the outputs that onnxruntime gives on the file alone, to the bit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from quantised_cases import CASES, Case, built

from onnxlrp import Explainer, read
from onnxlrp.checks import verify
from onnxlrp.data import inputs_of, load, meaning_of
from onnxlrp.deployed import float_view
from onnxlrp.judging.agreement import view_agrees
from onnxlrp.judging.unrounded import without_rounding
from onnxlrp.lowering import fused
from onnxlrp.lowering.fused import views
from onnxlrp.metrics import spearman
from onnxlrp.prepare import prepare
from onnxlrp.rules.quantised import bounds

SAMPLES = Path(__file__).parents[1] / "sample_models"


def alone(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime gives on the model as it is."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


def assert_explained_as_deployed(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """Outputs to the bit, and every check of `verify`."""
    found = Explainer(model, providers="cpu").explain(feeds).outputs
    for name, expected in alone(model, feeds).items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    verdict = verify(model, feeds, providers="cpu")
    assert verdict.holds, str(verdict)


# --- operators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", built(), ids=lambda case: case.name)
def test_an_operator_that_computes_in_integers_is_explained_as_deployed(case: Case) -> None:
    assert_explained_as_deployed(case.model(), case.feeds)


ROUNDING_INSIDE = ("DynamicQuantizeLSTM", "MatMulNBits-fast")
"""Kernels that round their input themselves, which the float view passes over."""


@pytest.mark.parametrize("case", built(), ids=lambda case: case.name)
def test_a_float_view_gives_what_the_operator_gives(case: Case) -> None:
    """To a step of the result's scale."""
    model = case.model()
    view = ir.to_proto(float_view(prepare(read(model))))
    last = case.nodes[-2]
    steps = [
        numpy_helper.to_array(w) for w in case.weights if w.name in last.input and last.op_type == "DequantizeLinear"
    ]
    relative = 2e-2 if case.name.startswith(ROUNDING_INSIDE) else 2e-5
    for expected, found in zip(alone(model, case.feeds).values(), alone(view, case.feeds).values(), strict=True):
        absolute = 1.01 * float(steps[0]) if steps else 0.0
        np.testing.assert_allclose(found, expected, rtol=0, atol=absolute + relative * np.abs(expected).max())


def test_every_operator_with_a_float_view_has_a_case() -> None:
    assert {op_type for _, op_type in views()} - CASES.keys() == set()


IN_RANGE = [case for case in built() if case.name.startswith("QLinear") and "Softmax" not in case.name]


@pytest.mark.parametrize("case", IN_RANGE, ids=lambda case: case.name)
def test_every_element_of_a_gradient_agrees_with_differences(case: Case) -> None:
    """Of the model without its rounding, all inputs at once."""
    explainer = Explainer(case.model(), method="gradient", providers="cpu")
    smooth = explainer.over(without_rounding(explainer.model, case.feeds, "cpu"), "finite-difference", 16)
    seed = np.zeros(explainer.forward_value(case.feeds).shape, np.float32)
    seed.reshape(-1)[[1, -2]] = 1.0, 0.5
    found = explainer.explain(case.feeds, target=seed).relevance
    for name, array in case.feeds.items():
        expected = np.zeros(array.size)
        for index in range(array.size):
            moved = [array.copy(), array.copy()]
            moved[0].reshape(-1)[index] += 1e-3
            moved[1].reshape(-1)[index] -= 1e-3
            above, below = (float((smooth.forward_value(case.feeds | {name: m}) * seed).sum()) for m in moved)
            expected[index] = (above - below) / 2e-3
        size = float(np.abs(expected).max()) or 1.0
        np.testing.assert_allclose(found[name].reshape(-1), expected, atol=5e-3 * size)


@pytest.mark.parametrize("case", built(), ids=lambda case: case.name)
def test_verify_says_how_far_a_view_lies_from_the_deployed_integers(case: Case) -> None:
    findings = view_agrees(prepare(read(case.model())), case.feeds, "cpu")
    assert findings and all(found.holds for found in findings), findings


@pytest.mark.parametrize(
    "name", ["QLinearMatMul-per_column", "QLinearAdd-of_two", "QGemm-in_floats", "MatMulNBits-four"]
)
def test_a_view_that_is_not_of_the_deployed_model_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands that count a tenth more."""
    case = next(case for case in built() if case.name == name)
    operator = case.nodes[-2 if name.endswith(("floats", "four")) else -3]
    view = fused._VIEWS[operator.domain, operator.op_type]

    def wrong(node: fused.Fused) -> Any:
        more = node.emit.Mul(node.x(1), 1.1) if node.x(1).dtype == ir.DataType.FLOAT else node.x(1)
        scale = node.emit.Mul(node.x(2), 1.1) if node.x(2).dtype == ir.DataType.FLOAT else node.x(2)
        node.node.replace_input_with(1, more)
        node.node.replace_input_with(2, scale)
        return view(node)

    monkeypatch.setitem(fused._VIEWS, (operator.domain, operator.op_type), wrong)
    assert not all(found.holds for found in view_agrees(prepare(read(case.model())), case.feeds, "cpu"))


def test_saturation_is_the_clip_it_implies() -> None:
    """Slope 1 inside and 0 outside; relevance passes either way, as at any activation."""
    case = Case("saturation")
    ends = [case.constant(0.1), case.constant(100, np.uint8)]
    case.feeds["x0"] = np.array([[-20.0, -5.0, 0.04, 7.0, 30.0]], np.float32)
    case.dequantised(case.node("QuantizeLinear", "x0", *ends), *ends, rank=2)
    seed = np.ones((1, 5), np.float32)
    gradient = Explainer(case.model(), method="gradient").explain(case.feeds, target=seed)
    np.testing.assert_allclose(gradient.relevance["x0"], [[0, 1, 1, 1, 0]], rtol=1e-6)
    relevance = Explainer(case.model()).explain(case.feeds, target=seed)
    np.testing.assert_allclose(relevance.relevance["x0"], [[-10.0, -5.0, 0.0, 7.0, 15.5]], atol=1e-6)


def test_relevance_of_an_integer_convolution_equals_a_dense_float64_twin() -> None:
    """R_i = Σ_j a_i w_ij / (z_j + ε sign z_j) · R_j on the integers' values, z unrounded."""
    case = Case("dense")
    x, scale, zero = case.quantised(1, 6)
    w, b = case.random.integers(-90, 90, (6, 4)), [case.constant(0.01), case.constant(0, np.int8)]
    to = [case.constant(0.1), case.constant(110, np.uint8)]
    y = case.node("QLinearMatMul", x, scale, zero, case.constant(w, np.int8), *b, *to)
    case.dequantised(y, *to, rank=2)
    found = Explainer(case.model(), rules={"QLinearMatMul": "epsilon(1e-3)"}).explain(case.feeds, target=2)
    steps = np.clip(np.rint(case.feeds["x0"].astype(np.float64) / np.float32(0.03)) + 121, 0, 255)
    a = (steps - 121) * np.float64(np.float32(0.03))
    weights = w * np.float64(np.float32(0.01))
    z = (a @ weights)[:, 2]
    arrived = (np.clip(np.rint(z / np.float32(0.1)) + 110, 0, 255) - 110) * np.float64(np.float32(0.1))
    expected = a * weights[:, 2] * (arrived / (z + 1e-3 * np.sign(z)))[:, None]
    np.testing.assert_allclose(found.relevance["x0"], expected, rtol=2e-5, atol=1e-6)


# --- number formats --------------------------------------------------------------------------------------------------


def small(
    nodes: list[onnx.NodeProto], output: int = TensorProto.FLOAT, opset: int = 21, **weights: Any
) -> onnx.ModelProto:
    """x (batch, 32) → y; a weight is floats, or (type, whole numbers)."""
    tensors = []
    for name, given in weights.items():
        kind, values = given if isinstance(given, tuple) else (TensorProto.FLOAT, given)
        values = np.asarray(values)
        tensors.append(helper.make_tensor(name, kind, values.shape, values.reshape(-1).tolist()))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])
    graph = helper.make_graph(nodes, "small", [x], [helper.make_tensor_value_info("y", output, None)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def product(x: str, y: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", [x, "w"], [y], "product")


def pair(x: str, scale: str, zero: str, y: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [x, scale, zero], [f"{y}_q"], f"{y}_quantise"),
        helper.make_node("DequantizeLinear", [f"{y}_q", scale, zero], [y], f"{y}_dequantise"),
    ]


ROWS = {"x": np.random.default_rng(3).standard_normal((3, 32)).astype(np.float32)}
WEIGHT = np.random.default_rng(4).standard_normal((32, 4)) * 0.3

ACTIVATIONS = {
    "INT4": (0.5, 0),
    "UINT4": (0.4, 8),
    "INT16": (1e-4, 0),
    "UINT16": (1e-4, 32768),
    "FLOAT8E4M3FN": (0.01, 0),
    "FLOAT8E5M2": (0.001, 0),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_of_any_number_format(kind: str) -> None:
    scale, zero = ACTIVATIONS[kind]
    nodes = [
        *pair("x", "s", "z", "a"),
        product("a", "m"),
        *pair("m", "t", "z", "y"),
    ]
    model = small(nodes, s=scale, t=4 * scale, z=(getattr(TensorProto, kind), zero), w=WEIGHT)
    assert_explained_as_deployed(model, ROWS)


SATURATING = ACTIVATIONS | {"UINT8": (0.1, 0), "INT8": (0.1, -128), "FLOAT8E4M3FNUZ": (0.01, 0)}


@pytest.mark.parametrize("kind", SATURATING)
def test_a_saturated_activation_has_no_slope_and_the_next_step_inside_has_one(kind: str) -> None:
    scale, zero = SATURATING[kind]
    low, high = bounds(ir.DataType[kind])
    step = high / 16 if kind.startswith("FLOAT") else 1.0
    steps = np.array([low - 2 * step, low + step, high - step, high + 2 * step])
    x = np.zeros((1, 32), np.float32)
    x[0, :4] = (steps - zero) * scale
    model = small(pair("x", "s", "z", "y"), s=scale, z=(getattr(TensorProto, kind), zero))
    found = Explainer(model, method="gradient", providers="cpu").explain({"x": x}, target=np.ones_like(x))
    np.testing.assert_allclose(found.relevance["x"][0, :4], [0, 1, 1, 0], rtol=1e-5)
    np.testing.assert_allclose(
        found.outputs["y"][0, [0, 3]], (np.array([low, high]) - zero) * np.float32(scale), rtol=1e-5
    )


def test_relevance_ends_where_saturation_is_the_activation() -> None:
    """An unsigned type from zero on is a ReLU: R = a·w with the integers' a, and 0 where it saturates below."""
    nodes = [*pair("x", "s", "z", "a"), product("a", "y")]
    x = np.linspace(-2.0, 2.0, 32, dtype=np.float32)[None]
    model = small(nodes, s=0.1, z=(TensorProto.UINT8, 0), w=WEIGHT)
    found = Explainer(model, preset="epsilon", target=1, providers="cpu").explain({"x": x}).relevance["x"]
    activations = np.maximum(np.rint(x / np.float32(0.1)), 0) * 0.1
    assert (activations[0] == 0).any() and activations[0, 17] == pytest.approx(0.2)
    np.testing.assert_allclose(found, activations * WEIGHT[:, 1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT8"])
def test_weights_in_blocks(kind: str) -> None:
    number, random = getattr(TensorProto, kind), np.random.default_rng(5)
    low, high = {"INT4": (-8, 8), "UINT4": (0, 16), "INT8": (-90, 90)}[kind]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], "weights", axis=0, block_size=16),
        product("x", "y"),
    ]
    q, zero = random.integers(low, high, (32, 6)), random.integers(low, high, (2, 6))
    model = small(nodes, q=(number, q), s=0.01 + 0.05 * random.random((2, 6)), z=(number, zero))
    assert_explained_as_deployed(model, ROWS)


def test_two_roundings_in_a_row_of_which_onnxruntime_keeps_one() -> None:
    nodes = [
        *pair("x", "s", "z", "a"),
        *pair("a", "t", "z", "b"),
        product("b", "y"),
    ]
    assert_explained_as_deployed(small(nodes, s=0.03, t=0.05, z=(TensorProto.UINT8, 120), w=WEIGHT), ROWS)


def test_integers_at_the_end_are_explained_as_the_floats_they_stand_for() -> None:
    nodes = [
        *pair("x", "s", "z", "a"),
        product("a", "m"),
        *pair("m", "s", "z", "y")[:1],
    ]
    nodes[-1].output[0] = "y"
    model = small(nodes, TensorProto.UINT8, s=0.1, z=(TensorProto.UINT8, 100), w=WEIGHT)
    assert_explained_as_deployed(model, ROWS)
    found = Explainer(model).explain(ROWS)
    np.testing.assert_allclose(found.score, 0.1 * (found.outputs["y"].max(axis=1).astype(np.float64) - 100), rtol=1e-5)


def test_packed_weights_of_a_half_precision_model() -> None:
    """Its prepared graph serves several explainers: none of them may change another's types."""
    case, random = Case("half"), np.random.default_rng(6)
    case.feeds["x0"] = random.standard_normal((3, 64)).astype(np.float16)
    b = case.constant(random.integers(0, 256, (8, 2, 16)), np.uint8)
    scale = case.constant(0.01 + 0.02 * random.random(16), np.float16)
    names = {"N": 8, "K": 64, "bits": 4, "block_size": 32}
    case.output(case.node("MatMulNBits", "x0", b, scale, domain="com.microsoft", **names), 2)
    case.outputs[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    verdict = verify(case.model(), case.feeds, providers="cpu")
    assert verdict.holds, str(verdict)


def test_a_scale_that_is_fed_is_held() -> None:
    nodes = [*pair("x", "s", "z", "a"), product("a", "y")]
    model = small(nodes, z=(TensorProto.UINT8, 128), w=WEIGHT)
    model.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, []))
    feeds = ROWS | {"s": np.array(0.03, np.float32)}
    assert_explained_as_deployed(model, feeds)
    assert list(Explainer(model).explain(feeds).relevance) == ["x"]


# --- whole models, by onnxruntime's quantiser ------------------------------------------------------------------------


class Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


@cache
def network() -> onnx.ModelProto:
    """Convolutions, depthwise too, with max pooling, a residual, concatenation, average pooling and Softmax."""
    random = np.random.default_rng(1)
    weights, nodes = [], []

    def weight(name: str, *shape: int) -> str:
        array = (
            random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else np.zeros(shape) + 0.1
        )
        weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def convolution(x: str, y: str, wide: int, narrow: int, group: int = 1) -> str:
        operands = [x, weight(f"{y}_w", wide, narrow, 3, 3), weight(f"{y}_b", wide)]
        nodes.append(helper.make_node("Conv", operands, [f"{y}_z"], f"{y}_conv", pads=[1] * 4, group=group))
        nodes.append(helper.make_node("Relu", [f"{y}_z"], [y], f"{y}_relu"))
        return y

    convolution("x", "a", 8, 3)
    nodes.append(helper.make_node("MaxPool", ["a"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]))
    convolution("p", "b", 8, 1, group=8)
    nodes.append(helper.make_node("Add", ["b", "p"], ["r"], "residual"))
    convolution("r", "c", 6, 8)
    nodes.append(helper.make_node("Concat", ["r", "c"], ["d"], "concat", axis=1))
    nodes.append(helper.make_node("GlobalAveragePool", ["d"], ["g"], "mean"))
    nodes.append(helper.make_node("Flatten", ["g"], ["f"], "flatten"))
    nodes.append(helper.make_node("Gemm", ["f", weight("w", 10, 14), weight("v", 10)], ["l"], "dense", transB=1))
    nodes.append(helper.make_node("Softmax", ["l"], ["y"], "softmax", axis=1))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "network", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def photos(seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((3, 3, 8, 8)).astype(np.float32)}


U8, S8, U16, S16, S4 = (QuantType[name] for name in ("QUInt8", "QInt8", "QUInt16", "QInt16", "QInt4"))
STATIC: dict[str, dict[str, Any]] = {
    "QDQ, uint8 and int8": {"quant_format": QuantFormat.QDQ, "activation_type": U8, "weight_type": S8},
    "QDQ, int8 per channel": {
        "quant_format": QuantFormat.QDQ,
        "activation_type": S8,
        "weight_type": S8,
        "per_channel": True,
    },
    "QDQ, 16 bits": {"quant_format": QuantFormat.QDQ, "activation_type": U16, "weight_type": S8},
    "QDQ, 16 bits, in onnxruntime's own operators": {
        "quant_format": QuantFormat.QDQ,
        "activation_type": U16,
        "weight_type": S16,
        "extra_options": {"UseQDQContribOps": True},
    },
    "QDQ, weights of 4 bits": {"quant_format": QuantFormat.QDQ, "activation_type": U8, "weight_type": S4},
    "QOperator, uint8": {"quant_format": QuantFormat.QOperator, "activation_type": U8, "weight_type": U8},
    "QOperator, int8 per channel, 7 bits": {
        "quant_format": QuantFormat.QOperator,
        "activation_type": S8,
        "weight_type": S8,
        "per_channel": True,
        "reduce_range": True,
    },
}


def quantised(folder: Path, name: str) -> onnx.ModelProto:
    logging.getLogger().setLevel(logging.ERROR)
    source, target = folder / "float.onnx", folder / "quantised.onnx"
    onnx.save(network(), source)
    if name == "dynamic":
        quantize_dynamic(source, target, weight_type=U8)
    else:
        quantize_static(source, target, Batches([photos(seed) for seed in range(4)]), **STATIC[name])
    return onnx.load(target)


@pytest.mark.parametrize("name", [*STATIC, "dynamic"])
def test_a_quantised_network_is_explained_as_deployed(name: str, tmp_path: Path) -> None:
    model = quantised(tmp_path, name)
    assert_explained_as_deployed(model, photos(9))
    assert "the float view rounds to the deployed integers" in str(verify(model, photos(9), providers="cpu"))


def with_constants_in_nodes(model: onnx.ModelProto) -> None:
    written = [
        helper.make_node("Constant", [], [w.name], f"constant/{w.name}", value=w) for w in model.graph.initializer
    ]
    nodes = [*written, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)


def without_zero_points(model: onnx.ModelProto) -> None:
    """Where they are the default."""
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    for node in model.graph.node:
        zero = weights[node.input[2]] if node.op_type == "DequantizeLinear" and len(node.input) > 2 else None
        if zero is not None and not zero.any():
            del node.input[2]


@pytest.mark.parametrize("rewrite", [with_constants_in_nodes, without_zero_points])
def test_another_way_of_writing_scales_changes_nothing(
    rewrite: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    model = quantised(tmp_path, "QDQ, int8 per channel")
    other = onnx.ModelProto.FromString(model.SerializeToString())
    rewrite(other)
    assert other != model
    found = [Explainer(proto, target=3).explain(photos(9)) for proto in (model, other)]
    np.testing.assert_array_equal(found[0].outputs["y"], found[1].outputs["y"])
    np.testing.assert_allclose(found[0].relevance["x"], found[1].relevance["x"], rtol=1e-4, atol=1e-6)


def test_both_formats_of_one_network_are_explained_alike(tmp_path: Path) -> None:
    """QDQ and QOperator hold the same integers; QDQ folds the Relu away, which saturation replaces."""
    found = []
    for name in ("QDQ, uint8 and int8", "QOperator, uint8"):
        model = quantised(tmp_path, name)
        found.append(Explainer(model, target=3).explain(photos(9)).relevance["x"])
    assert spearman(found[0], found[1]) > 0.99


def test_the_default_preset_sees_through_integer_operators(tmp_path: Path) -> None:
    explainers = [Explainer(model) for model in (network(), quantised(tmp_path, "QOperator, uint8"))]
    assert explainers[0].preset == explainers[1].preset


def test_sixteen_bits_are_explained_as_the_floats_that_they_came_from(tmp_path: Path) -> None:
    """Logits, ranks and preset are found through onnxruntime's own QuantizeLinear as through the standard's."""
    models = network(), quantised(tmp_path, "QDQ, 16 bits, in onnxruntime's own operators")
    found = [Explainer(model, target=3).explain(photos(9)).relevance["x"] for model in models]
    assert spearman(found[0], found[1]) > 0.998


def test_a_gate_is_found_behind_its_rounding() -> None:
    nodes = [
        product("x", "m"),
        helper.make_node("Sigmoid", ["m"], ["g"], "sigmoid"),
        *pair("g", "s", "z", "h"),
        helper.make_node("MatMul", ["x", "v"], ["n"], "gated_product"),
        helper.make_node("Mul", ["n", "h"], ["y"], "gated"),
    ]
    model = small(nodes, s=1 / 255, z=(TensorProto.UINT8, 0), w=WEIGHT, v=WEIGHT[::-1])
    decisions = Explainer(model).plan.decisions
    (gated,) = [decision for decision in decisions if "gated" in decision.unit.names]
    assert "gate" in gated.source, gated.source


def test_an_activation_in_pieces_is_one_layer_through_its_roundings() -> None:
    """A GELU, its one held in 16 bits by onnxruntime's own operator."""
    nodes = [
        product("x", "m"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["one"], "constant", domain="com.microsoft"),
        helper.make_node("Erf", ["m"], ["e"], "erf"),
        *pair("e", "s", "z", "f"),
        helper.make_node("Add", ["f", "one"], ["g"], "shift"),
        *pair("g", "s", "z", "h"),
        helper.make_node("Mul", ["m", "h"], ["y"], "gelu"),
    ]
    model = small(nodes, s=1e-4, z=(TensorProto.INT16, 0), q=(TensorProto.INT16, 10000), w=WEIGHT)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    plan = Explainer(model, providers="cpu").plan
    assert any({"erf", "shift", "gelu"} <= unit.names for unit in plan.units), str(plan)


def test_rules_and_plans_speak_of_the_files_nodes(tmp_path: Path) -> None:
    model = quantised(tmp_path, "QOperator, uint8")
    (name,) = [node.name for node in model.graph.node if node.op_type == "QLinearConv" and "c_conv" in node.name]
    plan = Explainer(model, rules={name: "gamma(0.25)"}).plan
    assert str(plan.rule_of(f"{name}/Conv")) == "gamma(0.25)"


def test_the_digits_and_their_int8_twin_have_alike_heatmaps() -> None:
    folders = [SAMPLES / name for name in ("digits_cnn_dynamo", "digits_cnn_int8")]
    for digit in ("three", "seven"):
        maps = []
        for folder in folders:
            model = read(folder / "model.onnx")
            sample = load(folder / f"{digit}.png", meaning_of(model, {}).sidecar, inputs_of(model))
            found = Explainer(model, target=digit).explain(sample.arrays)
            maps.append(next(iter(found.relevance.values())))
        assert spearman(maps[0], maps[1]) > 0.99
