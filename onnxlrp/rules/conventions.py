"""Rules as other tools compute them where their formula is not ours: what a bias, a sign or ε = 0 means to them.

Used by `onnxlrp.compat` alone; each says whose convention it is. x⁺, x⁻, w⁺ and brackets as in `decompositions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxlrp.rules.decompositions import AlphaBeta, Decomposition, Gamma, WSquare, ZPlus
from onnxlrp.rules.parts import Bracket, Term, favour_positive, none, plus, same, whole
from onnxlrp.rules.registry import LinearMap
from onnxlrp.rules.step import Step

CAPTUM_STABILISER = 1e-9


@dataclass(frozen=True)
class UnstabilisedAlphaBeta(AlphaBeta):
    """Alpha-beta without a stabiliser, 0/0 := 0.  The LRP toolbox."""

    stabiliser = 0.0


@dataclass(frozen=True)
class UnstabilisedZPlus(ZPlus):
    """z-plus without a stabiliser, 0/0 := 0.  The LRP toolbox."""

    stabiliser = 0.0


@dataclass(frozen=True)
class WholeBiasAlphaBeta(AlphaBeta):
    """b⁺ + b⁻ in the denominators of both brackets; 0/0 := 0.  iNNvestigate."""

    stabiliser = 0.0

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [replace(bracket, bias=same) for bracket in super().brackets(step, linear)]


@dataclass(frozen=True)
class BiaslessZPlus(ZPlus):
    """z-plus that ignores the bias; 0/0 := 0.  iNNvestigate."""

    stabiliser = 0.0

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [replace(bracket, bias=none) for bracket in super().brackets(step, linear)]


@dataclass(frozen=True)
class BiaslessWSquare(WSquare):
    """w-square that ignores the bias.  The LRP toolbox and iNNvestigate."""

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [replace(bracket, bias=none) for bracket in super().brackets(step, linear)]


@dataclass(frozen=True)
class GammaOfWeights(Gamma):
    """(x, w + γw⁺) whatever the sign of x and z, the bias as it is.  Captum."""

    stabiliser = CAPTUM_STABILISER

    @property
    def drops_zero(self) -> bool:
        return False

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [Bracket((Term(whole, favour_positive(self.gamma)),), same)]


@dataclass(frozen=True)
class PositiveWeights(Decomposition):
    """(x, w⁺) whatever the sign of x, the bias as it is.  Captum's Alpha1_Beta0."""

    stabiliser = CAPTUM_STABILISER
    name = "z-plus"
    conserves = "up to bias"
    source = "Captum, Alpha1_Beta0_Rule"

    def brackets(self, step: Step, linear: LinearMap) -> Sequence[Bracket]:
        return [Bracket((Term(whole, plus),), same)]
