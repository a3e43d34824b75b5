"""Where a model ends in integers: the floats that they stand for, as a tensor that can be explained.

That is what a final softmax or sigmoid in integers reads (the logits), and a quantised output of the model itself.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.graph import QUANTISED

DEQUANTIZE = "DequantizeLinear"
SQUASHING = frozenset({"QLinearSoftmax", "QLinearSigmoid"})

SCALE_OF_RESULT = {"QLinearConcat": 0, "QuantizeLinear": 1, "QLinearConv": 6, "QLinearMatMul": 6, "QGemm": 7}
SCALE_OF_RESULT |= dict.fromkeys(("QLinearAdd", "QLinearMul"), 6)
SCALE_OF_RESULT |= dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu"), 3)
"""Operand that holds the scale of an operator's result; the zero point is behind it."""


def show_integer_ends(model: ir.Model) -> str:
    """Dequantise them beside the model, in place.  returns: what was done, in words; "" where there is none."""
    graph, shown = model.graph, []
    for node in list(graph):
        value = node.outputs[0]
        if node.op_type in SQUASHING and _ends(value):
            shown.append(_dequantise(graph, node, f"{node.name}/logits", *node.inputs[:3]))
        elif node.op_type in SCALE_OF_RESULT and value.is_graph_output() and value.dtype in QUANTISED:
            first = SCALE_OF_RESULT[node.op_type]
            shown.append(_dequantise(graph, node, f"{value.name}/dequantised", value, *node.inputs[first : first + 2]))
    return f"Integers at the end are explained as the floats they stand for: {', '.join(shown)}." if shown else ""


def _ends(value: ir.Value) -> bool:
    """Whether the model ends here, but for a DequantizeLinear."""
    behind = [use.node for use in value.uses()]
    last = [node.outputs[0] for node in behind if node.op_type == DEQUANTIZE]
    return value.is_graph_output() or any(floats.is_graph_output() for floats in last)


def _dequantise(graph: ir.Graph, node: ir.Node, name: str, *operands: ir.Value | None) -> str:
    written = ir.node(DEQUANTIZE, operands, name=name)
    floats, x = written.outputs[0], operands[0]
    floats.name, floats.type = name, ir.TensorType(ir.DataType.FLOAT)
    floats.shape = x.shape if x is not None else None
    graph.insert_after(node, written)
    return name
