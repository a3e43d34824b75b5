"""Mixtures of experts with packed weights: each token goes to the k experts that its router scores highest."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.activations import silu, tanh_gelu
from onnxlrp.lowering.fused import Fused, viewed
from onnxlrp.lowering.packed import unpacked

WEIGHTS, SCALES, BIAS = range(3)
FIRST, SECOND, THIRD = 2, 5, 8
"""Where the operands of the three layers of every expert begin."""

ZERO_POINTS = {FIRST: 11, SECOND: 12}


@viewed("QMoE")
def qmoe(node: Fused) -> ir.Value:
    """y = Σ_e g_e · (act(x W1_eᵀ + b1_e) W2_eᵀ + b2_e), g the softmax of the k largest router scores and else 0.

    x (token, hidden) or (batch, token, hidden), router (token, expert)
    """
    emit = node.emit
    if node.has(THIRD):
        raise Unsupported("its experts have a third layer")
    x = emit.Unsqueeze(emit.Reshape(node.x(), [-1, node.size(0, -1, "hidden size")]), [0])
    inner = _activated(node, _layer(node, x, FIRST))
    experts = _layer(node, inner, SECOND)
    gates = emit.Unsqueeze(emit.Transpose(_gates(node), perm=[1, 0]), [2])
    y = emit.ReduceSum(emit.Mul(experts, gates), [0], keepdims=0)
    return emit.Reshape(y, emit.Shape(node.x()), allowzero=1)


def _gates(node: Fused) -> ir.Value:
    """(token, expert): 0 but for the k experts chosen, whose gates sum to 1 whatever normalize_routing_weights says."""
    emit, router = node.emit, node.x(1)
    best, places = emit.nodes("TopK", router, emit.constant([int(node.attribute("k", 1))]), outputs=2, axis=-1)
    return emit.ScatterElements(emit.zeros_like(router), places, emit.Softmax(best, axis=-1), axis=1)


def _layer(node: Fused, x: ir.Value, first: int) -> ir.Value:
    """x (1 or expert, token, columns) through every expert's layer."""
    emit, bits = node.emit, int(node.attribute("expert_weight_bits", 4))
    if bits not in (4, 8):
        raise Unsupported(f"its weights have {bits} bits; 4 and 8 are read")
    if int(node.attribute("block_size", 0)) or node.has(ZERO_POINTS[first]):
        raise Unsupported("its weights have scales per block, or zero points")
    q = emit.Sub(unpacked(node, node.x(first + WEIGHTS), bits), 2.0 ** (bits - 1))
    w = emit.Mul(q, emit.Unsqueeze(node.x(first + SCALES), [2]))
    z = emit.MatMul(x, emit.Transpose(w, perm=[0, 2, 1]))
    return z if not node.has(first + BIAS) else emit.Add(z, emit.Unsqueeze(node.x(first + BIAS), [1]))


def _activated(node: Fused, z: ir.Value) -> ir.Value:
    emit, kind = node.emit, node.attribute("activation_type", "relu")
    if kind == "relu":
        return emit.Relu(z)
    if kind == "identity":
        return z
    if kind == "silu":
        return silu(node, z)
    if kind == "gelu":
        return tanh_gelu(node, z)
    raise Unsupported(f"its experts' activation is '{kind}'; relu, gelu, silu and identity are read")
