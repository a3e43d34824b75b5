"""Reductions and running sums: what a sum, a largest element or a norm is made of.

Sums and means are linear maps. For the others the docstring gives the gradient g·∂y/∂x and the share of relevance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxlrp.rules.crossing import STABILISER, report_stabiliser
from onnxlrp.rules.registry import Bilinear, Contribution, Keeps, Vjp, choice, general, linear
from onnxlrp.rules.step import Step

SHARES = "in proportion to each element's own part"


# --- axes ------------------------------------------------------------------------------------------------------------


def reduction_axes(step: Step) -> list[int] | ir.Value | None:
    """The reduced axes in every spelling of the standard: None = all, [] = none, a value = known at run time only.

    An attribute below opset 18 (ReduceSum: 13), an input from then on. No axes, or an empty list of them, are all axes
    unless `noop_with_empty_axes` is set.
    """
    given = step.attribute("axes") if not step.has(1) else step.constant(1)
    if given is None and step.has(1) and step.dims(1) != (0,):
        return step.raw(1)
    axes = [] if given is None else np.asarray(given).reshape(-1).tolist()
    if axes:
        rank = step.rank()
        return sorted(int(axis) % rank for axis in axes)
    return [] if step.attribute("noop_with_empty_axes", 0) else None


def reduce_alike(step: Step, op_type: str, x: ir.Value) -> ir.Value:
    """Another reduction over the same axes, which stay with size 1."""
    axes = reduction_axes(step)
    if isinstance(axes, ir.Value):
        noop = int(step.attribute("noop_with_empty_axes", 0))
        return step.emit.node(op_type, x, axes, keepdims=1, noop_with_empty_axes=noop)
    if axes == []:
        return x
    return step.emit.sum(x, axes) if op_type == "ReduceSum" else step.emit.reduce(op_type, x, axes)


def keep_axes(step: Step, reduced: ir.Value) -> ir.Value:
    """A tensor shaped like the output, with the reduced axes put back as size 1: it broadcasts to the input."""
    axes = reduction_axes(step)
    if step.attribute("keepdims") or axes is None or axes == []:
        return reduced
    return step.emit.Unsqueeze(reduced, axes)


def spread(step: Step, reduced: ir.Value) -> ir.Value:
    """Copy each element of the output to every element of the input that it was made from."""
    return step.emit.Expand(keep_axes(step, reduced), step.shape())


def group_size(step: Step) -> ir.Value:
    """How many elements of the input make one of the output; a float scalar."""
    emit = step.emit
    size, groups = (emit.Cast(emit.Size(v), to=ir.DataType.FLOAT) for v in (step.raw(0), step.unit.outputs[0]))
    return emit.Div(size, groups)


# --- linear ----------------------------------------------------------------------------------------------------------


def _forward(step: Step) -> Callable[[ir.Value, Contribution], ir.Value]:
    """The node itself, on another tensor."""
    others = step.unit.inputs[1:]
    return lambda x, _: step.emit.node(step.unit.op_type, x, *others, **step.given_attributes)


@linear("ReduceSum", nonnegative=Keeps.INPUTS)
def reduce_sum(step: Step) -> Bilinear:
    """z = Σ x; the adjoint copies s to every summand."""
    return Bilinear(forward=_forward(step), adjoint=lambda s, _: spread(step, s))


@linear("ReduceMean", nonnegative=Keeps.INPUTS)
def reduce_mean(step: Step) -> Bilinear:
    """z = Σ x / n; the adjoint copies s / n."""
    return Bilinear(forward=_forward(step), adjoint=lambda s, _: spread(step, s / group_size(step)))


@linear("CumSum", nonnegative=Keeps.INPUTS)
def cum_sum(step: Step) -> Bilinear:
    """z_k = Σ_{i ≤ k} x_i; the adjoint sums from the other end: Σ_{k ≥ i} s_k."""
    back = {"exclusive": int(step.attribute("exclusive")), "reverse": 1 - int(step.attribute("reverse"))}
    return Bilinear(forward=_forward(step), adjoint=lambda s, _: step.emit.CumSum(s, step.raw(1), **back))


# --- choice ----------------------------------------------------------------------------------------------------------


@choice("ReduceMax", "ReduceMin", nonnegative=Keeps.INPUTS)
def reduce_extreme(step: Step, g: ir.Value) -> list[Contribution]:
    """All to the chosen element; to the first in memory order where several tie (as ArgMax and PyTorch's max(dim))."""
    emit, x = step.emit, step.raw(0)
    count = emit.Size(x)
    position = emit.Reshape(emit.Range(emit.constant(0), count, emit.constant(1)), step.shape(), allowzero=1)
    candidate = emit.Where(emit.Equal(x, keep_axes(step, step.unit.outputs[0])), position, count)
    winner = emit.Equal(position, reduce_alike(step, "ReduceMin", candidate))
    return step.only(emit.Where(winner, keep_axes(step, g), 0.0))


# --- products --------------------------------------------------------------------------------------------------------


def _one_where_zero(step: Step, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    zero = step.emit.Equal(x, 0.0)
    return zero, step.emit.Where(zero, 1.0, x)


def equal_parts(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = R / n: the factors of a product are equally needed."""
    return step.only(spread(step, relevance / group_size(step)))


@general("ReduceProd", relevance=equal_parts, nonnegative=Keeps.INPUTS, source="equal parts")
def reduce_prod(step: Step, g: ir.Value) -> list[Contribution]:
    """g · Π of the others. With one zero among the factors only that one has a gradient, with two none has."""
    zero, factors = _one_where_zero(step, step.x())
    is_zero = step.emit.mask(zero)
    zeros_among_others = reduce_alike(step, "ReduceSum", is_zero) - is_zero
    others = reduce_alike(step, "ReduceProd", factors) / factors
    return step.only(step.emit.Where(step.emit.Greater(zeros_among_others, 0.5), 0.0, keep_axes(step, g) * others))


def cum_prod_parts(step: Step, relevance: ir.Value) -> list[Contribution]:
    """Each product's relevance in equal parts to its factors: R_i = Σ_{k ≥ i} R_k / n_k, n_k the number of factors.

    An exclusive product starts with a constant 1, which keeps its relevance as a bias does.
    """
    count = step.emit.CumSum(step.emit.ones_like(relevance), step.raw(1), **_directions(step, back=False))
    if step.account is not None:
        step.account("bias", step.emit.Where(step.emit.Equal(count, 0.0), relevance, 0.0))
    return [_sum_back(step, step.emit.quotient(relevance, count, 0.0)), None]


@general("CumProd", relevance=cum_prod_parts, nonnegative=Keeps.INPUTS, source="equal parts", conserves="up to bias")
def cum_prod(step: Step, g: ir.Value) -> list[Contribution]:
    """Σ_{k ≥ i} g_k y_k / x_i; at the first zero the products are taken without it, beyond it they are all zero."""
    emit, axis, forward = step.emit, step.raw(1), _directions(step, back=False)
    zero, factors = _one_where_zero(step, step.x())
    zeros_before = emit.CumSum(emit.mask(zero), axis, exclusive=1, reverse=forward["reverse"])
    first_zero = emit.And(zero, emit.Less(zeros_before, 0.5))
    without_it = emit.CumProd(emit.Where(first_zero, 1.0, step.x()), axis, **forward)
    return [emit.Where(first_zero, _sum_back(step, g * without_it), _sum_back(step, g * step.y()) / factors), None]


def _directions(step: Step, *, back: bool) -> dict[str, int]:
    reverse = int(step.attribute("reverse"))
    return {"exclusive": int(step.attribute("exclusive")), "reverse": 1 - reverse if back else reverse}


def _sum_back(step: Step, values: ir.Value) -> ir.Value:
    return step.emit.CumSum(values, step.raw(1), **_directions(step, back=True))


def cofactors(step: Step) -> ir.Value:
    """∂det/∂x, by the determinants of the minors: defined where the matrix has no inverse, too."""
    emit, size = step.emit, step.dims()[-1]
    if size == 1:
        return emit.ones_like(step.x())
    n = emit.Squeeze(emit.dim(step.raw(0), step.rank() - 1), [0])
    row = emit.Unsqueeze(emit.Range(0, n, 1), [1])
    left = emit.Unsqueeze(emit.Range(0, emit.Sub(n, 1), 1), [0])
    kept = emit.Add(left, emit.Cast(emit.GreaterOrEqual(left, row), to=ir.DataType.INT64))  # (n, n − 1): all but one
    lead = list(range(step.rank() - 2))
    rows = emit.Gather(step.x(), kept, axis=len(lead))
    minors = emit.Gather(rows, kept, axis=len(lead) + 2)
    i, a, j, b = (len(lead) + k for k in range(4))
    signs = emit.Cast(emit.Mod(emit.Add(row, emit.Transpose(row, perm=[1, 0])), 2), to=ir.DataType.FLOAT)
    found: ir.Value = emit.Det(emit.Transpose(minors, perm=[*lead, i, j, a, b])) * (1.0 - signs * 2.0)
    return found


def _det_relevance(step: Step, relevance: ir.Value) -> list[Contribution]:
    """A sum of products with one factor per row: in proportion to each product, in equal parts to its factors."""
    emit, rank = step.emit, step.rank()
    s = emit.Unsqueeze(emit.quotient(relevance, step.y(), STABILISER), [-2, -1])
    report_stabiliser(step, emit.Squeeze(s, [-2, -1]), step.y(), STABILISER)
    n = emit.Cast(emit.dim(step.raw(0), rank - 1), to=ir.DataType.FLOAT)
    return [step.x() * cofactors(step) * s / n]


@general("Det", relevance=_det_relevance, conserves="up to epsilon", source="the Leibniz formula")
def det(step: Step, g: ir.Value) -> list[Contribution]:
    """g · cofactor."""
    return [cofactors(step) * step.emit.Unsqueeze(g, [-2, -1])]


# --- norms and logarithms --------------------------------------------------------------------------------------------


def _share(
    step: Step, relevance: ir.Value, part: ir.Value, total: ir.Value, *, nonnegative: bool
) -> list[Contribution]:
    """R · part / stabilise(total); `total` is shaped like the output, with its reduced axes kept."""
    emit, incoming = step.emit, keep_axes(step, relevance)
    s = emit.quotient(incoming, total, STABILISER, nonnegative=nonnegative)
    if step.account is not None:
        step.account("stabiliser", s * (emit.stabilise(total, STABILISER, nonnegative=nonnegative) - total))
    return step.only(part * s)


def by_magnitude(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = R · |x| / Σ|x|."""
    return _share(step, relevance, step.emit.Abs(step.x()), keep_axes(step, step.y()), nonnegative=True)


def by_square(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = R · x² / Σx²."""
    square = step.x() * step.x()
    return _share(step, relevance, square, reduce_alike(step, "ReduceSum", square), nonnegative=True)


def by_value(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = R · x / Σx: the logarithm passes, the sum inside divides in proportion."""
    total = reduce_alike(step, "ReduceSum", step.x())
    return _share(step, relevance, step.x(), total, nonnegative=False)


def _norm(op_type: str, relevance: Vjp, nonnegative: Keeps = Keeps.ALWAYS) -> Callable[[Vjp], Vjp]:
    return general(op_type, relevance=relevance, nonnegative=nonnegative, conserves="up to epsilon", source=SHARES)


@_norm("ReduceL1", by_magnitude)
def reduce_l1(step: Step, g: ir.Value) -> list[Contribution]:
    """g · sign(x)."""
    return step.only(keep_axes(step, g) * step.emit.Sign(step.x()))


@_norm("ReduceL2", by_square)
def reduce_l2(step: Step, g: ir.Value) -> list[Contribution]:
    """g · x / y, and 0 where the norm is 0."""
    return step.only(step.x() * keep_axes(step, step.emit.quotient(g, step.y(), 0.0)))


@_norm("ReduceSumSquare", by_square)
def reduce_sum_square(step: Step, g: ir.Value) -> list[Contribution]:
    """g · 2x."""
    return step.only(step.x() * keep_axes(step, g * 2.0))


@_norm("ReduceLogSum", by_value, Keeps.NEVER)
def reduce_log_sum(step: Step, g: ir.Value) -> list[Contribution]:
    """g / Σx, with Σx = exp(y)."""
    return step.only(spread(step, g / step.emit.Exp(step.y())))


def by_softmax(step: Step, g: ir.Value) -> list[Contribution]:
    """g · softmax(x), with softmax(x) = exp(x − y). The parts are ≥ 0 and sum to one: gradient and relevance agree."""
    emit, x = step.emit, step.x()
    share = emit.Where(emit.IsInf(x, detect_positive=0), 0.0, emit.Exp(x - keep_axes(step, step.y())))
    return step.only(keep_axes(step, g) * share)


general("ReduceLogSumExp", relevance=by_softmax, source="the parts of the sum inside")(by_softmax)
