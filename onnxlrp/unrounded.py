"""A quantised model without its rounding: what finite differences can be taken of.

The deployed model is a step function. Its gradient, where rounding passes, is that of

    y_q = clip(x / scale + zero point, lowest, highest) + ρ        with ρ = what rounding added at one point, held

which equals the deployed model at that point and is smooth around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxlrp.deployed import DEQUANTIZE, QUANTIZE, keep_deployed, twin_of
from onnxlrp.emit import Emit
from onnxlrp.model import Model
from onnxlrp.rules.quantised import bounds, dequantized, unrounded
from onnxlrp.session import Arrays, Session


def without_rounding(model: Model, point: Arrays, providers: str | Sequence[str] | None = None) -> Model:
    """The model with every rounding replaced by what it added at one point; saturation stays, as a Clip."""
    proto = model.copy()
    graph = proto.graph
    emit = Emit(graph, model.opset)
    added = _rounding_at(model, point, providers)
    whole: set[ir.Value] = set()
    for node in list(graph):
        with emit.serving(node.name or node.op_type):
            if node.op_type == QUANTIZE:
                smooth = emit.Add(_clipped(emit, node), added[node.outputs[0].name or ""])
                whole.add(_in_place_of(graph, node, smooth))
            elif node.op_type == DEQUANTIZE:
                _in_place_of(graph, node, dequantized(emit, node))
            elif any(operand in whole for operand in node.inputs):
                whole.update(_on_floats(emit, node, whole))
    graph.sort()
    return replace(model, proto=proto)


def _rounding_at(model: Model, point: Arrays, providers: str | Sequence[str] | None) -> Mapping[str, np.ndarray]:
    """Name of a quantised tensor → deployed integers − what they round."""
    joint = model.copy()
    emit = Emit(joint.graph, model.opset)
    with emit.serving("unrounded"):
        clipped = {n.outputs[0].name or "": _clipped(emit, n) for n in list(joint.graph) if n.op_type == QUANTIZE}
    keep_deployed(joint, model.copy(), emit)
    with emit.serving("rounding"):
        outputs = {
            name: emit.Sub(emit.Cast(twin_of(joint.graph, name), to=ir.DataType.FLOAT), value)
            for name, value in clipped.items()
        }
    joint.graph.outputs.clear()
    for value in outputs.values():
        value.type = ir.TensorType(ir.DataType.FLOAT)
    joint.graph.outputs.extend(outputs.values())
    found = Session(joint, providers).run(point)
    return {name: found[value.name or ""] for name, value in outputs.items()}


def _clipped(emit: Emit, node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None
    lowest, highest = bounds(node.outputs[0].dtype)
    return emit.Clip(unrounded(emit, node, x), lowest, highest)


def _in_place_of(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    """A new value takes name, shape and readers of a node's output; the node goes."""
    old = node.outputs[0]
    name, value.shape, value.type = old.name, old.shape, ir.TensorType(ir.DataType.FLOAT)
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    old.name, value.name = f"{name}/rounded", name
    return value


def _on_floats(emit: Emit, node: ir.Node, whole: set[ir.Value]) -> list[ir.Value]:
    """Let a node that worked on integers work on floats: its other integer operands are cast, its outputs retyped."""
    kinds = {node.outputs[0].dtype}
    for index, operand in enumerate(node.inputs):
        if operand is not None and operand not in whole and operand.dtype in kinds:
            node.replace_input_with(index, emit.Cast(operand, to=ir.DataType.FLOAT))
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    changed = [value for value in node.outputs if value.dtype in kinds]
    for value in changed:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return changed
