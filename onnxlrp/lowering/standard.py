"""The standard's Attention, of opset 23 and later."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.attend import (
    NEVER,
    Scores,
    attend,
    causal,
    from_heads,
    joined,
    length,
    positions,
    repeated,
    to_heads,
    window,
)
from onnxlrp.lowering.fused import Fused, lowered

LOWEST = float(np.finfo(np.float32).min)
"""What onnxruntime shows where a key is not seen."""


@lowered("Attention", domain="")
def attention(node: Fused) -> list[ir.Value | None]:
    """Operands with three axes or four, grouped heads, caches, masks; a query that may see no key gets zeros."""
    emit, flat = node.emit, node.rank(0) == 3
    q, k, v = _heads(node) if flat else (node.x(0), node.x(1), node.x(2))
    k, v = joined(emit, node[4], k), joined(emit, node[5], v)
    added, allowed = _masks(node, q, k)
    scale, times = node.attribute("scale"), _group(node, q, k, flat)
    scores = Scores(
        None if scale is None else float(scale),
        float(node.attribute("softcap", 0.0)),
        added,
        allowed,
        empty=True,
    )
    y = attend(emit, q, repeated(emit, k, times), repeated(emit, v, times), scores)
    return [from_heads(emit, y) if flat else y, k, v, _shown(node, scores)]


def _heads(node: Fused) -> tuple[ir.Value, ir.Value, ir.Value]:
    counts = [int(node.attribute(name)) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    q, k, v = (to_heads(node.emit, node.x(i), count) for i, count in enumerate(counts))
    return q, k, v


def _group(node: Fused, q: ir.Value, k: ir.Value, flat: bool) -> int | ir.Value:
    """Query heads for each head of keys."""
    if flat:
        return int(node.attribute("q_num_heads")) // int(node.attribute("kv_num_heads"))
    heads, kv_heads = node.dims(0)[1], node.dims(1)[1]
    if isinstance(heads, int) and isinstance(kv_heads, int):
        return heads // kv_heads
    return node.emit.Div(node.emit.dim(q, 1), node.emit.dim(k, 1))


def _masks(node: Fused, q: ir.Value, k: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
    """(what is added to the scores, where keys may be seen)."""
    emit, queries, keys = node.emit, length(node.emit, q), length(node.emit, k)
    added, allowed = [], []
    if node.has(3):
        mask = _padded(node, keys)
        if node.x(3).dtype == ir.DataType.BOOL:
            allowed.append(mask)
        else:
            added.append(emit.Max(mask, NEVER))
            allowed.append(emit.Greater(mask, NEVER / 2))
    offset = emit.constant(0) if node[4] is None else length(emit, node.x(4))
    if node.has(6):
        valid = emit.Reshape(emit.Cast(node.x(6), to=ir.DataType.INT64), [-1, 1, 1, 1])
        allowed.append(emit.Less(positions(emit, keys), valid))
        offset = emit.Sub(valid, queries)
    if node.attribute("is_causal", 0):
        allowed.append(causal(emit, queries, keys, offset))
    left, right = (int(node.attribute(f"{side}_window_size", -1)) for side in ("left", "right"))
    if left >= 0:
        allowed.append(window(emit, queries, keys, offset, left + 1))
    if right >= 0:
        allowed.append(causal(emit, queries, keys, emit.Add(offset, right)))
    return added, allowed


def _padded(node: Fused, keys: ir.Value) -> ir.Value:
    """A mask for fewer keys than there are hides the rest."""
    emit, mask, rank = node.emit, node.x(3), node.rank(3)
    known, there = node.dims(3)[-1], node.dims(1)[-2 if node.rank(1) == 3 else 2]
    if node[4] is None and known is not None and known == there:
        return mask
    boolean = mask.dtype == ir.DataType.BOOL
    missing = emit.Sub(emit.Unsqueeze(keys, [0]), emit.Shape(mask, start=rank - 1))
    whole = mask if not boolean else emit.Cast(mask, to=ir.DataType.INT64)
    hidden = 0 if boolean else emit.constant(-np.inf)
    padded = emit.Pad(whole, emit.Concat([0] * (2 * rank - 1), missing, axis=0), hidden)
    return emit.Cast(padded, to=ir.DataType.BOOL) if boolean else padded


def _shown(node: Fused, scores: Scores) -> ir.Value | None:
    """The stage of the scores that the last output shows."""
    if not node.wants(3):
        return None
    mode = int(node.attribute("qk_matmul_output_mode", 0))
    if mode == 2:
        seen = scores.stages.get("seen")
        biased = scores.stages["biased"]
        return biased if seen is None else node.emit.Where(seen, biased, LOWEST)
    stage = {0: "product", 1: "capped", 3: "weights"}.get(mode)
    if stage is None:
        raise Unsupported(f"its qk_matmul_output_mode is {mode}")
    return scores.stages[stage]
