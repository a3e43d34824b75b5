"""Lists of slices that lose the axis they are cut along: the standard, its shape inference and onnxruntime disagree.

With keepdims 0 the axis goes where no sizes are given; onnxruntime drops it too where the size is a scalar 1, as torch
writes it; and inference (onnx 1.23) keeps it in both.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.graph import operands, subgraphs
from onnxlrp.prepare.infer import fill_in_shapes


def drop_axis_as_run(model: ir.Model) -> str:
    """Take the size of 1 away, in place, and infer once more what is computed from such a list.

    returns: what was done, in words; "" where there is no such node.
    """
    found = [node for node in model.graph.all_nodes() if _drops_axis(node)]
    if not found:
        return ""
    _forget(model.graph, {node.outputs[0] for node in found})
    for node in found:
        node.resize_inputs(1)
        whole, (items,) = node.inputs[0], node.outputs
        if whole is not None and whole.shape is not None:
            axis = node.attributes.get_int("axis", default=False) % len(whole.shape)
            items.shape = ir.Shape([*whole.shape[:axis], *whole.shape[axis + 1 :]])
    fill_in_shapes(model)
    return f"Lists of slices lose the axis that they are cut along: {', '.join(str(n.name) for n in found)}."


def _drops_axis(node: ir.Node) -> bool:
    if node.op_type != "SplitToSequence" or node.domain or node.attributes.get_int("keepdims", default=True):
        return False
    size = node.inputs[1] if len(node.inputs) > 1 else None
    return size is None or (size.shape is not None and len(size.shape) == 0)


def _forget(graph: ir.Graph, doubtful: set[ir.Value]) -> None:
    """Forget the shapes of what is computed from some tensors, in subgraphs too."""
    for node in graph:
        if doubtful & set(node.outputs) or any(operand in doubtful for operand in operands(node)):
            for inside in subgraphs(node):
                _forget(inside, doubtful | set(inside.inputs))
                for value in inside.inputs:
                    value.shape = None
            doubtful.update(node.outputs)
            for value in node.outputs:
                value.shape = None
