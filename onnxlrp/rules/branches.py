"""If: the branch that was taken is walked back."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp import lists
from onnxlrp.body import BodyEmit
from onnxlrp.rules.control import Arrived, control, into_targets, tell_ledger
from onnxlrp.rules.registry import Contribution, Subgraph
from onnxlrp.rules.step import Copy, Step


def _branches(node: ir.Node) -> list[Subgraph]:
    graphs = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    return [Subgraph(graph, results=tuple(range(len(graph.outputs)))) for graph in graphs]


@control("If", _branches, steering=(0,))
def if_(step: Step, arrived: Arrived) -> list[Contribution]:
    """The branch that was taken is walked back; nothing flows into the condition."""
    emit, wanted = step.emit, [index for index in step.signals if index > 0]
    ways: list[tuple[BodyEmit, Copy, dict[ir.Value, ir.Value]]] = []
    for body in step.bodies:
        inner = BodyEmit(emit)
        copy = body.copy(inner, [])
        ways.append((inner, copy, copy.back(into_targets(body, arrived))))
    reached = [i for i in wanted if any(step.raw(i) in found for _, _, found in ways)]
    kept = sorted({name for _, copy, _ in ways for name in copy.kept})
    contributions: list[Contribution] = [None] * step.count
    if not reached and not kept:
        return contributions
    for inner, copy, found in ways:
        for index in reached:
            operand = step.raw(index)
            inner.give(found[operand] if operand in found else lists.zeros_like(inner, operand))
        for name in kept:
            inner.give(copy.kept.get(name, inner.constant(0.0)))
    then, otherwise = (inner.graph for inner, _, _ in ways)
    count = len(reached) + len(kept)
    results = emit.nodes("If", step.raw(0), outputs=count, then_branch=then, else_branch=otherwise)
    for index, result in zip(reached, results, strict=False):
        contributions[index] = result
    tell_ledger(step, kept, results[len(reached) :])
    return contributions
