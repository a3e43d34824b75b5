"""Linear operators with an activation, a scale or a transpose fused into them."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.fused import Fused, lowered

CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def given(node: Fused, *names: str) -> dict[str, Any]:
    """The attributes that the node has, as they are; the primitive operator knows the same defaults."""
    return {name: node.attribute(name) for name in names}


def activated(node: Fused, z: ir.Value, name: str | None, parameters: list[float]) -> ir.Value:
    """The activation that onnxruntime fused behind a linear operator."""
    emit = node.emit
    alpha, beta = [*parameters, None, None][:2]
    if not name:
        return z
    if name in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"):
        return emit.node(name, z)
    if name in ("LeakyRelu", "Elu", "ThresholdedRelu"):
        return emit.node(name, z, alpha=alpha)
    if name == "HardSigmoid":
        return emit.HardSigmoid(z, alpha=alpha, beta=beta)
    if name == "Clip":
        return emit.Clip(z, alpha, beta)
    if name == "ScaledTanh":
        return emit.Mul(emit.Tanh(z * float(beta or 0.0)), alpha or 0.0)
    if name == "ParametricSoftplus":
        return emit.Mul(emit.Softplus(z * float(beta or 0.0)), alpha or 0.0)
    if name == "Affine":
        return emit.Add(z * float(alpha or 0.0), beta or 0.0)
    raise Unsupported(f"its activation '{name}' is none of those that onnxruntime fuses")


def _named_parameters(node: Fused) -> list[float]:
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    return [node.attribute(name) for name in names if node.attribute(name) is not None]


@lowered("FusedGemm")
def fused_gemm(node: Fused) -> ir.Value:
    """y = activation(Gemm(a, b, c))."""
    z = node.emit.Gemm(*node, **given(node, "alpha", "beta", "transA", "transB"))
    return activated(node, z, node.attribute("activation"), _named_parameters(node))


@lowered("FusedConv")
def fused_conv(node: Fused) -> ir.Value:
    """y = activation(Conv(x, w, b) + z)."""
    convolved = node.emit.Conv(node[0], node[1], node[2], **given(node, *CONVOLUTION))
    summed = convolved if node[3] is None else convolved + node[3]
    return activated(node, summed, node.attribute("activation"), list(node.attribute("activation_params") or []))
