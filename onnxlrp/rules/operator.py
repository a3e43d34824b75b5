"""What is known about an operator: its record, its family, and the linear map or the subgraphs that it has."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxlrp.graph import Facts
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
