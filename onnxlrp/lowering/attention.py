"""onnxruntime's attention operators with as many heads of keys and values as of queries."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import Unsupported
from onnxlrp.lowering.attend import (
    Scores,
    attend,
    causal,
    from_heads,
    joined,
    key_mask,
    length,
    scale_of,
    to_heads,
)
from onnxlrp.lowering.fused import Fused, lowered, not_lowered

MASKED = -10000.0
"""What onnxruntime adds to the score of a key that may not be seen, where the node says nothing else."""


def _refuse_beams(node: Fused, indirection: int) -> None:
    if node.has(indirection):
        raise Unsupported("its cache is shared by several beams (cache_indirection)")


def _through_cache(node: Fused, past: ir.Value | None, new: ir.Value, written: int) -> tuple[ir.Value, ir.Value]:
    """(keys to attend to, cache after this step); operand `written` says how much of a larger buffer is filled."""
    emit = node.emit
    if past is None or not node.has(written):
        both = joined(emit, past, new)
        return both, both
    before = emit.Reshape(emit.Cast(node.x(written), to=ir.DataType.INT64), [1])
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
    y = from_heads(emit, attend(emit, q, k, v, Scores(scale_of(node), added=added, allowed=allowed)))
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
    scores = Scores(scale_of(node), added=biases, allowed=allowed)
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
