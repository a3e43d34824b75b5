"""Number formats."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.fused import Fused, lowered


@lowered("CastLike", domain="")
def cast_like(node: Fused) -> ir.Value:
    """y = x in the number format of another tensor, whose values do not matter."""
    like = node.x(1)
    if like.dtype is None:
        raise Unsupported(f"the type of '{like.name}' is unknown")
    return node.emit.Cast(node.x(), to=like.dtype)
