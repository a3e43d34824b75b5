"""Plan: one decision per layer, printable before anything is built; every layer without a rule is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxlrp.bounds import at_layer
from onnxlrp.errors import ChoiceError, NoRule
from onnxlrp.graph import NOT_LOWERED, Facts, Unit, between, captured
from onnxlrp.layers import units_of
from onnxlrp.presets import Layer
from onnxlrp.rules.decompositions import Rule
from onnxlrp.rules.linear import CONVOLUTION, DENSE
from onnxlrp.rules.registry import Family, Keeps, Operator, Subgraph, find, inflows, lookup
from onnxlrp.rules.stand_in import unknown
from onnxlrp.user_rules import Rules, UserRules

Chooser = Callable[[Layer], tuple[Rule, str]]


@dataclass(frozen=True)
class Decision:
    """How relevance crosses one layer, and who said so.  inside : the plans of its subgraphs"""

    unit: Unit
    operator: Operator
    rule: Rule
    source: str
    signals: tuple[int, ...]
    inside: tuple[Inside, ...] = ()

    @property
    def conserves(self) -> str:
        """The weakest of the rule's promise, the operator's, and those of the layers inside."""
        own = self.rule.conserves if self.rule.name not in ("own", "epsilon") else self.operator.conserves
        return max([own, *(inner.conserves for inner in self.inner)], key=_PROMISES.index)

    @property
    def inner(self) -> tuple[Decision, ...]:
        """The layers inside, one level down."""
        return tuple(decision for inside in self.inside for decision in inside.region.decisions)


_PROMISES = ("exactly", "up to epsilon", "up to bias", "not")


@dataclass(frozen=True)
class Region:
    """The layers of one graph that lie between some tensors, in graph order.

    targets : where relevance starts        explained : the tensors it is wanted for
    """

    decisions: tuple[Decision, ...]
    facts: Facts
    targets: tuple[ir.Value, ...]
    explained: tuple[ir.Value, ...]

    def __iter__(self) -> Iterator[Decision]:
        return iter(self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)

    def on(self, graph: ir.Graph, twins: Mapping[ir.Value, ir.Value]) -> Region:
        """The same layers in a copy of their graph.  twins : tensor → the one in its place"""
        decisions = (replace(decision, unit=decision.unit.on(twins)) for decision in self.decisions)
        targets, explained = ((twins.get(v, v) for v in values) for values in (self.targets, self.explained))
        return Region(tuple(decisions), self.facts.on(graph, twins), tuple(targets), tuple(explained))

    def all(self) -> Iterator[Decision]:
        """Every layer, those in subgraphs behind the layer that holds them."""
        yield from (decision for _, decision in self.levels())

    def levels(self, depth: int = 0) -> Iterator[tuple[int, Decision]]:
        """(how many subgraphs it lies in, layer)."""
        for decision in self.decisions:
            yield depth, decision
            for inside in decision.inside:
                yield from inside.region.levels(depth + 1)


@dataclass(frozen=True)
class Inside:
    """A subgraph and its plan."""

    subgraph: Subgraph
    region: Region


@dataclass(frozen=True)
class Plan(Region):
    """Every layer between the explained tensors and the target, in graph order.

    without_effect : rules that match a layer through which nothing flows
    """

    title: str = ""
    without_effect: tuple[str, ...] = field(default=())

    @property
    def target(self) -> ir.Value:
        return self.targets[0]

    @property
    def stand_ins(self) -> list[str]:
        """Operators without a record, with the rule that the user put there."""
        return [f"{d.unit}: {d.rule}" for d in self.all() if d.operator.family is Family.UNKNOWN]

    @property
    def units(self) -> list[Unit]:
        return [decision.unit for decision in self.decisions]

    @property
    def steps(self) -> tuple[Unit, ...]:
        """The layers whose derivative is 0 almost everywhere."""
        return tuple(decision.unit for decision in self.all() if decision.operator.family is Family.STEPS)

    def rule_of(self, node_name: str) -> Rule:
        """The rule of the layer that a node of the file belongs to.  Errors: ChoiceError."""
        for decision in self.all():
            if node_name in decision.unit.names:
                return decision.rule
        raise ChoiceError(f"No layer of the plan holds a node named '{node_name}'.")

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(node, operator, rule, source) per layer, in graph order; layers in subgraphs are indented."""
        return [
            ("  " * depth + d.unit.name, d.unit.described_type, str(d.rule), d.source) for depth, d in self.levels()
        ]

    def __str__(self) -> str:
        rows = [("layer", "operator", "rule", "because"), *self.rows()]
        widths = [min(max(len(row[i]) for row in rows), 60) for i in range(3)]
        lines = [f"{self.title}: {', '.join(v.name or '' for v in self.explained)} ← {self.target.name}"]
        lines += ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        lines += [f"no effect: {note}" for note in self.without_effect]
        lines += [f"stand-in, not known to be right: {note}" for note in self.stand_ins]
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
    facts = Facts(graph, explained, inflows)
    planner = _Planner(chooser, UserRules(graph, rules or {}), merge)
    region = planner.region(facts, explained, [target], _First(facts, {value: value for value in explained}))
    _require_rules(planner.without_rule, explained, target)
    return Plan(region.decisions, facts, region.targets, region.explained, title, tuple(planner.user.without_effect()))


@dataclass
class _Planner:
    """Decides layer by layer, subgraphs included.  without_rule : the layers for which nothing can be decided"""

    chooser: Chooser
    user: UserRules
    merge: bool
    without_rule: list[Unit] = field(default_factory=list)

    def region(self, facts: Facts, explained: Iterable[ir.Value], targets: Sequence[ir.Value], first: _First) -> Region:
        explained = tuple(explained)
        units = units_of(facts.graph, facts, [*targets, *explained], merge=self.merge)
        mark_nonnegative(facts.graph, facts)
        decisions = []
        for unit in between(units, facts, targets):
            operator = find(unit)
            decision = self._stand_in(unit, facts, first) if operator is None else None
            if operator is not None:
                decision = self._decide(unit, operator, facts, first)
            if decision is None:
                self.without_rule.append(unit)
            else:
                decisions.append(decision)
        return Region(tuple(decisions), facts, tuple(targets), explained)

    def _decide(self, unit: Unit, operator: Operator, facts: Facts, first: _First) -> Decision:
        signals = tuple(
            i for i, operand in enumerate(unit.inputs) if i not in operator.steering and facts.is_signal(operand)
        )
        inside: tuple[Inside, ...] = ()
        if operator.subgraphs is not None:
            inside = tuple(self._inside(s, unit, facts, first) for s in operator.subgraphs(unit.node))
        layer = first.look(unit, operator, signals)
        rule, source = self.user.choose(unit, operator, signals) or self._of_preset(layer, unit, signals, facts)
        return Decision(unit, operator, rule, source, signals, inside)

    def _of_preset(self, layer: Layer, unit: Unit, signals: tuple[int, ...], facts: Facts) -> tuple[Rule, str]:
        rule, source = self.chooser(layer)
        return (at_layer(rule, unit.inputs[signals[0]], facts) if signals else rule), source

    def _stand_in(self, unit: Unit, facts: Facts, first: _First) -> Decision | None:
        """An operator without a record crosses by the rule that the user names for it; None where none is named."""
        operator = unknown(unit)
        signals = tuple(i for i, operand in enumerate(unit.inputs) if facts.is_signal(operand))
        first.look(unit, operator, signals)
        chosen = self.user.choose(unit, operator, signals)
        return None if chosen is None else Decision(unit, operator, chosen[0], f"stand-in: {chosen[1]}", signals)

    def _inside(self, subgraph: Subgraph, unit: Unit, outside: Facts, first: _First) -> Inside:
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


# --- what a preset sees ----------------------------------------------------------------------------------------------


class _First:
    """Describes layers in graph order and knows which linear layer comes first below each explained tensor.

    roots : tensor → the explained ones that it stands for        around : the same of the graph around a subgraph
    """

    def __init__(self, facts: Facts, roots: Mapping[ir.Value, ir.Value], around: _First | None = None) -> None:
        self._facts = facts
        known = around._roots if around is not None else {}
        self._roots: dict[ir.Value, frozenset[ir.Value]] = known | {
            value: known.get(root, frozenset([root])) for value, root in roots.items()
        }
        self._seen_linear: set[ir.Value] = set(around._seen_linear) if around is not None else set()
        self._seen_convolution: set[ir.Value] = set(around._seen_convolution) if around is not None else set()
        self._inside: list[_First] = []

    def inside(self, facts: Facts, held: Mapping[ir.Value, ir.Value]) -> _First:
        """The same in a subgraph of the next layer.  held : the graph's inputs → what they hold at first"""
        self._inside.append(_First(facts, held, self))
        return self._inside[-1]

    def look(self, unit: Unit, operator: Operator, signals: tuple[int, ...]) -> Layer:
        for inside in self._inside:
            self._seen_linear |= inside._seen_linear
            self._seen_convolution |= inside._seen_convolution
        self._inside = []
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
        """The operand that comes from a sigmoid, softmax or reciprocal, if just one does, and whether from a softmax.

        A product with a reciprocal is a division by a signal written otherwise: a normalisation.
        """
        sources = {index: self._squashed_by(unit.inputs[index]) for index in signals}
        gates = [index for index, source in sources.items() if source]
        return (gates[0], sources[gates[0]] == "Softmax") if len(gates) == 1 else (None, False)

    def _squashed_by(self, value: ir.Value | None) -> str:
        for _ in range(8):
            node = value.producer() if value is not None else None
            if node is None:
                return ""
            if node.op_type in _SQUASHING or self._is_reciprocal(node):
                return node.op_type
            operator = lookup(node.op_type, node.domain)
            if operator is None or (operator.family is not Family.MOVEMENT and node.op_type not in _TRANSPARENT):
                return ""
            signals = [operand for operand in node.inputs if self._facts.is_signal(operand)]
            if len(signals) != 1:
                return ""
            value = signals[0]
        return ""

    def _is_reciprocal(self, node: ir.Node) -> bool:
        """1/x, c/x, x^(−½): where exporters divide by a norm in two steps."""
        if node.domain or node.op_type not in ("Reciprocal", "Div", "Pow"):
            return False
        if node.op_type == "Pow":
            exponent = self._facts.constant(node.inputs[1])
            return exponent is not None and bool((exponent < 0).all())
        return node.op_type == "Reciprocal" or not self._facts.is_signal(node.inputs[0])


_SQUASHING = frozenset({"Sigmoid", "HardSigmoid", "Softmax"}) | frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"}
)
_TRANSPARENT = frozenset({"Cast", "Identity", "Dropout", "Mul", "Div"})
