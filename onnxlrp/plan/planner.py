"""Planning: a decision for every layer; every layer without a rule is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir

from onnxlrp.errors import NoRule
from onnxlrp.graph import NOT_LOWERED, Facts, Unit, between, captured
from onnxlrp.layers import units_of
from onnxlrp.plan.bounds import at_layer
from onnxlrp.plan.decisions import Decision, Inside, Plan, Region
from onnxlrp.plan.first_layers import FirstLayers
from onnxlrp.plan.user_rules import Rules, UserRules
from onnxlrp.presets import Layer
from onnxlrp.rules.decompositions import Rule
from onnxlrp.rules.registry import Keeps, Operator, Subgraph, find, inflows, lookup
from onnxlrp.rules.stand_in import unknown

Chooser = Callable[[Layer], tuple[Rule, str]]
"""layer → (rule, the reason for it)."""


def make_plan(
    graph: ir.Graph,
    explained: Sequence[ir.Value],
    target: ir.Value,
    chooser: Chooser,
    *,
    title: str,
    rules: Rules | None = None,
    merge: bool = True,
) -> Plan:
    """Decide for every layer.

    explained : tensors that get relevance        target : where it starts
    chooser   : a preset's, or a gradient method's        rules : the user's, by node name, glob or operator type
    merge     : whether linear chains and decomposed activations count as one layer
    Errors: NoRule naming every operator without one; ChoiceError for rules that match nothing, contradict each other
    or do not fit.
    """
    facts = Facts(graph, explained, inflows)
    planner = _Planner(chooser, UserRules(graph, rules or {}), merge)
    region = planner.region(facts, explained, [target], FirstLayers(facts, {value: value for value in explained}))
    _require_rules(planner.without_rule, explained, target)
    return Plan(region.decisions, facts, region.targets, region.explained, title, tuple(planner.user.without_effect()))


@dataclass
class _Planner:
    """Decides layer by layer, subgraphs included.  without_rule : the layers for which nothing can be decided"""

    chooser: Chooser
    user: UserRules
    merge: bool
    without_rule: list[Unit] = field(default_factory=list)

    def region(
        self, facts: Facts, explained: Sequence[ir.Value], targets: Sequence[ir.Value], first: FirstLayers
    ) -> Region:
        """Decide for every layer between some tensors of one graph."""
        units = units_of(facts.graph, facts, [*targets, *explained], merge=self.merge)
        mark_nonnegative(facts.graph, facts)
        decisions = []
        for unit in between(units, facts, targets):
            operator = find(unit)
            decide = self._stand_in if operator is None else partial(self._decide, operator)
            decision = decide(unit, facts, first)
            if decision is None:
                self.without_rule.append(unit)
            else:
                decisions.append(decision)
        return Region(tuple(decisions), facts, tuple(targets), tuple(explained))

    def _decide(self, operator: Operator, unit: Unit, facts: Facts, first: FirstLayers) -> Decision:
        signals = tuple(
            i for i, operand in enumerate(unit.inputs) if i not in operator.steering and facts.is_signal(operand)
        )
        inside: tuple[Inside, ...] = ()
        if operator.subgraphs is not None:
            inside = tuple(self._inside(s, unit, facts, first) for s in operator.subgraphs(unit.node))
        layer = first.describe(unit, operator, signals)
        rule, source = self.user.choose(unit, operator, signals) or self._of_preset(layer, unit, signals, facts)
        return Decision(unit, operator, rule, source, signals, inside)

    def _of_preset(self, layer: Layer, unit: Unit, signals: tuple[int, ...], facts: Facts) -> tuple[Rule, str]:
        rule, source = self.chooser(layer)
        return (at_layer(rule, unit.inputs[signals[0]], facts) if signals else rule), source

    def _stand_in(self, unit: Unit, facts: Facts, first: FirstLayers) -> Decision | None:
        """An operator without a record crosses by the rule that the user names for it; None where none is named."""
        operator = unknown(unit)
        signals = tuple(i for i, operand in enumerate(unit.inputs) if facts.is_signal(operand))
        first.describe(unit, operator, signals)
        chosen = self.user.choose(unit, operator, signals)
        return None if chosen is None else Decision(unit, operator, chosen[0], f"stand-in: {chosen[1]}", signals)

    def _inside(self, subgraph: Subgraph, unit: Unit, outside: Facts, first: FirstLayers) -> Inside:
        """The plan of a subgraph: from its results to its inputs, and to what it reads from outside."""
        graph = subgraph.graph
        held = {
            value: operand
            for value, index in zip(graph.inputs, subgraph.operands, strict=True)
            if index is not None and index < len(unit.inputs) and (operand := unit.inputs[index]) is not None
        }
        signals = {value for value, operand in held.items() if outside.is_signal(operand)}
        while True:
            facts = Facts(graph, signals, inflows, outside)
            fed_back = {
                graph.inputs[to]
                for result, to in subgraph.feedback
                if facts.is_signal(graph.outputs[result]) and facts.is_float(graph.inputs[to])
            }
            if fed_back <= signals:
                break
            signals |= fed_back
        explained = [value for value in [*graph.inputs, *captured(graph)] if facts.is_signal(value)]
        results = zip(graph.outputs, subgraph.results, strict=True)
        targets = [value for value, index in results if index is not None and facts.is_signal(value)]
        return Inside(subgraph, self.region(facts, explained, targets, first.inside(facts, held)))


def _require_rules(without_rule: Sequence[Unit], explained: Sequence[ir.Value], target: ir.Value) -> None:
    missing: dict[str, list[Unit]] = {}
    for unit in without_rule:
        missing.setdefault(unit.op_type, []).append(unit)
    if not missing:
        return
    lines = [
        f"  {op_type:<24} {units[0].domain or 'ai.onnx'}  {', '.join(u.name for u in units[:6])}"
        + (f" and {len(units) - 6} more" if len(units) > 6 else "")
        + _why_not_lowered(units)
        for op_type, units in sorted(missing.items())
    ]
    names = ", ".join(f"'{value.name}'" for value in explained)
    raise NoRule(
        f"{len(missing)} operators between {names} and '{target.name}' have no relevance rule.\n"
        + "\n".join(lines)
        + "\nRun `onnxlrp inspect MODEL` for the whole picture; name a stand-in (--rule OP=pass, "
        "--rule OP=finite-differences for a pointwise one, --rule OP=stop), or use a method that only runs the model: "
        "--method occlusion or --method finite-difference.",
        {op_type: [unit.name for unit in units] for op_type, units in sorted(missing.items())},
    )


def _why_not_lowered(units: Sequence[Unit]) -> str:
    reasons = dict.fromkeys(unit.node.metadata_props.get(NOT_LOWERED, "") for unit in units)
    return "".join(f"\n    {reason}" for reason in reasons if reason)


def mark_nonnegative(graph: ir.Graph, facts: Facts) -> None:
    """Find the tensors that can never be negative: half of the alpha-beta terms vanish there."""
    for node in graph:
        operator = lookup(node.op_type, node.domain)
        if operator is None:
            continue
        inputs = [operand for operand in node.inputs if operand is not None and facts.is_float(operand)]
        holds = operator.nonnegative is Keeps.ALWAYS or (
            operator.nonnegative is Keeps.INPUTS and bool(inputs) and all(_never_negative(v, facts) for v in inputs)
        )
        if holds or (operator.nonnegative_if is not None and operator.nonnegative_if(node, facts)):
            facts.nonnegative.update(node.outputs)


def _never_negative(value: ir.Value, facts: Facts) -> bool:
    if value in facts.nonnegative:
        return True
    if facts.is_signal(value):
        return False
    constant = facts.constant(value)
    return constant is not None and bool((constant >= 0).all())
