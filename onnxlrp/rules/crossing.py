"""Crossing one layer: the machine that every decomposition is fed to.

z = Σ forward(part, weight) + bias part     s = R / stabilise(z)     R_x = Σ part ⊙ adjoint(s, weight)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.rules.parts import Bracket, Term, all_one, minus
from onnxlrp.rules.registry import Contribution, LinearMap, Operator
from onnxlrp.rules.step import Step

BOUNDED = frozenset({"Softmax", "Sigmoid", "Tanh", "Conv", "MatMul", "Gemm", "LayerNormalization"})
"""What lies behind these is finite, or lost."""

NEAR = 64
"""How many tensors upstream are looked at: a mask is made close to where it is added."""

LARGEST_MASK = 1 << 22
"""Elements up to which a constant is read to see whether it is one."""

STABILISER = 1e-6
"""Added to every denominator that is not the epsilon rule's own."""


def cross(step: Step, linear: LinearMap, bracket: Bracket, relevance: ir.Value, eps: float) -> Contribution:
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
    z = denominator(step, linear, bracket, parts, bias)
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
        spread = spread_bias(step, linear, s * bias)
        total = spread if total is None else total + spread
    return total


def denominator(
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


def spread_bias(step: Step, linear: LinearMap, share: ir.Value) -> ir.Value:
    """What a bias took, in equal parts to the inputs it is added to."""
    ones = all_one(step.emit, linear.weight)
    connected = linear.forward(step.emit.ones_like(linear.x), ones)
    return linear.adjoint(step.emit.quotient(share, connected, 0.0), ones)


def _report(step: Step, s: ir.Value, z: ir.Value, eps: float, bias: Contribution) -> None:
    """Tell the ledger what bias and stabiliser took of s ⊙ stabilise(z)."""
    if step.account is None:
        return
    if bias is not None and step.bias == "absorb":
        step.account("bias", step.emit.Where(step.emit.IsInf(z), 0.0, s * bias))
    report_stabiliser(step, s, z, eps)


def report_stabiliser(step: Step, s: ir.Value, z: ir.Value, eps: float) -> None:
    """Tell the ledger what the stabiliser took, apart from where z = 0 and nothing could be handed on at all."""
    if step.account is None or eps <= 0:
        return
    z = step.emit.Where(step.emit.IsInf(z), 0.0, z)
    taken = s * (step.emit.stabilise(z, eps) - z)
    zero = step.emit.Equal(z, 0.0)
    step.account("stabiliser", step.emit.Where(zero, 0.0, taken))
    step.account("z = 0", step.emit.Where(zero, taken, 0.0))


def _vanishes(term: Term, weight: Contribution, linear: LinearMap) -> bool:
    """Weights known to be ≥ 0 have no negative part."""
    return linear.weight is None and term.weighted is minus


def _finite(step: Step, index: int, share: ir.Value) -> ir.Value:
    """Nothing goes to −inf, which masks are made of: its part of anything would be −inf · 0."""
    operand = step.raw(index)
    if not reaches_from_infinity(step, operand):
        return share
    return step.emit.Where(step.emit.IsInf(step.as_float(operand)), 0.0, share)


def reaches_from_infinity(step: Step, value: ir.Value) -> bool:
    """Whether a constant that holds infinity goes into this tensor, without an operator between that bounds it."""
    seen, waiting = {value}, [value]
    while waiting:
        current = waiting.pop()
        node = current.producer()
        if node is None or node.op_type == "Constant":
            if _holds_infinity(step, current):
                return True
        elif node.op_type not in BOUNDED and len(seen) < NEAR:
            fresh = [operand for operand in node.inputs if operand is not None and operand not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return False


def _holds_infinity(step: Step, value: ir.Value) -> bool:
    large = value.const_value is not None and value.const_value.size > LARGEST_MASK
    array = None if large or not step.facts.is_float(value) else step.facts.constant(value)
    return array is not None and array.dtype.kind == "f" and bool(np.isinf(array).any())


def in_proportion(operator: Operator, step: Step, relevance: ir.Value, eps: float) -> Sequence[Contribution]:
    """Each signal gets relevance in proportion to what it adds: R_a = a ⊙ vjp_a(R / stabilise(y)).

    For operands that multiply each other this counts y once per factor, so each gets an equal part of it.
    """
    y, carriers = step.y(), operator.carriers(step.signals)
    s = step.emit.quotient(relevance, y, eps, nonnegative=step.nonnegative(step.unit.outputs[0]))
    factors = [index for index in carriers if index in operator.factors]
    report_stabiliser(step, s, y, eps)
    contributions = [back if i in carriers else None for i, back in enumerate(operator.vjp(step, s))]
    for index in carriers:
        back = contributions[index]
        if back is not None:
            share = _finite(step, index, step.x(index) * back)
            contributions[index] = share * (1.0 / len(factors)) if index in factors and len(factors) > 1 else share
    return contributions
