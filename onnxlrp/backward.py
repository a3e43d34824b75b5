"""Reverse: walk a plan from the target down and emit the relevance graph. Knows no operator by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from onnxlrp import lists
from onnxlrp.body import write_copy
from onnxlrp.emit import Emit
from onnxlrp.errors import Defect, Unsupported, at_node
from onnxlrp.graph import FLOATS, MASKED
from onnxlrp.plan import Decision, Inside, Plan, Region
from onnxlrp.rules.registry import Family
from onnxlrp.rules.step import Account, Copy, Step, unbroadcast

Watcher = Callable[[Decision, Step, Sequence[ir.Value | None], Sequence[ir.Value | None]], None]
"""Called per layer with (decision, step, relevance of its outputs, relevance handed to its operands)."""


@dataclass(frozen=True)
class Walker:
    """What stays the same on the whole way.

    step    : a layer that writes to the joint graph, as its rules see it; in subgraphs another writer takes over
    account : where the rules of a layer report what they keep; None unless a ledger is kept
    watch   : sees the layers of the joint graph
    """

    step: Callable[[Decision], Step]
    account: Callable[[Emit, Decision], Account] | None = None
    watch: Watcher | None = None


def reverse(plan: Plan, emit: Emit, seed: ir.Value, walker: Walker) -> dict[ir.Value, ir.Value]:
    """Emit the relevance graph.

    seed    : relevance (or cotangent) of `plan.target`, shaped like it
    returns : relevance of every explained tensor; zeros where none arrives
    """
    found = walk(plan, emit, {plan.target: seed}, walker)
    return {value: found[value] if value in found else emit.zeros_like(value) for value in plan.explained}


def walk(
    region: Region,
    emit: Emit,
    seeds: Mapping[ir.Value, ir.Value],
    walker: Walker,
    origins: Mapping[ir.Value, ir.Value] | None = None,
) -> dict[ir.Value, ir.Value]:
    """From some tensors of a graph down to its explained ones.

    seeds   : relevance per target        origins : for a copied graph, tensor of the original → the one in its place
    returns : relevance of the explained tensors that any reaches
    """
    arrived: dict[ir.Value, list[ir.Value]] = {target: [seed] for target, seed in seeds.items()}
    for decision in reversed(region.decisions):
        unit = decision.unit
        relevance = [_collect(emit, arrived, output) for output in unit.outputs]
        if all(item is None for item in relevance):
            continue
        masked = any(MASKED in node.metadata_props for node in unit.nodes)
        if masked:
            arriving = zip(unit.outputs, relevance, strict=True)
            relevance = [item if item is None else _where_finite(emit, output, item) for output, item in arriving]
        stamp = {"onnxlrp.node": unit.name, "onnxlrp.rule": str(decision.rule), "onnxlrp.source": decision.source}
        with at_node(str(unit)), emit.serving(unit.node.name or unit.op_type, **stamp):
            account = walker.account(emit, decision) if walker.account is not None else None
            step = replace(walker.step(decision), emit=emit, facts=region.facts, account=account)
            step = replace(step, bodies=[_Body(inside, step, walker, origins or {}) for inside in decision.inside])
            contributions = list(decision.rule(decision.operator, step, _as_taken(decision, relevance)))
            if masked:
                contributions = _masked(decision, emit, contributions)
            contributions = _checked(decision, step, contributions)
        if walker.watch is not None:
            walker.watch(decision, step, relevance, contributions)
        for operand, contribution in zip(unit.inputs, contributions, strict=True):
            if operand is not None and contribution is not None:
                arrived.setdefault(operand, []).append(contribution)
    found = {value: _collect(emit, arrived, value) for value in region.explained}
    return {value: relevance for value, relevance in found.items() if relevance is not None}


def _masked(decision: Decision, emit: Emit, contributions: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Nothing where the layer's output, or else the operand, is not finite: 0 · NaN would spread."""
    unit, operator = decision.unit, decision.operator
    by_element = operator.elementwise or operator.family is Family.POINTWISE
    likes = [unit.outputs[0] if by_element else operand for operand in unit.inputs]
    return [
        None if found is None or like is None else _where_finite(emit, like, found)
        for like, found in zip(likes, contributions, strict=True)
    ]


def _where_finite(emit: Emit, value: ir.Value, relevance: ir.Value) -> ir.Value:
    """Relevance, and 0 where a tensor is NaN or infinite: there x − x is NaN."""
    return emit.Where(emit.IsNaN(emit.Sub(value, value)), 0.0, relevance) if value.dtype in FLOATS else relevance


def _collect(emit: Emit, arrived: dict[ir.Value, list[ir.Value]], value: ir.Value) -> ir.Value | None:
    """The sum of what met on a tensor."""
    parts = arrived.get(value)
    if not parts:
        return None
    if len(parts) > 1:
        arrived[value] = parts = [lists.total(emit, parts, value)]
    return parts[0]


def _as_taken(decision: Decision, relevance: Sequence[ir.Value | None]) -> Any:
    """A tuple for operators with several outputs, the one value for all others.

    Errors: Unsupported where a rule for the first output alone would have to answer for another one.
    """
    if decision.operator.outputs:
        return tuple(relevance)
    asked = [output.name for output, item in zip(decision.unit.outputs, relevance, strict=True) if item is not None]
    if relevance[0] is None or len(asked) > 1:
        raise Unsupported(f"{decision.unit} has a rule for its first output alone, and relevance arrives at {asked}.")
    return relevance[0]


def _checked(decision: Decision, step: Step, contributions: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """One entry per operand, only for signals, each summed back to its operand's shape."""
    unit = decision.unit
    if len(contributions) != len(unit.inputs):
        raise Defect(f"The rule {decision.rule} returned {len(contributions)} entries for {len(unit.inputs)} operands.")
    checked: list[ir.Value | None] = []
    for index, (operand, contribution) in enumerate(zip(unit.inputs, contributions, strict=True)):
        if operand is not None and contribution is not None and lists.is_list(operand):
            contribution.type = lists.LIST
        if operand is None or contribution is None or index not in decision.signals:
            if contribution is not None and index in step.asked and step.account is not None:
                step.account("constant", contribution)
            checked.append(None)
        elif decision.operator.elementwise:
            dims = step.facts.dims(unit.outputs[0])
            checked.append(unbroadcast(step.emit, step.facts, contribution, operand, dims))
        else:
            checked.append(contribution)
    return checked


# --- subgraphs -------------------------------------------------------------------------------------------------------


class _Body:
    """A subgraph as the rule of its node sees it (`rules.step.Body`).

    origins : tensors outside of it → those in their place, where the node itself stands in a copy
    """

    def __init__(self, inside: Inside, step: Step, walker: Walker, origins: Mapping[ir.Value, ir.Value]) -> None:
        self._inside, self._step, self._walker, self._origins = inside, step, walker, origins
        self.inputs, self.outputs = tuple(inside.subgraph.graph.inputs), tuple(inside.subgraph.graph.outputs)
        self.feedback = inside.subgraph.feedback
        explained = set(inside.region.explained)
        self.signals = frozenset(index for index, value in enumerate(self.inputs) if value in explained)
        self.targets = frozenset(index for index, value in enumerate(self.outputs) if value in inside.region.targets)

    def reached(self, outputs: Iterable[int]) -> set[int]:
        """The inputs that relevance of these outputs goes down to."""
        region = self._inside.region
        found = {self.outputs[index] for index in outputs}
        for decision in reversed(region.decisions):
            if not found.isdisjoint(decision.unit.outputs):
                found.update(region.facts.signals_into(decision.unit))
        return {index for index in self.signals if self.inputs[index] in found}

    def copy(self, emit: Emit, inputs: Sequence[ir.Value]) -> Copy:
        """Write the nodes of the graph with other inputs in place of its own."""
        twins = dict(self._origins) | dict(zip(self.inputs, inputs, strict=True))
        graph = self._inside.subgraph.graph
        write_copy(graph, emit, twins)
        outputs = [twins.get(value, value) for value in self.outputs]
        return _Copy(self._inside.region.on(emit.graph, twins), emit, outputs, self._step, self._walker, twins)


@dataclass
class _Copy:
    """A subgraph copied into another graph (`rules.step.Copy`)."""

    region: Region
    emit: Emit
    outputs: Sequence[ir.Value]
    step: Step
    walker: Walker
    origins: Mapping[ir.Value, ir.Value]
    kept: dict[str, ir.Value] = field(default_factory=dict)

    def back(self, arrived: Sequence[ir.Value | None]) -> dict[ir.Value, ir.Value]:
        """Walk back through the copy."""
        seeds: dict[ir.Value, ir.Value] = {}
        for output, relevance in zip(self.outputs, arrived, strict=True):
            if relevance is not None:
                seeds[output] = self.emit.Add(seeds[output], relevance) if output in seeds else relevance
        walker = Walker(self.walker.step, self._account if self.step.account is not None else None)
        with self.emit.active():
            return walk(self.region, self.emit, seeds, walker, self.origins)

    def _account(self, emit: Emit, decision: Decision) -> Account:
        """Sums what the rules inside keep, so that the step outside can report it under the layer's name."""

        def account(name: str, taken: ir.Value) -> None:
            name = f"{decision.unit.name}: {name}"
            total = lists.sum_of(emit, taken)
            self.kept[name] = emit.Add(self.kept[name], total) if name in self.kept else total

        return account
