"""The way from the explained tensors to the target: the layers on it, in graph order or as a networkx graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx
import onnx_ir as ir

from onnxlrp.graph.facts import Facts
from onnxlrp.graph.unit import Unit


def between(units: Sequence[Unit], facts: Facts, targets: Iterable[ir.Value]) -> list[Unit]:
    """The units on some way from an explained tensor to a target, in graph order."""
    reached = set(targets)
    kept = []
    for unit in reversed(units):
        signals = facts.signals_into(unit)
        if signals and any(output in reached and facts.is_signal(output) for output in unit.outputs):
            kept.append(unit)
            reached.update(signals)
    return kept[::-1]


def as_networkx(units: Sequence[Unit], facts: Facts) -> nx.DiGraph:
    """The reversed relevance graph: one vertex a unit, edges from a layer to the layers its relevance goes to.

    Vertex attributes: operator, nodes. Edge attribute: tensor.
    """
    graph = nx.DiGraph()
    producer = {output: unit for unit in units for output in unit.outputs}
    for unit in units:
        graph.add_node(unit.name, operator=unit.described_type)
        for operand in facts.signals_into(unit):
            below = producer.get(operand)
            name = below.name if below is not None else operand.name
            if below is None:
                graph.add_node(name, operator="input")
            graph.add_edge(unit.name, name, tensor=operand.name)
    return graph
