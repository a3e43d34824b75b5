"""Activations that onnxruntime fuses, with the bias in front of them where it has one."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.fused import Fused, lowered, not_lowered


def biased(node: Fused, index: int = 1) -> ir.Value:
    """x + bias, where there is a bias."""
    bias = node[index]
    return node.x() if bias is None else node.emit.Add(node.x(), bias)


def gelu(node: Fused, x: ir.Value) -> ir.Value:
    """x·Φ(x) = ½ x (1 + erf(x/√2))."""
    if node.opset >= 20:
        return node.emit.Gelu(x)
    return node.emit.Mul(x * (node.emit.Erf(x * math.sqrt(0.5)) + 1.0), 0.5)


def tanh_gelu(node: Fused, x: ir.Value) -> ir.Value:
    """½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    if node.opset >= 20:
        return node.emit.Gelu(x, approximate="tanh")
    u = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return node.emit.Mul(x * (node.emit.Tanh(u) + 1.0), 0.5)


def silu(node: Fused, x: ir.Value, alpha: float = 1.0) -> ir.Value:
    """x·σ(αx)."""
    return node.emit.Mul(x, node.emit.Sigmoid(x if alpha == 1.0 else x * alpha))


@lowered("Gelu")
def gelu_of_x(node: Fused) -> ir.Value:
    """y = gelu(x)."""
    return gelu(node, node.x())


@lowered("BiasGelu")
def bias_gelu(node: Fused) -> ir.Value:
    """y = gelu(x + bias)."""
    return gelu(node, biased(node))


@lowered("FastGelu")
def fast_gelu(node: Fused) -> ir.Value:
    """y = gelu(x + bias), by its tanh form."""
    return tanh_gelu(node, biased(node))


@lowered("GemmFastGelu")
def gemm_fast_gelu(node: Fused) -> ir.Value:
    """y = gelu(x · w + bias), by its tanh form."""
    z = node.emit.MatMul(node.x(0), node.x(1))
    return tanh_gelu(node, z if node[2] is None else z + node[2])


@lowered("QuickGelu")
def quick_gelu(node: Fused) -> ir.Value:
    """y = x·σ(αx)."""
    return silu(node, node.x(), float(node.attribute("alpha", 1.702)))


@lowered("ScaledSiLU")
def scaled_silu(node: Fused) -> ir.Value:
    """y = z·σ(z) with z = scale · x."""
    return silu(node, node.emit.Mul(node.x(), float(node.attribute("alpha", 1.0)) if node[1] is None else node[1]))


@lowered("BiasAdd")
def bias_add(node: Fused) -> ir.Value:
    """y = x + bias + skip."""
    return node.emit.Add(biased(node), node.x(2))


@lowered("BiasSplitGelu")
def bias_split_gelu(node: Fused) -> ir.Value:
    """y = left · gelu(right), the halves of x + bias along the last axis."""
    left, right = halves(node, biased(node), axis=-1)
    return node.emit.Mul(left, gelu(node, right))


def halves(node: Fused, x: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
    """Both halves along an axis, of whatever size."""
    count = 2 if node.opset >= 18 else None
    left, right = node.emit.nodes("Split", x, outputs=2, axis=axis, num_outputs=count)
    return left, right


@lowered("BiasSoftmax")
def bias_softmax(node: Fused) -> ir.Value:
    """y = softmax(x + bias) over all axes from `axis` on, taken together."""
    emit, rank = node.emit, node.rank()
    axis = int(node.attribute("axis", 1)) % rank
    bias = node.x(1)
    if not node.attribute("is_inner_broadcast", 1) and node.rank(1) < rank:
        raise Unsupported("its bias is broadcast over inner axes and has a lower rank than its data")
    z = emit.Add(node.x(), bias)
    if axis == rank - 1:
        return emit.Softmax(z, axis=-1)
    flat = emit.Reshape(z, emit.Concat(emit.Shape(z, end=axis), [-1], axis=0))
    return emit.Reshape(emit.Softmax(flat, axis=-1), emit.Shape(z))


@lowered("GatedAdd")
def gated_add(node: Fused) -> ir.Value:
    """y = a + b · gate."""
    return node.emit.Add(node.x(0), node.x(1) * node.x(2))


def _inference_only(node: Fused, training: int) -> None:
    found = node.constant(training)
    if node.has(training) and (found is None or found.any()):
        raise Unsupported("it may run in training mode, where it drops values at random")


@lowered("BiasDropout", "BitmaskBiasDropout")
def bias_dropout(node: Fused) -> list[ir.Value | None]:
    """y = x + bias + residual: inference drops nothing."""
    _inference_only(node, 4)
    z = biased(node)
    return [z if node[2] is None else z + node[2], None]


@lowered("BitmaskDropout")
def bitmask_dropout(node: Fused) -> list[ir.Value | None]:
    """y = x: inference drops nothing."""
    _inference_only(node, 2)
    return [node.x(), None]


not_lowered("runs on CUDA alone, with weights of 8 floating-point bits", "GemmFloat8")
