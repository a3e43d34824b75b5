"""The user's rules: by node name, glob or operator type, in that order of precedence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxlrp.errors import ChoiceError
from onnxlrp.graph import FROM_NODE, FROM_TYPE, Unit
from onnxlrp.rules.decompositions import Rule
from onnxlrp.rules.named import parse_rule
from onnxlrp.rules.registry import Operator

Rules = Mapping[str, "Rule | str"]


class UserRules:
    """Rules for the layers of one model, those in subgraphs included."""

    def __init__(self, graph: ir.Graph, rules: Rules) -> None:
        self._rules = {key: parse_rule(rule) for key, rule in rules.items()}
        self._used: set[str] = set()
        self._refused: dict[str, Unit] = {}
        nodes = list(graph.all_nodes())
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
                "Decompositions are for layers with one signal and weights; elsewhere: pass, gradient or stop; "
                "for control flow: stop, or rules for the layers inside."
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
