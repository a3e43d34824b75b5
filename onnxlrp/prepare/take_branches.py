"""An If whose condition is known while reading becomes the branch that it takes.

Exporters write such ones for questions about ranks and sizes. Without them the plan has one level less, the tensors of
the branch can be named, and methods that refuse control flow work.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.emit import names_in
from onnxlrp.graph import Facts
from onnxlrp.prepare.infer import fill_in_shapes
from onnxlrp.rules.registry import inflows


def take_known_branches(model: ir.Model) -> str:
    """Write the branches taken in place of their nodes, in place.  returns: what was done, in words."""
    done = []
    while (found := _known(model.graph)) is not None:
        node, taken = found
        _write_out(node, taken, names_in(model.graph))
        done.append(node.name or "")
    if done:
        fill_in_shapes(model)
    return f"The branches that {', '.join(done)} always take stand in their place." if done else ""


def _known(graph: ir.Graph) -> tuple[ir.Node, ir.Graph] | None:
    """The first If with a constant condition, and the branch that it takes."""
    facts = Facts(graph, (), inflows)
    for node in graph.all_nodes():
        condition = facts.constant(node.inputs[0]) if node.op_type == "If" and not node.domain else None
        if condition is not None:
            name = "then_branch" if condition.reshape(-1)[0] else "else_branch"
            return node, node.attributes[name].as_graph()
    return None


def _write_out(node: ir.Node, branch: ir.Graph, names: set[str | None]) -> None:
    graph, results = node.graph, list(branch.outputs)
    assert isinstance(graph, ir.Graph)
    written = list(branch)
    branch.outputs.clear()
    branch.remove(written)
    for weight in list(branch.initializers.values()):
        del branch.initializers[weight.name or ""]
        weight.name = _unused(f"{node.name}/{weight.name}", names)
        graph.register_initializer(weight)
    taken = names_in(graph)
    for value in (output for inner in written for output in inner.outputs if output.name in taken):
        value.name = _unused(value.name or "", names)
    graph.insert_before(node, written)
    for result, value in zip(results, node.outputs, strict=True):
        given = ir.node("Identity", [result], name=f"{node.name}/{value.name}")
        graph.insert_before(node, given)
        (new,) = given.outputs
        name, value.name = value.name, _unused(f"{value.name}/chosen", names)
        new.name, new.type, new.shape = name, result.type or value.type, result.shape or value.shape
        value.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _unused(wanted: str, names: set[str | None]) -> str:
    name, count = wanted, 0
    while name in names:
        count += 1
        name = f"{wanted}_{count}"
    names.add(name)
    return name
