"""Methods that are one backward pass: a rule per layer, a seed and a reduction, compiled into the joint model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.plan import Chooser
from onnxlrp.presets import Layer
from onnxlrp.rules.decompositions import Rule
from onnxlrp.rules.registry import Family
from onnxlrp.rules.rescale import Rescale
from onnxlrp.rules.simple import DeconvnetRelu, Gradient, GuidedRelu, LookupNorm, LookupProduct

Reduce = Callable[[Emit, ir.Value, ir.Value], ir.Value]


@dataclass(frozen=True)
class Pass:
    """One backward pass.

    chooser   : rule per layer; None for `lrp`, whose preset decides
    merge     : whether several nodes may count as one layer (LRP) or each is differentiated as it stands
    signed    : whether the result speaks for and against (diverging colours) or only of strength
    reference : whether a reference input is compared with (DeepLIFT)
    """

    name: str
    summary: str
    chooser: Chooser | None
    times_output: bool = False
    merge: bool = False
    signed: bool = True
    reference: bool = False
    reduce: Reduce | None = None


def gradient_everywhere(layer: Layer) -> tuple[Rule, str]:
    return Gradient(), "gradient"


def _gradient_but(op_type: str, rule: Rule) -> Chooser:
    """The gradient everywhere but at one type of operator."""

    def choose(layer: Layer) -> tuple[Rule, str]:
        return (rule, rule.name) if layer.operator.op_type == op_type else (Gradient(), "gradient")

    return choose


def rescale_everywhere(layer: Layer) -> tuple[Rule, str]:
    return Rescale(), "difference from the reference"


def rescale_as_captum(layer: Layer) -> tuple[Rule, str]:
    """Captum 0.9 rescales these activations and takes the plain gradient at all others, so it is not complete there."""
    if layer.family is Family.POINTWISE and layer.operator.op_type not in _RESCALED_BY_CAPTUM:
        return Gradient(), "captum: plain gradient"
    return Rescale(), "difference from the reference"


_RESCALED_BY_CAPTUM = frozenset({"Relu", "Elu", "LeakyRelu", "Sigmoid", "Tanh", "Softplus"})


def _absolute(emit: Emit, x: ir.Value, found: ir.Value) -> ir.Value:
    return emit.Abs(found)


def _times_input(emit: Emit, x: ir.Value, found: ir.Value) -> ir.Value:
    """Tokens are multiplied by their embedding where they look it up, never by their number, and texts by nothing."""
    if x.dtype == ir.DataType.STRING or _looks_up(x):
        return found
    floats = x if x.dtype == ir.DataType.FLOAT else emit.Cast(x, to=ir.DataType.FLOAT)
    return emit.Mul(floats, found)


def _looks_up(x: ir.Value) -> bool:
    """Whether whole numbers are indices of a Gather, also behind what only changes their type or shape."""
    if x.dtype is None or not x.dtype.is_integer():
        return False
    return any(
        (use.node.op_type == "Gather" and use.idx == 1)
        or (use.node.op_type in _KEEPS_TOKENS and any(_looks_up(output) for output in use.node.outputs))
        for use in x.uses()
    )


_KEEPS_TOKENS = frozenset({"Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Slice"})


PASSES: dict[str, Pass] = {
    method.name: method
    for method in (
        Pass("lrp", "layer-wise relevance propagation, Σ R = f(x)", None, times_output=True, merge=True),
        Pass("gradient", "∂f/∂x, signed", gradient_everywhere),
        Pass(
            "sensitivity",
            "|∂f/∂x|, eq. (1) of Samek et al. 2017; of tokens ‖∂f/∂e‖ over their embedding",
            _gradient_but("Gather", LookupNorm()),
            signed=False,
            reduce=_absolute,
        ),
        Pass("gradient-x-input", "x ⊙ ∂f/∂x", _gradient_but("Gather", LookupProduct()), reduce=_times_input),
        Pass(
            "guided-backprop",
            "gradient through positive paths (Springenberg et al. 2015)",
            _gradient_but("Relu", GuidedRelu()),
        ),
        Pass("deconvnet", "deconvolution (Zeiler and Fergus 2014)", _gradient_but("Relu", DeconvnetRelu())),
        Pass(
            "deeplift", "DeepLIFT, rescale rule (Shrikumar et al. 2017)", rescale_everywhere, merge=True, reference=True
        ),
    )
}
