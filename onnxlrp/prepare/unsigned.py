"""Signed activations become unsigned ones, as onnxruntime does it itself on x86.

There a kernel takes int8 activations only after QuantizeLinear → DequantizeLinear was moved from int8 to uint8, zero
point and all, and that is done only while nobody else reads the integers. An explainer reads them. With the move made
beforehand, the integers of explainer and model alone are the same.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlrp.graph import Facts

SHIFT = 128


def make_unsigned(model: ir.Model) -> str:
    """Rewrite every pair that onnxruntime would, in place.  returns: what was done; "" where there is none."""
    graph = model.graph
    facts = Facts(graph, [], lambda _: ())
    count = 0
    for node in graph:
        reader = _only_reader(node) if node.op_type == "QuantizeLinear" and not node.domain else None
        zero = _shared_zero_point(node, reader, facts) if reader is not None else None
        if reader is None or zero is None:
            continue
        count += 1
        shifted = _constant(graph, f"{node.name}/unsigned_zero_point", (zero.astype(np.int16) + SHIFT).astype(np.uint8))
        for end in (node, reader):
            end.replace_input_with(2, shifted)
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    return f"{count} int8 activations are read as uint8, as onnxruntime runs them." if count else ""


def _only_reader(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear that alone reads the integers, for one reader of its own."""
    value = node.outputs[0]
    uses = list(value.uses())
    if value.dtype != ir.DataType.INT8 or value.is_graph_output() or len(uses) != 1:
        return None
    reader = uses[0].node
    floats = reader.outputs[0]
    if reader.op_type != "DequantizeLinear" or uses[0].idx != 0:
        return None
    return reader if len(list(floats.uses())) + floats.is_graph_output() == 1 else None


def _shared_zero_point(node: ir.Node, reader: ir.Node, facts: Facts) -> np.ndarray | None:
    """The constant zero point of both ends, where scale and zero point are single numbers and the same."""
    if len(node.inputs) < 3 or len(reader.inputs) < 3:
        return None
    ours, theirs = ([facts.constant(end.inputs[i]) for i in (1, 2)] for end in (node, reader))
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None or a.size != 1 or not np.array_equal(a.reshape(-1), b.reshape(-1)):
            return None
    return ours[1]


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.type, value.shape = ir.TensorType(ir.DataType.UINT8), ir.Shape(array.shape)
    graph.register_initializer(value)
    return value
