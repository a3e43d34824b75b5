"""DeepLIFT's rescale rule: multipliers of differences from a reference instead of derivatives.

    m_x = m_y · Δy/Δx at activations (the derivative where Δx is next to 0),  linear layers as in the gradient,
    products by the mean of both factors, so that Σ m·(x − x₀) = y − y₀ holds exactly through all of these.
Source: Shrikumar et al. 2017, section 3.5.1; max pooling as in captum (winners of both runs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import onnx_ir as ir

from onnxlrp.errors import Defect
from onnxlrp.rules.decompositions import Rule
from onnxlrp.rules.registry import Contribution, Family, Operator
from onnxlrp.rules.step import Step

EXTREMES = {"MaxPool": "Max", "GlobalMaxPool": "Max", "Max": "Max", "Min": "Min"}
"""Choices of the largest or smallest, by what compares the two runs."""

NO_DIFFERENCE = 1e-7
"""|Δx| below which the quotient is only rounding noise."""


@dataclass(frozen=True)
class ReferenceStep(Step):
    """The same layer seen on the reference input."""

    def raw(self, index: int) -> ir.Value:
        assert self.reference is not None
        return self.reference(super().raw(index))

    def y(self, index: int = 0) -> ir.Value:
        assert self.reference is not None
        return self.as_float(self.reference(self.unit.outputs[index]))


def on_reference(step: Step) -> ReferenceStep:
    if step.reference is None:
        raise Defect("The rescale rule needs the pass on the reference input.")
    return ReferenceStep(**{field.name: getattr(step, field.name) for field in fields(Step)})


@dataclass(frozen=True)
class Rescale(Rule):
    """m_x = m_y · Δy/Δx."""

    name: ClassVar[str] = "rescale"
    conserves: ClassVar[str] = "exactly"
    source: ClassVar[str] = "Shrikumar et al. 2017"

    def __call__(self, operator: Operator, step: Step, multiplier: Any) -> Sequence[Contribution]:
        family = operator.family_for(step.signals)
        if family is Family.PRODUCT:
            return self._product(operator, step, multiplier)
        if operator.op_type in EXTREMES:
            return self._extreme(operator, step, multiplier)
        if family is Family.POINTWISE and len(step.signals) == 1 and _same_shape(step):
            return self._quotient(operator, step, multiplier)
        return operator.vjp(step, multiplier)

    def _quotient(self, operator: Operator, step: Step, multiplier: ir.Value) -> Sequence[Contribution]:
        emit, index, there = step.emit, step.signals[0], on_reference(step)
        dx, dy = step.x(index) - there.x(index), step.y() - there.y()
        near = emit.Less(emit.Abs(dx), NO_DIFFERENCE)
        slope = operator.vjp(step, multiplier)[index]
        contributions: list[Contribution] = [None] * step.count
        rescaled = multiplier * (dy / emit.Where(near, 1.0, dx))
        contributions[index] = rescaled if slope is None else emit.Where(near, slope, rescaled)
        return contributions

    def _product(self, operator: Operator, step: Step, multiplier: ir.Value) -> Sequence[Contribution]:
        """Δ(a·b) = Δa·(b + b₀)/2 + Δb·(a + a₀)/2."""
        here, there = operator.vjp(step, multiplier), operator.vjp(on_reference(step), multiplier)
        return [None if a is None or b is None else (a + b) * 0.5 for a, b in zip(here, there, strict=True)]

    def _extreme(self, operator: Operator, step: Step, multiplier: ir.Value) -> Sequence[Contribution]:
        """[winner_x(m·(max(y, y₀) − y₀)) + winner_x₀(m·(y − max(y, y₀)))] / Δx; the gradient where Δx is next to 0.

        The winner of the higher run moved by at least as much as y did, so no quotient exceeds m. A minimum mirrors it.
        """
        emit, there = step.emit, on_reference(step)
        y, y0 = step.y(), there.y()
        further = emit.node(EXTREMES[operator.op_type], y, y0)
        here = operator.vjp(step, multiplier * (further - y0))
        other = operator.vjp(there, multiplier * (y - further))
        slope = operator.vjp(step, multiplier)
        contributions: list[Contribution] = [None] * step.count
        for index in step.signals:
            dx = step.x(index) - there.x(index)
            near = emit.Less(emit.Abs(dx), NO_DIFFERENCE)
            moved = here[index] + other[index]  # type: ignore[operator]
            contributions[index] = emit.Where(near, slope[index], moved / emit.Where(near, 1.0, dx))
        return contributions


def _same_shape(step: Step) -> bool:
    return step.facts.dims(step.unit.outputs[0]) == step.facts.dims(step.raw(step.signals[0]))
