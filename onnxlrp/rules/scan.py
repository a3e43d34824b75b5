"""Scan: backwards, along the same axes, in the other direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxlrp.body import BodyEmit
from onnxlrp.emit import Emit
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
    (body,) = step.bodies
    arrived = into_targets(body, arrived)
    scanned = int(step.attribute("num_scan_inputs"))
    states = len(body.inputs) - scanned
    ways_in, ways_out = _ways(step, "scan_input", scanned), _ways(step, "scan_output", len(body.outputs) - states)
    last, before = _scan_forward(step, body, states)

    inner = BodyEmit(step.emit)
    back = Backwards(step, body, inner, arrived, last)
    inputs = [inner.input("state", like=value) for value in body.inputs]
    read = [_Scanned(value) for value in before]
    read += [_Scanned(step.raw(states + i), *way) for i, way in enumerate(ways_in)]
    now: list[ir.Value | None] = list(back.states)
    for relevance, way in zip(arrived[states:], ways_out, strict=True):
        now.append(None if relevance is None else inner.input("arrived"))
        read += [] if relevance is None else [_Scanned(relevance, *way)]
    found, after = back.turn(inputs, now)
    reached = [i for i in sorted(body.signals) if i >= states and inputs[i] in found]
    for value, rank in zip(after, back.ranks, strict=True):
        inner.give(value, rank)
    for index in reached:
        inner.give(found[inputs[index]], rank_of(body.inputs[index]))
    inner.first_inputs(back.carried)
    if not inner.graph.outputs:
        return [None] * step.count
    results = _the_other_way(step.emit, inner.graph, back.starts, read, [ways_in[i - states] for i in reached])
    contributions = back.contributions(results[: len(back.starts)])
    for index, result in zip(reached, results[len(back.starts) :], strict=True):
        contributions[index] = result
    return contributions


@dataclass(frozen=True)
class _Scanned:
    """What is read turn by turn: along which axis, and whether from its end (1) as the model went."""

    value: ir.Value
    axis: int = 0
    direction: int = 0


def _ways(step: Step, which: str, count: int) -> list[tuple[int, int]]:
    """(axis, direction) of each tensor that is scanned, or of each that is kept."""
    axes, directions = step.attribute(f"{which}_axes"), step.attribute(f"{which}_directions")
    return [(int(a), int(d)) for a, d in zip(axes or [0] * count, directions or [0] * count, strict=True)]


def _the_other_way(
    emit: Emit, body: ir.Graph, starts: Sequence[ir.Value], read: Sequence[_Scanned], kept: Sequence[tuple[int, int]]
) -> Sequence[ir.Value]:
    """The Scan that runs `body` from where the model's ended.  kept : (axis, direction) the model had of each output"""
    return emit.nodes(
        "Scan",
        *starts,
        *(one.value for one in read),
        outputs=len(starts) + len(kept),
        body=body,
        num_scan_inputs=len(read),
        scan_input_axes=[one.axis for one in read],
        scan_input_directions=[1 - one.direction for one in read],
        scan_output_axes=[axis for axis, _ in kept] or None,
        scan_output_directions=[1 - direction for _, direction in kept] or None,
    )


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
