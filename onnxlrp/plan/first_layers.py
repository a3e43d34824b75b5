"""What a preset sees of each layer, and which linear layer comes first below an explained tensor."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxlrp.graph import Facts, Unit
from onnxlrp.plan.gates import gate_of
from onnxlrp.presets import Layer
from onnxlrp.rules.linear import CONVOLUTION, DENSE
from onnxlrp.rules.registry import Family, Operator, lookup


class FirstLayers:
    """Describes layers in graph order and knows which linear layer comes first below each explained tensor.

    roots : tensor → the explained ones that it stands for        around : the same of the graph around a subgraph
    """

    def __init__(self, facts: Facts, roots: Mapping[ir.Value, ir.Value], around: FirstLayers | None = None) -> None:
        self._facts = facts
        known = around._roots if around is not None else {}
        self._roots: dict[ir.Value, frozenset[ir.Value]] = known | {
            value: known.get(root, frozenset([root])) for value, root in roots.items()
        }
        self._seen_linear: set[ir.Value] = set(around._seen_linear) if around is not None else set()
        self._seen_convolution: set[ir.Value] = set(around._seen_convolution) if around is not None else set()
        self._inside: list[FirstLayers] = []

    def inside(self, facts: Facts, held: Mapping[ir.Value, ir.Value]) -> FirstLayers:
        """The same in a subgraph of the next layer.  held : the graph's inputs → what they hold at first"""
        self._inside.append(FirstLayers(facts, held, self))
        return self._inside[-1]

    def describe(self, unit: Unit, operator: Operator, signals: tuple[int, ...]) -> Layer:
        """What a preset sees of the next layer, in graph order.  signals : indices of the operands relevance goes to"""
        for inside in self._inside:
            self._seen_linear |= inside._seen_linear
            self._seen_convolution |= inside._seen_convolution
        self._inside = []
        family = operator.family_for(signals)
        kind = _kind(unit, operator) if family is Family.LINEAR else ""
        roots = frozenset().union(*(self._roots.get(unit.inputs[i], frozenset()) for i in signals))  # type: ignore[arg-type]
        weighted = kind in (CONVOLUTION, DENSE)
        first_linear = weighted and not roots <= self._seen_linear
        first_convolution = kind == CONVOLUTION and not roots <= self._seen_convolution
        if weighted:
            self._seen_linear |= roots
        if kind == CONVOLUTION:
            self._seen_convolution |= roots
        self._roots.update({output: roots | self._roots.get(output, frozenset()) for output in unit.outputs})
        gate, softmax = gate_of(unit, signals, self._facts) if family is Family.PRODUCT else (None, False)
        return Layer(
            operator,
            family,
            kind,
            first_linear,
            first_convolution,
            gate,
            _broadcasts(unit, signals, self._facts),
            softmax,
        )


def _kind(unit: Unit, operator: Operator) -> str:
    """Of a merged layer, the kind of the linear operator that it begins with."""
    first = operator if len(unit.nodes) == 1 else lookup(unit.nodes[0].op_type, unit.nodes[0].domain)
    return first.layer if first is not None else ""


def _broadcasts(unit: Unit, signals: tuple[int, ...], facts: Facts) -> bool:
    """Whether the first signal may have another shape than the output."""
    operand = unit.inputs[signals[0]] if signals else None
    if operand is None:
        return False
    dims = facts.dims(unit.outputs[0])
    return dims is None or dims != facts.dims(operand)
