"""Shapes inside loops: the standard's inference forgets what a Loop's states look like, and rules need their ranks."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxlrp.graph import SMALL, captured, subgraphs
from onnxlrp.prepare.infer import read_as_standard

MOST_ROUNDS = 4
"""Rounds until a state's shape no longer changes: each forgets at least one size."""


def infer_inside(model: ir.Model) -> str:
    """Infer the shapes of tensors in subgraphs and behind them, in place.

    A state has the shape it starts with where every turn keeps it; the sizes that a turn changes are unknown.
    returns: what was done, in words; "" where nothing was unknown.
    """
    before = _unknown(model.graph)
    if not before:
        return ""
    _infer(model.graph, model)
    _complete(model.graph, model)
    found = len(before) - len(_unknown(model.graph) & before)
    return f"Ranks of {found} tensors in and behind loops were inferred." if found else ""


def _unknown(graph: ir.Graph) -> set[ir.Value]:
    """Tensors without shape or type in and behind subgraphs; none where the graph has no subgraph."""
    inner = list(graph.subgraphs())
    values = {value for inside in inner for value in inside.inputs}
    if inner:
        values |= {value for node in graph.all_nodes() for value in node.outputs if value.name}
    return {value for value in values if value.shape is None or value.dtype is None}


def _complete(graph: ir.Graph, model: ir.Model) -> None:
    for node in graph:
        unknown = [inside for inside in subgraphs(node) if _unknown_in(inside)]
        if not unknown and all(value.shape is not None for value in node.outputs):
            continue
        for inside in unknown:
            if node.op_type == "Loop":
                _assume_states(node, inside, model)
            elif node.op_type == "Scan":
                _slice_operands(node, inside)
            _infer(inside, model)
            _complete(inside, model)
        if node.op_type == "Loop" and _describe_outputs(node, subgraphs(node)[0]):
            _infer(graph, model)


def _unknown_in(graph: ir.Graph) -> bool:
    values = [*graph.inputs, *(value for node in graph.all_nodes() for value in node.outputs if value.name)]
    return any(value.shape is None or value.dtype is None for value in values)


def _slice_operands(node: ir.Node, body: ir.Graph) -> None:
    """Give the inputs of a Scan's body the shapes of states, and of slices of what is scanned."""
    states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", default=False)
    axes = node.attributes.get_ints("scan_input_axes", default=())
    for index, (operand, value) in enumerate(zip(node.inputs, body.inputs, strict=False)):
        if operand is None or operand.shape is None or value.shape is not None:
            continue
        sizes = list(operand.shape)
        if index >= states:
            del sizes[axes[index - states] if axes else 0]
        value.shape, value.type = ir.Shape(sizes), value.type or operand.type


def _assume_states(node: ir.Node, body: ir.Graph, model: ir.Model) -> None:
    """Give the states the shape they start with, and forget what a turn does not keep."""
    for value, dtype in zip(body.inputs, (ir.DataType.INT64, ir.DataType.BOOL), strict=False):
        value.type = value.type if value.dtype else ir.TensorType(dtype)
        value.shape = value.shape if value.shape is not None else ir.Shape([])
    states = list(zip(node.inputs[2:], body.inputs[2:], body.outputs[1:], strict=False))
    for start, state, _ in states:
        if start is not None:
            state.type = state.type or start.type
            state.shape = state.shape if state.shape is not None or start.shape is None else ir.Shape(list(start.shape))
    for _ in range(MOST_ROUNDS):
        _infer(body, model)
        changed = False
        for _, state, after in states:
            kept = _common(state.shape, after.shape)
            if kept != state.shape:
                state.shape, changed = kept, True
        if not changed:
            return
        for value in (value for inner in body.all_nodes() for value in inner.outputs):
            value.shape = None


def _common(before: ir.Shape | None, after: ir.Shape | None) -> ir.Shape | None:
    """The sizes that both have; None where the ranks differ or are unknown."""
    if before is None or after is None:
        return before
    if len(before) != len(after):
        return None
    return ir.Shape([a if a == b else None for a, b in zip(before, after, strict=True)])


def _describe_outputs(node: ir.Node, body: ir.Graph) -> bool:
    """Shapes of what a Loop gives.  returns : whether any was new"""
    new = False
    states = len(body.inputs) - 2
    for index, (value, inner) in enumerate(zip(node.outputs, body.outputs[1:], strict=False)):
        if inner.shape is None or value.shape is not None:
            continue
        start = node.inputs[2 + index] if index < states else None
        shape = _common(start.shape, inner.shape) if start is not None else ir.Shape([None, *inner.shape])
        value.shape, value.type = shape, value.type or inner.type
        new = new or shape is not None
    return new


def _infer(graph: ir.Graph, model: ir.Model) -> None:
    """The standard's shape inference on one graph, which may stand inside another."""
    if graph is model.graph:
        passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
        return
    alone = graph.clone(allow_outer_scope_values=True)
    for value in captured(alone):
        outside = ir.Value(name=value.name, type=value.type, shape=value.shape)
        if value.const_value is not None and value.const_value.size <= SMALL:
            outside.const_value = value.const_value
            alone.register_initializer(outside)
        else:
            alone.inputs.append(outside)
        for use in list(value.uses()):
            if use.node.graph is alone or use.node.graph in list(alone.subgraphs()):
                use.node.replace_input_with(use.idx, outside)
    alone.opset_imports.update(model.graph.opset_imports)
    for node in alone.all_nodes():
        read_as_standard(node, model.opset_imports[""])
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(ir.Model(alone, ir_version=model.ir_version))
    for node, inferred in zip(graph.all_nodes(), alone.all_nodes(), strict=True):
        for value, twin in zip(node.outputs, inferred.outputs, strict=True):
            value.shape = twin.shape if value.shape is None else value.shape
            value.type = twin.type if value.type is None else value.type
