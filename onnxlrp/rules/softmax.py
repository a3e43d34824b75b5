"""Softmax and its logarithm, along one axis (the semantics of opset 13 and later). Hardmax carries no signal."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.rules.crossing import STABILISER, reaches_from_infinity
from onnxlrp.rules.registry import Contribution, Keeps, softmax_like
from onnxlrp.rules.step import Step


def _probabilities(step: Step) -> ir.Value:
    """y, and 0 in rows that are masked altogether, which models repair behind their softmax."""
    y = step.y()
    return step.emit.Where(step.emit.IsNaN(y), 0.0, y) if reaches_from_infinity(step, step.raw(0)) else y


def _total(step: Step, values: ir.Value) -> ir.Value:
    return step.emit.sum(values, [step.axis()])


def _where_finite(step: Step, relevance: ir.Value) -> ir.Value:
    """Masked elements (x = −inf) get nothing; −inf · 0 would be NaN."""
    return step.emit.Where(step.emit.IsInf(step.x()), 0.0, relevance)


def taylor(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = x ⊙ (R − y · Σ R): the first-order Taylor expansion at x.  Source: Achtibat et al. 2024 (AttnLRP)."""
    return [_where_finite(step, step.x() * (relevance - _probabilities(step) * _total(step, relevance)))]


@softmax_like("Softmax", relevance=taylor, nonnegative=Keeps.ALWAYS, source="Achtibat et al. 2024")
def softmax(step: Step, g: ir.Value) -> list[Contribution]:
    """y ⊙ (g − Σ g·y)."""
    return [_probabilities(step) * (g - _total(step, g * _probabilities(step)))]


def log_taylor(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = x ⊙ vjp(R / stabilise(y)): the Taylor expansion at x, as for Softmax."""
    y = _probabilities(step)
    s = step.emit.quotient(relevance, y, STABILISER)
    if step.account is not None:
        step.account("stabiliser", s * (step.emit.stabilise(y, STABILISER) - y))
    (back,) = log_softmax(step, s)
    return [_where_finite(step, step.x() * back)]


@softmax_like("LogSoftmax", relevance=log_taylor, source="Achtibat et al. 2024")
def log_softmax(step: Step, g: ir.Value) -> list[Contribution]:
    """g − softmax(x) · Σ g, with softmax(x) = exp(y)."""
    return [g - step.emit.Exp(_probabilities(step)) * _total(step, g)]
