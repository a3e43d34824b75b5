"""Fused operators are written out as primitive ones: by a lowering of ours, or by the standard's own function.

The new nodes carry the fused node's name as a prefix and remember it, so that rules, reports and errors go on speaking
of the file's node.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxlrp.body import BodyEmit
from onnxlrp.emit import Emit
from onnxlrp.errors import Defect, Unsupported
from onnxlrp.graph import FROM_NODE, FROM_TYPE, NOT_LOWERED, READ_AS, Facts
from onnxlrp.lowering import Fused, find_lowering, has_view, refusal
from onnxlrp.lowering.function import expand, function_of
from onnxlrp.prepare.infer import fill_in_shapes
from onnxlrp.prepare.inside import infer_inside
from onnxlrp.rules.registry import blocks, inflows, lookup


def lower(model: ir.Model, *, integers: bool = False) -> str:
    """Replace every fused node, in place.  returns: what was done, in words; "" where there was none.

    integers : also those that compute in integers, by their float view

    A node that cannot be lowered stays, with the reason noted: methods that only run the model do not mind, and the
    plan tells it. Often it is a shape, known once the node before it is written out: so all are asked again while some
    go. In branches and bodies too; what computes in integers there stays, and its float view stands beside it.
    """
    graphs = (model.graph, *model.graph.subgraphs())
    outside = Emit(model.graph, model.opset_imports[""])
    writers = {graph: BodyEmit(outside, graph) if graph is not model.graph else outside for graph in graphs}
    stay, names = set[ir.Node](), list[str]()

    def waiting(graph: ir.Graph) -> list[ir.Node]:
        return [node for node in graph if node not in stay and _is_fused(node, integers)]

    while any(map(waiting, graphs)):
        fill_in_shapes(model)
        infer_inside(model)
        refused, before = set[ir.Node](), len(names)
        for graph in graphs:
            facts = Facts(graph, [], inflows)
            for node in waiting(graph):
                if _replace(writers[graph], facts, node):
                    names.append(origin(node)[FROM_NODE])
                else:
                    refused.add(node)
        if len(names) == before:
            stay |= refused
    if names:
        fill_in_shapes(model)
        infer_inside(model)
    return f"Fused operators are read as their parts: {', '.join(dict.fromkeys(names))}." if names else ""


def origin(node: ir.Node) -> dict[str, str]:
    """Name and type of the file's node that a node comes from."""
    props = node.metadata_props
    return {FROM_NODE: props.get(FROM_NODE) or node.name or "", FROM_TYPE: props.get(FROM_TYPE) or node.op_type}


def _is_fused(node: ir.Node, integers: bool) -> bool:
    known = lookup(node.op_type, node.domain) is not None or READ_AS in node.metadata_props
    return not blocks(node) and not known and (integers or not has_view(node))


def _replace(emit: Emit, facts: Facts, node: ir.Node) -> bool:
    """Write a node out and take it away; False where it has to stay."""
    try:
        with emit.placed(node, node.name or node.op_type, **origin(node)) as written, emit.active():
            try:
                outputs = _parts(Fused(emit, node, facts))
            except Unsupported as error:
                node.metadata_props[NOT_LOWERED] = str(error)
                outputs = None
            if outputs is None:
                emit.graph.remove(written)
                return False
            take_over(emit, node, outputs, written)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise Defect(
            f"{type(error).__name__} while writing out {node.op_type} '{node.name}': {error}\n"
            "This is a mistake of onnxlrp: please report it with the model."
        ) from error
    return True


def _parts(fused: Fused) -> list[ir.Value | None] | None:
    """One value per output of the node; None where nobody knows how to write it out.

    Errors: Unsupported where it can be written out, but not so.
    """
    node = fused.node
    lowering = find_lowering(node)
    if lowering is not None:
        found = lowering(fused)
        outputs: list[ir.Value | None] = [found] if isinstance(found, ir.Value) else list(found)
        if has_view(node) and isinstance(fused.emit, BodyEmit):
            outputs = fused.as_deployed(outputs)
    elif (function := function_of(node, fused.opset)) is not None:
        outputs = expand(fused, function)
    elif reason := refusal(node):
        raise Unsupported(reason)
    else:
        return None
    outputs = [*outputs, *[None] * len(node.outputs)][: len(node.outputs)]
    for index, value in enumerate(outputs):
        if value is None and fused.wants(index):
            raise Unsupported(f"its output '{node.outputs[index].name}' is read, and the lowering does not give it")
    return outputs


def take_over(emit: Emit, node: ir.Node, values: Sequence[ir.Value | None], written: Sequence[ir.Node]) -> None:
    """Give the new values the names, types and users of the node's outputs, and remove the node."""
    graph, taken = emit.graph, set[ir.Value]()
    for old, value in zip(node.outputs, values, strict=True):
        if value is None or not old.name:
            continue
        new = value if value.producer() in written and value not in taken else emit.fresh("Identity", value)
        taken.add(new)
        name, old.name = old.name, f"{node.name}/replaced"
        new.name, new.shape, new.type = name, _joined(old.shape, new.shape), old.type or new.type
        for use in list(old.uses()):
            use.node.replace_input_with(use.idx, new)
        for place, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[place] = new
    graph.remove(node, safe=True)


def _joined(declared: ir.Shape | None, written: ir.Shape | None) -> ir.Shape | None:
    """The declared shape, with sizes where it has none and the new value's has."""
    if declared is None or written is None or len(declared) != len(written):
        return declared or written
    named = [d if isinstance(d, int) or d.value is not None else w for d, w in zip(declared, written, strict=True)]
    return ir.Shape(named)
