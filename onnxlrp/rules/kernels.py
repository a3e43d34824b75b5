"""Kernel machines: f(x) = Σ c_i k(s_i, x) + ρ over support vectors s, with RBF, polynomial and sigmoid kernels.

Relevance by a Taylor expansion at the nearest root of the linearised machine, x₀ = x − f·∇f / |∇f|², where f(x₀) ≈ 0:

    R_d = (x − x₀)_d · ∂f/∂x_d · R/f = R · (∂f/∂x_d)² / |∇f|²

Source: Bach et al. 2015, the Taylor-type decomposition; the root point as in Montavon et al. 2017 (the w² rule).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlrp.graph import OURS
from onnxlrp.rules.crossing import report_stabiliser
from onnxlrp.rules.registry import Contribution, Family, Operator, register
from onnxlrp.rules.step import Step

KERNEL_MACHINE = "KernelMachine"
"""What an SVMRegressor with a kernel that is not linear is read as."""

TINY = 1e-30
"""Stabiliser of |∇f|²; far from all support vectors of an RBF machine it is tiny, and not zero."""


def slope(step: Step) -> ir.Value:
    """∂f/∂x, (batch, column)."""
    emit, x = step.emit, step.x()
    gamma, offset, degree = (float(number) for number in (step.attribute("kernel_params") or (0.0, 0.0, 3.0)))
    weights = np.asarray(step.attribute("coefficients"), np.float32)
    vectors = np.asarray(step.attribute("support_vectors"), np.float32).reshape(len(weights), -1)
    products = emit.MatMul(x, np.ascontiguousarray(vectors.T))
    kernel = step.attribute("kernel_type")
    if kernel == "RBF":
        squares = (vectors.astype(np.float64) ** 2).sum(axis=1)[None].astype(np.float32)
        distances = emit.sum(x * x, [1]) - products * 2.0 + squares
        pulls = emit.Exp(distances * -gamma) * (2.0 * gamma * weights)[None]
        return emit.Sub(emit.MatMul(pulls, vectors), emit.Mul(x, emit.sum(pulls, [1])))
    inner = products * gamma + offset
    if kernel == "POLY":
        pulls = emit.Pow(inner, degree - 1.0) * (degree * gamma * weights)[None]
    else:
        value = emit.Tanh(inner)
        pulls = (1.0 - value * value) * (gamma * weights)[None]
    return emit.MatMul(pulls, vectors)


def vjp(step: Step, g: ir.Value) -> list[Contribution]:
    """g · ∂f/∂x.  g : (batch, 1)"""
    return [slope(step) * g]


def taylor(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R · (∂f/∂x)² / |∇f|²."""
    emit, gradient = step.emit, slope(step)
    largest = emit.reduce("ReduceMax", emit.Abs(gradient), [1])
    scaled = gradient / (largest + TINY)
    squares = scaled * scaled
    total = emit.sum(squares, [1])
    s = emit.quotient(relevance, total, TINY, nonnegative=True)
    report_stabiliser(step, s, total, TINY)
    return [squares * s]


register(
    Operator(
        KERNEL_MACHINE,
        Family.KERNEL,
        vjp,
        domain=OURS,
        relevance=taylor,
        conserves="up to epsilon",
        source="Bach et al. 2015: Taylor decomposition, at the nearest root of the linearised machine",
    )
)
