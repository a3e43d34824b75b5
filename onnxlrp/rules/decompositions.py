"""The LRP rules: small tables over any linear map, and the few rules that need none.

    z = Σ forward(part, weight) + bias part     s = R / stabilise(z)     R_x = Σ part ⊙ adjoint(s, weight)

With x⁺ = max(x, 0) and x⁻ = min(x, 0), likewise for weights and biases. A decomposition is a sum of *brackets*; each has
its own z. Sources: Bach et al. 2015 (epsilon, alpha-beta), Montavon et al. 2017 (z-plus, z-box, w-square), Montavon et
al. 2019 (gamma; here generalised to signed inputs), Lapuschkin et al. 2017 (flat).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import ChoiceError, Unsupported
from onnxlrp.rules.registry import Contribution, Family, LinearMap, Operator
from onnxlrp.rules.step import Step

STABILISER = 1e-6
"""Added to every denominator that is not the epsilon rule's own."""

Part = Callable[[Emit, ir.Value], Contribution]


@dataclass(frozen=True)
class Term:
    """factor · forward(part(x), weighted(w)): one product in a bracket. `part` gives None for a part that is all zero."""

    part: Callable[[Step, LinearMap], Contribution]
    weighted: Callable[[Emit, Contribution], Contribution]
    factor: float = 1.0


@dataclass(frozen=True)
class Bracket:
    """coefficient · Σ part ⊙ adjoint(R / stabilise(Σ forward + bias part)).

    where : "z > 0" or "z < 0": only outputs whose unmodified z has that sign take part
    sign  : +1 or −1 where the bracket's own z is known never to have the other sign
    """

    terms: tuple[Term, ...]
    bias: Callable[[Emit, Contribution], Contribution]
    coefficient: float = 1.0
    where: str = ""
    unmodified: bool = False


class Rule:
    """How relevance crosses one layer.  name: as it is written in Python, TOML and on the command line."""

    name: ClassVar[str] = ""
    conserves: ClassVar[str] = "up to epsilon"
    source: ClassVar[str] = ""

    def __call__(self, operator: Operator, step: Step, relevance: Any) -> Sequence[Contribution]:
        raise NotImplementedError

    def __str__(self) -> str:
        values = ", ".join(_shown(value) for value in vars(self).values())
        return f"{self.name}({values})" if values else self.name

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        """Whether the rule can be used on a layer with these signal operands."""
        del operator, signals
        return True


class Decomposition(Rule):
    """A rule that is a table over a linear map.  needs_weights : whether it looks at weights one by one"""

    stabiliser: float = STABILISER
    needs_weights: ClassVar[bool] = True

    @property
    def drops_zero(self) -> bool:
        """Whether nothing is handed on from outputs whose z is exactly 0."""
        return False

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        raise NotImplementedError

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.linear_map is not None and operator.family_for(signals) is Family.LINEAR

    def __call__(self, operator: Operator, step: Step, relevance: ir.Value) -> Sequence[Contribution]:
        assert operator.linear_map is not None
        linear = operator.linear_map(step, step.signals[0])
        if linear.signed and self.needs_weights:
            raise Unsupported(
                f"The rule '{self}' looks at the sign of each weight, and the weights of {step.unit} stand in no tensor. "
                "Rules that fit it: epsilon, pass, gradient, stop."
            )
        if step.account is not None and self.drops_zero:
            step.account("z = 0", step.emit.Where(step.emit.Equal(linear.output, 0.0), relevance, 0.0))
        contributions: list[Contribution] = [None] * step.count
        total: Contribution = None
        for bracket in self.brackets(step, linear):
            share = _cross(step, linear, bracket, relevance, self.stabiliser)
            if share is not None:
                total = share if total is None else total + share
        contributions[linear.operand] = total if total is not None else step.emit.zeros_like(linear.x)
        return contributions


@dataclass(frozen=True)
class Epsilon(Decomposition):
    """R_i = Σ_j x_i w_ij / (z_j + ε·sign z_j) · R_j, with z_j = Σ_i x_i w_ij + b_j; eq. (2) of Samek et al. 2017.

    eps : unit of z, ≥ 0; 0 is LRP-0, whose quotient is 0 where z = 0
    """

    eps: float = STABILISER
    name: ClassVar[str] = "epsilon"
    conserves: ClassVar[str] = "up to bias"
    source: ClassVar[str] = "Bach et al. 2015, eq. 58"
    needs_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require(self.eps >= 0, f"epsilon({self.eps:g}): the stabiliser is not negative")

    @property
    def stabiliser(self) -> float:  # type: ignore[override]
        return self.eps

    @property
    def drops_zero(self) -> bool:
        return self.eps == 0

    def fits(self, operator: Operator, signals: Sequence[int]) -> bool:
        return operator.family_for(signals) in (Family.LINEAR, Family.SUM, Family.PRODUCT, Family.RECURRENT)

    def __call__(self, operator: Operator, step: Step, relevance: ir.Value) -> Sequence[Contribution]:
        if operator.family_for(step.signals) is Family.LINEAR:
            return super().__call__(operator, step, relevance)
        if operator.family is Family.RECURRENT:
            assert operator.relevance is not None
            return operator.relevance(replace(step, options={**step.options, "eps": self.eps}), relevance)
        return in_proportion(operator, step, relevance, self.eps)

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [Bracket((Term(_whole, _same),), _same, unmodified=True)]


@dataclass(frozen=True)
class Gamma(Decomposition):
    """Favours what pulls in the direction of z: (x⁺, w+γw⁺), (x⁻, w+γw⁻) where z > 0, mirrored where z < 0.

    gamma : ≥ 0; 0 is the epsilon rule, infinity is z-plus for positive inputs. Nothing is handed on where z = 0.
    """

    gamma: float = 0.25
    name: ClassVar[str] = "gamma"
    source: ClassVar[str] = "Montavon et al. 2019, generalised to signed inputs"

    def __post_init__(self) -> None:
        _require(self.gamma >= 0, f"gamma({self.gamma:g}): gamma is not negative")

    @property
    def drops_zero(self) -> bool:
        return True

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        if linear.weight is None:
            return self._without_weights()
        towards_positive, towards_negative = _favour_positive(self.gamma), _favour_negative(self.gamma)
        return [
            Bracket(
                (Term(_positive, towards_positive), Term(_negative, towards_negative)), towards_positive, where="z > 0"
            ),
            Bracket(
                (Term(_positive, towards_negative), Term(_negative, towards_positive)), towards_negative, where="z < 0"
            ),
        ]

    def _without_weights(self) -> Sequence[Bracket]:
        """Weights that stand in no tensor are ≥ 0 all of them: w + γw⁺ = (1 + γ)w, and w + γw⁻ = w."""
        more = 1.0 + self.gamma
        up, down = _favour_positive(self.gamma), _favour_negative(self.gamma)
        return [
            Bracket((Term(_positive, _same, more), Term(_negative, _same)), up, where="z > 0"),
            Bracket((Term(_positive, _same), Term(_negative, _same, more)), down, where="z < 0"),
        ]


@dataclass(frozen=True)
class AlphaBeta(Decomposition):
    """α times what speaks for z, minus β times what speaks against it, each with its own z; α − β = 1; eq. (3)."""

    alpha: float = 2.0
    beta: float = 1.0
    name: ClassVar[str] = "alpha-beta"
    conserves: ClassVar[str] = "up to bias"
    source: ClassVar[str] = "Bach et al. 2015, eq. 60"

    def __post_init__(self) -> None:
        _require(
            abs(self.alpha - self.beta - 1) < 1e-9 and self.beta >= 0,
            f"alpha-beta({self.alpha:g}, {self.beta:g}): alpha − beta is {self.alpha - self.beta:g}; it has to be 1, "
            "with beta ≥ 0, or relevance is not conserved",
        )

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        speaking_for = Bracket(
            (Term(_positive, _plus), Term(_negative, _minus)), _plus, coefficient=self.alpha
        )
        if self.beta == 0:
            return [speaking_for]
        speaking_against = Bracket(
            (Term(_positive, _minus), Term(_negative, _plus)), _minus, coefficient=-self.beta
        )
        return [speaking_for, speaking_against]


@dataclass(frozen=True)
class ZPlus(Decomposition):
    """Only what speaks for z: alpha-beta(1, 0), the deep Taylor rule for inputs that are not negative."""

    name: ClassVar[str] = "z-plus"
    conserves: ClassVar[str] = "up to bias"
    source: ClassVar[str] = "Montavon et al. 2017"

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return AlphaBeta(1.0, 0.0).brackets(step, linear)


@dataclass(frozen=True, eq=False)
class ZBox(Decomposition):
    """First layer of inputs that live in a box: (x, w) − (low, w⁺) − (high, w⁻); the bias cancels.

    low, high : scalars, or arrays that broadcast to the input, such as (1, channel, 1, 1)
    """

    low: float | np.ndarray[Any, Any] = 0.0
    high: float | np.ndarray[Any, Any] = 1.0
    name: ClassVar[str] = "z-box"
    source: ClassVar[str] = "Montavon et al. 2017, eq. 15"

    def __post_init__(self) -> None:
        _require(bool(np.all(np.asarray(self.low) <= np.asarray(self.high))), f"{self}: low is above high somewhere")

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [
            Bracket(
                (
                    Term(_whole, _same),
                    Term(_filled_with(self.low), _plus, factor=-1.0),
                    Term(_filled_with(self.high), _minus, factor=-1.0),
                ),
                _none,
            )
        ]


@dataclass(frozen=True)
class WSquare(Decomposition):
    """By squared weights alone: R_i = Σ_j w_ij² / (Σ_i w_ij² + b_j²) · R_j, whatever the input."""

    name: ClassVar[str] = "w-square"
    conserves: ClassVar[str] = "up to bias"
    source: ClassVar[str] = "Montavon et al. 2017, eq. 12"

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [Bracket((Term(_ones, _squared),), _squared)]


@dataclass(frozen=True)
class Flat(Decomposition):
    """In equal parts to everything connected, whatever input and weights."""

    name: ClassVar[str] = "flat"
    source: ClassVar[str] = "Lapuschkin et al. 2017"

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [Bracket((Term(_ones, _all_one),), _none)]


# --- crossing one layer ----------------------------------------------------------------------------------------------


def _cross(
    step: Step, linear: LinearMap, bracket: Bracket, relevance: ir.Value, eps: float
) -> Contribution:
    """One bracket of a decomposition: its denominator, then each part's share."""
    emit = step.emit
    parts = []
    for term in bracket.terms:
        part, weight = term.part(step, linear), term.weighted(emit, linear.weight)
        if part is not None and not _vanishes(term, weight, linear):
            parts.append((term, part, weight))
    if not parts:
        if step.account is not None:
            step.account("z = 0", _where(emit, bracket.where, linear.output, relevance) * bracket.coefficient)
        return None
    bias = bracket.bias(emit, linear.bias)
    z = _denominator(step, linear, bracket, parts, bias)
    incoming = _where(emit, bracket.where, linear.output, relevance)
    if bracket.coefficient != 1.0:
        incoming = incoming * bracket.coefficient
    s = emit.quotient(incoming, z, eps, nonnegative=bracket.unmodified and step.nonnegative(step.unit.outputs[0]))
    _report(step, s, z, eps, bias)
    total: Contribution = None
    for term, part, weight in parts:
        back = linear.adjoint(s, weight)
        share = _times(part * back, term.factor)
        total = share if total is None else total + share
    if bias is not None and step.bias == "distribute":
        spread = _spread_bias(step, linear, s * bias)
        total = spread if total is None else total + spread
    return total


def _denominator(
    step: Step,
    linear: LinearMap,
    bracket: Bracket,
    parts: Sequence[tuple[Term, ir.Value, Contribution]],
    bias: Contribution,
) -> ir.Value:
    """z of a bracket. The unmodified z stands in the model already."""
    if bracket.unmodified and (step.bias != "drop" or linear.bias is None):
        return linear.output
    z: Contribution = None
    for term, part, weight in parts:
        piece = linear.forward(part, weight)
        if z is not None and term.factor == -1.0:
            z = z - piece
        else:
            z = _times(piece, term.factor) if z is None else z + _times(piece, term.factor)
    assert z is not None
    return z if bias is None or step.bias == "drop" else z + bias


def _times(value: ir.Value, factor: float) -> ir.Value:
    return value if factor == 1.0 else -value if factor == -1.0 else value * float(factor)


def _where(emit: Emit, where: str, z: ir.Value, relevance: ir.Value) -> ir.Value:
    if not where:
        return relevance
    condition = emit.Greater(z, 0.0) if where == "z > 0" else emit.Less(z, 0.0)
    return emit.Where(condition, relevance, 0.0)


def _spread_bias(step: Step, linear: LinearMap, share: ir.Value) -> ir.Value:
    """What a bias took, in equal parts to the inputs it is added to."""
    ones = _all_one(step.emit, linear.weight)
    connected = linear.forward(step.emit.ones_like(linear.x), ones)
    return linear.adjoint(step.emit.quotient(share, connected, 0.0), ones)


def _report(step: Step, s: ir.Value, z: ir.Value, eps: float, bias: Contribution) -> None:
    """Tell the ledger what bias and stabiliser took of s ⊙ stabilise(z)."""
    if step.account is None:
        return
    if bias is not None and step.bias == "absorb":
        step.account("bias", s * bias)
    report_stabiliser(step, s, z, eps)


def report_stabiliser(step: Step, s: ir.Value, z: ir.Value, eps: float) -> None:
    """Tell the ledger what the stabiliser took, apart from where z = 0 and nothing could be handed on at all."""
    if step.account is None or eps <= 0:
        return
    taken = s * (step.emit.stabilise(z, eps) - z)
    zero = step.emit.Equal(z, 0.0)
    step.account("stabiliser", step.emit.Where(zero, 0.0, taken))
    step.account("z = 0", step.emit.Where(zero, taken, 0.0))


def _vanishes(term: Term, weight: Contribution, linear: LinearMap) -> bool:
    """Weights known to be ≥ 0 have no negative part."""
    return linear.weight is None and term.weighted is _minus


def in_proportion(operator: Operator, step: Step, relevance: ir.Value, eps: float) -> Sequence[Contribution]:
    """Each signal gets relevance in proportion to what it adds: R_a = a ⊙ vjp_a(R / stabilise(y)).

    For operands that multiply each other this counts y once per factor, so each gets an equal part of it.
    """
    y = step.y()
    s = step.emit.quotient(relevance, y, eps, nonnegative=step.nonnegative(step.unit.outputs[0]))
    factors = [index for index in step.signals if index in operator.factors]
    report_stabiliser(step, s, y, eps)
    contributions = list(operator.vjp(step, s))
    for index in step.signals:
        back = contributions[index]
        if back is not None:
            share = step.x(index) * back
            contributions[index] = share * (1.0 / len(factors)) if index in factors and len(factors) > 1 else share
    return contributions


# --- parts of inputs, weights and biases -----------------------------------------------------------------------------


def _whole(step: Step, linear: LinearMap) -> Contribution:
    return linear.x


def _positive(step: Step, linear: LinearMap) -> Contribution:
    return linear.x if _never_negative(step, linear) else step.emit.positive(linear.x)


def _negative(step: Step, linear: LinearMap) -> Contribution:
    return None if _never_negative(step, linear) else step.emit.negative(linear.x)


def _never_negative(step: Step, linear: LinearMap) -> bool:
    return step.nonnegative(step.raw(linear.operand))


def _ones(step: Step, linear: LinearMap) -> Contribution:
    return step.emit.ones_like(linear.x)


def _filled_with(bound: float | np.ndarray[Any, Any]) -> Callable[[Step, LinearMap], Contribution]:
    def filled(step: Step, linear: LinearMap) -> Contribution:
        return step.emit.Expand(np.asarray(bound, np.float32), step.emit.Shape(linear.x))

    return filled


def _same(emit: Emit, w: Contribution) -> Contribution:
    return w


def _none(emit: Emit, w: Contribution) -> Contribution:
    return None


def _plus(emit: Emit, w: Contribution) -> Contribution:
    return None if w is None else emit.positive(w)


def _minus(emit: Emit, w: Contribution) -> Contribution:
    return None if w is None else emit.negative(w)


def _squared(emit: Emit, w: Contribution) -> Contribution:
    return None if w is None else w * w


def _all_one(emit: Emit, w: Contribution) -> Contribution:
    return None if w is None else emit.ones_like(w)


def _favour_positive(gamma: float) -> Callable[[Emit, Contribution], Contribution]:
    """w + γ·max(w, 0)."""
    return lambda emit, w: None if w is None else w + emit.positive(w) * float(gamma)


def _favour_negative(gamma: float) -> Callable[[Emit, Contribution], Contribution]:
    """w + γ·min(w, 0)."""
    return lambda emit, w: None if w is None else w + emit.negative(w) * float(gamma)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ChoiceError(f"{message}.")


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.reshape(-1).tolist()}" if value.size <= 4 else f"array{value.shape}"
    return f"{value:g}" if isinstance(value, float) else str(value)
