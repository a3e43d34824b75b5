"""One record per operator: its gradient, its family, and, where the family does not give it, its relevance rule.

A new operator is one entry in one of the family modules beside this file:

    pointwise("Sigmoid", lambda step, x, y: y * (1.0 - y), nonnegative=ALWAYS)

    @movement("Transpose")
    def transpose(step, g):
        return [step.emit.Transpose(g, perm=inverse(step.attribute("perm")))]

and joins the gradient check, the coverage table and the docs by being registered.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.graph import KEPT, Facts, Unit, operands
from onnxlrp.rules.step import Step

Contribution = ir.Value | None
Vjp = Callable[[Step, Any], Sequence[Contribution]]
"""(step, cotangent) → one cotangent per operand, None where nothing flows; with several outputs a tuple goes in."""


class Family(enum.Enum):
    """What an operator is, and so how relevance crosses it by default."""

    LINEAR = "linear map of one signal: a decomposition"
    SUM = "sum of signals: in proportion"
    MOVEMENT = "data movement: each value goes back where it came from"
    POINTWISE = "pointwise: pass"
    CHOICE = "choice: the winner takes all"
    PRODUCT = "product of signals: a gate gets nothing, otherwise in equal parts"
    NORMALISATION = "normalisation: standard deviation (or norm) held constant"
    SOFTMAX = "softmax: Taylor expansion"
    STEPS = "steps: its derivative is 0 almost everywhere; relevance by its own rule"
    KERNEL = "kernel machine: Taylor expansion at its nearest root"
    RECURRENT = "recurrent: gates get nothing, sums by epsilon"
    UNKNOWN = "unknown operator: a stand-in that the user names"
    CONTROL = "control flow: each layer inside by its own rule"


class Keeps(enum.Enum):
    """What an operator says about the sign of its output."""

    NEVER = "may be negative"
    ALWAYS = "never negative"
    INPUTS = "not negative when no operand is"


@dataclass(frozen=True)
class LinearMap:
    """z = forward(x, w) + bias, linear in x, with the adjoint ⟨forward(x, w), s⟩ = ⟨x, adjoint(s, w)⟩.

    operand : index of x among the node's inputs
    x       : the explained operand
    weight  : the other factor; None where there is none, or its weights are known to be ≥ 0 (pooling, sums)
    bias    : broadcastable to z; None for none
    output  : z as the model computes it, bias included
    signed  : weights of both signs that stand in no tensor; rules that look at each of them do not fit
    """

    operand: int
    x: ir.Value
    weight: Contribution
    bias: Contribution
    forward: Callable[[ir.Value, Contribution], ir.Value]
    adjoint: Callable[[ir.Value, Contribution], ir.Value]
    output: ir.Value
    signed: bool = False


@dataclass(frozen=True)
class Subgraph:
    """How a branch or a loop's body hangs on its node.

    operands : per input of the graph, the node's operand that it holds at first; None for one that the loop counts up
    results  : per output of the graph, the node's output that it ends in; None for one that only steers
    feedback : (output, input) of the graph: what one turn of a loop hands to the next
    """

    graph: ir.Graph
    operands: tuple[int | None, ...] = ()
    results: tuple[int | None, ...] = ()
    feedback: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Operator:
    """What is known about one operator.

    vjp         : the gradient, for every differentiable operand
    family      : decides the default relevance rule
    factors     : operands that multiply each other (Conv: data and weight); the others add
    parameters  : operands that shape the map (where to read, how far to open): they have a gradient, and relevance
                  goes past them to the operands beside them
    linear_map  : for linear operators, the map of a given operand
    relevance   : its own relevance rule, (step, relevance) → one entry per operand; None = from the family
    derivative  : for pointwise operators, dy/dx
    elementwise : contributions have the output's shape; the walk sums them back to each operand's
    outputs     : True when the vjp takes a tuple with one cotangent (or None) per output
    conserves   : "exactly", "up to bias", "up to epsilon" or "not"
    subgraphs   : for control flow, the graphs that a node runs
    steering    : operands that only say which of them, or how often
    """

    op_type: str
    family: Family
    vjp: Vjp
    domain: str = ""
    factors: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    linear_map: Callable[[Step, int], LinearMap] | None = None
    relevance: Vjp | None = None
    derivative: Callable[..., ir.Value] | None = None
    elementwise: bool = False
    outputs: bool = False
    nonnegative: Keeps = Keeps.NEVER
    nonnegative_if: Callable[[ir.Node, Facts], bool] | None = None
    conserves: str = "exactly"
    source: str = ""
    layer: str = ""
    scale_outputs: Callable[[Step, ir.Value, ir.Value], ir.Value] | None = None
    subgraphs: Callable[[ir.Node], Sequence[Subgraph]] | None = None
    steering: tuple[int, ...] = ()

    def carriers(self, signals: Sequence[int]) -> list[int]:
        """The signals that share the relevance: all but the parameters, unless there is nothing else."""
        return [index for index in signals if index not in self.parameters] or list(signals)

    def family_for(self, signals: Sequence[int]) -> Family:
        """Linear with one signal, a sum with several that add, a product with several that multiply."""
        if self.family is not Family.LINEAR:
            return self.family
        signals = self.carriers(signals)
        if self.relevance is not None and all(index in self.parameters for index in signals):
            return Family.POINTWISE
        if sum(index in self.factors for index in signals) > 1:
            return Family.PRODUCT
        return Family.LINEAR if len(signals) == 1 else Family.SUM


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
    return _OPERATORS.get((unit.domain, unit.op_type))


def lookup(op_type: str, domain: str = "") -> Operator | None:
    return _OPERATORS.get((domain, op_type))


def operators() -> Iterator[Operator]:
    yield from _OPERATORS.values()


def no_signal_operators() -> dict[tuple[str, str], str]:
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


@dataclass(frozen=True)
class Bilinear:
    """z = forward(x, scale·w) + bias, linear in x and in w: all that a linear operator has to declare.

    adjoint        : (s, w) → shaped like x
    weight_adjoint : (s, x) → shaped like w; None when there is no second factor
    bias_adjoint   : s → shaped like the bias
    others         : operand → its gradient, s → shaped like it, for operands that are no part of the linear map
    scale          : a number that belongs to the weights, sign included: rules look at scale·w
    signed         : as in `LinearMap`
    """

    forward: Callable[[ir.Value, Contribution], ir.Value]
    adjoint: Callable[[ir.Value, Contribution], ir.Value]
    weight_adjoint: Callable[[ir.Value, Contribution], ir.Value] | None = None
    bias_adjoint: Callable[[ir.Value], ir.Value] | None = None
    bias: Contribution = None
    weight: Contribution = None
    others: Mapping[int, Callable[[ir.Value], ir.Value]] = field(default_factory=dict)
    scale: float = 1.0
    signed: bool = False

    def scaled(self, factor: ir.Value) -> ir.Value:
        return factor if self.scale == 1.0 else factor * self.scale


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
            return _bilinear_vjp(step, g, declare(step), factors, addend)

        def linear_map(step: Step, operand: int) -> LinearMap:
            return _bilinear_map(step, declare(step), factors, addend, operand)

        facts.setdefault("conserves", "up to bias" if addend is not None else "up to epsilon")
        register(record(op_type, Family.LINEAR, vjp, factors=factors, linear_map=linear_map, **facts))
        return declare

    return decorate


def _bilinear_vjp(
    step: Step, g: ir.Value, declared: Bilinear, factors: tuple[int, ...], addend: int | None
) -> list[Contribution]:
    contributions: list[Contribution] = [None] * step.count
    data, weight = _factor_pair(step, factors)
    if step.signal(data):
        contributions[data] = declared.adjoint(g, _weights(step, declared, weight))
    if weight is not None and step.signal(weight):
        assert declared.weight_adjoint is not None
        contributions[weight] = declared.weight_adjoint(g, declared.scaled(step.x(data)))
    if addend is not None and step.signal(addend):
        assert declared.bias_adjoint is not None
        contributions[addend] = declared.bias_adjoint(g)
    for index in step.signals:
        if index in declared.others:
            contributions[index] = declared.others[index](g)
    return contributions


def _factor_pair(step: Step, factors: tuple[int, ...]) -> tuple[int, int | None]:
    """The data's index and the weight's; None where there is no second factor."""
    data = factors[0] if factors else 0
    return data, factors[1] if len(factors) > 1 and step.has(factors[1]) else None


def _bilinear_map(
    step: Step, declared: Bilinear, factors: tuple[int, ...], addend: int | None, operand: int
) -> LinearMap:
    data, weight = _factor_pair(step, factors)
    bias = declared.bias if addend is None or not step.has(addend) else (declared.bias or step.x(addend))
    if operand == data:
        other, forward, adjoint = _weights(step, declared, weight), declared.forward, declared.adjoint
        return LinearMap(operand, step.x(operand), other, bias, forward, adjoint, step.y(), declared.signed)
    if operand == weight:
        assert declared.weight_adjoint is not None
        swapped = declared.weight_adjoint
        fixed = declared.scaled(step.x(data))
        return LinearMap(
            operand, step.x(operand), fixed, bias, lambda w, x: declared.forward(_value(x), w), swapped, step.y()
        )
    if operand != addend or declared.bias_adjoint is None:
        raise Unsupported(
            f"Operand {operand} of {step.unit} has a gradient and no relevance rule; use a gradient method."
        )
    z = step.y()
    b = step.x(operand)
    spread = declared.bias_adjoint
    return LinearMap(operand, b, None, z - b, lambda x, _: x, lambda s, _: spread(s), z)


def _weights(step: Step, declared: Bilinear, weight: int | None) -> Contribution:
    return declared.weight if weight is None else declared.scaled(step.x(weight))


def _value(value: Contribution) -> ir.Value:
    assert value is not None
    return value
