"""The gradient of every linear layer is its adjoint: ⟨A·v, w⟩ = ⟨v, Aᵀ·w⟩, with static and with symbolic sizes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from nets import Array, Net, must, run, signed, with_shapes
from twins import LAYERS, Layer

import onnxlrp

ROUNDINGS = 8
"""In units of 2⁻²⁴ · Σ|v||Aᵀw|, both products summed in float64: only onnxruntime's own sums are left. Measured: 1."""


def check_adjoint(layer: Layer, model: onnx.ModelProto | None = None) -> None:
    """Complains when the inner products, or any element of Aᵀw, disagree."""
    model = model or layer.model
    v, explainer = layer.input(), onnxlrp.Explainer(model, method="gradient", providers="cpu")
    z = layer.run(v)
    w = signed(layer.random("cotangent"), *z.shape)
    back = explainer.explain(v, target=w).relevance["x"]
    must(back.shape == v.shape, f"{layer}: the gradient has shape {back.shape}, the input {v.shape}")
    forward = (z.astype(np.float64) - layer.bias) * w
    difference = abs(float(forward.sum() - (v.astype(np.float64) * back).sum()))
    size = np.abs(z * w).sum() + np.abs(layer.bias * w).sum() + np.abs(v * back).sum()
    must(difference <= ROUNDINGS * 2**-24 * size, f"{layer}: ⟨Av, w⟩ and ⟨v, Aᵀw⟩ differ by {difference:.3g}")
    exact = (layer.matrix.T @ w.reshape(-1).astype(np.float64)).reshape(v.shape)
    room = (np.abs(layer.matrix).T @ np.abs(w.reshape(-1))).reshape(v.shape)
    off = float((np.abs(back - exact) * 2**24 / np.maximum(room, 1e-30)).max())
    must(off <= ROUNDINGS, f"{layer}: an element of Aᵀw is off by {off:.3g} roundings")


def with_symbols(model: onnx.ModelProto, axes: Sequence[int]) -> onnx.ModelProto:
    """The model with named dimensions on these axes of its input."""
    model = copy.deepcopy(model)
    for axis in axes:
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size_{axis}"
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return with_shapes(model)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_gradient_of_a_linear_layer_is_its_adjoint(layer: Layer) -> None:
    check_adjoint(layer)


SPATIAL = [
    layer
    for layer in LAYERS
    if layer.model.graph.node[0].op_type in ("Conv", "ConvTranspose", "AveragePool", "GlobalAveragePool", "Resize")
]


@pytest.mark.parametrize("layer", SPATIAL, ids=str)
def test_adjoint_with_symbolic_batch_and_space(layer: Layer) -> None:
    check_adjoint(layer, with_symbols(layer.model, [0, *range(2, len(layer.shape))]))


# --- one explainer, many sizes ---------------------------------------------------------------------------------------


def _one_node(op_type: str, *operands: Array | None, **attributes: object) -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["batch", 3, "height", "width"])
    weights = ["" if operand is None else net.weight(operand) for operand in operands]
    return net.model(net.add(op_type, [x, *weights], out="z", **attributes))


SIZES = [(1, 3, 6, 7), (2, 3, 9, 8), (3, 3, 5, 12)]
RANDOM = np.random.default_rng(2)
WEIGHT, TRANSPOSED, BIAS = signed(RANDOM, 4, 3, 3, 3), signed(RANDOM, 3, 2, 3, 2), signed(RANDOM, 4)
DYNAMIC = {
    "conv-stride-2": _one_node("Conv", WEIGHT, BIAS, strides=[2, 2], pads=[1, 1, 0, 1]),
    "conv-transpose": _one_node("ConvTranspose", TRANSPOSED, strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 0]),
    "average-pool": _one_node("AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "max-pool": _one_node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "max-pool-ceil": _one_node("MaxPool", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1),
    "resize-linear": _one_node("Resize", None, np.array([1, 1, 2, 1.5], np.float32), mode="linear"),
}


def check_every_size(name: str) -> None:
    """Max pooling joins: at its own point f(v) = J·v."""
    model, random = DYNAMIC[name], np.random.default_rng(3)
    explainer = onnxlrp.Explainer(model, method="gradient", providers="cpu")
    for shape in SIZES:
        v = signed(random, *shape)
        z, nothing = run(model, {"x": v}), run(model, {"x": np.zeros_like(v)})
        w = signed(random, *z.shape)
        back = explainer.explain(v, target=w).relevance["x"]
        forward, backward = ((z.astype(np.float64) - nothing) * w).sum(), (v.astype(np.float64) * back).sum()
        size = np.abs(z * w).sum() + np.abs(nothing * w).sum() + np.abs(v * back).sum()
        fits = abs(forward - backward) <= ROUNDINGS * 2**-24 * size
        must(fits, f"{name} at {shape}: {forward} forward, {backward} backward")


@pytest.mark.parametrize("name", DYNAMIC)
def test_one_explainer_serves_every_size(name: str) -> None:
    check_every_size(name)
