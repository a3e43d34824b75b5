"""GroupQueryAttention: fewer heads of keys and values than of queries, and a cache that is filled per sample."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import Unsupported
from onnxlrp.lowering.attend import (
    Scores,
    angles,
    attend,
    causal,
    from_heads,
    length,
    positions,
    repeated,
    rotated,
    scale_of,
    to_heads,
    window,
)
from onnxlrp.lowering.fused import Fused, lowered
from onnxlrp.lowering.normalisation import rms_norm


@dataclass(frozen=True)
class _Cache:
    """Where the new positions of each sample stand.  before : valid keys before them, (batch)"""

    before: ir.Value
    total: ir.Value


@lowered("GroupQueryAttention")
def group_query_attention(node: Fused) -> list[ir.Value | None]:
    """Fewer heads of keys and values than of queries, a cache that each sample fills as far as `seqlens_k` says."""
    emit = node.emit
    heads, kv_heads = int(node.attribute("num_heads")), int(node.attribute("kv_num_heads"))
    _refuse_quantised_cache(node)
    q, k, v = _query_groups(node, heads, kv_heads)
    cache = _cache(node, q)
    if node.attribute("do_rotary", 0):
        q, k = _turned(node, q, k, cache)
    k, v = (_filled(node, node[3 + i], new, cache) for i, new in enumerate((k, v)))
    queries, keys = length(emit, q), length(emit, k)
    offset = emit.Reshape(cache.before, [-1, 1, 1, 1])
    allowed = [causal(emit, queries, keys, offset)] if node.attribute("causal", 1) else []
    size = int(node.attribute("local_window_size", -1))
    if size > 0:
        allowed.append(window(emit, queries, keys, offset, size))
    if not node.attribute("causal", 1):
        valid = emit.Reshape(emit.Add(cache.before, queries), [-1, 1, 1, 1])
        allowed.append(emit.Less(positions(emit, keys), valid))
    sink = node[11]
    if sink is None and node.attribute("smooth_softmax", 0):
        sink = emit.constant([0.0] * heads)
    added = [_first_keys(emit, node.x(10), keys)] if node.has(10) else []
    scores = Scores(scale_of(node), float(node.attribute("softcap", 0.0)), added, allowed, sink)
    times = heads // kv_heads
    y = from_heads(emit, attend(emit, q, repeated(emit, k, times), repeated(emit, v, times), scores))
    shown = {1: "masked", 2: "weights"}.get(int(node.attribute("qk_output", 0)))
    return [y, k, v, scores.stages[shown] if shown else None]


def _refuse_quantised_cache(node: Fused) -> None:
    kinds = [node.attribute(name, "NONE") for name in ("k_quant_type", "v_quant_type")]
    if any(kind != "NONE" for kind in kinds):
        raise Unsupported(f"its cache is quantised ({', '.join(kinds)})")
    if node.attribute("sliding_window_cache", 0):
        raise Unsupported("its cache slides along with the window (sliding_window_cache)")


def _query_groups(node: Fused, heads: int, kv_heads: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Queries, keys and values with heads; packed in the query where key and value are absent."""
    emit = node.emit
    if node.has(1):
        q, k, v = (
            to_heads(emit, node.x(0), heads),
            to_heads(emit, node.x(1), kv_heads),
            to_heads(emit, node.x(2), kv_heads),
        )
    else:
        packed = to_heads(emit, node.x(0), heads + 2 * kv_heads)
        q, k, v = emit.nodes("Split", packed, [heads, kv_heads, kv_heads], outputs=3, axis=1)
    if node.has(14):
        epsilon = float(node.attribute("qk_norm_epsilon", 1e-6))
        q, k = rms_norm(node, q, node.x(14), epsilon, [-1]), rms_norm(node, k, node.x(15), epsilon, [-1])
    return q, k, v


def _cache(node: Fused, q: ir.Value) -> _Cache:
    """A first prompt (as many queries as positions in all) has nothing before it; else the cache is full up to it."""
    emit, queries = node.emit, length(node.emit, q)
    given, total = (emit.Cast(node.x(index), to=ir.DataType.INT64) for index in (5, 6))
    total = emit.Squeeze(total) if node.rank(6) else total
    valid = emit.Add(emit.Reshape(given, [-1]), emit.Sub(1, queries))
    return _Cache(emit.Where(emit.Equal(queries, total), 0, valid), total)


def _turned(node: Fused, q: ir.Value, k: ir.Value, cache: _Cache) -> tuple[ir.Value, ir.Value]:
    emit = node.emit
    places = node[9]
    if places is None:
        places = emit.Add(emit.Unsqueeze(cache.before, [1]), emit.Unsqueeze(positions(emit, length(emit, q)), [0]))
    cos, sin = angles(emit, node.x(7), places), angles(emit, node.x(8), places)
    interleaved = bool(node.attribute("rotary_interleaved", 0))
    q, k = (rotated(emit, x, cos, sin, interleaved=interleaved, whole=False) for x in (q, k))
    return q, k


def _filled(node: Fused, past: ir.Value | None, new: ir.Value, cache: _Cache) -> ir.Value:
    """The cache after this step: what was valid, then the new positions, zeros behind; (batch, head, length, size)."""
    if past is None:
        return new
    emit = node.emit
    room, fresh = length(emit, past), length(emit, new)
    keys = emit.Max(room, cache.total)
    place = emit.Unsqueeze(positions(emit, keys), [0])
    before = emit.Unsqueeze(cache.before, [1])
    source = emit.Where(emit.Less(place, before), place, emit.Add(emit.Sub(place, before), room))
    source = emit.Min(source, emit.Sub(emit.Add(room, fresh), 1))
    both = emit.Concat(past, new, axis=2)
    index = emit.Reshape(source, emit.Concat(emit.dim(new, 0), [1, -1, 1], axis=0))
    shape = emit.Concat(emit.Shape(both, end=2), emit.Unsqueeze(keys, [0]), emit.dim(both, 3), axis=0)
    gathered = emit.GatherElements(both, emit.Expand(index, shape), axis=2)
    valid = emit.Less(place, emit.Add(before, fresh))
    return emit.Where(emit.Unsqueeze(valid, [1, 3]), gathered, 0.0)


def _first_keys(emit: Emit, bias: ir.Value, keys: ir.Value) -> ir.Value:
    """A bias over all positions, cut or padded to the length of the cache."""
    missing = emit.Sub(emit.Unsqueeze(keys, [0]), emit.dim(bias, 3))
    return emit.Pad(bias, emit.Concat([0, 0, 0, 0, 0, 0, 0], missing, axis=0))
