"""onnxruntime's RotaryEmbedding."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.attend import angles, from_heads, length, positions, rotated
from onnxlrp.lowering.fused import Fused, lowered


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
