"""The explanation of a quantised model is of its deployed integers.

onnxruntime runs DequantizeLinear → operator → QuantizeLinear as one integer kernel, but only while nobody reads what
stands between. So an explainer of a quantised model holds it twice:

    the deployed copy   untouched, fused as in the file alone; gives the outputs, to the bit
    the float view      the nodes that relevance walks; each quantised tensor is the deployed copy's own

Between two quantised tensors the float view computes what the integers stand for, (x − zero point)·scale and the float
operator, in plain arithmetic that onnxruntime neither fuses nor shares with the deployed copy.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.body import BodyEmit
from onnxlrp.emit import Emit
from onnxlrp.graph import KEPT, operands, subgraphs, upstream
from onnxlrp.lowering import has_view
from onnxlrp.model import Model
from onnxlrp.prepare.lower import lower
from onnxlrp.rules.quantised import dequantized

PREFIX = "deployed/"

QUANTIZE, DEQUANTIZE, DYNAMIC = "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"
ROUNDING = frozenset({QUANTIZE, DYNAMIC})
"""Operators of the float view whose outputs survive every fusion: quantised tensors, and scales computed with them."""


def is_quantised(graph: ir.Graph) -> bool:
    """Whether some node rounds to, reads or computes in quantised numbers."""
    return any(node.op_type in ROUNDING or node.op_type == DEQUANTIZE or has_view(node) for node in graph.all_nodes())


def float_view(model: Model) -> ir.Model:
    """The graph that relevance walks: a copy of the model's, with what computes in integers written out in floats."""
    view = model.copy()
    if any(map(has_view, view.graph.all_nodes())):
        lower(view, integers=True)
    for node in [node for node in view.graph.all_nodes() if node.op_type in (QUANTIZE, DEQUANTIZE)]:
        _hold_ends(node)
    return view


def _hold_ends(node: ir.Node) -> None:
    """Let nothing flow into a scale or zero point that is fed or computed from what is fed."""
    for index, operand in list(enumerate(node.inputs))[1:]:
        if operand is None or not _is_fed(operand):
            continue
        held = ir.node("Identity", [operand], name=f"{node.name}/held_{index}")
        held.outputs[0].name = held.name
        held.outputs[0].type, held.outputs[0].shape = operand.type, operand.shape
        held.metadata_props[KEPT] = "a scale says what one step is worth, and is no signal"
        assert isinstance(node.graph, ir.Graph)
        node.graph.insert_before(node, held)
        node.replace_input_with(index, held.outputs[0])


def _is_fed(value: ir.Value) -> bool:
    """Whether a value depends on an input of the model through nodes that are not kept apart already."""
    reads = upstream(value, reads=lambda node: () if KEPT in node.metadata_props else operands(node))
    return any(tensor.is_graph_input() for tensor in reads)


def keep_deployed(joint: ir.Model, deployed: ir.Model, emit: Emit) -> dict[ir.Value, ir.Value]:
    """Put the deployed copy into a joint model whose nodes so far are the float view and its relevance, in place.

    deployed : the model as it is; its nodes are moved out of it
    returns: quantised tensor of the float view → the deployed tensor that is read in its place
    """
    graph = joint.graph
    view = list(graph)
    seen = {value.name or "": value for node in view for value in node.outputs}
    rounded = [value for value in seen.values() if _rounds_once(value) or _rounds_inside(value)]
    names = {value.name for value in deployed.graph.inputs}
    _dequantize_in_plain_arithmetic(graph, emit)
    _read_apart(graph, [value for value in graph.inputs if value.name in names])
    twins = _moved_in(graph, deployed)
    anchors = {value: twins[value.name or ""] for value in rounded if value.name in twins}
    for value, anchor in anchors.items():
        _read_instead(value, anchor)
    for index, output in enumerate(list(graph.outputs)):
        twin = twins.get(output.name or "")
        if twin is not None and seen.get(output.name or "") is output:
            output.name, twin.name = twin.name, output.name
            graph.outputs[index] = twin
    graph.sort()
    return anchors


def _rounds_once(value: ir.Value) -> bool:
    """Whether a tensor of the float view is the result of a rounding that onnxruntime keeps.

    It drops one of two roundings in a row (Q → DQ → Q → DQ) while nobody reads what stands between.
    """
    node = value.producer()
    if node is None or node.op_type not in ROUNDING:
        return False
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    twice = before is not None and before.op_type == DEQUANTIZE and _rounded(before)
    behind = [use.node.outputs[0] for use in value.uses() if use.node.op_type == DEQUANTIZE]
    return not twice and not any(use.node.op_type == QUANTIZE for floats in behind for use in floats.uses())


def _rounds_inside(value: ir.Value) -> bool:
    """Whether a tensor comes out of a branch or loop that rounds, which nothing is fused across."""
    node = value.producer()
    return node is not None and any(map(is_quantised, subgraphs(node)))


def _rounded(node: ir.Node) -> bool:
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    return maker is not None and maker.op_type == QUANTIZE


def _dequantize_in_plain_arithmetic(graph: ir.Graph, emit: Emit) -> None:
    """Written as DequantizeLinear, it would be shared with the deployed copy, which then could not be fused.

    In branches and bodies onnxruntime would fuse it with what is behind, and fails where a scale stands outside.
    """
    for node in [node for node in graph.all_nodes() if node.op_type == DEQUANTIZE]:
        assert isinstance(node.graph, ir.Graph)
        stamp = {"onnxlrp.node": node.name or ""}
        if node.graph is graph:
            with emit.serving(node.name or DEQUANTIZE, **stamp):
                written = dequantized(emit, node)
        else:
            inner = BodyEmit(emit, node.graph)
            with inner.placed(node, node.name or DEQUANTIZE, **stamp):
                written = dequantized(inner, node)
        _read_instead(node.outputs[0], written)


def _read_apart(graph: ir.Graph, inputs: list[ir.Value]) -> None:
    """Let the float view read the inputs through a Reshape, so that equal nodes before the first rounding stay two."""
    for value in inputs:
        shape = ir.node("Shape", [value], name=f"view/{value.name}/shape")
        apart = ir.node("Reshape", [value, shape.outputs[0]], {"allowzero": 1}, name=f"view/{value.name}")
        shape.outputs[0].name, apart.outputs[0].name = f"view/{value.name}/shape", f"view/{value.name}"
        _read_instead(value, apart.outputs[0], but=(shape, apart))
        apart.outputs[0].type, apart.outputs[0].shape = value.type, value.shape
        graph.insert_before(graph[0], [shape, apart])


def _read_instead(value: ir.Value, other: ir.Value, but: tuple[ir.Node, ...] = ()) -> None:
    """Every node but some reads another tensor; a graph output stays."""
    for use in [use for use in value.uses() if use.node not in but]:
        use.node.replace_input_with(use.idx, other)


def _moved_in(graph: ir.Graph, model: ir.Model) -> dict[str, ir.Value]:
    """Move a model's nodes to the front of a graph over the same inputs and weights.  returns: file's name → value."""
    source = model.graph
    here = {value.name: value for value in graph.inputs} | dict(graph.initializers)
    for value in [*source.inputs, *source.initializers.values()]:
        if value.name not in here:
            graph.register_initializer(value)
        else:
            value.replace_all_uses_with(here[value.name])
    source.outputs.clear()
    moved = list(source)
    twins = {value.name or "": value for node in moved for value in node.outputs if value.name}
    source.remove(moved)
    first = graph[0]
    for node in moved:
        node.name = f"{PREFIX}{node.name}"
        for value in node.outputs:
            value.name = f"{PREFIX}{value.name}" if value.name else value.name
        graph.insert_before(first, node)
    return twins
