"""A quantised model without its rounding: what finite differences can be taken of.

The deployed model is a step function. Its gradient, where rounding passes, is that of

    y_q = clip(x / scale + zero point, lowest, highest) + ρ        with ρ = what rounding added at one point, held

which equals the deployed model at that point and is smooth around it. Small integers often tie in a pooling window, and
at a tie there is no derivative: max pooling takes the winners that it had at the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.deployed import DEQUANTIZE, DYNAMIC, QUANTIZE, float_view, keep_deployed
from onnxlrp.emit import Emit
from onnxlrp.graph import KEPT, READ_AS
from onnxlrp.model import Model
from onnxlrp.prepare import PREPARED
from onnxlrp.prepare.widen import is_rounding
from onnxlrp.rules.quantised import clipped, dequantized
from onnxlrp.session import Arrays, Session

POOLING = "MaxPool"


def without_rounding(model: Model, point: Arrays, providers: str | Sequence[str] | None = None) -> Model:
    """The model with every rounding replaced by what it added at one point; saturation stays, as a Clip."""
    proto = float_view(model)
    graph = proto.graph
    emit = Emit(graph, model.opset)
    at_point = _values_at(model, point, providers)
    whole: set[ir.Value] = set()
    for node in list(graph):
        with emit.serving(node.name or node.op_type):
            if node.op_type == QUANTIZE:
                smooth = emit.Add(clipped(emit, node), at_point[node.outputs[0].name or ""])
                whole.add(_in_place_of(emit, node, smooth))
            elif KEPT in node.metadata_props:
                for value in _held(node):
                    held = emit.Cast(emit.constant(at_point[value.name or ""]), to=value.dtype or ir.DataType.FLOAT)
                    value.replace_all_uses_with(held)
            elif node.op_type == DEQUANTIZE:
                _in_place_of(emit, node, dequantized(emit, node))
            elif node.op_type == POOLING:
                winners, x = at_point[node.outputs[0].name or ""].astype(np.int64), _input(node)
                picked = _in_place_of(emit, node, emit.Gather(emit.Reshape(x, [-1]), winners))
                whole.update([picked] if x in whole else [])
            elif READ_AS in node.metadata_props or any(operand in whole for operand in node.inputs):
                whole.update(_on_floats(emit, node, whole))
    graph.sort()
    proto.meta[PREPARED] = True
    return replace(model, proto=proto)


def without_casts_to_half(model: Model) -> Model:
    """The model with no float32 cast to half precision and back; the same one where there is none."""
    proto = model.copy()
    rounding = [node for node in proto.graph.all_nodes() if any(map(is_rounding, node.outputs))]
    for node in rounding:
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    proto.meta[PREPARED] = True
    return replace(model, proto=proto) if rounding else model


def _values_at(model: Model, point: Arrays, providers: str | Sequence[str] | None) -> dict[str, np.ndarray[Any, Any]]:
    """By name of a tensor what is held.

    Quantised: deployed integers − what they round. Computed scales: their value. Max pooling: its winners' places.
    """
    joint = float_view(model)
    emit = Emit(joint.graph, model.opset)
    nodes = list(joint.graph)
    with emit.serving("unrounded"):
        bounded = {node.outputs[0]: clipped(emit, node) for node in nodes if node.op_type == QUANTIZE}
        winners = {node.outputs[0]: _winners(emit, node) for node in nodes if node.op_type == POOLING}
    scales = [value for node in nodes if KEPT in node.metadata_props for value in _held(node)]
    names = {value: value.name or "" for value in [*bounded, *scales, *winners]}
    anchors = keep_deployed(joint, model.copy(), emit)
    with emit.serving("rounding"):
        wanted = {
            name: emit.Cast(winners.get(value) or anchors.get(value, value), to=ir.DataType.DOUBLE)
            for value, name in names.items()
        }
        for value, before in bounded.items():
            wanted[names[value]] = emit.Sub(wanted[names[value]], emit.Cast(before, to=ir.DataType.DOUBLE))
    if not wanted:
        return {}
    joint.graph.outputs.clear()
    for value in wanted.values():
        value.type = ir.TensorType(ir.DataType.DOUBLE)
    joint.graph.outputs.extend(wanted.values())
    found = Session(joint, providers).run(point)
    return {name: found[value.name or ""] for name, value in wanted.items()}


def _held(node: ir.Node) -> list[ir.Value]:
    """The scales and zero points that a node gives."""
    return list(node.outputs[1:] if node.op_type == DYNAMIC else node.outputs)


def _input(node: ir.Node) -> ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def _winners(emit: Emit, node: ir.Node) -> ir.Value:
    """Where the largest element of every window stands in the flat input."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return emit.nodes(POOLING, _input(node), outputs=2, **attributes)[1]


def _in_place_of(emit: Emit, node: ir.Node, written: ir.Value) -> ir.Value:
    """A new value takes name, shape and readers of a node's output; the node goes."""
    value = emit.fresh("Identity", written)
    old = node.outputs[0]
    name, value.shape, value.type = old.name, old.shape, ir.TensorType(ir.DataType.FLOAT)
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    emit.graph.remove(node, safe=True)
    old.name, value.name = f"{name}/rounded", name
    return value


def _on_floats(emit: Emit, node: ir.Node, whole: set[ir.Value]) -> list[ir.Value]:
    """Let a node that worked on integers work on floats: its other integer operands are cast, its outputs retyped."""
    kinds = {node.outputs[0].dtype} - {ir.DataType.FLOAT}
    for index, operand in enumerate(node.inputs):
        if operand is not None and operand not in whole and operand.dtype in kinds:
            node.replace_input_with(index, emit.Cast(operand, to=ir.DataType.FLOAT))
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    changed = [value for value in node.outputs if value.dtype in kinds]
    for value in changed:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return changed
