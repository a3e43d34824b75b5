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

from onnxlrp.emit import Emit
from onnxlrp.rules.quantised import dequantized

PREFIX = "deployed/"

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
ROUNDING = frozenset({QUANTIZE, "DynamicQuantizeLinear"})
"""Operators whose outputs survive every fusion: quantised tensors, and the scales that were computed with them."""


def is_quantised(graph: ir.Graph) -> bool:
    """Whether some node rounds to, or reads, quantised numbers."""
    return any(node.op_type in ROUNDING or node.op_type == DEQUANTIZE for node in graph)


def keep_deployed(joint: ir.Model, model: ir.Model, emit: Emit) -> None:
    """Put the deployed copy into a joint model whose nodes so far are the float view and its relevance, in place.

    model : the model that was walked; its nodes are moved out of it
    """
    graph = joint.graph
    view = list(graph)
    seen = {value.name: value for node in view for value in node.outputs}
    inputs = [value for value in graph.inputs if value.name in {v.name for v in model.graph.inputs}]
    _dequantize_in_plain_arithmetic(graph, view, emit)
    _read_apart(graph, inputs)
    twins = _moved_in(graph, model)
    for name, twin in twins.items():
        node = twin.producer()
        if node is not None and node.op_type in ROUNDING and name in seen:
            _read_instead(seen[name], twin)
    for index, output in enumerate(list(graph.outputs)):
        deployed = twins.get(output.name or "")
        if deployed is not None and output in seen.values():
            output.name, deployed.name = deployed.name, output.name
            graph.outputs[index] = deployed
    graph.sort()


def twin_of(graph: ir.Graph, name: str) -> ir.Value:
    """The deployed copy's tensor of that name in a joint graph."""
    values = {value.name: value for node in graph for value in node.outputs}
    return values.get(f"{PREFIX}{name}") or values[name]


def _dequantize_in_plain_arithmetic(graph: ir.Graph, view: list[ir.Node], emit: Emit) -> None:
    """Written as DequantizeLinear, it would be shared with the deployed copy, which then could not be fused."""
    for node in view:
        if node.op_type != DEQUANTIZE:
            continue
        with emit.serving(node.name or DEQUANTIZE, **{"onnxlrp.node": node.name or ""}):
            written = dequantized(emit, node)
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
