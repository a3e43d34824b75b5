"""Reverse: walk a plan from the target down and emit the relevance graph. Knows no operator by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import Defect, at_node
from onnxlrp.plan import Decision, Plan
from onnxlrp.rules.step import Step, unbroadcast

Watcher = Callable[[Decision, Step, Sequence[ir.Value | None], Sequence[ir.Value | None]], None]
"""Called per layer with (decision, step, relevance of its outputs, relevance handed to its operands)."""


def reverse(
    plan: Plan, emit: Emit, seed: ir.Value, make_step: Callable[[Decision], Step], watch: Watcher | None = None
) -> dict[ir.Value, ir.Value]:
    """Emit the relevance graph.

    seed      : relevance (or cotangent) of `plan.target`, shaped like it
    make_step : what the rules of a layer get to see
    returns   : relevance of every explained tensor; zeros where none arrives
    """
    arrived: dict[ir.Value, list[ir.Value]] = {plan.target: [seed]}
    for decision in reversed(plan.decisions):
        unit = decision.unit
        relevance = [_collect(emit, arrived, output) for output in unit.outputs]
        if all(item is None for item in relevance):
            continue
        stamp = {"onnxlrp.node": unit.name, "onnxlrp.rule": str(decision.rule), "onnxlrp.source": decision.source}
        with at_node(str(unit)), emit.serving(unit.node.name or unit.op_type, **stamp):
            step = make_step(decision)
            contributions = list(decision.rule(decision.operator, step, _as_taken(decision, relevance)))
            contributions = _checked(decision, step, contributions)
        if watch is not None:
            watch(decision, step, relevance, contributions)
        for operand, contribution in zip(unit.inputs, contributions, strict=True):
            if operand is not None and contribution is not None:
                arrived.setdefault(operand, []).append(contribution)
    return {value: _collect(emit, arrived, value) or emit.zeros_like(value) for value in plan.explained}


def _collect(emit: Emit, arrived: dict[ir.Value, list[ir.Value]], value: ir.Value) -> ir.Value | None:
    """The sum of what met on a tensor."""
    parts = arrived.get(value)
    if not parts:
        return None
    if len(parts) > 1:
        arrived[value] = parts = [emit.total(parts, value)]
    return parts[0]


def _as_taken(decision: Decision, relevance: Sequence[ir.Value | None]) -> Any:
    """A tuple for operators with several outputs, the one value for all others."""
    return tuple(relevance) if decision.operator.outputs else relevance[0]


def _checked(decision: Decision, step: Step, contributions: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """One entry per operand, only for signals, each summed back to its operand's shape."""
    unit = decision.unit
    if len(contributions) != len(unit.inputs):
        raise Defect(f"The rule {decision.rule} returned {len(contributions)} entries for {len(unit.inputs)} operands.")
    checked: list[ir.Value | None] = []
    for index, (operand, contribution) in enumerate(zip(unit.inputs, contributions, strict=True)):
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
