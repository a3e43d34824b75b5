"""Forget inferred sizes that onnxruntime may see differently.

onnx's inference and onnxruntime disagree on pooling with ceil_mode and pads below opset 22 (6 of 36 settings), so sizes
behind such a node are only trusted as far as their rank: rules then read them at run time.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.graph import subgraphs
from onnxlrp.prepare.infer import DOUBTFUL

POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})


def forget_doubtful_sizes(model: ir.Model, opset: int) -> str:
    """Make spatial sizes behind ceil-mode pooling unknown, in place.  returns: what was done, in words."""
    if opset >= 22:
        return ""
    doubtful: set[ir.Value] = set()
    _spread(model.graph, doubtful)
    return f"Sizes behind ceil-mode pooling ({len(doubtful)} tensors) are read at run time." if doubtful else ""


def _spread(graph: ir.Graph, doubtful: set[ir.Value]) -> None:
    for node in graph:
        starts = node.op_type in POOLS and not node.domain and node.attributes.get_int("ceil_mode", default=False)
        reads = any(operand in doubtful for operand in node.inputs)
        for inside in subgraphs(node):
            doubtful.update(inside.inputs if reads else ())
            _spread(inside, doubtful)
            starts = starts or not doubtful.isdisjoint(inside.outputs)
        if starts or reads:
            doubtful.update(node.outputs)
            for value in node.outputs:
                value.meta[DOUBTFUL] = True
                if value.shape is not None and len(value.shape) > 2:
                    value.shape = ir.Shape([*value.shape[:2], *[None] * (len(value.shape) - 2)])
