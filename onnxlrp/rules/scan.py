"""Scan: backwards, along the same axes, in the other direction."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxlrp.body import BodyEmit
from onnxlrp.rules.control import Arrived, Backwards, control, into_targets, rank_of
from onnxlrp.rules.registry import Contribution, Subgraph
from onnxlrp.rules.step import Body, Step


def _scan_body(node: ir.Node) -> list[Subgraph]:
    graph = node.attributes["body"].as_graph()
    states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    return [
        Subgraph(
            graph,
            operands=tuple(range(len(graph.inputs))),
            results=tuple(range(len(graph.outputs))),
            feedback=tuple((state, state) for state in range(states)),
        )
    ]


@control("Scan", _scan_body)
def scan(step: Step, arrived: Arrived) -> list[Contribution]:
    """A Scan backwards, along the same axes, in the other direction."""
    emit, (body,) = step.emit, step.bodies
    arrived = into_targets(body, arrived)
    scanned = int(step.attribute("num_scan_inputs"))
    states = len(body.inputs) - scanned
    kept = len(body.outputs) - states
    input_axes, input_directions = _per_tensor(step, "scan_input", scanned)
    output_axes, output_directions = _per_tensor(step, "scan_output", kept)
    last, before = _scan_forward(step, body, states)

    inner = BodyEmit(emit)
    back = Backwards(step, body, inner, arrived, last)
    operands, axes, directions = list(before), [0] * states, [0] * states
    inputs = [inner.input("state", like=value) for value in body.inputs]
    operands += [step.raw(states + i) for i in range(scanned)]
    axes, directions = axes + input_axes, directions + input_directions
    now: list[ir.Value | None] = list(back.states)
    for index in range(kept):
        relevance = arrived[states + index]
        now.append(None if relevance is None else inner.input("arrived"))
        if relevance is not None:
            operands.append(relevance)
            axes.append(output_axes[index])
            directions.append(output_directions[index])
    found, after = back.turn(inputs, now)
    reached = [i for i in sorted(body.signals) if i >= states and inputs[i] in found]
    for value, rank in zip(after, back.ranks, strict=True):
        inner.give(value, rank)
    for index in reached:
        inner.give(found[inputs[index]], rank_of(body.inputs[index]))
    inner.first_inputs(back.carried)
    if not inner.graph.outputs:
        return [None] * step.count
    results = emit.nodes(
        "Scan",
        *back.starts,
        *operands,
        outputs=len(after) + len(reached),
        body=inner.graph,
        num_scan_inputs=len(operands),
        scan_input_axes=axes,
        scan_input_directions=[1 - direction for direction in directions],
        scan_output_axes=[input_axes[i - states] for i in reached] or None,
        scan_output_directions=[1 - input_directions[i - states] for i in reached] or None,
    )
    contributions = back.contributions(results[: len(back.starts)])
    for index, result in zip(reached, results[len(back.starts) :], strict=True):
        contributions[index] = result
    return contributions


def _per_tensor(step: Step, which: str, count: int) -> tuple[list[int], list[int]]:
    """(axes, directions) of what is scanned, or of what is kept."""
    axes, directions = step.attribute(f"{which}_axes"), step.attribute(f"{which}_directions")
    return [int(a) for a in axes or [0] * count], [int(d) for d in directions or [0] * count]


def _scan_forward(step: Step, body: Body, states: int) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
    """(the last states, the states that each turn began with, stacked)."""
    if not states:
        return [], []
    inner = BodyEmit(step.emit)
    inputs = [inner.input("state", like=value) for value in body.inputs]
    copy = body.copy(inner, inputs)
    for value, state in zip([*copy.outputs[:states], *inputs[:states]], 2 * body.inputs[:states], strict=True):
        inner.give(value, rank_of(state), state.dtype)
    operands = [step.raw(index) for index in range(len(body.inputs))]
    given = step.given_attributes
    found = step.emit.nodes(
        "Scan",
        *operands,
        outputs=2 * states,
        body=inner.graph,
        num_scan_inputs=given["num_scan_inputs"],
        scan_input_axes=given.get("scan_input_axes"),
        scan_input_directions=given.get("scan_input_directions"),
    )
    return found[:states], found[states:]
