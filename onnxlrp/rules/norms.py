"""Division by a norm: the norm is held constant, so relevance stays where it is."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxlrp.rules.crossing import STABILISER, report_stabiliser
from onnxlrp.rules.normalisation import HELD_CONSTANT
from onnxlrp.rules.registry import Contribution, Vjp, normalisation
from onnxlrp.rules.step import Step


def norm_held_constant(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = R · y / stabilise(y): with the norm constant, each element's relevance stays where it is."""
    y = step.y()
    s = step.emit.quotient(relevance, y, STABILISER)
    report_stabiliser(step, s, y, STABILISER)
    return [s * y]


def _by_norm(op_type: str) -> Callable[[Vjp], Vjp]:
    return normalisation(op_type, relevance=norm_held_constant, source=HELD_CONSTANT)


@_by_norm("LpNormalization")
def lp_normalization(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x / ‖x‖: (g − ∂‖x‖ · Σ g·y) / ‖x‖ with ∂‖x‖₂ = y and ∂‖x‖₁ = sign(x); 0 where the norm is 0."""
    emit, axis, first_order = step.emit, [step.axis()], step.attribute("p") == 1
    norm = emit.reduce("ReduceL1" if first_order else "ReduceL2", step.x(), axis)
    slope = emit.Sign(step.x()) if first_order else step.y()
    return [emit.quotient(g - slope * emit.sum(g * step.y(), axis), norm, 0.0)]


@_by_norm("LRN")
def lrn(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x · d^(−β) with d = bias + α/size · Σ x² over the neighbouring channels.

    Gradient: g · d^(−β) − 2αβ/size · x · Σ g·y/d, the sum over the windows that x is part of.
    Source: Krizhevsky et al. 2012.
    """
    size, beta = int(step.attribute("size")), float(step.attribute("beta"))
    slope = float(step.attribute("alpha")) / size
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    x = step.x()
    d = _over_channels(step, x * x, before, after) * slope + float(step.attribute("bias"))
    through_norm = _over_channels(step, g * step.y() / d, after, before) * (2.0 * beta * slope)
    return [g * step.emit.Pow(d, -beta) - x * through_norm]


def _over_channels(step: Step, values: ir.Value, before: int, after: int) -> ir.Value:
    """For each channel the sum over itself, `before` channels before it and `after` after it."""
    emit, window = step.emit, before + 1 + after
    shape = emit.Concat(emit.dim(values, 0), [1], emit.dim(values, 1), [-1], axis=0)
    pooled = emit.AveragePool(
        emit.Reshape(values, shape), kernel_shape=[window, 1], pads=[before, 0, after, 0], count_include_pad=1
    )
    return emit.reshape_like(pooled * float(window), values)
