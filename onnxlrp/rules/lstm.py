"""The long short-term memory."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.rules.activations import split
from onnxlrp.rules.cells import LAST, Cell, Trace, Values, Way, plus, spread


@dataclass(frozen=True)
class Lstm(Cell):
    """c = f ⊙ c₋ + i ⊙ g,  h = o ⊙ H(c); blocks in the order i, o, f, g.

    coupled : the attribute input_forget, f = 1 − i
    """

    coupled: bool = False

    def forward(self, emit: Emit, zx: ir.Value, states: Values) -> tuple[Trace, list[ir.Value]]:
        h_before, c_before = states
        sigma, activate, squash = self.functions
        z = plus(emit, emit.Add(zx, emit.MatMul(h_before, self.weights.hidden)), self.weights.bias)
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
            return [plus(emit, before, spread(emit, message, bias)), emit.Mul(cell, keeps)], message, cell

        share = self._shares(t, t["c"], eps)
        return Way([share, keeps, t["h_before"], *bias], back, self._lost(t["c"], eps))
