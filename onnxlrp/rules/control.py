"""If, Loop and Scan: relevance goes back the way the model went, each layer inside by its own rule.

A branch or body is copied into the relevance graph and walked back there: the values that its rules need are computed
again. A loop first runs forward once more and keeps the states that each turn began with; then it runs backwards:

    for t = T−1 … 0:   R(state_t), R(scanned_t), R(outside) += back(R(state_t+1), R(output_t)) at (state_t, scanned_t)

So a recurrent layer that an exporter wrote as a loop is explained as the layer itself would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxlrp import lists
from onnxlrp.body import BodyEmit
from onnxlrp.errors import Unsupported
from onnxlrp.graph import RANDOM, operands, subgraphs
from onnxlrp.rules.registry import Contribution, Family, Operator, Subgraph, register
from onnxlrp.rules.step import Body, Copy, Step

Arrived = Sequence[ir.Value | None]
"""Relevance per output."""

AtTurn = Callable[[BodyEmit, ir.Value], ir.Value]
"""(writer of a loop's body, number of the turn) → a state as it was when that turn began."""


def control(
    op_type: str, graphs: Callable[[ir.Node], Sequence[Subgraph]], steering: tuple[int, ...] = ()
) -> Callable[[Callable[[Step, Arrived], list[Contribution]]], None]:
    """Register an operator that runs subgraphs."""

    def decorate(back: Callable[[Step, Arrived], list[Contribution]]) -> None:
        def checked(step: Step, arrived: Arrived) -> list[Contribution]:
            _without_random(step)
            return back(step, arrived)

        register(Operator(op_type, Family.CONTROL, checked, outputs=True, subgraphs=graphs, steering=steering))

    return decorate


# --- If --------------------------------------------------------------------------------------------------------------


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
        ways.append((inner, copy, copy.back(_only(body, arrived))))
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
    _report(step, kept, results[len(reached) :])
    return contributions


# --- Scan ------------------------------------------------------------------------------------------------------------


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
    arrived = _only(body, arrived)
    scanned = int(step.attribute("num_scan_inputs"))
    states = len(body.inputs) - scanned
    kept = len(body.outputs) - states
    input_axes, input_directions = _per_tensor(step, "scan_input", scanned)
    output_axes, output_directions = _per_tensor(step, "scan_output", kept)
    last, before = _scan_forward(step, body, states)

    inner = BodyEmit(emit)
    back = _Backwards(step, body, inner, arrived, last)
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
        inner.give(found[inputs[index]], _rank(body.inputs[index]))
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
        inner.give(value, _rank(state), state.dtype)
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


# --- Loop ------------------------------------------------------------------------------------------------------------

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
    arrived = _only(body, [None, *arrived])
    turns, last, before = _loop_forward(step, body)

    inner = BodyEmit(emit)
    turn = inner.input("turn", like=body.inputs[TURN])
    goes_on = inner.input("goes_on", like=body.inputs[GOES_ON])
    back = _Backwards(step, body, inner, arrived, last)
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
    turns = emit.Squeeze(emit.Shape(kept[TURN]), [0])
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


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _dtype(value: ir.Value) -> ir.DataType:
    return value.dtype or ir.DataType.FLOAT


def _of_no_turn(inner: BodyEmit, turn: ir.Value) -> ir.Value:
    """In place of a state that is a list: there are no lists of lists to keep it in."""
    return inner.fresh("SequenceEmpty", dtype=int(ir.DataType.FLOAT))


def _without_lists(step: Step, inner: BodyEmit, inputs: Sequence[ir.Value]) -> None:
    """Errors: Unsupported where the way back reads a list that the loop carries."""
    waiting = [value.producer() for value in inner.graph.outputs]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for value in operands(node) if node is not None else ():
            producer = value.producer() if value is not None else None
            if value in inputs and value is not None and lists.is_list(value):
                raise Unsupported(
                    f"{step.unit} reads a list that it carries from turn to turn, and the way back needs it as it was "
                    "in each turn. Lists that a loop only extends are fine, and so are tensors that grow."
                )
            if producer is not None and producer not in seen:
                seen.add(producer)
                waiting.append(producer)


def _from_list(kept: ir.Value) -> AtTurn:
    return lambda inner, turn: inner.SequenceAt(kept, turn)


def _from_stack(kept: ir.Value) -> AtTurn:
    return lambda inner, turn: inner.Gather(kept, turn, axis=0)


# --- what both loops share -------------------------------------------------------------------------------------------


class _Backwards:
    """What a loop carries on its way back: relevance of its states and of tensors outside, and what its rules kept.

    arrived : relevance per output of the body, of all turns        last : the states after the last turn
    """

    def __init__(self, step: Step, body: Body, inner: BodyEmit, arrived: Arrived, last: Sequence[ir.Value]) -> None:
        self._step, self._body, self._inner = step, body, inner
        self._states: list[int] = []
        self._outside: list[int] = []
        self._kept: list[str] = []
        self.starts: list[ir.Value] = []
        self.ranks: list[int | None] = []
        self.carried: list[ir.Value] = []
        self.states: list[ir.Value | None] = []
        live = _live_states(body, arrived)
        for (output, state), value in zip(body.feedback, last, strict=True):
            if state in live:
                relevance = arrived[output]
                relevance = lists.zeros_like(step.emit, value) if relevance is None else relevance
                self._states.append(state)
                self.states.append(self._carry(relevance, body.inputs[state]))
            else:
                self.states.append(None)

    def _carry(self, start: ir.Value, like: ir.Value | None) -> ir.Value:
        self.starts.append(start)
        self.ranks.append(0 if like is None else _rank(like))
        kind = lists.LIST if like is not None and lists.is_list(like) else None
        self.carried.append(self._inner.input("carried", kind=kind))
        return self.carried[-1]

    def turn(self, inputs: Sequence[ir.Value], arrived: Arrived) -> tuple[dict[ir.Value, ir.Value], list[ir.Value]]:
        """Write one turn.  returns : relevance per tensor that it reached, and what is carried on, as in `starts`"""
        step, inner = self._step, self._inner
        copy = self._body.copy(inner, inputs)
        found = copy.back(arrived)
        states = [inputs[i] for i in self._states]
        after = [found[value] if value in found else lists.zeros_like(inner, value) for value in states]
        for index in step.signals:
            if index >= len(step.unit.node.inputs) and step.raw(index) in found:
                self._outside.append(index)
                operand = step.raw(index)
                so_far = self._carry(lists.zeros_like(step.emit, operand), operand)
                after.append(lists.total(inner, [so_far, found[operand]], operand))
        for name, value in copy.kept.items():
            self._kept.append(name)
            after.append(inner.Add(self._carry(step.emit.constant(0.0), None), value))
        return found, after

    def contributions(self, results: Sequence[ir.Value]) -> list[Contribution]:
        """Per operand of the node, from what the loop carried to its end."""
        contributions: list[Contribution] = [None] * self._step.count
        operands = [*self._states, *self._outside]
        for index, result in zip(operands, results, strict=False):
            contributions[index] = result
        _report(self._step, self._kept, results[len(operands) :])
        return contributions


def _report(step: Step, names: Sequence[str], values: Sequence[ir.Value]) -> None:
    """Tell the ledger what the rules inside kept."""
    for name, value in zip(names, values, strict=False):
        assert step.account is not None
        step.account(name, value)


def _live_states(body: Body, arrived: Arrived) -> set[int]:
    """The states that relevance reaches in some turn."""
    outputs = {index for index, relevance in enumerate(arrived) if relevance is not None}
    while True:
        states = body.reached(outputs) & {state for _, state in body.feedback}
        handed_on = {output for output, state in body.feedback if state in states} & body.targets
        if handed_on <= outputs:
            return states | {state for output, state in body.feedback if output in outputs and state in body.signals}
        outputs |= handed_on


def _only(body: Body, arrived: Arrived) -> list[ir.Value | None]:
    """What arrived at outputs that relevance can flow into."""
    return [relevance if index in body.targets else None for index, relevance in enumerate(arrived)]


def _without_random(step: Step) -> None:
    """A body that draws random numbers would draw others when it is computed again.  Errors: Unsupported."""
    drawn = [n for graph in subgraphs(step.unit.node) for n in graph.all_nodes() if n.op_type in RANDOM]
    if drawn:
        names = ", ".join(f"{node.op_type} '{node.name}'" for node in drawn)
        raise Unsupported(
            f"{step.unit} draws random numbers inside ({names}); computing its values again would draw others. "
            "Use a method that only runs the model: occlusion or finite-difference."
        )
