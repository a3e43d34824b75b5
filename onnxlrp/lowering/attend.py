"""What every attention operator is made of: heads, masks, caches, softmax, weighted values.

    scores = scale · q kᵀ (+ bias)        weights = softmax(scores where allowed)        y = weights · v

with q (batch, head, query, size), k and v (batch, head, key, size). As in the models that exporters write in pieces,
so attention has one relevance rule, fused or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.lowering.fused import Fused

NEVER = -1e30
"""Stands for −∞ in scores: its softmax is 0 as well, and 0 · NEVER is 0 where 0 · ∞ would be NaN."""


def to_heads(emit: Emit, x: ir.Value, heads: int) -> ir.Value:
    """(batch, length, head · size) → (batch, head, length, size)."""
    return emit.Transpose(emit.Reshape(x, [0, 0, heads, -1]), perm=[0, 2, 1, 3])


def from_heads(emit: Emit, x: ir.Value) -> ir.Value:
    """(batch, head, length, size) → (batch, length, head · size)."""
    return emit.Reshape(emit.Transpose(x, perm=[0, 2, 1, 3]), [0, 0, -1])


def length(emit: Emit, x: ir.Value) -> ir.Value:
    """The number of positions of (batch, head, length, size), a scalar."""
    return emit.Squeeze(emit.dim(x, 2), [0])


def positions(emit: Emit, count: ir.Value) -> ir.Value:
    """0, 1, … count − 1."""
    return emit.Range(emit.constant(0), count, emit.constant(1))


def joined(emit: Emit, past: ir.Value | None, new: ir.Value) -> ir.Value:
    """The cache with the new positions behind it."""
    return new if past is None else emit.Concat(past, new, axis=2)


def repeated(emit: Emit, x: ir.Value, times: int | ir.Value) -> ir.Value:
    """Each head of keys or values for a group of query heads: (batch, head, …) → (batch, head · times, …).

    times : a number, or a vector of one where it is known at run time only
    """
    if isinstance(times, int) and times == 1:
        return x
    times = emit.constant([times]) if isinstance(times, int) else times
    batch, heads, rest = emit.dim(x, 0), emit.dim(x, 1), emit.Shape(x, start=2)
    spread = emit.Expand(emit.Unsqueeze(x, [2]), emit.Concat(batch, heads, times, rest, axis=0))
    return emit.Reshape(spread, emit.Concat(batch, emit.Mul(heads, times), rest, axis=0))


@dataclass(frozen=True)
class Scores:
    """What happens between q kᵀ and the softmax, in this order.

    scale   : None = 1/√size
    softcap : c · tanh(scores/c); 0 for none
    added   : biases and additive masks, broadcastable to (batch, head, query, key)
    allowed : truth values, broadcastable likewise; elsewhere a key is not seen
    sink    : per head a score beside the keys' own that takes a share and gives nothing, (head); None for none
    empty   : whether queries that may see no key get zeros
    """

    scale: float | None = None
    softcap: float = 0.0
    added: Sequence[ir.Value] = ()
    allowed: Sequence[ir.Value] = ()
    sink: ir.Value | None = None
    empty: bool = False
    stages: dict[str, ir.Value] = field(default_factory=dict)
    """What was computed on the way, by name: "product", "capped", "biased", "seen", "masked", "weights"."""


def scale_of(node: Fused) -> float | None:
    """The scale that a node states; 0 stands for none."""
    return float(node.attribute("scale", 0.0)) or None


def attend(emit: Emit, q: ir.Value, k: ir.Value, v: ir.Value, scores: Scores) -> ir.Value:
    """The weighted values, (batch, head, query, size of v)."""
    product = emit.MatMul(q, emit.Transpose(k, perm=[0, 1, 3, 2]))
    z = emit.Mul(product, scores.scale) if scores.scale is not None else emit.Div(product, _root_of_size(emit, q))
    scores.stages["product"] = z
    if scores.softcap:
        z = emit.Mul(emit.Tanh(emit.Div(z, scores.softcap)), scores.softcap)
    scores.stages["capped"] = z
    for bias in scores.added:
        z = emit.Add(z, bias)
    scores.stages["biased"] = z
    seen = _all(emit, scores.allowed)
    if seen is not None:
        scores.stages["seen"] = seen
        z = emit.Where(seen, z, NEVER)
    scores.stages["masked"] = z
    weights = emit.Softmax(z, axis=-1) if scores.sink is None else _softmax_beside(emit, z, scores.sink)
    if scores.empty and seen is not None:
        weights = emit.Where(seen, weights, 0.0)
    scores.stages["weights"] = weights
    return emit.MatMul(weights, v)


def _root_of_size(emit: Emit, q: ir.Value) -> ir.Value:
    return emit.Sqrt(emit.Cast(emit.dim(q, 3), to=ir.DataType.FLOAT))


def _all(emit: Emit, conditions: Sequence[ir.Value]) -> ir.Value | None:
    found: ir.Value | None = None
    for condition in conditions:
        found = condition if found is None else emit.And(found, condition)
    return found


def _softmax_beside(emit: Emit, z: ir.Value, sink: ir.Value) -> ir.Value:
    """Softmax over the keys and one sink per head, of which the keys' part is kept."""
    rows = emit.Concat(emit.Shape(z, end=3), [1], axis=0)
    beside = emit.Concat(z, emit.Expand(emit.Reshape(sink, [1, -1, 1, 1]), rows), axis=-1)
    return emit.Slice(emit.Softmax(beside, axis=-1), [0], [-1], [3])


# --- masks -----------------------------------------------------------------------------------------------------------


def causal(emit: Emit, queries: ir.Value, keys: ir.Value, offset: ir.Value) -> ir.Value:
    """key ≤ query + offset, (query, key) or (batch, 1, query, key).

    queries, keys : how many there are, scalars        offset : keys before the first query; scalar or (batch, 1, 1, 1)
    """
    row = emit.Add(emit.Unsqueeze(positions(emit, queries), [1]), offset)
    return emit.LessOrEqual(emit.Unsqueeze(positions(emit, keys), [0]), row)


def window(emit: Emit, queries: ir.Value, keys: ir.Value, offset: ir.Value, size: int) -> ir.Value:
    """key > query + offset − size: a query sees `size` keys, itself the last."""
    row = emit.Add(emit.Unsqueeze(positions(emit, queries), [1]), offset)
    return emit.Greater(emit.Unsqueeze(positions(emit, keys), [0]), emit.Sub(row, size))


def additive(emit: Emit, mask: ir.Value, masked: float) -> ir.Value:
    """0 where an integer mask is positive, `masked` elsewhere."""
    return emit.Where(emit.Greater(emit.Cast(mask, to=ir.DataType.INT64), 0), 0.0, masked)


def key_mask(node: Fused, index: int, keys: ir.Value, queries: ir.Value, batch: ir.Value, masked: float) -> ir.Value:
    """onnxruntime's masks as something to add to the scores.

    (batch, key) or (batch, query, key) of 0 and 1; (batch, 1, most, most) of which the last queries and first keys
    count; or one axis: (batch) lengths, (2 batch) ends and starts, (3 batch + 2) lengths and what packing needs.
    keys, queries : how many there are, scalars        batch : its size, one element
    """
    emit, mask, rank = node.emit, node.x(index), node.rank(index)
    if rank == 2:
        return emit.Unsqueeze(additive(emit, mask, masked), [1, 2])
    if rank == 3:
        return emit.Unsqueeze(additive(emit, mask, masked), [1])
    if rank == 4:
        last, first = emit.Unsqueeze(keys, [0]), emit.Unsqueeze(emit.Sub(keys, queries), [0])
        starts, ends = emit.Concat(first, [0], axis=0), emit.Concat(last, last, axis=0)
        return additive(emit, emit.Slice(mask, starts, ends, [2, 3]), masked)
    bounds = emit.Cast(mask, to=ir.DataType.INT64)
    end = emit.Slice(bounds, [0], batch, [0])
    start = emit.Slice(emit.Concat(bounds, emit.Expand(0, batch), axis=0), batch, emit.Mul(batch, 2), [0])
    paired = emit.Cast(emit.Equal(emit.Shape(mask), emit.Mul(batch, 2)), to=ir.DataType.INT64)
    place = emit.Unsqueeze(positions(emit, keys), [0])
    inside = emit.And(
        emit.Less(place, emit.Unsqueeze(end, [1])),
        emit.GreaterOrEqual(place, emit.Unsqueeze(emit.Mul(start, paired), [1])),
    )
    return emit.Unsqueeze(emit.Where(inside, 0.0, masked), [1, 2])


# --- positions as rotations ------------------------------------------------------------------------------------------


def rotated(emit: Emit, x: ir.Value, cos: ir.Value, sin: ir.Value, *, interleaved: bool, whole: bool) -> ir.Value:
    """Pairs of elements turned by an angle: (a, b) → (a cos − b sin, a sin + b cos).

    x        : (batch, head, length, size)        cos, sin : (batch or 1, 1, length, pairs)
    whole    : whether the pairs are all of x; otherwise what is left over stays as it is
    Source   : Su et al. 2021 (RoFormer).
    """
    wide = emit.Mul(emit.dim(cos, 3), 2)
    turning = x if whole else emit.Slice(x, [0], wide, [3])
    if interleaved:
        paired = emit.Reshape(turning, emit.Concat(emit.Shape(turning, end=3), [-1, 2], axis=0))
        a, b = (emit.Gather(paired, emit.constant(i), axis=4) for i in (0, 1))
    else:
        half = emit.dim(cos, 3)
        a, b = emit.Slice(turning, [0], half, [3]), emit.Slice(turning, half, wide, [3])
    left, right = a * cos - b * sin, a * sin + b * cos
    if interleaved:
        stacked = emit.Concat(emit.Unsqueeze(left, [4]), emit.Unsqueeze(right, [4]), axis=4)
        turned = emit.Reshape(stacked, emit.Shape(turning))
    else:
        turned = emit.Concat(left, right, axis=3)
    return turned if whole else emit.Concat(turned, emit.Slice(x, wide, emit.dim(x, 3), [3]), axis=3)


def angles(emit: Emit, cache: ir.Value, places: ir.Value) -> ir.Value:
    """Rows of a cache of cosines or sines: places (batch or 1, length) → (batch or 1, 1, length, pairs)."""
    return emit.Unsqueeze(emit.Gather(cache, places, axis=0), [1])
