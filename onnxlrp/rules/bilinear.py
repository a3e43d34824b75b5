"""Maps that are linear in two factors: from one declaration the gradient, and the linear map of either factor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.rules.operator import Contribution, LinearMap
from onnxlrp.rules.step import Step


@dataclass(frozen=True)
class Bilinear:
    """z = forward(x, scale·w) + bias, linear in x and in w: all that a linear operator has to declare.

    adjoint        : (s, w) → shaped like x
    weight_adjoint : (s, x) → shaped like w; None when there is no second factor
    bias_adjoint   : s → shaped like the bias
    others         : operand → its gradient, s → shaped like it, for operands that are no part of the linear map
    scale          : a number that belongs to the weights, sign included: rules look at scale·w
    signed         : as in `LinearMap`
    """

    forward: Callable[[ir.Value, Contribution], ir.Value]
    adjoint: Callable[[ir.Value, Contribution], ir.Value]
    weight_adjoint: Callable[[ir.Value, Contribution], ir.Value] | None = None
    bias_adjoint: Callable[[ir.Value], ir.Value] | None = None
    bias: Contribution = None
    weight: Contribution = None
    others: Mapping[int, Callable[[ir.Value], ir.Value]] = field(default_factory=dict)
    scale: float = 1.0
    signed: bool = False

    def scaled(self, factor: ir.Value) -> ir.Value:
        return factor if self.scale == 1.0 else factor * self.scale


def bilinear_vjp(
    step: Step, g: ir.Value, declared: Bilinear, factors: tuple[int, ...], addend: int | None
) -> list[Contribution]:
    """The gradient for each factor, for the addend, and for what stands beside them.

    g : cotangent, shaped like z        factors : operands that multiply each other        addend : the bias
    """
    contributions: list[Contribution] = [None] * step.count
    data, weight = _factor_pair(step, factors)
    if step.signal(data):
        contributions[data] = declared.adjoint(g, _weights(step, declared, weight))
    if weight is not None and step.signal(weight):
        assert declared.weight_adjoint is not None
        contributions[weight] = declared.weight_adjoint(g, declared.scaled(step.x(data)))
    if addend is not None and step.signal(addend):
        assert declared.bias_adjoint is not None
        contributions[addend] = declared.bias_adjoint(g)
    for index in step.signals:
        if index in declared.others:
            contributions[index] = declared.others[index](g)
    return contributions


def _factor_pair(step: Step, factors: tuple[int, ...]) -> tuple[int, int | None]:
    """The data's index and the weight's; None where there is no second factor."""
    data = factors[0] if factors else 0
    return data, factors[1] if len(factors) > 1 and step.has(factors[1]) else None


def bilinear_map(
    step: Step, declared: Bilinear, factors: tuple[int, ...], addend: int | None, operand: int
) -> LinearMap:
    """z as a linear map of one operand, the other factor fixed; of the addend, z = b + (z − b).

    Errors: Unsupported for an operand that is no part of the linear map.
    """
    data, weight = _factor_pair(step, factors)
    bias = declared.bias if addend is None or not step.has(addend) else (declared.bias or step.x(addend))
    if operand == data:
        other, forward, adjoint = _weights(step, declared, weight), declared.forward, declared.adjoint
        return LinearMap(operand, step.x(operand), other, bias, forward, adjoint, step.y(), declared.signed)
    if operand == weight:
        assert declared.weight_adjoint is not None
        swapped = declared.weight_adjoint
        fixed = declared.scaled(step.x(data))
        return LinearMap(
            operand, step.x(operand), fixed, bias, lambda w, x: declared.forward(_value(x), w), swapped, step.y()
        )
    if operand != addend or declared.bias_adjoint is None:
        raise Unsupported(
            f"Operand {operand} of {step.unit} has a gradient and no relevance rule; use a gradient method."
        )
    z = step.y()
    b = step.x(operand)
    spread = declared.bias_adjoint
    return LinearMap(operand, b, None, z - b, lambda x, _: x, lambda s, _: spread(s), z)


def _weights(step: Step, declared: Bilinear, weight: int | None) -> Contribution:
    return declared.weight if weight is None else declared.scaled(step.x(weight))


def _value(value: Contribution) -> ir.Value:
    assert value is not None
    return value
