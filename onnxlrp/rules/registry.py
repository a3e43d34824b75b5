"""One record per operator: its gradient, its family, and, where the family does not give it, its relevance rule.

A new operator is one entry in one of the family modules beside this file:

    pointwise("Sigmoid", lambda step, x, y: y * (1.0 - y), nonnegative=ALWAYS)

    @movement("Transpose")
    def transpose(step, g):
        return [step.emit.Transpose(g, perm=inverse(step.attribute("perm")))]

and joins the gradient check, the coverage table and the docs by being registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir

from onnxlrp.graph import KEPT, Unit, operands
from onnxlrp.rules.bilinear import Bilinear, bilinear_map, bilinear_vjp
from onnxlrp.rules.operator import Contribution, Family, Keeps, LinearMap, Operator, Subgraph, Vjp
from onnxlrp.rules.step import Step

__all__ = [
    "Bilinear",
    "Contribution",
    "Family",
    "Keeps",
    "LinearMap",
    "Operator",
    "Subgraph",
    "Vjp",
    "blocks",
    "choice",
    "find",
    "general",
    "inflows",
    "linear",
    "lookup",
    "movement",
    "no_signal",
    "no_signal_operators",
    "normalisation",
    "nothing_flows",
    "operators",
    "pointwise",
    "register",
    "softmax_like",
    "steps",
]

_OPERATORS: dict[tuple[str, str], Operator] = {}
_NO_SIGNAL: dict[tuple[str, str], str] = {}


def register(operator: Operator) -> Operator:
    """Add or replace a record."""
    _OPERATORS[operator.domain, operator.op_type] = operator
    return operator


def no_signal(reason: str, *op_types: str, domain: str = "") -> None:
    """Operators through which nothing flows: a decision on record, with its reason."""
    _NO_SIGNAL.update({(domain, op_type): reason for op_type in op_types})


def find(unit: Unit) -> Operator | None:
    """The record of a layer; None where there is none."""
    return _OPERATORS.get((unit.domain, unit.op_type))


def lookup(op_type: str, domain: str = "") -> Operator | None:
    """The record of an operator; None where there is none."""
    return _OPERATORS.get((domain, op_type))


def operators() -> Iterator[Operator]:
    """Every record, in the order of registration."""
    yield from _OPERATORS.values()


def no_signal_operators() -> dict[tuple[str, str], str]:
    """(domain, operator) → why nothing flows through it."""
    return dict(_NO_SIGNAL)


def blocks(node: ir.Node) -> bool:
    """Whether nothing flows through this node."""
    return (node.domain, node.op_type) in _NO_SIGNAL or KEPT in node.metadata_props


def inflows(node: ir.Node) -> tuple[Contribution, ...]:
    """The operands of a node that a signal passes through, those its subgraphs read from outside included."""
    if blocks(node):
        return ()
    operator = lookup(node.op_type, node.domain)
    steering = operator.steering if operator is not None else ()
    return tuple(operand for index, operand in enumerate(operands(node)) if index not in steering)


def nothing_flows(step: Step, g: Any) -> list[Contribution]:
    """The gradient of what is constant almost everywhere."""
    return [None] * step.count


# --- the ways to write an entry --------------------------------------------------------------------------------------


def pointwise(op_type: str, derivative: Callable[..., ir.Value], **facts: Any) -> Operator:
    """y = f(x), element by element. `derivative(step, x, y)` gives f'(x), shaped like x."""

    def vjp(step: Step, g: ir.Value) -> list[Contribution]:
        contributions: list[Contribution] = [None] * step.count
        if step.signal(0):
            contributions[0] = g * derivative(step, step.x(), step.y())
        return contributions

    return register(Operator(op_type, Family.POINTWISE, vjp, derivative=derivative, **facts))


def _entry(family: Family, **fixed: Any) -> Callable[..., Callable[[Vjp], Vjp]]:
    def entry(*op_types: str, **facts: Any) -> Callable[[Vjp], Vjp]:
        def decorate(vjp: Vjp) -> Vjp:
            for op_type in op_types:
                register(Operator(op_type, family, vjp, **(fixed | facts)))
            return vjp

        return decorate

    return entry


movement = _entry(Family.MOVEMENT, nonnegative=Keeps.INPUTS)
choice = _entry(Family.CHOICE)
normalisation = _entry(Family.NORMALISATION, conserves="up to epsilon")
general = _entry(Family.POINTWISE)
steps = _entry(Family.STEPS)
softmax_like = _entry(Family.SOFTMAX, conserves="not")


def linear(
    op_type: str,
    *,
    factors: tuple[int, ...] = (),
    addend: int | None = None,
    record: type[Operator] = Operator,
    **facts: Any,
) -> Callable[[Callable[[Step], Bilinear]], Callable[[Step], Bilinear]]:
    """A linear operator: operands `factors` multiply each other, operand `addend` is the bias.

    record : for an operator whose family depends on its signals in a way of its own
    """

    def decorate(declare: Callable[[Step], Bilinear]) -> Callable[[Step], Bilinear]:
        def vjp(step: Step, g: ir.Value) -> list[Contribution]:
            return bilinear_vjp(step, g, declare(step), factors, addend)

        def linear_map(step: Step, operand: int) -> LinearMap:
            return bilinear_map(step, declare(step), factors, addend, operand)

        facts.setdefault("conserves", "up to bias" if addend is not None else "up to epsilon")
        register(record(op_type, Family.LINEAR, vjp, factors=factors, linear_map=linear_map, **facts))
        return declare

    return decorate
