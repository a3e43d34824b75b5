"""Where relevance starts: a target and a seed become a tensor shaped like the explained one.

In the compiled model a target is an int64 per sample (or one for all), and a seed multiplies:

    R = mask(target) ⊙ seed ⊙ y for LRP,    mask(target) ⊙ seed for gradients

with mask = the largest element (−1), everything (−2), or index k on axis 1 (k ≥ 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.output import Output
from onnxlrp.target import EVERYTHING, LARGEST


@dataclass(frozen=True)
class Seed:
    """relevance : of the explained tensor, shaped like it        score : per sample, Σ seed ⊙ y over the mask"""

    relevance: ir.Value
    score: ir.Value


def emit_seed(emit: Emit, output: Output, target: ir.Value, seed: ir.Value, *, times_output: bool) -> Seed:
    """Where the relevance graph starts.

    target : int64 (1,) or (batch,)        seed : float, broadcastable to the output
    """
    tensor = output.tensor
    floats = tensor if tensor.dtype == ir.DataType.FLOAT else emit.Cast(tensor, to=ir.DataType.FLOAT)
    asked_shape = emit.Shape(output.asked)
    y = floats if output.asked is tensor else emit.Reshape(floats, asked_shape, allowzero=1)
    rank = len(output.asked.shape) if output.asked.shape is not None else 2
    view = _as_samples(emit, y, rank, output.batched)
    mask = _mask(emit, view, target, rank=max(rank, 2) if output.batched else rank + 1)
    weighted = emit.Mul(emit.Reshape(mask, emit.Shape(y), allowzero=1), seed if rank else emit.Squeeze(seed, [0]))
    contribution = emit.Mul(weighted, y)
    relevance = contribution if times_output else weighted
    axes = list(range(1, rank)) if output.batched else list(range(rank))
    score = emit.sum(contribution, axes, keepdims=False)
    return Seed(relevance if output.asked is tensor else emit.reshape_like(relevance, tensor), score)


def _as_samples(emit: Emit, y: ir.Value, rank: int, batched: bool) -> ir.Value:
    """(sample, class, …): a lone sample gets a leading axis, a batch of scalars a class axis."""
    if not batched:
        y = emit.Unsqueeze(y, [0])
        rank += 1
    return emit.Unsqueeze(y, [1]) if rank == 1 else y


def _mask(emit: Emit, y: ir.Value, target: ir.Value, rank: int) -> ir.Value:
    """1 where relevance starts, shaped like y (sample, class, …)."""
    if rank < 2:
        y, rank = emit.Unsqueeze(y, [1]), 2
    flat = emit.Flatten(y, axis=1)
    best = emit.ArgMax(flat, axis=1, keepdims=1)
    places = emit.Range(0, emit.Squeeze(emit.dim(flat, 1), [0]), 1)
    largest = emit.Reshape(emit.Equal(places, best), emit.Shape(y), allowzero=1)
    per_sample = emit.Reshape(target, [-1] + [1] * (rank - 1))
    classes = emit.Range(0, emit.Squeeze(emit.dim(y, 1), [0]), 1)
    chosen = emit.Equal(emit.Reshape(classes, [1, -1] + [1] * (rank - 2)), per_sample)
    by_index = emit.Or(chosen, emit.Equal(per_sample, EVERYTHING))
    mask = emit.mask(emit.Or(emit.And(emit.Equal(per_sample, LARGEST), largest), by_index))
    return emit.Expand(mask, emit.Shape(y))
