"""onnxruntime's attention operators."""

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
    joined,
    key_mask,
    length,
    positions,
    repeated,
    rotated,
    to_heads,
    window,
)
from onnxlrp.lowering.fused import Fused, lowered, not_lowered
from onnxlrp.lowering.normalisation import rms_norm

MASKED = -10000.0


def _scale(node: Fused) -> float | None:
    return float(node.attribute("scale", 0.0)) or None


def _refuse_beams(node: Fused, indirection: int) -> None:
    if node.has(indirection):
        raise Unsupported("its cache is shared by several beams (cache_indirection)")


def _through_cache(node: Fused, past: ir.Value | None, new: ir.Value, written: int) -> tuple[ir.Value, ir.Value]:
    """(keys to attend to, cache after this step); operand `written` says how much of a larger buffer is filled."""
    emit = node.emit
    if past is None or not node.has(written):
        both = joined(emit, past, new)
        return both, both
    before = emit.Reshape(_int64(emit, node.x(written)), [1])
    both = emit.Concat(emit.Slice(past, [0], before, [2]), new, axis=2)
    filled = emit.Add(before, emit.dim(new, 2))
    return both, emit.Concat(both, emit.Slice(past, filled, emit.dim(past, 2), [2]), axis=2)


def _masks(
    node: Fused, q: ir.Value, k: ir.Value, *, mask: int, bias: int, one_way: bool
) -> tuple[list[ir.Value], list[ir.Value]]:
    """(what is added to the scores, where keys may be seen)."""
    emit, queries, keys = node.emit, length(node.emit, q), length(node.emit, k)
    masked = float(node.attribute("mask_filter_value", MASKED))
    added = [] if node[bias] is None else [node.x(bias)]
    if node.has(mask):
        added.append(key_mask(node, mask, keys, queries, emit.dim(q, 0), masked))
    return added, [causal(emit, queries, keys, emit.Sub(keys, queries))] if one_way else []


# --- Attention: weights inside ---------------------------------------------------------------------------------------


@lowered("Attention")
def attention(node: Fused) -> list[ir.Value | None]:
    """q, k, v = split(x · weights + bias); the cache (2, batch, head, length, size) holds keys and values."""
    emit, heads = node.emit, int(node.attribute("num_heads"))
    if node.attribute("past_present_share_buffer", 0) or node.has(6):
        raise Unsupported("past and present share one buffer")
    if node.attribute("do_rotary", 0):
        raise Unsupported("it rotates positions by itself (do_rotary)")
    q, k, v = (to_heads(emit, part, heads) for part in _projected(node))
    if node[4] is not None:
        pasts = (emit.Gather(node.x(4), emit.constant(i), axis=0) for i in (0, 1))
        k, v = (joined(emit, past, new) for past, new in zip(pasts, (k, v), strict=True))
    added, allowed = _masks(node, q, k, mask=3, bias=5, one_way=bool(node.attribute("unidirectional", 0)))
    y = from_heads(emit, attend(emit, q, k, v, Scores(_scale(node), added=added, allowed=allowed)))
    present = emit.Concat(emit.Unsqueeze(k, [0]), emit.Unsqueeze(v, [0]), axis=0) if node.wants(1) else None
    return [y, present]


def _projected(node: Fused) -> tuple[ir.Value, ...]:
    """x · weights + bias, split into queries, keys and values."""
    emit, z = node.emit, node.emit.MatMul(node.x(0), node.x(1))
    if node[2] is not None:
        z = emit.Add(z, node.x(2))
    sizes = node.attribute("qkv_hidden_sizes")
    if sizes is not None:
        return emit.nodes("Split", z, list(sizes), outputs=3, axis=2)
    third = emit.Div(emit.dim(node.x(1), 1), 3)
    return emit.nodes("Split", z, emit.Concat(third, third, third, axis=0), outputs=3, axis=2)


# --- MultiHeadAttention: projected outside ---------------------------------------------------------------------------


@lowered("MultiHeadAttention")
def multi_head_attention(node: Fused) -> list[ir.Value | None]:
    """q, k, v in one of four layouts; outputs are y, both caches, and the scores before the softmax."""
    _refuse_beams(node, 9)
    return _multi_head(node, bias=3, mask=4, added=5, past=6, written=8)


@lowered("DecoderMaskedMultiHeadAttention")
def decoder_masked_multi_head_attention(node: Fused) -> list[ir.Value | None]:
    """MultiHeadAttention of one query, with its operands in another order."""
    _refuse_beams(node, 9)
    return _multi_head(node, bias=10, mask=3, added=4, past=5, written=7)


def _multi_head(node: Fused, *, bias: int, mask: int, added: int, past: int, written: int) -> list[ir.Value | None]:
    emit, heads = node.emit, int(node.attribute("num_heads"))
    q, k, v = _layouts(node, heads, bias)
    k, keys = _through_cache(node, node[past], k, written)
    v, values = _through_cache(node, node[past + 1], v, written)
    one_way = bool(node.attribute("unidirectional", 0))
    biases, allowed = _masks(node, q, k, mask=mask, bias=added, one_way=one_way)
    scores = Scores(_scale(node), added=biases, allowed=allowed)
    y = from_heads(emit, attend(emit, q, k, v, scores))
    return [y, keys, values, scores.stages["masked"]]


def _layouts(node: Fused, heads: int, bias: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(batch, length, hidden) three times; (batch, length, head, 3, size); keys and values packed as
    (batch, length, head, 2, size); or keys and values with heads already, (batch, head, length, size)."""
    emit = node.emit
    if not node.has(1):
        if node.rank(0) != 5:
            raise Unsupported("neither key nor value is there, and the query is not packed with 5 axes")
        return _unpacked(emit, _with_packed_bias(node, bias, heads), 3)  # type: ignore[return-value]
    parts = _bias_parts(node, bias, heads)
    if not node.has(2):
        q = to_heads(emit, _plus(emit, node.x(0), parts[0]), heads)
        return (q, *_unpacked(emit, node.x(1), 2))  # type: ignore[return-value]
    q = to_heads(emit, _plus(emit, node.x(0), parts[0]), heads)
    if node.rank(1) == 4:
        return q, node.x(1), node.x(2)
    k, v = (to_heads(emit, _plus(emit, node.x(i), parts[i]), heads) for i in (1, 2))
    return q, k, v


def _plus(emit: Emit, x: ir.Value, bias: ir.Value | None) -> ir.Value:
    return x if bias is None else emit.Add(x, bias)


def _unpacked(emit: Emit, x: ir.Value, count: int) -> tuple[ir.Value, ...]:
    """(batch, length, head, count, size) → count times (batch, head, length, size)."""
    parts = (emit.Gather(x, emit.constant(i), axis=3) for i in range(count))
    return tuple(emit.Transpose(part, perm=[0, 2, 1, 3]) for part in parts)


def _bias_parts(node: Fused, bias: int, heads: int) -> tuple[ir.Value | None, ...]:
    """One bias for queries, one for keys, one for values."""
    if node[bias] is None:
        return None, None, None
    emit = node.emit
    wide = emit.dim(node.x(0), 2)
    rest = emit.Sub(emit.Shape(node.x(bias)), emit.Mul(wide, 2))
    return emit.nodes("Split", node.x(bias), emit.Concat(wide, wide, rest, axis=0), outputs=3, axis=0)


def _with_packed_bias(node: Fused, bias: int, heads: int) -> ir.Value:
    if node[bias] is None:
        return node.x(0)
    emit = node.emit
    return emit.Add(node.x(0), emit.Transpose(emit.Reshape(node.x(bias), [3, heads, -1]), perm=[1, 0, 2]))


# --- GroupQueryAttention ---------------------------------------------------------------------------------------------


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
    scores = Scores(_scale(node), float(node.attribute("softcap", 0.0)), added, allowed, sink)
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
    total = emit.Squeeze(emit.Cast(node.x(6), to=ir.DataType.INT64)) if node.rank(6) else _int64(emit, node.x(6))
    valid = emit.Add(emit.Reshape(_int64(emit, node.x(5)), [-1]), emit.Sub(1, queries))
    return _Cache(emit.Where(emit.Equal(queries, total), 0, valid), total)


def _int64(emit: Emit, x: ir.Value) -> ir.Value:
    return emit.Cast(x, to=ir.DataType.INT64)


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


# --- RotaryEmbedding -------------------------------------------------------------------------------------------------


@lowered("RotaryEmbedding")
def rotary_embedding(node: Fused) -> ir.Value:
    """Positions as rotations; positions are given each by each, or by the first one."""
    emit, rank = node.emit, node.rank(0)
    wide, heads = int(node.attribute("rotary_embedding_dim", 0)), int(node.attribute("num_heads", 0))
    if float(node.attribute("scale", 1.0)) != 1.0 or node.attribute("is_packed_batching", 0):
        raise Unsupported("it scales positions, or its batch is packed")
    x = node.x(0)
    if rank == 3:
        size = emit.Mul(emit.dim(node.x(2), 1), 2) if not wide else emit.Div(emit.dim(x, 2), heads)
        split = emit.Concat([0, 0, -1], size, axis=0)
        x = emit.Transpose(emit.Reshape(x, split), perm=[0, 2, 1, 3])
    places = node.x(1)
    if node.rank(1) == 1:
        places = emit.Add(emit.Unsqueeze(positions(emit, length(emit, x)), [0]), places)
    cos, sin = angles(emit, node.x(2), places), angles(emit, node.x(3), places)
    y = rotated(emit, x, cos, sin, interleaved=bool(node.attribute("interleaved", 0)), whole=not wide)
    return from_heads(emit, y) if rank == 3 else y


not_lowered(
    "runs on CUDA alone: padding is removed from its batch; save the model without packing",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "RemovePadding",
    "RestorePadding",
)
not_lowered("shares one re-ordered buffer between past and present", "DecoderMaskedSelfAttention", "DecoderAttention")
not_lowered("keeps its cache in pages that a server hands out", "PagedAttention", "SparsePagedAttention")
not_lowered(
    "attends to blocks that are chosen at run time",
    "SparseAttention",
    "DynamicSparseAttention",
    "SparseAttentionIndexer",
    "PackedSparseAttentionIndexer",
    "LongformerAttention",
)
