"""Loop: backwards, with a counter that counts down the turns that the model's own has done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxlrp import lists
from onnxlrp.body import BodyEmit
from onnxlrp.errors import Unsupported
from onnxlrp.graph import upstream
from onnxlrp.rules.control import Arrived, Backwards, control, into_targets
from onnxlrp.rules.registry import Contribution, Subgraph
from onnxlrp.rules.step import Body, Step

AtTurn = Callable[[BodyEmit, ir.Value], ir.Value]
"""(writer of a loop's body, number of the turn) → a state as it was when that turn began."""

TURN, GOES_ON, FIRST_STATE = 0, 1, 2
"""Inputs of a Loop's body; its outputs lack the first."""


def _loop_body(node: ir.Node) -> list[Subgraph]:
    graph = node.attributes["body"].as_graph()
    return [
        Subgraph(
            graph,
            operands=(None, None, *range(FIRST_STATE, len(graph.inputs))),
            results=(None, *range(len(graph.outputs) - 1)),
            feedback=tuple((index - 1, index) for index in range(FIRST_STATE, len(graph.inputs))),
        )
    ]


@control("Loop", _loop_body, steering=(0, 1))
def loop(step: Step, arrived: Arrived) -> list[Contribution]:
    """A Loop that counts the turns down which the model's own has done."""
    emit, (body,) = step.emit, step.bodies
    arrived = into_targets(body, [None, *arrived])
    turns, last, before = _loop_forward(step, body)

    inner = BodyEmit(emit)
    turn = inner.input("turn", like=body.inputs[TURN])
    goes_on = inner.input("goes_on", like=body.inputs[GOES_ON])
    back = Backwards(step, body, inner, arrived, last)
    with inner.active():
        now = inner.Sub(inner.Sub(turns, 1), turn)
        goes_on_as_is = inner.constant(np.full(_sizes(body.inputs[GOES_ON]), True))
        inputs = [inner.Reshape(now, _sizes(body.inputs[TURN])), goes_on_as_is, *(get(inner, now) for get in before)]
        for value, like in zip(inputs, body.inputs, strict=True):
            if value is not goes_on_as_is:
                value.type, value.shape = like.type, like.shape
        relevance: list[ir.Value | None] = [None, *back.states]
        for piece in arrived[len(relevance) :]:
            relevance.append(None if piece is None else inner.Gather(piece, now, axis=0))
    _, after = back.turn(inputs, relevance)
    inner.give(goes_on)
    for value in after:
        inner.give(value)
    _without_lists(step, inner, inputs)
    inner.first_inputs([turn, goes_on, *back.carried])
    if not after:
        return [None] * step.count
    results = emit.nodes("Loop", turns, True, *back.starts, outputs=len(after), body=inner.graph)
    return back.contributions(results)


def _loop_forward(step: Step, body: Body) -> tuple[ir.Value, Sequence[ir.Value], list[AtTurn]]:
    """(how many turns were done, the last states, the states that each turn began with)."""
    emit, inner = step.emit, BodyEmit(step.emit)
    inputs = [inner.input("state", like=value) for value in body.inputs]
    copy = body.copy(inner, inputs)
    states = range(FIRST_STATE, len(inputs))
    never = [i for i in states if lists.is_list(body.inputs[i])]
    listed = [i for i in states if i not in never and not _keeps_shape(body.inputs[i], body.outputs[i - 1])]
    carried = [inner.input("list", kind=ir.SequenceType(ir.TensorType(_dtype(body.inputs[i])))) for i in listed]
    for value in copy.outputs[: len(states) + 1]:
        inner.give(value)
    for i, value in zip(listed, carried, strict=True):
        inner.give(inner.SequenceInsert(value, inputs[i]))
    stacked = [i for i in states if i not in listed and i not in never]
    for value in [inputs[TURN], *(inputs[i] for i in stacked)]:
        inner.give(value)
    operands = [step.unit.inputs[i] if i < len(step.unit.node.inputs) else None for i in range(FIRST_STATE)]
    operands += [step.raw(i) for i in states]
    operands[GOES_ON] = emit.constant(True) if operands[GOES_ON] is None else operands[GOES_ON]
    empty = [emit.SequenceEmpty(dtype=int(_dtype(body.inputs[i]))) for i in listed]
    count = len(states) + len(listed) + 1 + len(stacked)
    found = emit.nodes("Loop", *operands, *empty, outputs=count, body=inner.graph)
    last, found = found[: len(states)], found[len(states) :]
    for value, state in zip(last, body.inputs[FIRST_STATE:], strict=True):
        value.type = state.type
    kept = dict(zip([*listed, TURN, *stacked], found, strict=True))
    turns = emit.Squeeze(emit.dim(kept[TURN], 0), [0])
    ways = {i: _from_list(kept[i]) if i in listed else _from_stack(kept[i]) for i in [*listed, *stacked]}
    return turns, last, [ways.get(i, _of_no_turn) for i in states]


def _keeps_shape(before: ir.Value, after: ir.Value) -> bool:
    """Whether a state certainly has one shape in all turns; else its values are kept in a list."""
    if before.shape is None or after.shape is None or len(before.shape) != len(after.shape):
        return False
    pairs = zip(before.shape, after.shape, strict=True)
    return all(a == b and (isinstance(a, int) or a.value is not None) for a, b in pairs)


def _sizes(counter: ir.Value) -> list[int]:
    """Of the number of the turn, or of the condition: a scalar, or a vector of one where the body says so."""
    return [1] * len(counter.shape or ())


def _dtype(value: ir.Value) -> ir.DataType:
    return value.dtype or ir.DataType.FLOAT


def _of_no_turn(inner: BodyEmit, turn: ir.Value) -> ir.Value:
    """In place of a state that is a list: there are no lists of lists to keep it in."""
    return inner.fresh("SequenceEmpty", dtype=int(ir.DataType.FLOAT))


def _without_lists(step: Step, inner: BodyEmit, inputs: Sequence[ir.Value]) -> None:
    """Errors: Unsupported where the way back reads a list that the loop carries."""
    carried = {value for value in inputs if lists.is_list(value)}
    if not carried.isdisjoint(upstream(*inner.graph.outputs)):
        raise Unsupported(
            f"{step.unit} reads a list that it carries from turn to turn, and the way back needs it as it was in each "
            "turn. Lists that a loop only extends are fine, and so are tensors that grow."
        )


def _from_list(kept: ir.Value) -> AtTurn:
    return lambda inner, turn: inner.SequenceAt(kept, turn)


def _from_stack(kept: ir.Value) -> AtTurn:
    return lambda inner, turn: inner.Gather(kept, turn, axis=0)
