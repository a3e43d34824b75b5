"""What a recurrent cell is: one step forward, one step of the gradient, one step of relevance; and the plain one.

All tensors are (…, direction, batch, blocks · hidden): inside a loop without time, outside with time in front, so that
`forward` serves both. What does not depend on the step after (slopes, shares) is computed outside, for all steps at
once; `Way.back` holds the little that has to run step by step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.rules.activations import Activation, split
from onnxlrp.rules.step import Step

Values = Sequence[ir.Value]
Trace = dict[str, ir.Value]
"""The tensors of a forward step, by the letters of the standard's formulas."""

Back = Callable[[Emit, Values, Values], tuple[list[ir.Value], ir.Value, ir.Value]]
"""(writer, what arrived at the new states, coefficients now) → (for the states before, the message, R of the state)."""


@dataclass(frozen=True)
class Weights:
    """hidden : recurrence (direction, hidden, gates · hidden), transposed

    input_bias, bias : of the input's part and of the recurrence, (direction, 1, gates · hidden)
    peepholes        : (direction, 1, hidden) for i, o, f; empty without
    """

    hidden: ir.Value
    input_bias: ir.Value | None = None
    bias: ir.Value | None = None
    peepholes: tuple[ir.Value, ...] = ()


@dataclass(frozen=True)
class Way:
    """One way back through a cell.

    coefficients : tensors with time, of which `back` gets one step        back : that step
    lost         : share of the state's relevance that its stabiliser keeps; None for gradients
    """

    coefficients: list[ir.Value]
    back: Back
    lost: ir.Value | None = None


@dataclass(frozen=True)
class Cell(ABC):
    """gates : blocks of the weights, the candidate last        states : tensors carried from step to step"""

    step: Step
    weights: Weights
    functions: Sequence[Activation]
    gates: int
    states: int

    @abstractmethod
    def forward(self, emit: Emit, zx: ir.Value, states: Values) -> tuple[Trace, list[ir.Value]]:
        """zx : W x + b for all gates; returns every tensor of the step, and the states after it."""

    @abstractmethod
    def gradient(self, t: Trace) -> Way:
        """The message is the gradient at the inputs of all gates."""

    @abstractmethod
    def relevance(self, t: Trace, eps: float, bias: Values) -> Way:
        """The message is s = R / stabilise(z) at the candidate; gates get nothing.

        bias : bias / number of inputs, with time, to be spread over the inputs; empty where it keeps its share
        """

    def hidden_parts(self, t: Trace, message: ir.Value, blocks: int) -> list[tuple[ir.Value, ir.Value]]:
        """(message at blocks of the recurrence, what these blocks were multiplied with)."""
        return [(message, t["h_before"])]

    def candidate_bias(self, t: Trace) -> ir.Value | None:
        """What the bias adds to the candidate's pre-activation; None without one."""
        if self.weights.bias is None or self.weights.input_bias is None:
            return None
        emit = self.step.emit
        own, recurrent = (split(emit, b, self.gates)[-1] for b in (self.weights.input_bias, self.weights.bias))
        return emit.Add(own, self._gated_bias(recurrent, t))

    def _gated_bias(self, bias: ir.Value, t: Trace) -> ir.Value:
        return bias

    def _through(self, emit: Emit, message: ir.Value, blocks: slice | None = None) -> ir.Value:
        """The message through the recurrence weights, transposed; of some blocks of them."""
        weight = self.weights.hidden
        if blocks is not None:
            parts = split(self.step.emit, weight, self.gates)[blocks]
            weight = parts[0] if len(parts) == 1 else self.step.emit.Concat(*parts, axis=-1)
        return emit.MatMul(message, self.step.emit.Transpose(weight, perm=[0, 2, 1]))

    def _shares(self, t: Trace, y: ir.Value, eps: float) -> ir.Value:
        """(what gate ⊙ candidate adds to y) / stabilise(y) / stabilise(z)."""
        emit = self.step.emit
        return emit.quotient(emit.quotient(t["added"], y, eps), t["candidate"], eps)

    def _lost(self, y: ir.Value, eps: float) -> ir.Value:
        return self.step.emit.Sub(1.0, self.step.emit.quotient(y, y, eps))


LAST = slice(-1, None)


def spread(emit: Emit, message: ir.Value, bias: Sequence[ir.Value]) -> ir.Value | None:
    """Σ_j s_j b_j / N for every input; `bias` holds b / N, or nothing."""
    return emit.sum(emit.Mul(message, bias[0]), [-1]) if bias else None


def plus(emit: Emit, value: ir.Value, more: ir.Value | None) -> ir.Value:
    return value if more is None else emit.Add(value, more)


class Rnn(Cell):
    """h = f(W x + R h₋ + b)."""

    def forward(self, emit: Emit, zx: ir.Value, states: Values) -> tuple[Trace, list[ir.Value]]:
        (before,) = states
        z = plus(emit, emit.Add(zx, emit.MatMul(before, self.weights.hidden)), self.weights.bias)
        h = self.functions[0](emit, z)
        return {"h_before": before, "candidate": z, "h": h}, [h]

    def gradient(self, t: Trace) -> Way:
        def back(emit: Emit, arrived: Values, now: Values) -> tuple[list[ir.Value], ir.Value, ir.Value]:
            message = emit.Mul(arrived[0], now[0])
            return [self._through(emit, message)], message, arrived[0]

        return Way([self.functions[0].slope(self.step, t["candidate"])], back)

    def relevance(self, t: Trace, eps: float, bias: Values) -> Way:
        def back(emit: Emit, arrived: Values, now: Values) -> tuple[list[ir.Value], ir.Value, ir.Value]:
            share, h_before, *bias = now
            message = emit.Mul(arrived[0], share)
            before = emit.Mul(h_before, self._through(emit, message))
            return [plus(emit, before, spread(emit, message, bias))], message, arrived[0]

        ones = self.step.emit.ones_like(t["candidate"])
        return Way([self.step.emit.quotient(ones, t["candidate"], eps), t["h_before"], *bias], back)
