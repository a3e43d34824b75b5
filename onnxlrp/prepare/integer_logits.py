"""The logits in front of a final softmax or sigmoid that computes in integers: a tensor of floats that can be named."""

from __future__ import annotations

import onnx_ir as ir

SQUASHING = frozenset({"QLinearSoftmax", "QLinearSigmoid"})


def show_logits(model: ir.Model) -> str:
    """Dequantise what such a node reads, in place, beside it.  returns: what was done, in words; "" for nothing."""
    graph, shown = model.graph, []
    for node in list(graph):
        if node.op_type not in SQUASHING or not _ends(node.outputs[0]):
            continue
        x, name = node.inputs[0], f"{node.name}/logits"
        dequantise = ir.node("DequantizeLinear", node.inputs[:3], name=name)
        logits = dequantise.outputs[0]
        logits.name, logits.type = name, ir.TensorType(ir.DataType.FLOAT)
        logits.shape = x.shape if x is not None else None
        graph.insert_before(node, dequantise)
        shown.append(name)
    return f"Probabilities in integers are explained at their logits: {', '.join(shown)}." if shown else ""


def _ends(value: ir.Value) -> bool:
    """Whether the model ends here, but for a DequantizeLinear."""
    behind = [use.node for use in value.uses()]
    last = [node.outputs[0] for node in behind if node.op_type == "DequantizeLinear"]
    return value.is_graph_output() or any(floats.is_graph_output() for floats in last)
