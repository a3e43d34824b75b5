"""The cells of RNN, GRU and LSTM: one step forward, one step of the gradient, one step of relevance.

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


def _plus(emit: Emit, value: ir.Value, more: ir.Value | None) -> ir.Value:
    return value if more is None else emit.Add(value, more)


class Rnn(Cell):
    """h = f(W x + R h₋ + b)."""

    def forward(self, emit: Emit, zx: ir.Value, states: Values) -> tuple[Trace, list[ir.Value]]:
        (before,) = states
        z = _plus(emit, emit.Add(zx, emit.MatMul(before, self.weights.hidden)), self.weights.bias)
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
            return [_plus(emit, before, spread(emit, message, bias))], message, arrived[0]

        ones = self.step.emit.ones_like(t["candidate"])
        return Way([self.step.emit.quotient(ones, t["candidate"], eps), t["h_before"], *bias], back)


@dataclass(frozen=True)
class Gru(Cell):
    """h = (1 − z) ⊙ n + z ⊙ h₋ with n = g(W x + r ⊙ (R h₋ + b)) where `after`, else n = g(W x + R (r ⊙ h₋) + b).

    after : the attribute linear_before_reset
    """

    after: bool = False

    def forward(self, emit: Emit, zx: ir.Value, states: Values) -> tuple[Trace, list[ir.Value]]:
        (before,) = states
        outside = self.step.emit
        f, g = self.functions
        biases = [None] * 3 if self.weights.bias is None else split(outside, self.weights.bias, 3)
        hz, hr, hn = split(outside, self.weights.hidden, 3)
        xz, xr, xn = split(emit, zx, 3)
        zz = _plus(emit, emit.Add(xz, emit.MatMul(before, hz)), biases[0])
        zr = _plus(emit, emit.Add(xr, emit.MatMul(before, hr)), biases[1])
        z, r = f(emit, zz), f(emit, zr)
        held = before if self.after else emit.Mul(r, before)
        q = _plus(emit, emit.MatMul(held, hn), biases[2])
        zn = emit.Add(xn, emit.Mul(r, q) if self.after else q)
        n = g(emit, zn)
        added = emit.Mul(emit.Sub(1.0, z), n)
        h = emit.Add(added, emit.Mul(z, before))
        trace = {"h_before": before, "held": held, "zz": zz, "zr": zr, "candidate": zn, "q": q}
        return trace | {"z": z, "r": r, "n": n, "added": added, "h": h}, [h]

    def gradient(self, t: Trace) -> Way:
        step, (f, g) = self.step, self.functions
        at_n = (1.0 - t["z"]) * g.slope(step, t["candidate"])
        at_z = (t["h_before"] - t["n"]) * f.slope(step, t["zz"])
        at_r = (t["q"] if self.after else t["h_before"]) * f.slope(step, t["zr"])

        def back(emit: Emit, arrived: Values, now: Values) -> tuple[list[ir.Value], ir.Value, ir.Value]:
            k_n, k_z, k_r, z, r = now
            d_n, d_z = emit.Mul(arrived[0], k_n), emit.Mul(arrived[0], k_z)
            if self.after:
                d_r = emit.Mul(d_n, k_r)
                through_n = self._through(emit, emit.Mul(d_n, r), LAST)
            else:
                held = self._through(emit, d_n, LAST)
                d_r, through_n = emit.Mul(held, k_r), emit.Mul(held, r)
            gates = self._through(emit, emit.Concat(d_z, d_r, axis=-1), slice(0, 2))
            before = emit.Sum(emit.Mul(arrived[0], z), through_n, gates)
            return [before], emit.Concat(d_z, d_r, d_n, axis=-1), arrived[0]

        return Way([at_n, at_z, at_r, t["z"], t["r"]], back)

    def relevance(self, t: Trace, eps: float, bias: Values) -> Way:
        emit = self.step.emit
        keeps = emit.quotient(t["z"] * t["h_before"], t["h"], eps)

        def back(emit: Emit, arrived: Values, now: Values) -> tuple[list[ir.Value], ir.Value, ir.Value]:
            share, keeps, held, r, *bias = now
            message = emit.Mul(arrived[0], share)
            gated = emit.Mul(message, r) if self.after else message
            before = emit.Add(emit.Mul(arrived[0], keeps), emit.Mul(held, self._through(emit, gated, LAST)))
            return [_plus(emit, before, spread(emit, message, bias))], message, arrived[0]

        share = self._shares(t, t["h"], eps)
        return Way([share, keeps, t["held"], t["r"], *bias], back, self._lost(t["h"], eps))

    def hidden_parts(self, t: Trace, message: ir.Value, blocks: int) -> list[tuple[ir.Value, ir.Value]]:
        emit = self.step.emit
        *gates, candidate = split(emit, message, blocks)
        parts = [(emit.Concat(*gates, axis=-1), t["h_before"])] if gates else []
        return [*parts, (candidate * t["r"] if self.after else candidate, t["held"])]

    def _gated_bias(self, bias: ir.Value, t: Trace) -> ir.Value:
        return self.step.emit.Mul(bias, t["r"]) if self.after else bias


@dataclass(frozen=True)
class Lstm(Cell):
    """c = f ⊙ c₋ + i ⊙ g,  h = o ⊙ H(c); blocks in the order i, o, f, g.

    coupled : the attribute input_forget, f = 1 − i
    """

    coupled: bool = False

    def forward(self, emit: Emit, zx: ir.Value, states: Values) -> tuple[Trace, list[ir.Value]]:
        h_before, c_before = states
        sigma, activate, squash = self.functions
        z = _plus(emit, emit.Add(zx, emit.MatMul(h_before, self.weights.hidden)), self.weights.bias)
        zi, zo, zf, zg = split(emit, z, 4)
        if self.weights.peepholes:
            to_i, to_o, to_f = self.weights.peepholes
            zi, zf = emit.Add(zi, emit.Mul(to_i, c_before)), emit.Add(zf, emit.Mul(to_f, c_before))
        i, g = sigma(emit, zi), activate(emit, zg)
        f = emit.Sub(1.0, i) if self.coupled else sigma(emit, zf)
        added = emit.Mul(i, g)
        c = emit.Add(emit.Mul(f, c_before), added)
        if self.weights.peepholes:
            zo = emit.Add(zo, emit.Mul(to_o, c))
        o, squashed = sigma(emit, zo), squash(emit, c)
        h = emit.Mul(o, squashed)
        trace = {
            "h_before": h_before,
            "c_before": c_before,
            "zi": zi,
            "zo": zo,
            "zf": zf,
            "candidate": zg,
            "added": added,
        }
        return trace | {"i": i, "f": f, "g": g, "o": o, "c": c, "squashed": squashed, "h": h}, [h, c]

    def gradient(self, t: Trace) -> Way:
        step, (sigma, activate, squash) = self.step, self.functions
        at_o = t["squashed"] * sigma.slope(step, t["zo"])
        at_c = t["o"] * squash.slope(step, t["c"])
        opened = t["g"] - t["c_before"] if self.coupled else t["g"]
        at_i = opened * sigma.slope(step, t["zi"])
        at_f = step.emit.zeros_like(at_i) if self.coupled else t["c_before"] * sigma.slope(step, t["zf"])
        at_g = t["i"] * activate.slope(step, t["candidate"])

        def back(emit: Emit, arrived: Values, now: Values) -> tuple[list[ir.Value], ir.Value, ir.Value]:
            k_o, k_c, k_i, k_f, k_g, f = now
            d_o = emit.Mul(arrived[0], k_o)
            d_c = emit.Add(arrived[1], emit.Mul(arrived[0], k_c))
            if self.weights.peepholes:
                d_c = emit.Add(d_c, emit.Mul(d_o, self.weights.peepholes[1]))
            d_i, d_f, d_g = emit.Mul(d_c, k_i), emit.Mul(d_c, k_f), emit.Mul(d_c, k_g)
            c_before = emit.Mul(d_c, f)
            if self.weights.peepholes:
                to_i, _, to_f = self.weights.peepholes
                c_before = emit.Sum(c_before, emit.Mul(d_i, to_i), emit.Mul(d_f, to_f))
            message = emit.Concat(d_i, d_o, d_f, d_g, axis=-1)
            return [self._through(emit, message), c_before], message, d_c

        return Way([at_o, at_c, at_i, at_f, at_g, t["f"]], back)

    def relevance(self, t: Trace, eps: float, bias: Values) -> Way:
        """R_c += R_h;  R_g = i g / c, R_c₋ = f c₋ / c;  R_x and R_h₋ by the pre-activation of g that they share."""
        emit = self.step.emit
        keeps = emit.quotient(t["f"] * t["c_before"], t["c"], eps)

        def back(emit: Emit, arrived: Values, now: Values) -> tuple[list[ir.Value], ir.Value, ir.Value]:
            share, keeps, h_before, *bias = now
            cell = emit.Add(*arrived)
            message = emit.Mul(cell, share)
            before = emit.Mul(h_before, self._through(emit, message, LAST))
            return [_plus(emit, before, spread(emit, message, bias)), emit.Mul(cell, keeps)], message, cell

        share = self._shares(t, t["c"], eps)
        return Way([share, keeps, t["h_before"], *bias], back, self._lost(t["c"], eps))
