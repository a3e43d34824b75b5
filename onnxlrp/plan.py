"""Plan: one decision per layer, printable before anything is built; every layer without a rule is reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxlrp.errors import ChoiceError, NoRule
from onnxlrp.graph import FROM_NODE, FROM_TYPE, NOT_LOWERED, Facts, Unit, between
from onnxlrp.layers import units_of
from onnxlrp.presets import Layer
from onnxlrp.rules.decompositions import Rule
from onnxlrp.rules.linear import CONVOLUTION, DENSE
from onnxlrp.rules.named import parse_rule
from onnxlrp.rules.registry import Family, Keeps, Operator, blocks, find, lookup

Chooser = Callable[[Layer], tuple[Rule, str]]
Rules = Mapping[str, "Rule | str"]


@dataclass(frozen=True)
class Decision:
    """How relevance crosses one layer, and who said so."""

    unit: Unit
    operator: Operator
    rule: Rule
    source: str
    signals: tuple[int, ...]

    @property
    def conserves(self) -> str:
        """The weaker of the rule's and the operator's promise."""
        return self.rule.conserves if self.rule.name not in ("own", "epsilon") else self.operator.conserves


@dataclass(frozen=True)
class Plan:
    """Every layer between the explained tensors and the target, in graph order.

    without_effect : rules that match a layer through which nothing flows
    """

    title: str
    decisions: tuple[Decision, ...]
    facts: Facts
    target: ir.Value
    explained: tuple[ir.Value, ...]
    without_effect: tuple[str, ...] = field(default=())

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)

    @property
    def units(self) -> list[Unit]:
        return [decision.unit for decision in self.decisions]

    def rule_of(self, node_name: str) -> Rule:
        """The rule of the layer that a node of the file belongs to.  Errors: ChoiceError."""
        for decision in self.decisions:
            if node_name in decision.unit.names:
                return decision.rule
        raise ChoiceError(f"No layer of the plan holds a node named '{node_name}'.")

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(node, operator, rule, source) per layer, in graph order."""
        return [(d.unit.name, d.unit.described_type, str(d.rule), d.source) for d in self.decisions]

    def __str__(self) -> str:
        rows = [("layer", "operator", "rule", "because"), *self.rows()]
        widths = [min(max(len(row[i]) for row in rows), 60) for i in range(3)]
        lines = [f"{self.title}: {', '.join(v.name or '' for v in self.explained)} ← {self.target.name}"]
        lines += ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        lines += [f"no effect: {note}" for note in self.without_effect]
        return "\n".join(lines)


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
    facts = Facts(graph, explained, blocks)
    units = units_of(graph, facts, [target, *explained], merge=merge)
    mark_nonnegative(graph, facts)
    path = between(units, facts, target)
    _require_rules(path, explained, target)
    user = _UserRules(graph, rules or {})
    first = _First(facts, explained)
    decisions = []
    for unit in path:
        operator = find(unit)
        assert operator is not None
        signals = tuple(i for i, operand in enumerate(unit.inputs) if facts.is_signal(operand))
        layer = first.look(unit, operator, signals)
        rule, source = user.choose(unit, operator, signals) or chooser(layer)
        decisions.append(Decision(unit, operator, rule, source, signals))
    return Plan(title, tuple(decisions), facts, target, tuple(explained), tuple(user.without_effect()))


def _require_rules(path: Sequence[Unit], explained: Sequence[ir.Value], target: ir.Value) -> None:
    missing: dict[str, list[Unit]] = {}
    for unit in path:
        if find(unit) is None:
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
        + "\nRun `onnxlrp inspect MODEL` for the whole picture, or use a method that only runs the model: "
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


# --- what a preset sees ----------------------------------------------------------------------------------------------


class _First:
    """Describes layers in graph order and knows which linear layer comes first below each explained tensor."""

    def __init__(self, facts: Facts, explained: Sequence[ir.Value]) -> None:
        self._facts = facts
        self._roots: dict[ir.Value, frozenset[ir.Value]] = {value: frozenset([value]) for value in explained}
        self._seen_linear: set[ir.Value] = set()
        self._seen_convolution: set[ir.Value] = set()
        self._producer = {output: node for node in facts.graph for output in node.outputs}

    def look(self, unit: Unit, operator: Operator, signals: tuple[int, ...]) -> Layer:
        family = operator.family_for(signals)
        kind = self._kind(unit, operator) if family is Family.LINEAR else ""
        roots = frozenset().union(*(self._roots.get(unit.inputs[i], frozenset()) for i in signals))  # type: ignore[arg-type]
        weighted = kind in (CONVOLUTION, DENSE)
        first_linear = weighted and not roots <= self._seen_linear
        first_convolution = kind == CONVOLUTION and not roots <= self._seen_convolution
        if weighted:
            self._seen_linear |= roots
        if kind == CONVOLUTION:
            self._seen_convolution |= roots
        self._roots.update({output: roots | self._roots.get(output, frozenset()) for output in unit.outputs})
        gate, softmax = self._gate(unit, signals) if family is Family.PRODUCT else (None, False)
        return Layer(
            operator, family, kind, first_linear, first_convolution, gate, self._broadcasts(unit, signals), softmax
        )

    def _kind(self, unit: Unit, operator: Operator) -> str:
        if len(unit.nodes) == 1:
            return operator.layer
        first = lookup(unit.nodes[0].op_type, unit.nodes[0].domain)
        return first.layer if first is not None else ""

    def _broadcasts(self, unit: Unit, signals: tuple[int, ...]) -> bool:
        if not signals:
            return False
        have, wanted = self._facts.dims(unit.outputs[0]), self._facts.dims(unit.inputs[signals[0]])  # type: ignore[arg-type]
        return have is None or have != wanted

    def _gate(self, unit: Unit, signals: tuple[int, ...]) -> tuple[int | None, bool]:
        """The operand that comes from a sigmoid or softmax, if exactly one does, and whether it is a softmax."""
        sources = {index: self._squashed_by(unit.inputs[index]) for index in signals}
        gates = [index for index, source in sources.items() if source]
        return (gates[0], sources[gates[0]] == "Softmax") if len(gates) == 1 else (None, False)

    def _squashed_by(self, value: ir.Value | None) -> str:
        for _ in range(8):
            node = self._producer.get(value) if value is not None else None
            if node is None:
                return ""
            if node.op_type in _SQUASHING:
                return node.op_type
            operator = lookup(node.op_type, node.domain)
            if operator is None or (operator.family is not Family.MOVEMENT and node.op_type not in _TRANSPARENT):
                return ""
            signals = [operand for operand in node.inputs if self._facts.is_signal(operand)]
            if len(signals) != 1:
                return ""
            value = signals[0]
        return ""


_SQUASHING = frozenset({"Sigmoid", "HardSigmoid", "Softmax"}) | frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"}
)
_TRANSPARENT = frozenset({"Cast", "Identity", "Dropout", "Mul", "Div"})


# --- the user's rules ------------------------------------------------------------------------------------------------


class _UserRules:
    """Rules by node name, glob or operator type, in that order of precedence."""

    def __init__(self, graph: ir.Graph, rules: Rules) -> None:
        self._rules = {key: parse_rule(rule) for key, rule in rules.items()}
        self._used: set[str] = set()
        self._refused: dict[str, Unit] = {}
        nodes = list(graph)
        for key in self._rules:
            if not any(_matches(key, node) for node in nodes):
                raise ChoiceError(_nothing_matches(key, nodes))

    def choose(self, unit: Unit, operator: Operator, signals: tuple[int, ...]) -> tuple[Rule, str] | None:
        best: dict[str, Rule] = {}
        for strength in (_by_name, _by_fused_name, _by_glob, _by_type, _by_fused_type):
            best = {key: rule for key, rule in self._rules.items() if any(strength(key, node) for node in unit.nodes)}
            if strength in (_by_fused_name, _by_fused_type):
                self._refused.update(dict.fromkeys(best, unit))
            if strength is not _by_name:
                # a type names layers of that type: an operator inside a merged activation is none of its own
                strict = strength is _by_type and len(unit.nodes) == 1
                best = self._fitting(best, unit, operator, signals, strict=strict)
            if best:
                break
        if not best:
            return None
        self._used.update(best)
        first_key = next(iter(best))
        if any(str(rule) != str(best[first_key]) for rule in best.values()):
            raise ChoiceError(
                f"Contradicting rules for {unit}: "
                + ", ".join(f"'{key}' says {rule}" for key, rule in best.items())
                + "."
            )
        self._fitting({first_key: best[first_key]}, unit, operator, signals, strict=True)
        return best[first_key], f"rule '{first_key}'"

    def _fitting(
        self, found: dict[str, Rule], unit: Unit, operator: Operator, signals: tuple[int, ...], *, strict: bool
    ) -> dict[str, Rule]:
        fitting = {key: rule for key, rule in found.items() if rule.fits(operator, signals)}
        if strict and found and not fitting:
            rule = next(iter(found.values()))
            family = operator.family_for(signals).value.split(":")[0]
            raise ChoiceError(
                f"The rule '{rule}' does not fit {unit}, which is a {family}. "
                "Decompositions are for layers with one signal and weights; elsewhere: pass, gradient or stop."
            )
        return fitting

    def without_effect(self) -> list[str]:
        """Rules that no layer took.  Errors: ChoiceError for one that names a fused node and fits none of its parts."""
        for key, unit in self._refused.items():
            if key not in self._used:
                raise ChoiceError(
                    f"The rule '{self._rules[key]}' fits no part of the fused operator '{key}', which is read as "
                    f"primitive ones; the last one tried was {unit}. See the plan for their names."
                )
        return [
            f"'{key}' = {rule}: no layer of its own takes it"
            for key, rule in self._rules.items()
            if key not in self._used
        ]


def _by_name(key: str, node: ir.Node) -> bool:
    return key == node.name


def _by_fused_name(key: str, node: ir.Node) -> bool:
    return key == node.metadata_props.get(FROM_NODE)


def _by_glob(key: str, node: ir.Node) -> bool:
    names = (node.name or "", node.metadata_props.get(FROM_NODE, ""))
    return any(c in key for c in "*?[") and any(fnmatchcase(name, key) for name in names)


def _by_type(key: str, node: ir.Node) -> bool:
    return key == node.op_type


def _by_fused_type(key: str, node: ir.Node) -> bool:
    return key == node.metadata_props.get(FROM_TYPE)


def _matches(key: str, node: ir.Node) -> bool:
    return any(way(key, node) for way in (_by_name, _by_fused_name, _by_glob, _by_type, _by_fused_type))


def _nothing_matches(key: str, nodes: Sequence[ir.Node]) -> str:
    names = {node.name or "" for node in nodes} | {node.op_type for node in nodes}
    names |= {node.metadata_props.get(FROM_NODE, "") for node in nodes}
    close = difflib.get_close_matches(key, names, n=3)
    hint = f" Close to it: {', '.join(close)}." if close else ""
    types = ", ".join(sorted({node.op_type for node in nodes}))
    return (
        f"The rule for '{key}' matches no node name, glob or operator type of the model.{hint} Its operators: {types}."
    )
