"""Half-precision models compute in float32: relevance needs the range, and onnxruntime does so on the CPU anyway."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlrp.reading.storage import array_of

HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

WIDENED = "Half-precision tensors are computed in float32; inputs and outputs keep their type."


def widen(model: ir.Model) -> str:
    """Turn every half-precision tensor into float32, in place; inputs and outputs keep their declared type.

    A float32 model that rounds to half and back goes on rounding: the slope of that is one.
    Weights stay as they are in the file, behind a Cast that is folded when the session starts.
    returns: what was done, in words; "" when the model has no half-precision tensors.
    """
    graph = model.graph
    if not any(_is_half(value) for node in graph.all_nodes() for value in node.outputs):
        return ""
    for value in [*graph.inputs, *graph.initializers.values()]:
        if _is_half(value):
            _cast_behind(graph, value)
    for inside in graph.subgraphs():
        for value in filter(_is_half, inside.initializers.values()):
            _cast_behind(inside, value)
        for value in filter(_is_half, inside.inputs):
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in graph.all_nodes():
        _widen_attributes(node)
        for value in node.outputs:
            if _is_half(value):
                value.type = ir.TensorType(ir.DataType.FLOAT)
    for index, value in enumerate(list(graph.outputs)):
        declared = value.meta.pop("declared", None)
        if declared is not None:
            graph.outputs[index] = _cast_in_front(graph, value, declared)
    return WIDENED


def _is_half(value: ir.Value) -> bool:
    return value.dtype in HALVES and not is_rounding(value)


def is_rounding(value: ir.Value) -> bool:
    """Whether float32 is cast to half and straight back: the model rounds here, and goes on doing so."""
    node, users = value.producer(), [use.node for use in value.uses()]
    if node is None or node.op_type != "Cast" or not users or value.is_graph_output():
        return False
    source = node.inputs[0]
    back = all(u.op_type == "Cast" and u.outputs[0].dtype == ir.DataType.FLOAT for u in users)
    return back and source is not None and source.dtype == ir.DataType.FLOAT


def _cast_behind(graph: ir.Graph, value: ir.Value) -> None:
    node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}/widened")
    wide = node.outputs[0]
    wide.name, wide.type, wide.shape = f"{value.name}/float32", ir.TensorType(ir.DataType.FLOAT), value.shape
    users = [use for use in value.uses() if use.node is not node]
    for use in users:
        use.node.replace_input_with(use.idx, wide)
    if len(graph):
        graph.insert_before(graph[0], node)


def _widen_attributes(node: ir.Node) -> None:
    """Casts to half become casts to float32, constants of half values are widened."""
    to = node.attributes.get("to")
    if any(map(is_rounding, node.outputs)):
        return
    if node.op_type == "Cast" and to is not None and ir.DataType(to.value) in HALVES:
        if node.outputs[0].is_graph_output():
            node.outputs[0].meta["declared"] = ir.DataType(to.value)
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    elif any(_is_half(value) and value.is_graph_output() for value in node.outputs):
        for value in node.outputs:
            if _is_half(value) and value.is_graph_output():
                value.meta["declared"] = value.dtype
    if node.op_type == "SequenceEmpty" and ir.DataType(node.attributes.get_int("dtype", default=True)) in HALVES:
        node.attributes["dtype"] = ir.AttrInt64("dtype", int(ir.DataType.FLOAT))
    constant = node.attributes.get("value")
    if constant is not None and constant.type == ir.AttributeType.TENSOR and constant.value.dtype in HALVES:
        array = array_of(constant.value).astype(np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _cast_in_front(graph: ir.Graph, value: ir.Value, declared: ir.DataType) -> ir.Value:
    """The output under its own name and type; the float32 value gets another name."""
    name = value.name
    value.name = f"{name}/float32"
    node = ir.node("Cast", [value], {"to": declared}, name=f"{name}/narrowed")
    narrow = node.outputs[0]
    narrow.name, narrow.type, narrow.shape = name, ir.TensorType(declared), value.shape
    graph.append(node)
    return narrow
