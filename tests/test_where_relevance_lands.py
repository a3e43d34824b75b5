"""Relevance lands where it belongs: against gradient × input on ReLU nets, place by place where a graph branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import Array, Net, must, relative, run, signed
from onnx import TensorProto, helper, numpy_helper

import onnxlrp
from onnxlrp import Explainer

CLOSE = 2e-5
"""Of the largest relevance: what float32 leaves over after a dozen layers that each divide by a z they recompute."""


def explain(model: Any, feeds: Any, **choices: Any) -> onnxlrp.Explanation:
    target = choices.pop("at", None)
    return Explainer(model, providers="cpu", **choices).explain(feeds, target=target)


def lrp(model: Any, x: Array, rule: str = "epsilon(0)", **choices: Any) -> Array:
    """LRP-0 in every linear layer and sum, unless another rule is named."""
    choices.setdefault("preset", "epsilon")
    nodes = {node.op_type for node in _proto(model).graph.node}
    summing = {op: rule for op in ("Conv", "Gemm", "MatMul", "ConvTranspose", "Add", "AveragePool") if op in nodes}
    return explain(model, {"x": x}, rules=summing, **choices).relevance["x"]


def _proto(model: Any) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else onnx.load(model, load_external_data=False)


def data(*shape: int, seed: int = 0) -> Array:
    return signed(np.random.default_rng(seed), *shape)


# --- ε → 0 equals gradient × input -----------------------------------------------------------------------------------


def mlp(seed: int, bias: bool = True) -> onnx.ModelProto:
    net = Net()
    x = net.input("x", [2, 6])
    for index, (rows, columns) in enumerate([(6, 8), (8, 7), (7, 4)]):
        weights = [net.weight(data(rows, columns, seed=seed * 10 + index))]
        weights += [net.weight(data(columns, seed=seed * 10 + index + 5))] if bias else []
        x = net.Gemm(x, *weights)
        x = net.Relu(x) if index < 2 else x
    return net.model(x)


def convolutional(seed: int) -> onnx.ModelProto:
    """Overlapping max pooling, a stride, a residual, a concatenation, average pooling: no bias anywhere."""
    net = Net()
    x = net.input("x", [2, 2, 9, 9])
    a = net.Relu(net.Conv(x, net.weight(data(4, 2, 3, 3, seed=seed)), pads=[1, 1, 1, 1]))
    b = net.MaxPool(a, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    c = net.Conv(b, net.weight(data(4, 4, 3, 3, seed=seed + 1)), pads=[1, 1, 1, 1])
    d = net.Relu(net.Add(b, c))
    e = net.Concat(d, net.Conv(d, net.weight(data(2, 4, 1, 1, seed=seed + 2))), axis=1)
    f = net.Conv(net.Relu(e), net.weight(data(6, 3, 3, 3, seed=seed + 3)), strides=[2, 2], group=2)
    g = net.Flatten(net.AveragePool(net.LeakyRelu(f, alpha=0.2), kernel_shape=[2, 2]))
    return net.model(net.MatMul(g, net.weight(data(6, 3, seed=seed + 4))))


def check_small_epsilon_is_gradient_times_input(model: onnx.ModelProto, x: Array) -> None:
    """On piecewise linear nets LRP-0 is x ⊙ ∂f/∂x, with or without biases (they keep their share)."""
    ours = lrp(model, x)
    theirs = explain(model, {"x": x}, method="gradient-x-input").relevance["x"]
    off = relative(ours, theirs)
    must(off < CLOSE, f"LRP-0 and gradient × input differ by {off:.3g}")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bias", [True, False])
def test_small_epsilon_on_an_mlp_is_gradient_times_input(seed: int, bias: bool) -> None:
    check_small_epsilon_is_gradient_times_input(mlp(seed, bias), data(2, 6, seed=seed + 100))


@pytest.mark.parametrize("seed", range(4))
def test_small_epsilon_on_a_convolutional_net_is_gradient_times_input(seed: int) -> None:
    check_small_epsilon_is_gradient_times_input(convolutional(seed), data(2, 2, 9, 9, seed=seed + 100))


def check_gradient_is_that_of_finite_differences() -> None:
    """So that the agreement above is not one of two wrong numbers: the walk is in both of them."""
    model, x = convolutional(0), data(2, 2, 9, 9, seed=100)
    gradient = explain(model, {"x": x}, method="gradient", at=1).relevance["x"]
    differences = explain(model, {"x": x}, method="finite-difference", at=1).relevance["x"]
    off = np.median(np.abs(gradient - differences)) / np.abs(gradient).max()
    must(off < 1e-3, f"half of the gradient differs from finite differences by more than {off:.3g}")


def test_gradient_is_that_of_finite_differences() -> None:
    check_gradient_is_that_of_finite_differences()


def check_relevance_adds_up() -> None:
    """Without biases nobody but the stabiliser keeps anything."""
    for model, x in ((mlp(1, bias=False), data(2, 6)), (convolutional(1), data(2, 2, 9, 9))):
        result = explain(model, {"x": x}, preset="epsilon")
        must(np.allclose(result.conservation.ratio, 1, atol=1e-4), f"arrived: {result.conservation}")
        highest = next(iter(result.outputs.values())).max(axis=1)
        must(np.allclose(result.score, highest, rtol=1e-6), f"score {result.score}, largest output {highest}")


def test_relevance_without_biases_adds_up_to_the_output() -> None:
    check_relevance_adds_up()


def check_dead_units_stay_finite() -> None:
    """A unit with z = 0 that relevance arrives at: 0/0 in every rule that forgets it."""
    net = Net()
    z = net.Gemm(net.input("x", [1, 3]), net.weight(np.array([[1.0, 0, 2], [0, 0, -1], [0.5, 0, 0]])), name="layer")
    model, x = net.model(net.Sigmoid(z, out="y")), np.array([[1.0, 0.0, -2.0]], np.float32)
    ones = np.ones((1, 3), np.float32)
    for rule in ("epsilon", "epsilon(0)", "gamma", "alpha-beta(2, 1)", "z-plus", "z-box(-2, 1)", "w-square", "flat"):
        result = explain(model, {"x": x}, output="y", rules={"layer": rule}, at=ones)
        must(bool(np.isfinite(result.relevance["x"]).all()), f"{rule}: {result.relevance['x']}")
        must(bool(result.relevance["x"].any()), f"{rule}: the living units lost their relevance too")


def test_dead_units_stay_finite() -> None:
    check_dead_units_stay_finite()


# --- the graph's branches --------------------------------------------------------------------------------------------


def test_relevance_of_concat_lands_in_its_part() -> None:
    net = Net()
    a, b = net.input("a", [1, 2]), net.input("b", [1, 3])
    model = net.model(net.Concat(a, b, axis=1))
    feeds = {"a": data(1, 2), "b": data(1, 3, seed=1)}
    found = explain(model, feeds, at=3).relevance
    assert np.array_equal(found["a"], np.zeros((1, 2)))
    assert np.array_equal(found["b"], [[0, feeds["b"][0, 1], 0]])


def check_doubling_conserves() -> None:
    """Add(x, x): both operands are the same tensor, and what both get is added up once."""
    net = Net()
    x = net.input("x", [1, 3])
    values = np.array([[1.0, -2.0, 3.0]], np.float32)
    model, ones = net.model(net.Add(x, x)), np.ones((1, 3), np.float32)
    found = explain(model, {"x": values}, at=ones).relevance["x"]
    must(np.allclose(found, 2 * values, rtol=1e-5), f"Add(x, x) gives {found}, not {2 * values}")
    slope = explain(model, {"x": values}, method="gradient", at=ones).relevance["x"]
    must(np.array_equal(slope, 2 * ones), f"the gradient of Add(x, x) is {slope}, not 2")


def test_adding_a_tensor_to_itself_conserves() -> None:
    check_doubling_conserves()


def check_residual_is_in_proportion() -> None:
    """R_a = a·R/(a + b), not R for both."""
    net = Net()
    a, b = net.input("a", [1, 2]), net.input("b", [1, 2])
    model = net.model(net.Add(a, b))
    feeds = {"a": np.array([[3.0, -1.0]], np.float32), "b": np.array([[1.0, 3.0]], np.float32)}
    found = explain(model, feeds, at=np.ones((1, 2), np.float32)).relevance
    for name in feeds:
        must(np.allclose(found[name], feeds[name], rtol=1e-5), f"Add handed {found[name]} to {name}, not {feeds[name]}")


def test_residual_sum_shares_in_proportion() -> None:
    check_residual_is_in_proportion()


def test_sum_of_signals_that_cancel_stays_finite() -> None:
    net = Net()
    a, b = net.input("a", [1, 1]), net.input("b", [1, 1])
    model = net.model(net.Add(a, b, out="z"), net.Sigmoid("z", out="y"))
    feeds = {"a": np.ones((1, 1), np.float32), "b": -np.ones((1, 1), np.float32)}
    found = explain(model, feeds, output="y").relevance
    assert np.isfinite(found["a"]).all()
    assert found["a"] == -found["b"]


def check_fan_out_sums() -> None:
    """One tensor read by three layers gets the sum of the three."""
    net = Net()
    x = net.input("x", [1, 4])
    weights = [data(4, 2, seed=seed) for seed in range(3)]
    parts = [net.MatMul(x, net.weight(w)) for w in weights]
    found = lrp(net.model(net.Concat(*parts, axis=1)), np.ones((1, 4), np.float32), at=np.ones((1, 6), np.float32))
    wanted = np.concatenate(weights, axis=1).sum(axis=1)
    must(np.allclose(found, wanted, rtol=1e-5, atol=1e-6), f"fan-out gives {found}, not {wanted}")


def test_fan_out_sums() -> None:
    check_fan_out_sums()


def check_overlapping_windows_add() -> None:
    """One element that wins three windows gets all three."""
    net = Net()
    model = net.model(net.MaxPool(net.input("x", [1, 1, 5]), kernel_shape=[3], strides=[1], out="z"))
    x = np.array([[[0, 1, 5, 1, 0]]], np.float32)
    seed = np.array([[[1, 2, 4]]], np.float32)
    found = explain(model, {"x": x}, at=seed).relevance["x"]
    must(np.array_equal(found, [[[0, 0, 35, 0, 0]]]), f"three windows of one winner give {found}")


def test_overlapping_max_windows_add() -> None:
    check_overlapping_windows_add()


@pytest.mark.parametrize("op_type", ["MaxPool", "GlobalMaxPool", "ReduceMax"])
def test_ties_go_to_the_first(op_type: str) -> None:
    net = Net()
    x = net.input("x", [2, 2, 2, 2])
    attributes: dict[str, dict[str, Any]] = {"MaxPool": {"kernel_shape": [2, 2]}, "ReduceMax": {"axes": [2, 3]}}
    model = net.model(net.add(op_type, [x], out="z", **attributes.get(op_type, {})))
    x_tied = np.zeros((2, 2, 2, 2), np.float32)
    x_tied[:, :, 0, 1] = x_tied[:, :, 1, 0] = 3
    shape = run(model, {"x": x_tied}).shape
    found = explain(model, {"x": x_tied}, at=np.ones(shape, np.float32)).relevance["x"]
    wanted = np.zeros_like(x_tied)
    wanted[:, :, 0, 1] = 3
    assert np.array_equal(found, wanted)


def test_ties_between_operands_go_to_the_first() -> None:
    net = Net()
    a, b = net.input("a", [1, 2]), net.input("b", [1, 2])
    feeds = {"a": np.array([[2.0, 1.0]], np.float32), "b": np.array([[2.0, 4.0]], np.float32)}
    found = explain(net.model(net.Max(a, b)), feeds, at=np.ones((1, 2), np.float32)).relevance
    assert np.array_equal(found["a"], [[2, 0]])
    assert np.array_equal(found["b"], [[0, 4]])


# --- batches, outputs, weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lrp", "gradient", "deeplift", "guided-backprop"])
def test_samples_of_a_batch_are_independent(method: str) -> None:
    model, x = convolutional(3), data(2, 2, 9, 9, seed=5)
    other = np.concatenate([x[:1], data(1, 2, 9, 9, seed=6)])
    targets = [2, 0]
    first = explain(model, {"x": x}, method=method, at=targets).relevance["x"]
    second = explain(model, {"x": other}, method=method, at=[2, 1]).relevance["x"]
    assert np.array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])


def test_unused_outputs_get_nothing_and_cost_nothing() -> None:
    """Of a Split one part is read, of a second head nothing is explained."""
    net = Net()
    x = net.input("x", [1, 6])
    used, unused = net.Split(x, net.weight(np.array([2, 4], np.int64)), axis=1, outputs=2)
    head = net.MatMul(used, net.weight(data(2, 3)), out="head")
    other = net.MatMul(unused, net.weight(data(4, 2)), out="other")
    result = explain(net.model(head, other), {"x": data(1, 6)}, at=0)
    assert np.count_nonzero(result.relevance["x"][:, :2]) == 2
    assert np.count_nonzero(result.relevance["x"][:, 2:]) == 0
    assert set(result.outputs) == {"head", "other"}


def test_shared_weights_serve_both_layers() -> None:
    """The same initialiser in two convolutions: the relevance is that of two copies."""

    def siamese(shared: bool) -> onnx.ModelProto:
        net = Net()
        x = net.input("x", [1, 2, 5, 5])
        w = data(2, 2, 3, 3, seed=7)
        first = net.weight(w)
        second = first if shared else net.weight(w)
        return net.model(net.Flatten(net.Conv(net.Relu(net.Conv(x, first)), second)))

    x = data(1, 2, 5, 5, seed=8)
    for preset in ("epsilon", "epsilon-plus", "epsilon-alpha2-beta1-flat"):
        one, two = (explain(siamese(shared), {"x": x}, preset=preset).relevance["x"] for shared in (True, False))
        assert np.array_equal(one, two)


def test_one_tensor_in_both_factors_shares_in_equal_parts() -> None:
    """MatMul(x, xᵀ) and Mul(x, x): half to each factor, all of it to x."""
    net = Net()
    x = net.input("x", [2, 3])
    model = net.model(net.MatMul(x, net.Transpose(x, perm=[1, 0])))
    values = data(2, 3)
    found = explain(model, {"x": values}, at=np.eye(2, dtype=np.float32), preset="epsilon").relevance["x"]
    assert np.allclose(found, values**2, rtol=1e-5)
    net = Net()
    x = net.input("x", [1, 3])
    found = explain(net.model(net.Mul(x, x)), {"x": values[:1]}, at=np.ones((1, 3), np.float32)).relevance["x"]
    assert np.allclose(found, values[:1] ** 2, rtol=1e-5)


def test_weights_that_are_fed_can_be_explained() -> None:
    net = Net()
    x, w = net.input("x", [1, 3]), net.input("w", [3, 2])
    model = net.model(net.MatMul(x, w))
    feeds = {"x": data(1, 3), "w": data(3, 2, seed=1)}
    found = explain(model, feeds, inputs=["w"], at=np.ones((1, 2), np.float32)).relevance["w"]
    assert np.allclose(found, feeds["x"].T * feeds["w"], rtol=1e-4)


# --- where one asks for it -------------------------------------------------------------------------------------------


def three_layers() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["batch", 5])
    hidden = net.Relu(net.Gemm(x, net.weight(data(5, 6)), net.weight(data(6, seed=1))), out="hidden")
    late = net.Relu(net.Gemm(hidden, net.weight(data(6, 4, seed=2)), net.weight(data(4, seed=3))), out="late")
    return net.model(net.Gemm(late, net.weight(data(4, 3, seed=4)), out="logits"))


def part_of(model: onnx.ModelProto, start: str, end: str) -> onnx.ModelProto:
    return onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model([start], [end])


def test_inner_tensor_as_input_gets_what_passes_through_it() -> None:
    """Relevance at an inner tensor equals that of the model cut there."""
    model, x = three_layers(), data(2, 5, seed=9)
    hidden = explain(model, {"x": x}, inputs=["hidden"]).relevance["hidden"]
    value = run(part_of(model, "x", "hidden"), {"x": x})
    assert relative(hidden, explain(part_of(model, "hidden", "logits"), {"hidden": value}).relevance["hidden"]) < 1e-6


def test_inner_tensor_as_output_is_explained_as_it_is() -> None:
    model, x = three_layers(), data(2, 5, seed=9)
    lower = part_of(model, "x", "late")
    ours = explain(model, {"x": x}, output="late", at=1)
    assert np.array_equal(ours.relevance["x"], explain(lower, {"x": x}, at=1).relevance["x"])
    assert np.allclose(ours.score, run(lower, {"x": x})[:, 1])


def test_input_and_inner_tensor_together() -> None:
    """A tensor that is asked for does not stop what flows on below it."""
    model, x = three_layers(), data(2, 5, seed=9)
    both = explain(model, {"x": x}, inputs=["x", "hidden"]).relevance
    assert np.array_equal(both["x"], explain(model, {"x": x}).relevance["x"])
    assert np.array_equal(both["hidden"], explain(model, {"x": x}, inputs=["hidden"]).relevance["hidden"])


def test_several_inputs_share() -> None:
    net = Net()
    a, b = net.input("a", [2, 3]), net.input("b", [2, 4])
    joined = net.Gemm(net.Concat(a, b, axis=1), net.weight(data(7, 5)))
    model = net.model(net.MatMul(net.Relu(joined), net.weight(data(5, 2, seed=1))))
    feeds = {"a": data(2, 3, seed=2), "b": data(2, 4, seed=3)}
    result = explain(model, feeds, preset="epsilon")
    total = result.relevance["a"].sum(axis=1) + result.relevance["b"].sum(axis=1)
    assert np.allclose(total, result.score, rtol=1e-4)
    only = explain(model, feeds, preset="epsilon", inputs=["b"]).relevance
    assert np.allclose(only["b"], result.relevance["b"], rtol=1e-6)


def test_tokens_get_relevance_of_their_own_shape() -> None:
    """What an embedding's row gets, summed over the row."""
    net = Net()
    tokens = net.input("tokens", ["batch", 4], TensorProto.INT64)
    embedded = net.Gather(net.weight(data(7, 3)), tokens, axis=0, out="embedded")
    flat = net.Reshape(embedded, net.weight(np.array([-1, 12], np.int64)))
    model = net.model(net.MatMul(flat, net.weight(data(12, 2, seed=1))))
    feeds = {"tokens": np.array([[1, 2, 3, 1], [0, 6, 6, 5]], np.int64)}
    found = explain(model, feeds, preset="epsilon").relevance["tokens"]
    rows = explain(model, feeds, preset="epsilon", inputs=["embedded"]).relevance["embedded"]
    assert found.dtype == np.float32
    assert np.allclose(found, rows.sum(axis=-1), rtol=1e-5)
    assert np.abs(found).min() > 0


# --- how files are written -------------------------------------------------------------------------------------------


def plain() -> tuple[onnx.ModelProto, Array]:
    return mlp(2), data(2, 6, seed=11)


def test_initialisers_that_are_also_inputs_are_weights() -> None:
    """IR version 3 lists every weight as an input."""
    model, x = plain()
    wanted = lrp(model, x)
    listed = onnx.ModelProto.FromString(model.SerializeToString())
    listed.ir_version = 3
    listed.opset_import[0].version = 8
    for tensor in listed.graph.initializer:
        listed.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    explainer = Explainer(listed, providers="cpu", preset="epsilon", rules={"Gemm": "epsilon(0)"})
    assert explainer.explained == ["x"]
    assert relative(explainer.explain(x).relevance["x"], wanted) < 1e-6


def test_weights_from_constant_nodes_and_subgraphs() -> None:
    """ConstantOfShape, Constant, and arithmetic on them: constant is a property of the graph."""
    w, x = data(5, 3), data(2, 5, seed=1)

    def model(constant: bool) -> onnx.ModelProto:
        net = Net()
        data_in = net.input("x", [2, 5])
        if not constant:
            return net.model(net.Relu(net.Gemm(data_in, net.weight(w * 0.5), net.weight(np.full(3, 0.25)))))
        half = net.ConstantOfShape(
            net.weight(np.array([1], np.int64)), value=helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
        )
        transposed = net.Constant(value=numpy_helper.from_array(np.ascontiguousarray(w.T)))
        weight = net.Mul(net.Transpose(transposed, perm=[1, 0]), half)
        bias = net.ConstantOfShape(
            net.weight(np.array([3], np.int64)), value=helper.make_tensor("quarter", TensorProto.FLOAT, [1], [0.25])
        )
        return net.model(net.Relu(net.Gemm(data_in, weight, bias)))

    for preset in ("epsilon", "alpha2-beta1", "deep-taylor"):
        computed, stored = (explain(model(constant), {"x": x}, preset=preset) for constant in (True, False))
        assert set(computed.relevance) == {"x"}
        assert relative(computed.relevance["x"], stored.relevance["x"]) < 1e-6


HALF = 2.0**-10
"""Half precision keeps 11 digits: the forward values differ by that much, and relevance in float32 by little more."""


def test_half_precision_model_gets_single_precision_relevance() -> None:
    def model(dtype: Any) -> onnx.ModelProto:
        net = Net()
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        x = net.input("x", [2, 2, 6, 6], kind)
        weights = [data(3, 2, 3, 3) / 4, data(3, seed=1) / 4, data(27, 4, seed=2) / 8]
        c, b, m = (net.weight(w.astype(np.float16).astype(dtype)) for w in weights)
        pooled = net.MaxPool(net.Relu(net.Conv(x, c, b, pads=[1, 1, 1, 1])), kernel_shape=[2, 2], strides=[2, 2])
        return net.model(net.MatMul(net.Flatten(pooled), m, out="y"), dtypes={"y": kind})

    x = data(2, 2, 6, 6, seed=3).astype(np.float16)
    for method in ("lrp", "gradient", "integrated-gradients"):
        half = explain(model(np.float16), {"x": x}, method=method, at=1).relevance["x"]
        full = explain(model(np.float32), {"x": x.astype(np.float32)}, method=method, at=1).relevance["x"]
        assert half.dtype == np.float32
        assert relative(half, full) < 8 * HALF, method


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21])
def test_every_opset_gives_the_same_relevance(opset: int) -> None:
    """Operators whose spelling changed on the way: Pad, Clip, Squeeze, ReduceMean, Softmax, Upsample."""

    def model(opset: int) -> onnx.ModelProto:
        net = Net(opset, ir_version=7 if opset < 15 else 8)
        x = net.input("x", [2, 2, 6, 6])
        if opset < 11:
            padded = net.Pad(x, pads=[0, 0, 1, 1, 0, 0, 1, 1])
        else:
            padded = net.Pad(x, net.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)))
        c = net.Conv(padded, net.weight(data(3, 2, 3, 3)), net.weight(data(3, seed=1)))
        c = net.BatchNormalization(c, *[net.weight(v) for v in ([1.0, 2, 3], [0.5] * 3, [0.1] * 3, [2.0] * 3)])
        c = net.Clip(c, min=0.0, max=6.0) if opset < 11 else net.Clip(c, net.weight(0.0), net.weight(6.0))
        c = net.MaxPool(c, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        if opset < 18:
            c = net.ReduceMean(c, axes=[2], keepdims=1)
        else:
            c = net.ReduceMean(c, net.weight(np.array([2], np.int64)), keepdims=1)
        axes = [2]
        c = net.Squeeze(c, axes=axes) if opset < 13 else net.Squeeze(c, net.weight(np.array(axes, np.int64)))
        c = net.Reshape(c, net.weight(np.array([2, 9], np.int64)))
        return net.model(net.Softmax(net.Gemm(c, net.weight(data(9, 4, seed=2)), net.weight(data(4, seed=3))), axis=1))

    x = data(2, 2, 6, 6, seed=4)
    old, new = (explain(model(version), {"x": x}, preset="epsilon-plus-flat", at=2) for version in (opset, 21))
    assert relative(old.relevance["x"], new.relevance["x"]) < 1e-5
    assert relative(next(iter(old.outputs.values())), next(iter(new.outputs.values()))) < 1e-6


def test_external_data(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", [2, 40])
    hidden = net.Relu(net.Gemm(x, net.weight(data(40, 60)), net.weight(data(60, seed=1))))
    model = net.model(net.Gemm(hidden, net.weight(data(60, 5, seed=2))))
    values = data(2, 40, seed=3)
    wanted = explain(model, {"x": values}, preset="alpha2-beta1").relevance["x"]
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 40 * 60 * 4
    found = explain(tmp_path / "model.onnx", {"x": values}, preset="alpha2-beta1").relevance["x"]
    assert np.array_equal(found, wanted)


def test_symbolic_batch_takes_any_number_of_samples() -> None:
    model, x = three_layers(), data(7, 5, seed=5)
    whole = explain(model, {"x": x}).relevance["x"]
    for size in (1, 2, 3, 5):
        assert np.allclose(explain(model, {"x": x[:size]}).relevance["x"], whole[:size], rtol=1e-5, atol=1e-6)
        assert np.allclose(explain(model, {"x": x}, batch_size=size).relevance["x"], whole, rtol=1e-5, atol=1e-6)


def test_channels_last_model_equals_its_channels_first_twin() -> None:
    """TensorFlow's exporters put Transposes around each Conv."""
    w, v = data(4, 3, 3, 3), data(4, 2, seed=1)

    def model(channels_last: bool) -> onnx.ModelProto:
        net = Net()
        x = net.input("x", [1, 6, 6, 3] if channels_last else [1, 3, 6, 6])
        x = net.Transpose(x, perm=[0, 3, 1, 2]) if channels_last else x
        c = net.Conv(x, net.weight(w), pads=[1, 1, 1, 1])
        if channels_last:
            c = net.Transpose(net.Relu(net.Transpose(c, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])
        else:
            c = net.Relu(c)
        pooled = net.MaxPool(c, kernel_shape=[2, 2], strides=[2, 2])
        if channels_last:
            means = net.ReduceMean(net.Transpose(pooled, perm=[0, 2, 3, 1]), axes=[1, 2], keepdims=0)
        else:
            means = net.ReduceMean(pooled, axes=[2, 3], keepdims=0)
        return net.model(net.MatMul(means, net.weight(v)))

    x = data(1, 3, 6, 6, seed=2)
    for preset in ("epsilon", "epsilon-plus-flat", "epsilon-alpha2-beta1"):
        first = explain(model(False), {"x": x}, preset=preset).relevance["x"]
        last = explain(model(True), {"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1))}, preset=preset).relevance["x"]
        assert relative(last.transpose(0, 3, 1, 2), first) < 1e-6


def test_reshape_by_a_computed_shape() -> None:
    """x.view(x.size(0), -1), as exporters write it: nothing flows through the shape."""
    net = Net()
    x = net.input("x", ["batch", 2, 3, 3])
    batch = net.Unsqueeze(
        net.Gather(net.Shape(x), net.weight(np.array(0, np.int64)), axis=0), net.weight(np.array([0], np.int64))
    )
    shape = net.Concat(batch, net.weight(np.array([-1], np.int64)), axis=0)
    model = net.model(net.MatMul(net.Reshape(x, shape), net.weight(data(18, 2))))
    values = data(2, 2, 3, 3, seed=1)
    found = lrp(model, values, at=0)
    assert np.allclose(found, values * data(18, 2)[:, 0].reshape(2, 3, 3), rtol=1e-5)


def test_the_default_for_convolutions_opens_with_a_box_where_one_is_known() -> None:
    """Each of two towers has a first convolution of its own."""
    net = Net()
    kernels = {name: net.weight(data(2, 2, 3, 3, seed=seed)) for seed, name in enumerate(("a", "b", "top"))}
    towers = [net.Conv(net.input(f"x{name}", ["batch", 2, 6, 6]), kernels[name], name=name) for name in "ab"]
    explained = Explainer(
        net.model(net.Flatten(net.Conv(net.Relu(net.Add(*towers), out="top_in"), kernels["top"], name="top")))
    )
    assert explained.preset == "epsilon-gamma"
    assert {str(explained.plan.rule_of(name)) for name in kernels} == {"gamma(0.05)"}
    boxed = Explainer(explained.model, box=(-1.0, 1.0)).plan
    assert [str(boxed.rule_of(name)) for name in kernels] == ["z-box(-1, 1)", "z-box(-1, 1)", "gamma(0.05)"]
    inner = Explainer(explained.model, box=(-1.0, 1.0), inputs=["top_in"]).plan
    assert str(inner.rule_of("top")) == "gamma(0.05)", "the box is that of the pixels"


def test_a_mask_that_pools_tokens_is_a_gate() -> None:
    """Σ m e / Σ m: the tokens get all, and what the mask leaves out gets nothing."""
    net = Net()
    tokens, mask = (net.input(name, ["batch", "length"], onnx.TensorProto.INT64) for name in ("tokens", "mask"))
    last, along = net.weight(np.array([-1], np.int64)), net.weight(np.array([1], np.int64))
    spread = net.Cast(net.Unsqueeze(mask, last), to=onnx.TensorProto.FLOAT)
    summed = net.ReduceSum(net.Mul(net.Gather(net.weight(data(9, 5)), tokens), spread, name="pool"), along, keepdims=0)
    pooled = net.Div(summed, net.ReduceSum(spread, along, keepdims=0))
    explainer = Explainer(net.model(net.MatMul(pooled, net.weight(data(5, 3)))), target=1)
    result = explainer.explain({"tokens": np.array([[1, 2, 3, 4]]), "mask": np.array([[1, 1, 1, 0]])})
    assert str(explainer.plan.rule_of("pool")) == "gate(1)"
    assert result.relevance["tokens"][0, :3].all() and not result.relevance["tokens"][0, 3]
    assert not result.relevance["mask"].any()
    assert np.allclose(result.relevance["tokens"].sum(), result.score, rtol=1e-4)


# --- single layers of real nets --------------------------------------------------------------------------------------


def _statistics(net: Net) -> list[str]:
    return [net.weight(data(3, seed=s)) for s in (1, 2, 3)] + [net.weight(np.array([0.5, 1, 2]))]


def test_batch_normalization_first_is_a_linear_layer() -> None:
    net = Net()
    x = net.input("x", [2, 3, 4, 4])
    normal = net.BatchNormalization(x, *_statistics(net), name="bn")
    model = net.model(net.Flatten(net.Conv(net.Relu(normal), net.weight(data(2, 3, 3, 3)))))
    values = data(2, 3, 4, 4, seed=4)
    theirs = explain(model, {"x": values}, method="gradient-x-input").relevance["x"]
    ours = explain(model, {"x": values}, preset="epsilon", rules={"Conv": "epsilon(0)", "bn": "epsilon(0)"})
    assert relative(ours.relevance["x"], theirs) < CLOSE
    passed = explain(model, {"x": values}, preset="epsilon-plus")
    assert str(Explainer(model, preset="epsilon-plus").plan.rule_of("bn")) == "pass"
    assert np.isfinite(passed.relevance["x"]).all()


def test_batch_normalization_after_an_activation_is_not_merged_across_it() -> None:
    net = Net()
    x = net.input("x", [2, 3, 4, 4])
    c = net.Relu(net.Conv(x, net.weight(data(3, 3, 3, 3)), name="conv"))
    model = net.model(net.Flatten(net.BatchNormalization(c, *_statistics(net), name="bn")))
    values = data(2, 3, 4, 4, seed=4)
    assert [row[0] for row in Explainer(model, preset="epsilon").plan.rows()][:1] == ["conv"]
    theirs = explain(model, {"x": values}, method="gradient-x-input").relevance["x"]
    ours = explain(model, {"x": values}, preset="epsilon", rules={"conv": "epsilon(0)", "bn": "epsilon(0)"})
    assert relative(ours.relevance["x"], theirs) < CLOSE


def test_saturated_relu6_passes_relevance_and_no_gradient() -> None:
    net = Net()
    x = net.input("x", [1, 2])
    hidden = net.Gemm(x, net.weight(np.eye(2) * 4))
    clipped = net.Clip(hidden, net.weight(0.0), net.weight(6.0))
    model = net.model(net.MatMul(clipped, net.weight(np.array([[1.0], [2.0]]))))
    values = np.array([[1.0, 3.0]], np.float32)
    assert np.allclose(explain(model, {"x": values}, preset="epsilon", at=0).relevance["x"], [[4, 12]], rtol=1e-5)
    assert np.array_equal(explain(model, {"x": values}, method="gradient", at=0).relevance["x"], [[4, 0]])


def check_gate_gets_nothing() -> None:
    """Squeeze and excitation: x ⊙ sigmoid(…) hands all to x, nothing to what computes the gate."""
    net = Net()
    x, control = net.input("x", [1, 2, 3, 3]), net.input("control", [1, 2, 1, 1])
    gate = net.Sigmoid(net.Conv(control, net.weight(data(2, 2, 1, 1))))
    scaled = net.Mul(x, gate, name="scale")
    model = net.model(net.Flatten(net.GlobalAveragePool(scaled)))
    feeds = {"x": data(1, 2, 3, 3, seed=1), "control": data(1, 2, 1, 1, seed=2)}
    result = explain(model, feeds, at=0)
    must(not result.relevance["control"].any(), f"the gate got {result.relevance['control'].sum()}")
    total = float(result.relevance["x"].sum())
    must(abs(total - result.score[0]) < 1e-4, f"{total} of {result.score[0]} arrived at what the gate lets through")


def test_gate_gets_nothing() -> None:
    check_gate_gets_nothing()


def test_squeeze_and_excitation_block_takes_the_main_path() -> None:
    net = Net()
    x = net.input("x", [1, 3, 4, 4])
    c = net.Relu(net.Conv(x, net.weight(data(3, 3, 1, 1)), name="main"))
    squeezed = net.Relu(net.Conv(net.GlobalAveragePool(c), net.weight(data(2, 3, 1, 1, seed=1)), name="squeeze"))
    gate = net.Sigmoid(net.Conv(squeezed, net.weight(data(3, 2, 1, 1, seed=2)), name="excite"))
    model = net.model(net.Flatten(net.GlobalAveragePool(net.Mul(c, gate, name="scale"))))
    explainer = Explainer(model, providers="cpu", preset="epsilon")
    assert str(explainer.plan.rule_of("scale")) == "gate(1)"
    result = explainer.explain(data(1, 3, 4, 4, seed=3), target=1)
    assert np.allclose(result.conservation.ratio, 1, atol=1e-4)


@pytest.mark.parametrize("op_type", ["Log", "Sqrt", "Reciprocal"])
def test_a_branch_that_is_masked_gets_nothing_even_where_it_is_undefined(op_type: str) -> None:
    net = Net()
    x = net.input("x", ["batch", 4])
    above, shifted = net.Greater(x, net.weight(np.float32(0.5))), net.Sub(x, net.weight(np.float32(0.5)))
    scaled = net.Mul(net.add(op_type, [shifted]), net.weight(np.full(4, 2.0, np.float32)))
    model = net.model(net.Where(above, scaled, net.Mul(x, net.weight(np.float32(3.0)))))
    points = np.array([[0.5, -1.0, 0.75, 1.5]], np.float32)
    slopes = {"Log": lambda z: 1 / z, "Sqrt": lambda z: 0.5 / np.sqrt(z), "Reciprocal": lambda z: -1 / z**2}
    wanted = np.concatenate([[3.0, 3.0], 2.0 * slopes[op_type](points[0, 2:] - 0.5)])
    found = onnxlrp.Explainer(model, method="gradient").explain(points, target=np.ones((1, 4), np.float32))
    np.testing.assert_allclose(found.relevance["x"][0], wanted, rtol=1e-5)
    assert np.isfinite(
        onnxlrp.Explainer(model).explain(points, target=np.ones((1, 4), np.float32)).relevance["x"]
    ).all()
