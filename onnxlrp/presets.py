"""Presets: which rule each kind of layer gets. The names are those of the literature and of zennit's composites.

A preset looks at one layer (`Layer`) and answers with a rule and the reason; it never sees the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxlrp.errors import ChoiceError, no_such
from onnxlrp.rules.crossing import STABILISER
from onnxlrp.rules.decompositions import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, ZPlus
from onnxlrp.rules.linear import CONVOLUTION, DENSE
from onnxlrp.rules.registry import Family, Operator
from onnxlrp.rules.simple import EachLayer, Gate, Gradient, Own, Pass, Route, Stop, WinnerTakesAll

Box = tuple[float | np.ndarray[Any, Any], float | np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Layer:
    """What a preset sees of one layer.

    kind  : "convolution", "dense", "batch-norm", "scale" (one weight per element) or ""
    first : the first linear layer of that kind, in graph order, that reads an explained input
    gate  : for a product of signals, the index of the operand that is a gate; None when neither or both are
    """

    operator: Operator
    family: Family
    kind: str
    first_linear: bool
    first_convolution: bool
    gate: int | None
    broadcasts: bool
    softmax_gate: bool = False


Choice = tuple[Rule, str]


@dataclass(frozen=True)
class Preset:
    """Rules per kind of layer; what is None falls back to the family's default.

    first : for the first linear layer; `first_kind` "convolution" looks at convolutions alone
    """

    name: str
    summary: str
    convolution: Rule
    dense: Rule
    first: Rule | None = None
    first_kind: str = "linear"
    batch_norm: Rule = field(default_factory=Pass)
    other_linear: Rule = field(default_factory=Epsilon)
    sums: Rule = field(default_factory=Epsilon)
    pointwise: Rule = field(default_factory=Pass)
    products: Rule = field(default_factory=Epsilon)
    softmax: Rule = field(default_factory=Own)
    gates: bool = True
    needs_box: bool = False

    def choose(self, layer: Layer) -> Choice:
        """The rule of one layer, and why."""
        special = layer.first_convolution if self.first_kind == CONVOLUTION else layer.first_linear
        if self.first is not None and special:
            return self.first, "first layer"
        if layer.family is Family.LINEAR and layer.kind in (CONVOLUTION, DENSE):
            return (self.convolution, "convolution") if layer.kind == CONVOLUTION else (self.dense, "dense layer")
        if layer.family is Family.LINEAR and layer.kind == "batch-norm":
            return self.batch_norm, "BatchNormalization on its own"
        if layer.family is Family.PRODUCT and layer.gate is not None and (self.gates or layer.softmax_gate is False):
            return Gate(layer.gate), "gate"
        if layer.operator.relevance is not None and layer.family in (Family.POINTWISE, Family.MOVEMENT, Family.CHOICE):
            return Own(), "the operator's own rule"
        by_family = {
            Family.SUM: (self.sums, "sum of signals"),
            Family.POINTWISE: (self.pointwise, "activation"),
            Family.PRODUCT: (self.products, "product of signals, in equal parts"),
            Family.SOFTMAX: (self.softmax, "softmax inside the model"),
            Family.RECURRENT: (self.other_linear, "recurrent layer"),
        }
        return by_family.get(layer.family) or default_choice(layer, self.other_linear)


def default_choice(layer: Layer, linear: Rule) -> Choice:
    """What the family says when a preset is silent."""
    if layer.family is Family.LINEAR and layer.kind == "scale" and not layer.broadcasts:
        return Pass(), "one weight per element"
    by_family: dict[Family, Choice] = {
        Family.LINEAR: (linear, "linear map"),
        Family.MOVEMENT: (Route(), "data movement"),
        Family.CHOICE: (WinnerTakesAll(), "choice"),
        Family.NORMALISATION: (Own(), "normalisation"),
        Family.CONTROL: (EachLayer(), "control flow"),
        Family.STEPS: (Own(), "the operator's own rule"),
        Family.KERNEL: (Own(), "kernel machine"),
    }
    return by_family[layer.family]


def _uniform(name: str, summary: str, rule: Rule, **others: Any) -> Preset:
    return Preset(name, summary, convolution=rule, dense=rule, **others)


def _presets() -> dict[str, Preset]:
    epsilon = Epsilon(STABILISER)
    alpha2_beta1 = AlphaBeta(2.0, 1.0)
    plus = Preset("epsilon-plus", "z-plus in convolutions, epsilon in dense layers", ZPlus(), epsilon)
    alpha = Preset(
        "epsilon-alpha2-beta1", "alpha-beta(2, 1) in convolutions, epsilon in dense layers", alpha2_beta1, epsilon
    )
    gamma = Preset(
        "epsilon-gamma",
        "gamma(0.05) in convolutions, in the first z-box where a box is known; epsilon in dense layers",
        Gamma(0.05),
        epsilon,
        first_kind=CONVOLUTION,
    )
    gamma_box = Preset(
        "epsilon-gamma-box",
        "z-box in the first convolution, gamma(0.25) in the others, epsilon in dense layers; needs a box",
        Gamma(0.25),
        epsilon,
        first=ZBox(),
        first_kind=CONVOLUTION,
        needs_box=True,
    )
    found = [
        _uniform("epsilon", "the epsilon rule everywhere; eq. (2) of Samek et al. 2017", epsilon, batch_norm=epsilon),
        plus,
        replace(plus, name="epsilon-plus-flat", summary=f"flat in the first layer, then {plus.summary}", first=Flat()),
        alpha,
        replace(
            alpha,
            name="epsilon-alpha2-beta1-flat",
            summary=f"flat in the first layer, then {alpha.summary}",
            first=Flat(),
        ),
        gamma,
        gamma_box,
        _uniform("alpha1-beta0", "alpha-beta(1, 0) in every linear layer", AlphaBeta(1.0, 0.0)),
        _uniform("alpha2-beta1", "alpha-beta(2, 1) in every linear layer; eq. (3) of Samek et al. 2017", alpha2_beta1),
        _uniform(
            "deep-taylor",
            "z-plus in every linear layer; in the first z-box where a box is known, else w-square",
            ZPlus(),
            first=WSquare(),
        ),
        _uniform(
            "excitation-backprop",
            "z-plus in every linear layer; activations by their derivative (Zhang et al. 2016)",
            ZPlus(),
            batch_norm=Gradient(),
            pointwise=Gradient(),
        ),
        _uniform(
            "fisher-vector",
            "epsilon in dense layers and sums over descriptors; shifts, scales and norms pass (Lapuschkin et al. 2016)",
            epsilon,
            other_linear=Pass(),
        ),
        attention_preset("attnlrp", STABILISER),
        attention_preset("cp-lrp", STABILISER),
        attention_preset("lrp-lstm", 1e-3),
    ]
    return {preset.name: preset for preset in found}


def attention_preset(name: str, eps: float) -> Preset:
    """The presets of sequence models, with their stabiliser.

    attnlrp  : softmax by its Taylor expansion, products in equal parts (Achtibat et al. 2024)
    cp-lrp   : attention weights are constants, all relevance to the values (Ali et al. 2022)
    lrp-lstm : gates get nothing (Arras et al. 2017)
    """
    epsilon = Epsilon(eps)
    shared: dict[str, Any] = {"batch_norm": epsilon, "other_linear": epsilon, "sums": epsilon, "products": epsilon}
    if name == "attnlrp":
        return _uniform(name, "epsilon; softmax by Taylor, products in equal parts", epsilon, gates=False, **shared)
    if name == "cp-lrp":
        return _uniform(name, "epsilon; attention weights constant, values get all", epsilon, softmax=Stop(), **shared)
    return _uniform(name, "epsilon; gates get nothing", epsilon, **shared)


PRESETS: Mapping[str, Preset] = _presets()

WELCOMING_A_BOX = frozenset({"deep-taylor", "epsilon-gamma"})
"""Presets that begin with the z-box rule where a box is known, and do without where none is."""


def find_preset(name: str, box: Box | None = None, epsilon: float | None = None, *, fits: bool = True) -> Preset:
    """A preset by name.

    box     : (low, high) of the preprocessed input, for z-box in the first layer
    fits    : whether the box is that of what is explained; if not, presets that can do without it do
    epsilon : stabiliser of attnlrp, cp-lrp and lrp-lstm
    Errors: ChoiceError for an unknown name, or a preset that needs a box and has none.
    """
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in PRESETS:
        raise no_such("preset", name, PRESETS)
    preset = PRESETS[wanted]
    if epsilon is not None and wanted in ("attnlrp", "cp-lrp", "lrp-lstm"):
        preset = attention_preset(wanted, epsilon)
    if box is not None and (preset.needs_box or (fits and wanted in WELCOMING_A_BOX)):
        return replace(preset, first=ZBox(*box))
    if preset.needs_box:
        raise ChoiceError(
            f"The preset '{wanted}' begins with the z-box rule and needs the box that the preprocessed input lives in: "
            "give box=(low, high), --box LOW HIGH, `box` in the sidecar, or a preprocessing that implies it."
        )
    return preset


def default_preset(kinds: Callable[[str], bool]) -> str:
    """The preset that suits a model's own operators.

    kinds : says of an operator type whether the model has it
    For convolutions by measurement (docs/paper.md): of all presets epsilon-gamma alone falls faster than sensitivity
    analysis and than random order on each of four trained nets, two of them in int8.
    """
    if kinds("Softmax") and kinds("MatMul"):
        return "attnlrp"
    if kinds("LSTM") or kinds("GRU") or kinds("RNN"):
        return "lrp-lstm"
    return "epsilon-gamma" if kinds("Conv") else "epsilon"
