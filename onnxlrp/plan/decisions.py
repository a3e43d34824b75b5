"""The plan as a value: one decision per layer, printable before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxlrp.errors import ChoiceError
from onnxlrp.graph import Facts, Unit
from onnxlrp.rules.decompositions import Rule
from onnxlrp.rules.registry import Family, Operator, Subgraph

_PROMISES = ("exactly", "up to epsilon", "up to bias", "not")
"""What a rule may promise, strongest first."""


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

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        rows = [("layer", "operator", "rule", "because"), *self.rows()]
        widths = [min(max(len(row[i]) for row in rows), 60) for i in range(3)]
        lines = [f"{self.title}: {', '.join(v.name or '' for v in self.explained)} ← {self.target.name}"]
        lines += ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        lines += [f"no effect: {note}" for note in self.without_effect]
        lines += [f"stand-in, not known to be right: {note}" for note in self.stand_ins]
        return "\n".join(lines)
