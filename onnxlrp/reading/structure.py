"""The graph of a file: what is read exists, nothing is written twice or waits for itself."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import onnx
import onnx.checker
import onnx.defs

from onnxlrp.errors import ModelError

_CONTEXT = onnx.checker.DEFAULT_CONTEXT


def check_structure(proto: onnx.ModelProto, where: str) -> None:
    """Errors: ModelError for a missing, doubled or circular tensor, or an attribute of a wrong type.

    The order of nodes is free, for onnxruntime sorts them; the standard's own checker insists on it, hence this one.
    """
    _check_graph(proto.graph, where, frozenset())
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    _check_schemas(proto.graph, where, opset)
    for function in proto.functions:
        _check_attributes(function.node, f"{where}, function '{function.name}'")


def bodies_of(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """The subgraphs that a node carries: branches, the body of a loop."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def graphs_in(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    """A graph and all bodies in it, the outer ones first."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from graphs_in(body)


def _check_graph(graph: onnx.GraphProto, where: str, outside: frozenset[str]) -> None:
    sparse = [tensor.values.name for tensor in graph.sparse_initializer]
    weights = [*(tensor.name for tensor in graph.initializer), *sparse]
    made = [name for node in graph.node for name in node.output if name]
    inputs = [value.name for value in graph.input]
    doubled = _first_twice([*made, *dict.fromkeys(inputs + weights)]) or _first_twice(inputs) or _first_twice(weights)
    if doubled is not None:
        raise ModelError(f"{where} is not a valid ONNX model: the tensor '{doubled}' is made more than once.")
    known = outside | set(made) | set(inputs) | set(weights)
    for node in graph.node:
        missing = next((name for name in node.input if name and name not in known), None)
        if missing is not None:
            raise ModelError(
                f"{where} is not a valid ONNX model: the node '{node.name}' ({node.op_type}) reads '{missing}', which "
                "no node, input or weight gives."
            )
    lost = next((value.name for value in graph.output if value.name not in known), None)
    if lost is not None:
        raise ModelError(f"{where} is not a valid ONNX model: nothing gives its output '{lost}'.")
    _check_attributes(graph.node, where)
    _check_circles(graph, where)
    for node in graph.node:
        for body in bodies_of(node):
            _check_graph(body, f"{where}, in the node '{node.name}' ({node.op_type})", known)


def _check_schemas(graph: onnx.GraphProto, where: str, opset: int) -> None:
    """Every node of the standard has the inputs and attributes that its operator cannot do without."""
    version = min(max(opset, 1), onnx.defs.onnx_opset_version())
    for node in graph.node:
        given = {attribute.name for attribute in node.attribute}
        for body in bodies_of(node):
            _check_schemas(body, where, opset)
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, version, ""):
            continue
        schema = onnx.defs.get_schema(node.op_type, version, "")
        absent = [name for name, attribute in schema.attributes.items() if attribute.required and name not in given]
        count = len(node.input)
        if absent or not schema.min_input <= count <= schema.max_input or not node.output:
            what = (
                f"lacks the attribute '{absent[0]}'" if absent else f"has {count} inputs and {len(node.output)} outputs"
            )
            raise ModelError(
                f"{where} is not a valid ONNX model: the node '{node.name}' {what}; {node.op_type} of opset {opset} "
                f"takes {schema.min_input} to {schema.max_input} inputs."
            )


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _first_twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _check_attributes(nodes: Iterable[onnx.NodeProto], where: str) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type in _GRAPHS:
                continue
            try:
                onnx.checker.check_attribute(attribute, _CONTEXT)
            except onnx.checker.ValidationError as error:
                raise ModelError(
                    f"{where} is not a valid ONNX model: the attribute '{attribute.name}' of the node '{node.name}' "
                    f"({node.op_type}): {str(error).strip().splitlines()[0]}"
                ) from error


def _check_circles(graph: onnx.GraphProto, where: str) -> None:
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    edges = [(maker[n], i) for i, node in enumerate(graph.node) for n in _all_reads(node) if n in maker]
    if all(first < second for first, second in edges):
        return
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for first, second in edges:
        sorter.add(second, first)
    try:
        sorter.prepare()
    except CycleError as error:
        names = ", ".join(f"'{graph.node[i].name}' ({graph.node[i].op_type})" for i in error.args[1][1:])
        raise ModelError(f"{where} is not a valid ONNX model: these nodes wait for each other: {names}.") from error


def _all_reads(node: onnx.NodeProto) -> Iterable[str]:
    """Inputs, and what the node's subgraphs read from outside."""
    yield from node.input
    for body in bodies_of(node):
        own = {name for inner in body.node for name in inner.output} | {value.name for value in body.input}
        for inner in body.node:
            yield from (name for name in _all_reads(inner) if name not in own)
        yield from (value.name for value in body.output if value.name not in own)
