"""Pointwise operators: y = f(x), element by element. An entry is the derivative; relevance passes as it is.

A derivative is finite wherever the operator is: where the slope is vertical (Sqrt at 0, Asin at ±1) it counts as 0, as
it does at the tip of Abs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.graph import OURS, Facts
from onnxlrp.rules.registry import Contribution, Keeps, general, movement, pointwise
from onnxlrp.rules.step import Step

Derivative = Callable[[Step, ir.Value, ir.Value], Any]
"""(step, x, y) → f'(x), shaped like x."""

FAR = 10.0
"""From here on the correction terms of Gelu are zero in float32, while x³ goes on growing."""


def _slope_above(attribute: str | float, below: Derivative) -> Derivative:
    """The shape of most activations: one slope where x > 0, and a formula elsewhere."""

    def derivative(step: Step, x: ir.Value, y: ir.Value) -> Any:
        above = step.attribute(attribute) if isinstance(attribute, str) else attribute
        return step.emit.Where(step.emit.Greater(x, 0.0), float(above), below(step, x, y))

    return derivative


def _inverse(step: Step, z: ir.Value) -> ir.Value:
    """1/z, and 0 where z = 0."""
    return step.emit.quotient(step.emit.constant(1.0), z, 0.0)


# --- rectifiers ------------------------------------------------------------------------------------------------------

pointwise("Relu", lambda step, x, y: step.emit.Sign(y), nonnegative=Keeps.ALWAYS)
pointwise("LeakyRelu", _slope_above(1.0, lambda step, x, y: float(step.attribute("alpha"))), nonnegative=Keeps.INPUTS)
pointwise("Elu", _slope_above(1.0, lambda step, x, y: y + float(step.attribute("alpha"))), nonnegative=Keeps.INPUTS)
pointwise(
    "Selu",
    _slope_above("gamma", lambda step, x, y: y + float(step.attribute("gamma")) * float(step.attribute("alpha"))),
    nonnegative=Keeps.INPUTS,
)
pointwise(
    "Celu", _slope_above(1.0, lambda step, x, y: y / float(step.attribute("alpha")) + 1.0), nonnegative=Keeps.INPUTS
)
pointwise(
    "ThresholdedRelu",
    lambda step, x, y: step.emit.mask(step.emit.Greater(x, float(step.attribute("alpha")))),
    nonnegative=Keeps.INPUTS,
)
pointwise(
    "Shrink", lambda step, x, y: step.emit.mask(step.emit.Greater(step.emit.Abs(x), float(step.attribute("lambd"))))
)


def _slope_takes_no_share(step: Step, relevance: ir.Value) -> list[Contribution]:
    """Everything goes to x. A slope that is explained alone gets what passed where it was at work."""
    below = step.emit.mask(step.emit.Less(step.x(0), 0.0))
    return [relevance, None] if step.signal(0) else [None, relevance * below]


@general("PRelu", elementwise=True, relevance=_slope_takes_no_share, nonnegative=Keeps.INPUTS)
def prelu(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x where x ≥ 0, slope·x elsewhere; the slope is broadcast to x."""
    below = step.emit.Less(step.x(0), 0.0)
    at_x = step.emit.Where(below, g * step.x(1), g) if step.signal(0) else None
    return [at_x, g * step.emit.negative(step.x(0)) if step.signal(1) else None]


# --- sigmoids and smooth rectifiers ----------------------------------------------------------------------------------


def _hard_sigmoid(step: Step, x: ir.Value, y: ir.Value) -> Any:
    """y = clip(αx + β, 0, 1)."""
    emit = step.emit
    return emit.Where(emit.And(emit.Greater(y, 0.0), emit.Less(y, 1.0)), float(step.attribute("alpha")), 0.0)


def _hard_swish(step: Step, x: ir.Value, y: ir.Value) -> Any:
    """y = x·h with h = clip(x/6 + ½, 0, 1):  h + x/6 between −3 and 3, h elsewhere."""
    emit = step.emit
    inside = emit.mask(emit.Less(emit.Abs(x), 3.0))
    return emit.HardSigmoid(x, alpha=1 / 6, beta=0.5) + inside * x / 6.0


def _swish(step: Step, x: ir.Value, y: ir.Value) -> Any:
    """y = x·s with s = σ(αx):  s + α·y·(1 − s)."""
    alpha = float(step.attribute("alpha", 1.0))
    s = step.emit.Sigmoid(x * alpha)
    return s + y * (1.0 - s) * alpha


def _mish(step: Step, x: ir.Value, y: ir.Value) -> Any:
    """y = x·t with t = tanh(softplus(x)):  t + x·(1 − t²)·σ(x)."""
    t = step.emit.Tanh(step.emit.Softplus(x))
    return t + x * (1.0 - t * t) * step.emit.Sigmoid(x)


def _gelu(step: Step, x: ir.Value, y: ir.Value) -> Any:
    """y = x·Φ(x):  Φ(x) + x·φ(x); with approximate="tanh", Φ = (1 + tanh u)/2 with u = √(2/π)·(x + 0.044715 x³)."""
    emit = step.emit
    if step.attribute("approximate") == "tanh":
        x = emit.Clip(x, -FAR, FAR)
        t = emit.Tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi))
        return (1.0 + t + x * (1.0 - t * t) * (1.0 + x * x * (3 * 0.044715)) * math.sqrt(2 / math.pi)) * 0.5
    density = emit.Exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return (1.0 + emit.Erf(x * math.sqrt(0.5))) * 0.5 + x * density


def _softsign(step: Step, x: ir.Value, y: ir.Value) -> Any:
    """y = x/(1 + |x|):  1/(1 + |x|)²."""
    inverse = step.emit.Reciprocal(1.0 + step.emit.Abs(x))
    return inverse * inverse


pointwise("Sigmoid", lambda step, x, y: y * (1.0 - y), nonnegative=Keeps.ALWAYS)
pointwise("HardSigmoid", _hard_sigmoid, nonnegative=Keeps.ALWAYS)
pointwise("HardSwish", _hard_swish, nonnegative=Keeps.INPUTS)
pointwise("Swish", _swish, nonnegative=Keeps.INPUTS)
pointwise("Mish", _mish, nonnegative=Keeps.INPUTS)
pointwise("Gelu", _gelu, nonnegative=Keeps.INPUTS)
pointwise("Softplus", lambda step, x, y: step.emit.Sigmoid(x), nonnegative=Keeps.ALWAYS)
pointwise("Softsign", _softsign, nonnegative=Keeps.INPUTS)
pointwise("Tanh", lambda step, x, y: 1.0 - y * y, nonnegative=Keeps.INPUTS)
pointwise("Erf", lambda step, x, y: step.emit.Exp(-(x * x)) * (2 / math.sqrt(math.pi)), nonnegative=Keeps.INPUTS)


# --- elementary functions --------------------------------------------------------------------------------------------

pointwise("Exp", lambda step, x, y: y, nonnegative=Keeps.ALWAYS)
pointwise("Log", lambda step, x, y: step.emit.Reciprocal(x))
pointwise("Sqrt", lambda step, x, y: _inverse(step, y) * 0.5, nonnegative=Keeps.ALWAYS)
pointwise("Reciprocal", lambda step, x, y: -(y * y), nonnegative=Keeps.INPUTS)
pointwise("Abs", lambda step, x, y: step.emit.Sign(x), nonnegative=Keeps.ALWAYS)
pointwise("Sin", lambda step, x, y: step.emit.Cos(x))
pointwise("Cos", lambda step, x, y: -step.emit.Sin(x))
pointwise("Tan", lambda step, x, y: 1.0 + y * y)
pointwise("Asin", lambda step, x, y: _inverse(step, step.emit.Sqrt(1.0 - x * x)), nonnegative=Keeps.INPUTS)
pointwise("Acos", lambda step, x, y: -_inverse(step, step.emit.Sqrt(1.0 - x * x)), nonnegative=Keeps.ALWAYS)
pointwise("Atan", lambda step, x, y: step.emit.Reciprocal(1.0 + x * x), nonnegative=Keeps.INPUTS)
pointwise("Sinh", lambda step, x, y: step.emit.Cosh(x), nonnegative=Keeps.INPUTS)
pointwise("Cosh", lambda step, x, y: step.emit.Sinh(x), nonnegative=Keeps.ALWAYS)
pointwise("Asinh", lambda step, x, y: step.emit.Reciprocal(step.emit.Sqrt(1.0 + x * x)), nonnegative=Keeps.INPUTS)
pointwise("Acosh", lambda step, x, y: _inverse(step, step.emit.Sqrt(x * x - 1.0)), nonnegative=Keeps.ALWAYS)
pointwise("Atanh", lambda step, x, y: step.emit.Reciprocal(1.0 - x * x), nonnegative=Keeps.INPUTS)
for _op_type in ("Floor", "Ceil", "Round", "Sign"):
    pointwise(_op_type, lambda step, x, y: step.emit.zeros_like(x), nonnegative=Keeps.INPUTS)


@general("Neg", elementwise=True)
def neg(step: Step, g: ir.Value) -> list[Contribution]:
    """y = −x."""
    return [-g]


def _clips_at_zero(node: ir.Node, facts: Facts) -> bool:
    """ReLU6 and its kind: the lower bound is a constant ≥ 0."""
    lowest = facts.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return lowest is not None and bool((lowest >= 0).all())


@general("Clip", elementwise=True, nonnegative_if=_clips_at_zero)
def clip(step: Step, g: ir.Value) -> list[Contribution]:
    """y = min(max(x, low), high): the slope is 1 within the bounds, and a bound has slope 1 where it binds."""
    emit, x, y = step.emit, step.x(0), step.y()
    within = emit.Equal(x, y)
    contributions: list[Contribution] = [emit.Where(within, g, 0.0)]
    for index in range(1, step.count):
        binds = emit.And(emit.Equal(y, step.x(index)), emit.Not(within)) if step.signal(index) else None
        contributions.append(None if binds is None else emit.Where(binds, g, 0.0))
    return contributions


@general("Mod", elementwise=True)
def mod(step: Step, g: ir.Value) -> list[Contribution]:
    """y = a − b·q with a whole q = (a − y)/b, which is constant between the jumps."""
    emit, a, b = step.emit, step.x(0), step.x(1)
    quotient = emit.Round((a - step.y()) / b)
    return [g if step.signal(0) else None, -(g * quotient) if step.signal(1) else None]


# --- values that stay what they are ----------------------------------------------------------------------------------


@movement("Identity", nonnegative=Keeps.INPUTS)
def identity(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x."""
    return [g]


@movement("StraightThrough", domain=OURS)
def straight_through(step: Step, g: ir.Value) -> list[Contribution]:
    """y = actual, as the model computes it; gradient and relevance go to the float view beside it."""
    return [None, None, g]


@movement("Deployed", domain=OURS)
def deployed(step: Step, g: ir.Value) -> list[Contribution]:
    """y = actual, the integers of the deployed model; gradient and relevance go to the float view beside it."""
    return [None, g]


@general("Cast", elementwise=True, nonnegative=Keeps.INPUTS)
def cast(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x in another number format. Cutting floats to whole numbers has slope 0, and relevance passes as at Floor."""
    rounds = step.facts.is_float(step.raw(0)) and not step.facts.is_float(step.unit.outputs[0])
    return step.only(None if rounds else g)


_INDICATORS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf", "Not", "And", "Or", "Xor")


@general(*_INDICATORS, elementwise=True, nonnegative=Keeps.ALWAYS)
def indicator(step: Step, g: ir.Value) -> list[Contribution]:
    """y = 1 where something holds: slope 0, and relevance passes to what was compared.

    So the relevance of a one-hot code written as Equal(tokens, range) comes back to the tokens.
    """
    return [None] * step.count


@movement("Dropout", nonnegative=Keeps.INPUTS)
def dropout(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x: inference drops nothing.  Errors: Unsupported in training mode."""
    training = step.constant(2)
    if step.has(2) and (training is None or training.any()):
        raise Unsupported(
            f"{step.unit} may run in training mode, where it drops values at random; export the model for inference "
            "(training_mode absent or a constant false)."
        )
    return step.only(g)
