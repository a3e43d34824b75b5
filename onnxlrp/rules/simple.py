"""The rules that need no decomposition: pass, gradient, stop, gates, and what the other methods put at activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.graph import Dimension
from onnxlrp.rules.crossing import STABILISER, in_proportion, report_stabiliser
from onnxlrp.rules.decompositions import Rule
from onnxlrp.rules.registry import Contribution, Family, Operator
from onnxlrp.rules.step import Step


@dataclass(frozen=True)
class Pass(Rule):
    """R_x = R_y: to the signal as it is. With several signals: to the one a gate lets through, else in proportion."""

    name: ClassVar[str] = "pass"
    conserves: ClassVar[str] = "exactly"
    source: ClassVar[str] = "Bach et al. 2015, section 2.4"

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family is not Family.CONTROL

    def __call__(self, operator: Operator, step: Step, relevance: ir.Value) -> Sequence[Contribution]:
        if operator.family is Family.UNKNOWN:
            return self._equal_parts(step, relevance)
        if len(step.signals) > 1:
            return in_proportion(operator, step, relevance, STABILISER)
        contributions: list[Contribution] = [None] * step.count
        index = step.signals[0]
        have = step.facts.dims(step.unit.outputs[0])
        same_shape = have is not None and have == step.facts.dims(step.raw(index))
        if same_shape or operator.elementwise or operator.derivative is not None:
            contributions[index] = relevance
            return contributions
        return in_proportion(operator, step, relevance, STABILISER)

    def _equal_parts(self, step: Step, relevance: ir.Value) -> Sequence[Contribution]:
        """Through an operator of which nothing is known: to the signals that are shaped like its output."""
        takers = shaped_like_output(step, "'pass' hands on each element's relevance to the element in its place")
        share = relevance if len(takers) == 1 else relevance * (1.0 / len(takers))
        return [share if index in takers else None for index in range(step.count)]


def shaped_like_output(step: Step, because: str) -> list[int]:
    """The signals whose shape is, or at run time may be, that of the first output.  Errors: Unsupported without any."""
    have = step.facts.dims(step.unit.outputs[0])
    found = [index for index in step.signals if _may_equal(have, step.facts.dims(step.raw(index)))]
    if not found:
        shapes = ", ".join(f"'{step.raw(index).name}' {step.facts.dims(step.raw(index))}" for index in step.signals)
        raise Unsupported(
            f"{because}, and no signal of {step.unit} is shaped like its output {have}: {shapes}. Give the rule stop, "
            "a record of your own (docs/extending.md), or use --method occlusion."
        )
    return found


def _may_equal(a: tuple[Dimension, ...] | None, b: tuple[Dimension, ...] | None) -> bool:
    if a is None or b is None:
        return True
    known = [(x, y) for x, y in zip(a, b, strict=False) if isinstance(x, int) and isinstance(y, int)]
    return len(a) == len(b) and all(x == y for x, y in known)


@dataclass(frozen=True)
class Gradient(Rule):
    """R_x = Jᵀ R_y: the plain vector-Jacobian product."""

    name: ClassVar[str] = "gradient"
    conserves: ClassVar[str] = "not"

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family not in (Family.CONTROL, Family.UNKNOWN)

    def __call__(self, operator: Operator, step: Step, relevance: Any) -> Sequence[Contribution]:
        return operator.vjp(step, relevance)


@dataclass(frozen=True)
class LookupNorm(Gradient):
    """The gradient; tokens that look up an embedding e get its length ‖∂f/∂e‖, as they have no slope of their own."""

    name: ClassVar[str] = "gradient-norm"

    def __call__(self, operator: Operator, step: Step, relevance: Any) -> Sequence[Contribution]:
        if step.signal(0):
            return operator.vjp(step, relevance)
        squares = operator.vjp(step, step.emit.Mul(relevance, relevance))
        return [None if square is None else step.emit.Sqrt(square) for square in squares]


@dataclass(frozen=True)
class LookupProduct(Gradient):
    """The gradient; tokens that look up an embedding e get Σ e ⊙ ∂f/∂e."""

    name: ClassVar[str] = "gradient-x-embedding"

    def __call__(self, operator: Operator, step: Step, relevance: Any) -> Sequence[Contribution]:
        if step.signal(0):
            return operator.vjp(step, relevance)
        return operator.vjp(step, step.emit.Mul(relevance, step.y()))


@dataclass(frozen=True)
class Route(Gradient):
    """Each value goes back where it came from; where windows overlap, what arrives is added."""

    name: ClassVar[str] = "route"
    conserves: ClassVar[str] = "exactly"
    source: ClassVar[str] = "the operator's own adjoint"

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family is Family.MOVEMENT


@dataclass(frozen=True)
class WinnerTakesAll(Gradient):
    """The element that was chosen gets everything; the first one where several tie."""

    name: ClassVar[str] = "winner-takes-all"
    conserves: ClassVar[str] = "exactly"
    source: ClassVar[str] = "Bach et al. 2015, section 2.4"

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family is Family.CHOICE


@dataclass(frozen=True)
class Stop(Rule):
    """Nothing goes further down here."""

    name: ClassVar[str] = "stop"
    conserves: ClassVar[str] = "not"

    def __call__(self, operator: Operator, step: Step, relevance: Any) -> Sequence[Contribution]:
        return [None] * step.count


@dataclass(frozen=True)
class Own(Rule):
    """The operator's own relevance rule (normalisations, softmax)."""

    name: ClassVar[str] = "own"
    conserves: ClassVar[str] = "up to epsilon"

    def __call__(self, operator: Operator, step: Step, relevance: Any) -> Sequence[Contribution]:
        assert operator.relevance is not None
        return operator.relevance(step, relevance)

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.relevance is not None


@dataclass(frozen=True)
class EachLayer(Gradient):
    """Control flow: each layer of its branches or of its body by the rule that the plan gives it."""

    name: ClassVar[str] = "each-layer"
    conserves: ClassVar[str] = "exactly"

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family is Family.CONTROL


@dataclass(frozen=True)
class Gate(Rule):
    """A product with a gate: everything to the signal that the gate lets through, nothing to the gate.

    gate : index of the operand that is the gate
    """

    gate: int = 1
    name: ClassVar[str] = "gate"
    conserves: ClassVar[str] = "up to epsilon"
    source: ClassVar[str] = "Arras et al. 2017 (signal takes all)"

    def __call__(self, operator: Operator, step: Step, relevance: ir.Value) -> Sequence[Contribution]:
        y = step.y()
        s = step.emit.quotient(relevance, y, STABILISER)
        report_stabiliser(step, s, y, STABILISER)
        contributions = list(operator.vjp(step, s))
        for index in step.signals:
            back = contributions[index]
            contributions[index] = None if index == self.gate or back is None else step.x(index) * back
        return contributions

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family_for(signals) is Family.PRODUCT


@dataclass(frozen=True)
class GuidedRelu(Rule):
    """Guided backpropagation: the gradient where it is positive and the input is. Springenberg et al. 2015."""

    name: ClassVar[str] = "guided"
    conserves: ClassVar[str] = "not"

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family is not Family.UNKNOWN

    def __call__(self, operator: Operator, step: Step, relevance: ir.Value) -> Sequence[Contribution]:
        return operator.vjp(step, step.emit.positive(relevance))


@dataclass(frozen=True)
class DeconvnetRelu(Rule):
    """Deconvolution: the gradient where it is positive, whatever the input was. Zeiler and Fergus 2014."""

    name: ClassVar[str] = "deconvnet"
    conserves: ClassVar[str] = "not"

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family is not Family.UNKNOWN

    def __call__(self, operator: Operator, step: Step, relevance: ir.Value) -> Sequence[Contribution]:
        contributions: list[Contribution] = [None] * step.count
        contributions[0] = step.emit.positive(relevance)
        return contributions
