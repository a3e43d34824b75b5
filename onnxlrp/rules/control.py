"""Control flow (If, Loop, Scan): relevance goes back the way the model went, each layer inside by its own rule.

A branch or body is copied into the relevance graph and walked back there: the values that its rules need are computed
again. A loop first runs forward once more and keeps the states that each turn began with; then it runs backwards:

    for t = T−1 … 0:   R(state_t), R(scanned_t), R(outside) += back(R(state_t+1), R(output_t)) at (state_t, scanned_t)

So a recurrent layer that an exporter wrote as a loop is explained as the layer itself would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxlrp import lists
from onnxlrp.body import BodyEmit
from onnxlrp.errors import Unsupported
from onnxlrp.graph import RANDOM, subgraphs
from onnxlrp.rules.registry import Contribution, Family, Operator, Subgraph, register
from onnxlrp.rules.step import Body, Step

Arrived = Sequence[ir.Value | None]
"""Relevance per output."""


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


class Backwards:
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
        self.ranks.append(0 if like is None else rank_of(like))
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
        tell_ledger(self._step, self._kept, results[len(operands) :])
        return contributions


def tell_ledger(step: Step, names: Sequence[str], values: Sequence[ir.Value]) -> None:
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


def into_targets(body: Body, arrived: Arrived) -> list[ir.Value | None]:
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


def rank_of(value: ir.Value) -> int | None:
    """How many axes a tensor has; None where nobody knows.  (`Facts.rank` insists.)"""
    return None if value.shape is None else len(value.shape)
