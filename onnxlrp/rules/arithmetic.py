"""Addition, multiplication and their relatives, with numpy's broadcasting; constants and signals in any place."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxlrp.rules.registry import (
    Bilinear,
    Contribution,
    Family,
    Keeps,
    LinearMap,
    Operator,
    linear,
    register,
)
from onnxlrp.rules.step import Step

# --- sums ------------------------------------------------------------------------------------------------------------


def _sum_of_signals(op_type: str, signs: Sequence[float] | None = None, *, mean: bool = False, **facts: object) -> None:
    """y = Σ ± x_i (or their mean): each operand's cotangent is the output's, signed; the walk undoes broadcasting."""

    def factor(step: Step, index: int) -> float:
        sign = 1.0 if signs is None else signs[index]
        return sign / step.count if mean else sign

    def vjp(step: Step, g: ir.Value) -> list[Contribution]:
        return [_scaled(g, factor(step, i)) if step.signal(i) else None for i in range(step.count)]

    def linear_map(step: Step, operand: int) -> LinearMap:
        """One signal: z = w·x + (everything else), w = ±1 or ±1/n."""
        emit, z, x = step.emit, step.y(), step.x(operand)
        weight = emit.constant(factor(step, operand))
        return LinearMap(
            operand, x, weight, z - x * weight, lambda x, w: emit.Mul(x, w), lambda s, w: emit.Mul(s, w), z
        )

    register(
        Operator(
            op_type,
            Family.LINEAR,
            vjp,
            linear_map=linear_map,
            elementwise=True,
            conserves="up to bias",
            source="Bach et al. 2015, eq. 58",
            **facts,  # type: ignore[arg-type]
        )
    )


def _scaled(g: ir.Value, factor: float) -> ir.Value:
    return g if factor == 1.0 else -g if factor == -1.0 else g * factor


_sum_of_signals("Add", nonnegative=Keeps.INPUTS)
_sum_of_signals("Sum", nonnegative=Keeps.INPUTS)
_sum_of_signals("Sub", (1.0, -1.0))
_sum_of_signals("Mean", mean=True, nonnegative=Keeps.INPUTS)


# --- products and quotients ------------------------------------------------------------------------------------------


@linear("Mul", factors=(0, 1), elementwise=True, nonnegative=Keeps.INPUTS, layer="scale")
def mul(step: Step) -> Bilinear:
    """z = a·b."""
    emit = step.emit
    return Bilinear(
        forward=lambda a, b: emit.Mul(a, b),
        adjoint=lambda s, b: emit.Mul(s, b),
        weight_adjoint=lambda s, a: emit.Mul(s, a),
    )


def _div_vjp(step: Step, g: ir.Value) -> list[Contribution]:
    """∂(a/b)/∂a = 1/b, ∂(a/b)/∂b = −y/b."""
    over = g / step.x(1)
    return [over if step.signal(0) else None, -(over * step.y()) if step.signal(1) else None]


def _div_map(step: Step, operand: int) -> LinearMap:
    """A constant denominator: z = a · (1/b)."""
    emit = step.emit
    weight = emit.Reciprocal(step.x(1))
    return LinearMap(
        operand, step.x(0), weight, None, lambda x, w: emit.Mul(x, w), lambda s, w: emit.Mul(s, w), step.y()
    )


def _div_relevance(step: Step, relevance: ir.Value) -> list[Contribution]:
    """The denominator scales, as a norm does: it is held constant, and the numerator gets everything."""
    return [relevance, None] if step.signal(0) else [None, relevance]


class _Div(Operator):
    """Linear in the numerator, pointwise in the denominator, a normalisation of one by the other with both."""

    def family_for(self, signals: Sequence[int]) -> Family:
        if 1 not in signals:
            return Family.LINEAR
        return Family.NORMALISATION if 0 in signals else Family.POINTWISE


register(
    _Div(
        "Div",
        Family.LINEAR,
        _div_vjp,
        linear_map=_div_map,
        relevance=_div_relevance,
        elementwise=True,
        nonnegative=Keeps.INPUTS,
        layer="scale",
    )
)


def _pow_vjp(step: Step, g: ir.Value) -> list[Contribution]:
    """∂x^p/∂x = p·x^(p−1), and 0 where that is infinite, as for Sqrt; ∂x^p/∂p = y·ln x where x > 0."""
    emit, x = step.emit, step.x(0)
    contributions: list[Contribution] = [None, None]
    if step.signal(0):
        p = step.x(1)
        slope = p * emit.Pow(x, p - 1.0)
        known = step.constant(1)
        if known is None or (known < 1).any():
            infinite = emit.And(emit.Equal(x, 0.0), emit.Less(p, 1.0))
            slope = emit.Where(emit.Or(emit.Equal(p, 0.0), infinite), 0.0, slope)
        contributions[0] = g * slope
    if step.signal(1):
        inside = emit.Greater(x, 0.0)
        contributions[1] = g * step.y() * emit.Where(inside, emit.Log(emit.Where(inside, x, 1.0)), 0.0)
    return contributions


def _all_to_the_base(step: Step, relevance: ir.Value) -> list[Contribution]:
    """An exponent that is explained beside its base gets nothing; alone, everything."""
    return [relevance, None] if step.signal(0) else [None, relevance]


register(Operator("Pow", Family.POINTWISE, _pow_vjp, elementwise=True, relevance=_all_to_the_base))


# --- choices ---------------------------------------------------------------------------------------------------------


def _extreme(op_type: str, **facts: object) -> None:
    """y = max or min over operands: the first operand that attains it takes all."""

    def vjp(step: Step, g: ir.Value) -> list[Contribution]:
        emit, y = step.emit, step.y()
        contributions: list[Contribution] = []
        free: Contribution = None
        for index in range(step.count):
            winner = emit.Equal(step.x(index), y)
            if free is not None:
                winner = emit.And(winner, free)
            contributions.append(emit.Where(winner, g, 0.0) if step.signal(index) else None)
            taken = emit.Not(emit.Equal(step.x(index), y))
            free = taken if free is None else emit.And(free, taken)
        return contributions

    register(Operator(op_type, Family.CHOICE, vjp, elementwise=True, **facts))  # type: ignore[arg-type]


_extreme("Max", nonnegative=Keeps.INPUTS)
_extreme("Min", nonnegative=Keeps.INPUTS)
