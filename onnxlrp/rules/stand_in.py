"""Stand-ins: what a user may put at an operator of which nothing is known but that onnxruntime runs it.

`pass` and `stop` need no derivative, `finite-differences` measures one. All are declared in plan, report and metadata,
and none is ever chosen by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from onnxlrp.errors import ChoiceError, Unsupported
from onnxlrp.graph import Unit
from onnxlrp.rules.decompositions import Rule
from onnxlrp.rules.registry import Contribution, Family, Operator
from onnxlrp.rules.simple import shaped_like_output
from onnxlrp.rules.step import Step


def unknown(unit: Unit) -> Operator:
    """The record of an operator that has none."""

    def vjp(step: Step, g: Any) -> Sequence[Contribution]:
        raise Unsupported(f"{step.unit} has no record, so it has no gradient.")

    return Operator(unit.op_type, Family.UNKNOWN, vjp, domain=unit.domain, conserves="not")


@dataclass(frozen=True)
class FiniteDifferences(Rule):
    """R_x = f'(x) ⊙ R_y for y = f(x) element by element: f'(x) = (f(x + h) − f(x − h)) / 2h, by running f twice more.

    step : h as a share of max(|x|, 1), > 0. Where f is undefined on one side, the difference is one-sided.
    Elements must not depend on each other: nobody checks it here, `verify` does.
    """

    step: float = 1e-3
    name: ClassVar[str] = "finite-differences"
    conserves: ClassVar[str] = "not"
    source: ClassVar[str] = "central differences of the operator itself"

    def __post_init__(self) -> None:
        if not 0 < self.step < 1:
            raise ChoiceError(f"finite-differences({self.step:g}): the step is a number between 0 and 1.")

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family in (Family.UNKNOWN, Family.POINTWISE)

    def __call__(self, operator: Operator, step: Step, relevance: ir.Value) -> Sequence[Contribution]:
        contributions: list[Contribution] = [None] * step.count
        for index in shaped_like_output(step, f"'{self}' looks at each element by itself"):
            contributions[index] = relevance * self._slope(step, index)
        return contributions

    def _slope(self, step: Step, index: int) -> ir.Value:
        emit, x, y = step.emit, step.x(index), step.y()
        h = emit.Max(emit.Abs(x), 1.0) * self.step
        ends, values = [], []
        for end in (x + h, x - h):
            value = _run(step, index, end)
            undefined = emit.IsNaN(value)
            ends.append(emit.Where(undefined, x, end))
            values.append(emit.Where(undefined, y, value))
        slope: ir.Value = (values[0] - values[1]) / emit.Max(ends[0] - ends[1], 1e-30)
        return slope


def _run(step: Step, index: int, x: ir.Value) -> ir.Value:
    """The operator itself with another value of one operand, in float32."""
    emit, node, operand = step.emit, step.unit.node, step.raw(index)
    operands = list(node.inputs)
    given = operand.dtype in (None, ir.DataType.FLOAT)
    operands[index] = x if given else emit.Cast(x, to=operand.dtype)
    outputs = emit.nodes(
        node.op_type, *operands, outputs=len(node.outputs), domain=node.domain, **step.given_attributes
    )
    return outputs[0] if given else emit.Cast(outputs[0], to=ir.DataType.FLOAT)
