"""The LRP rules: small tables over any linear map.

    z = Σ forward(part, weight) + bias part     s = R / stabilise(z)     R_x = Σ part ⊙ adjoint(s, weight)

With x⁺ = max(x, 0) and x⁻ = min(x, 0), likewise for weights and biases. A decomposition is a sum of *brackets*; each
has its own z. Sources: Bach et al. 2015 (epsilon, alpha-beta), Montavon et al. 2017 (z-plus, z-box, w-square),
Montavon et al. 2019 (gamma; here generalised to signed inputs), Lapuschkin et al. 2017 (flat).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import ChoiceError, Unsupported
from onnxlrp.rules.crossing import STABILISER, cross, in_proportion
from onnxlrp.rules.parts import (
    Bracket,
    Term,
    all_one,
    favour_negative,
    favour_positive,
    filled_with,
    minus,
    negative,
    none,
    ones,
    plus,
    positive,
    same,
    squared,
    whole,
)
from onnxlrp.rules.registry import Contribution, Family, LinearMap, Operator
from onnxlrp.rules.step import Step


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
        linear = operator.linear_map(step, operator.carriers(step.signals)[0])
        if linear.signed and self.needs_weights:
            raise Unsupported(
                f"The rule '{self}' looks at the sign of each weight; those of {step.unit} stand in no tensor. "
                "Rules that fit it: epsilon, pass, gradient, stop."
            )
        if step.account is not None and self.drops_zero:
            step.account("z = 0", step.emit.Where(step.emit.Equal(linear.output, 0.0), relevance, 0.0))
        contributions: list[Contribution] = [None] * step.count
        met = brackets_met(self.brackets(step, linear), step, linear, relevance)
        found = (cross(step, linear, bracket, relevance, self.stabiliser) for bracket in met)
        shares = [share for share in found if share is not None]
        contributions[linear.operand] = step.emit.total(shares, linear.x) if shares else step.emit.zeros_like(linear.x)
        return contributions


def brackets_met(brackets: Sequence[Bracket], step: Step, linear: LinearMap, relevance: ir.Value) -> Sequence[Bracket]:
    """The brackets that some relevance reaches. Behind a ReLU none arrives where z ≤ 0, and nobody need look at z."""
    if not step.emit.vanishes_below_zero(relevance, linear.output):
        return brackets
    return [replace(bracket, where="") for bracket in brackets if bracket.where != "z < 0"]


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
        return [Bracket((Term(whole, same),), same, unmodified=True)]


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
        towards_positive, towards_negative = favour_positive(self.gamma), favour_negative(self.gamma)
        return [
            Bracket(
                (Term(positive, towards_positive), Term(negative, towards_negative)), towards_positive, where="z > 0"
            ),
            Bracket(
                (Term(positive, towards_negative), Term(negative, towards_positive)), towards_negative, where="z < 0"
            ),
        ]

    def _without_weights(self) -> Sequence[Bracket]:
        """Weights that stand in no tensor are ≥ 0 all of them: w + γw⁺ = (1 + γ)w, and w + γw⁻ = w."""
        more = 1.0 + self.gamma
        up, down = favour_positive(self.gamma), favour_negative(self.gamma)
        return [
            Bracket((Term(positive, same, more), Term(negative, same)), up, where="z > 0"),
            Bracket((Term(positive, same), Term(negative, same, more)), down, where="z < 0"),
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
        speaking_for = Bracket((Term(positive, plus), Term(negative, minus)), plus, coefficient=self.alpha)
        if self.beta == 0:
            return [speaking_for]
        speaking_against = Bracket((Term(positive, minus), Term(negative, plus)), minus, coefficient=-self.beta)
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
                    Term(whole, same),
                    Term(filled_with(self.low), plus, factor=-1.0),
                    Term(filled_with(self.high), minus, factor=-1.0),
                ),
                none,
            )
        ]


@dataclass(frozen=True)
class WSquare(Decomposition):
    """By squared weights alone: R_i = Σ_j w_ij² / (Σ_i w_ij² + b_j²) · R_j, whatever the input."""

    name: ClassVar[str] = "w-square"
    conserves: ClassVar[str] = "up to bias"
    source: ClassVar[str] = "Montavon et al. 2017, eq. 12"

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [Bracket((Term(ones, squared),), squared)]


@dataclass(frozen=True)
class Flat(Decomposition):
    """In equal parts to everything connected, whatever input and weights."""

    name: ClassVar[str] = "flat"
    source: ClassVar[str] = "Lapuschkin et al. 2017"

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [Bracket((Term(ones, all_one),), none)]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ChoiceError(f"{message}.")


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        return f"{float(value.reshape(-1)[0]):g}"
    if isinstance(value, np.ndarray):
        return f"{value.reshape(-1).tolist()}" if value.size <= 4 else f"array{value.shape}"
    return f"{value:g}" if isinstance(value, float) else str(value)
