"""Operators whose weights are packed integers of a few bits, one scale per block: read as their float operators.

Some kernels round their other operand to integers as well (accuracy_level of MatMulNBits): that rounding passes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.fused import Fused, not_lowered, viewed

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""What 4 bits of a NormalFloat stand for.  Source: Dettmers et al. 2023, appendix E."""

FP4 = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
"""What the lower 3 bits of a 4-bit float stand for; the highest bit is the sign."""


def unpacked(node: Fused, packed: ir.Value, bits: int, *, high_first: bool = False) -> ir.Value:
    """(…, bytes) → (…, bytes · 8 / bits) floats, the lowest bits first."""
    emit = node.emit
    numbers = emit.Cast(packed, to=ir.DataType.INT32)
    shifts = [np.array(2**shift, np.int32) for shift in range(0, 8, bits)]
    if high_first:
        shifts.reverse()
    base = emit.constant(np.array(2**bits, np.int32), dtype=np.int32)
    parts = [emit.Mod(emit.Div(numbers, emit.constant(shift, dtype=np.int32)), base) for shift in shifts]
    if len(parts) == 1:
        return emit.Cast(parts[0], to=ir.DataType.FLOAT)
    joined = emit.Concat(*(emit.Unsqueeze(part, [-1]) for part in parts), axis=-1)
    shape = emit.Concat(emit.Shape(packed, end=-1), emit.constant([-1]), axis=0)
    return emit.Cast(emit.Reshape(joined, shape), to=ir.DataType.FLOAT)


def _known_bits(node: Fused, default: int) -> int:
    bits = int(node.attribute("bits", default))
    if bits not in (2, 4, 8):
        raise Unsupported(f"its weights have {bits} bits; 2, 4 and 8 are read")
    return bits


@viewed("MatMulNBits")
def matmul_nbits(node: Fused) -> ir.Value:
    """y = a @ wᵀ + bias, w = (q − zero)·scale per block of K."""
    emit, bits = node.emit, _known_bits(node, 4)
    rows, columns, block = (int(node.attribute(name)) for name in ("N", "K", "block_size"))
    blocks = -(-columns // block)
    q = emit.Reshape(unpacked(node, node.x(1), bits), [rows, -1])
    q = emit.Slice(q, [0], [columns], [1])
    blocked = emit.constant(np.arange(columns) // block)
    places = emit.Cast(node.x(4), to=ir.DataType.INT64) if node.has(4) else blocked
    scale = emit.Gather(emit.Reshape(node.x(2), [rows, blocks]), places, axis=1)
    w = emit.Mul(emit.Sub(q, _zeros(node, bits, rows, blocks, places)), scale)
    y = emit.MatMul(node.x(), emit.Transpose(w, perm=[1, 0]))
    return y if node[5] is None else y + node[5]


def _zeros(node: Fused, bits: int, rows: int, blocks: int, places: ir.Value) -> ir.Value | float:
    """Zero points, (N, K): packed like the weights, or floats; the middle of the range where there are none."""
    emit, given = node.emit, node[3]
    if given is None:
        return 2.0 ** (bits - 1)
    if given.dtype == ir.DataType.UINT8:
        packed = emit.Reshape(given, [rows, -(-blocks * bits // 8)])
        zeros = emit.Slice(unpacked(node, packed, bits), [0], [blocks], [1])
    else:
        zeros = emit.Reshape(given, [rows, blocks])
    return emit.Gather(zeros, places, axis=1)


@viewed("MatMulBnb4")
def matmul_bnb4(node: Fused) -> ir.Value:
    """y = a @ wᵀ, w = table[q]·absmax per block of the flat weights."""
    emit = node.emit
    rows, columns, block = (int(node.attribute(name)) for name in ("N", "K", "block_size"))
    if int(node.attribute("transB", 1)) != 1:
        raise Unsupported("its weights are not transposed, which onnxruntime does not run either")
    table = NF4 if int(node.attribute("quant_type", 1)) == 1 else (*FP4, *(-value for value in FP4))
    q = emit.Slice(emit.Reshape(unpacked(node, node.x(1), 4, high_first=True), [-1]), [0], [rows * columns], [0])
    values = emit.Gather(emit.constant(list(table)), emit.Cast(q, to=ir.DataType.INT64))
    scale = emit.Gather(node.x(2), emit.constant(np.arange(rows * columns) // block))
    w = emit.Reshape(emit.Mul(values, scale), [rows, columns])
    return emit.MatMul(node.x(), emit.Transpose(w, perm=[1, 0]))


@viewed("GatherBlockQuantized")
def gather_block_quantized(node: Fused) -> ir.Value:
    """y = Gather((q − zero)·scale, indices), one scale per block along an axis."""
    emit, data = node.emit, node.x()
    rank, block = node.rank(0), int(node.attribute("block_size", 128))
    axis = int(node.attribute("quantize_axis", 1)) % rank
    packed = data.dtype == ir.DataType.UINT8
    bits = _known_bits(node, 4) if packed else 8
    q = unpacked(node, data, bits) if packed else emit.Cast(data, to=ir.DataType.FLOAT)
    zeros: ir.Value | float = 2.0 ** (bits - 1) if packed else 0.0
    if node.has(3):
        zeros = unpacked(node, node.x(3), bits) if packed else emit.Cast(node.x(3), to=ir.DataType.FLOAT)
        zeros = _spread(node, zeros, q, axis, block)
    table = emit.Mul(emit.Sub(q, zeros), _spread(node, node.x(2), q, axis, block))
    return emit.Gather(table, node.x(1), axis=int(node.attribute("gather_axis", 0)))


def _spread(node: Fused, values: ir.Value, q: ir.Value, axis: int, block: int) -> ir.Value:
    """One value per block, `block` times along the axis, cut to the size of q; block 0 means one for the whole axis."""
    emit = node.emit
    if block == 0:
        return values
    places = emit.Div(emit.Range(0, emit.Squeeze(emit.dim(q, axis), [0]), 1), block)
    return emit.Gather(values, places, axis=axis)


not_lowered(
    "it runs on CUDA alone, with weights in a layout of its own",
    "MatMulBlockQuantizedFp4Weight",
    "MatMulBlockQuantizedFp8Weight",
    "MatMulNBitsMlp",
    "MatMulNBitsQkv",
)
not_lowered("no provider of onnxruntime runs it", "DequantizeBFP", "QuantizeBFP", "MatMulFpQ4", "MatMulInteger16")
not_lowered("no provider of onnxruntime runs it", "MulInteger", "ReduceSumInteger")
