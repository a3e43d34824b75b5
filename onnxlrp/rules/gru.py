"""The gated recurrent unit."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.rules.activations import split
from onnxlrp.rules.cells import LAST, Cell, Trace, Values, Way, plus, spread


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
        zz = plus(emit, emit.Add(xz, emit.MatMul(before, hz)), biases[0])
        zr = plus(emit, emit.Add(xr, emit.MatMul(before, hr)), biases[1])
        z, r = f(emit, zz), f(emit, zr)
        held = before if self.after else emit.Mul(r, before)
        q = plus(emit, emit.MatMul(held, hn), biases[2])
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
            return [plus(emit, before, spread(emit, message, bias))], message, arrived[0]

        share = self._shares(t, t["h"], eps)
        return Way([share, keeps, t["held"], t["r"], *bias], back, self._lost(t["h"], eps))

    def hidden_parts(self, t: Trace, message: ir.Value, blocks: int) -> list[tuple[ir.Value, ir.Value]]:
        emit = self.step.emit
        *gates, candidate = split(emit, message, blocks)
        parts = [(emit.Concat(*gates, axis=-1), t["h_before"])] if gates else []
        return [*parts, (candidate * t["r"] if self.after else candidate, t["held"])]

    def _gated_bias(self, bias: ir.Value, t: Trace) -> ir.Value:
        return self.step.emit.Mul(bias, t["r"]) if self.after else bias
