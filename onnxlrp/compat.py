"""Compatibility: stabiliser, bias and sign conventions of other tools, where they differ from ours.

A mode changes formulas, never the preset's choice of rule per layer, and copies no mistake: `docs/parity.md` has the
table of what differs and the list of what is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxlrp.errors import ChoiceError, no_such
from onnxlrp.plan import Chooser
from onnxlrp.presets import Layer
from onnxlrp.rules.conventions import (
    CAPTUM_STABILISER,
    BiaslessWSquare,
    BiaslessZPlus,
    GammaOfWeights,
    PositiveWeights,
    UnstabilisedAlphaBeta,
    UnstabilisedZPlus,
    WholeBiasAlphaBeta,
)
from onnxlrp.rules.crossing import STABILISER
from onnxlrp.rules.decompositions import AlphaBeta, Epsilon, Gamma, Rule, WSquare, ZPlus
from onnxlrp.rules.linear import DENSE
from onnxlrp.rules.registry import Family

Rewrite = Callable[[Any], Rule]
"""A rule of ours → the tool's."""

Default = Callable[[Layer, str], float]
"""(layer, preset) → the tool's ε for the epsilon rule where nobody says another."""


@dataclass(frozen=True)
class Compat:
    """One tool's conventions.

    summary : one line for help and tables        rewrites : per rule of ours        epsilon : see `Default`
    signed  : whether the stabiliser has the sign of z        options : of a method, such as DeepLIFT's
    preset  : the tool's own default
    """

    name: str
    summary: str
    rewrites: Mapping[type[Rule], Rewrite] = field(default_factory=dict)
    epsilon: Default = lambda layer, preset: STABILISER
    signed: bool = True
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preset: str | None = None

    def rule(self, rule: Rule) -> Rule:
        """The tool's form of a rule; ε stays as it was said."""
        rewrite = self.rewrites.get(type(rule))
        return rule if rewrite is None else rewrite(rule)

    def chooser(self, choose: Chooser, preset: str) -> Chooser:
        """What a preset chooses, in the tool's form and with its ε."""

        def chosen(layer: Layer) -> tuple[Rule, str]:
            rule, because = choose(layer)
            if isinstance(rule, Epsilon) and rule.eps == STABILISER:
                rule = Epsilon(self.epsilon(layer, preset))
            return self.rule(rule), because

        return chosen

    def method_options(self, method: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a method with the tool's defaults below those given.  Errors: ChoiceError."""
        if method not in ("lrp", *self.options):
            fitting = ", ".join(("lrp", *self.options))
            raise ChoiceError(f"compat='{self.name}' is for the methods {fitting}; the method here is '{method}'.")
        return dict(self.options.get(method, {})) | dict(given)


def _investigate_epsilon(layer: Layer, preset: str) -> float:
    return 0.1 if layer.kind == DENSE and preset != "epsilon" else 1e-7


def _lxt_epsilon(layer: Layer, preset: str) -> float:
    return 1e-8 if layer.family in (Family.SUM, Family.PRODUCT) else STABILISER


def _captum_alpha_beta(rule: AlphaBeta) -> Rule:
    if rule.beta:
        raise ChoiceError(f"compat='captum': Captum has no {rule}; its only alpha-beta rule is alpha-beta(1, 0).")
    return PositiveWeights()


COMPATS: Mapping[str, Compat] = {
    compat.name: compat
    for compat in (
        Compat("zennit", "as ours: z + 1e-6·sign(z), b⁺ and b⁻ with their brackets"),
        Compat("lxt", "stabiliser without a sign: z + ε", epsilon=_lxt_epsilon, signed=False, preset="attnlrp"),
        Compat(
            "innvestigate",
            "epsilon(0.1) in dense layers; alpha-beta with all of the bias in both brackets, z-plus without",
            {
                AlphaBeta: lambda rule: WholeBiasAlphaBeta(rule.alpha, rule.beta),
                ZPlus: lambda rule: BiaslessZPlus(),
                WSquare: lambda rule: BiaslessWSquare(),
            },
            _investigate_epsilon,
        ),
        Compat(
            "toolbox",
            "alpha-beta without a stabiliser, LRP-0 up to 1e-16, w-square without the bias",
            {
                AlphaBeta: lambda rule: UnstabilisedAlphaBeta(rule.alpha, rule.beta),
                ZPlus: lambda rule: UnstabilisedZPlus(),
                WSquare: lambda rule: BiaslessWSquare(),
            },
            lambda layer, preset: 1e-16,
        ),
        Compat(
            "captum",
            "stabiliser 1e-9; gamma and alpha-beta(1, 0) change the weights alone, bias and signs of x as they are",
            {
                Gamma: lambda rule: GammaOfWeights(rule.gamma),
                AlphaBeta: _captum_alpha_beta,
                ZPlus: lambda rule: PositiveWeights(),
            },
            lambda layer, preset: CAPTUM_STABILISER,
            options={"deeplift": {"activations": "captum"}},
        ),
    )
}


def find_compat(name: str) -> Compat:
    """A mode by name.  Errors: ChoiceError for an unknown one."""
    wanted = name.strip().lower()
    if wanted not in COMPATS:
        raise no_such("compatibility mode", name, COMPATS)
    return COMPATS[wanted]
