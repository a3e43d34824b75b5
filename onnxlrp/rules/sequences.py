"""A recurrent node over its sequences: directions side by side, lengths, the loop forward and the one backwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import Unsupported
from onnxlrp.rules.activations import split
from onnxlrp.rules.cells import Back, Cell, Trace, Values, Weights
from onnxlrp.rules.over_time import scan
from onnxlrp.rules.registry import Contribution
from onnxlrp.rules.step import Step

X, W, R, B, LENGTHS, H0, C0, P = range(8)
"""Operands as the standard orders them."""

INSIDE = 3
"""Rank of a tensor at one step: (direction, batch, …)."""

Arrived = Sequence[ir.Value | None]
"""What reached Y, Y_h and Y_c."""


@dataclass(frozen=True)
class Run:
    """One recurrent node and its forward pass; sequences are (time, direction, batch, …), weights (direction, …)."""

    step: Step
    make_cell: Callable[[Run], Cell]
    gates: int

    # --- what the node says ------------------------------------------------------------------------------------------

    @property
    def emit(self) -> Emit:
        return self.step.emit

    @property
    def directions(self) -> int:
        return 2 if self._direction == "bidirectional" else 1

    @property
    def _direction(self) -> str:
        return str(self.step.attribute("direction") or "forward")

    @cached_property
    def hidden(self) -> int:
        size = self.step.attribute("hidden_size") or self.step.dims(R)[-1]
        if not isinstance(size, int):
            raise Unsupported(f"{self.step.unit} has neither hidden_size nor a known shape of its weights.")
        return size

    @cached_property
    def weights(self) -> Weights:
        emit = self.emit
        recurrent = emit.Transpose(self.step.x(R), perm=[0, 2, 1])
        peepholes = split(emit, emit.Unsqueeze(self.step.x(P), [1]), 3) if self.step.has(P) else ()
        if not self.step.has(B):
            return Weights(recurrent, peepholes=tuple(peepholes))
        at_input, at_hidden = split(emit, emit.Unsqueeze(self.step.x(B), [1]), 2)
        return Weights(recurrent, at_input, at_hidden, tuple(peepholes))

    @cached_property
    def cell(self) -> Cell:
        return self.make_cell(self)

    # --- sequences ---------------------------------------------------------------------------------------------------

    @cached_property
    def x(self) -> ir.Value:
        """The input, once per direction."""
        beside = self.emit.Unsqueeze(self.step.x(X), [1])
        return self.turned(beside if self.directions == 1 else self.emit.Concat(beside, beside, axis=1))

    def turned(self, sequence: ir.Value) -> ir.Value:
        """The sequence of the reverse direction from its end; turning twice changes nothing."""
        if self._direction == "forward":
            return sequence
        *forward, reverse = split(self.emit, sequence, self.directions, axis=1)
        return self.emit.Concat(*forward, self._reversed(reverse), axis=1) if forward else self._reversed(reverse)

    def _reversed(self, sequence: ir.Value) -> ir.Value:
        """(time, 1, batch, …) from its end, each sample within its own length."""
        emit = self.emit
        if not self.step.has(LENGTHS):
            return emit.Slice(sequence, [-1], [np.iinfo(np.int64).min], [0], [-1])
        lengths = emit.Cast(self.step.raw(LENGTHS), to=ir.DataType.INT64)
        turned = emit.ReverseSequence(emit.Squeeze(sequence, [1]), lengths, batch_axis=1, time_axis=0)
        return emit.Unsqueeze(turned, [1])

    @cached_property
    def valid(self) -> ir.Value | None:
        """1 within a sample's length, 0 behind it: (time, 1, batch, 1); None where all are of full length."""
        if not self.step.has(LENGTHS):
            return None
        emit = self.emit
        count = emit.Squeeze(emit.dim(self.step.raw(X), 0), [0])
        time = emit.Reshape(emit.Range(emit.constant(0), count, emit.constant(1)), [-1, 1, 1, 1])
        lengths = emit.Cast(self.step.raw(LENGTHS), to=ir.DataType.INT64)
        return emit.mask(emit.Less(time, emit.Reshape(lengths, [1, 1, -1, 1])))

    # --- forward -----------------------------------------------------------------------------------------------------

    @cached_property
    def trace(self) -> Trace:
        """Every tensor of every step: the states by a loop, the rest from them for all steps at once."""
        emit, cell = self.emit, self.cell
        zx = emit.MatMul(self.x, emit.Transpose(self.step.x(W), perm=[0, 2, 1]))
        zx = zx if self.weights.input_bias is None else zx + self.weights.input_bias
        masks = [] if self.valid is None else [self.valid]

        def body(inner: Emit, states: Values, now: Values) -> tuple[Values, Values]:
            _, after = cell.forward(inner, now[0], states)
            return [_chosen(inner, now[1:], a, b) for a, b in zip(after, states, strict=True)], states

        _, before = scan(emit, [self.start(k) for k in range(cell.states)], [zx, *masks], body, rank=INSIDE)
        return cell.forward(emit, zx, before)[0]

    def start(self, state: int) -> ir.Value:
        """The state that the loop begins with."""
        operand = H0 + state
        return self.step.x(operand) if self.step.has(operand) else self._zero_state

    @cached_property
    def _zero_state(self) -> ir.Value:
        emit = self.emit
        return emit.filled(emit.Concat([self.directions], emit.dim(self.step.raw(X), 1), [self.hidden], axis=0), 0.0)

    # --- backwards ---------------------------------------------------------------------------------------------------

    def backwards(self, coefficients: Values, back: Back, arrived: Arrived) -> tuple[Values, ir.Value, ir.Value]:
        """(what reaches the initial states, the message of every step, R of the state at every step)."""
        emit = self.emit
        absent: list[ir.Value | None] = [None] * (1 + self.cell.states - len(arrived))
        sequence, *finals = [*arrived, *absent]
        start = [self._zero_state if final is None else final for final in finals]
        extra = [] if self.valid is None else [self.valid]
        extra += [] if sequence is None else [self.turned(sequence)]

        def body(inner: Emit, later: Values, now: Values) -> tuple[Values, Values]:
            given, mine = now[: len(extra)], now[len(extra) :]
            here = list(later)
            if sequence is not None:
                here[0] = inner.Add(here[0], given[-1])
            mask = given[:1] if self.valid is not None else ()
            here = [inner.Mul(value, mask[0]) if mask else value for value in here]
            before, message, state = back(inner, here, mine)
            if mask:
                skipped = inner.Sub(1.0, mask[0])
                before = [inner.Add(b, inner.Mul(value, skipped)) for b, value in zip(before, later, strict=True)]
            return before, [message, state]

        initial, (message, state) = scan(emit, start, [*extra, *coefficients], body, rank=INSIDE, backwards=True)
        return initial, message, state

    def contributions(self, message: ir.Value, initial: Values, blocks: int) -> list[Contribution]:
        """The message, handed to whatever was multiplied there; `blocks` = 1: it is the candidate's alone."""
        step, emit = self.step, self.emit
        found: list[Contribution] = [None] * step.count
        if step.signal(X):
            weight = step.x(W)
            if blocks < self.gates:
                weight = split(emit, weight, self.gates, axis=1)[-1]
            found[X] = emit.sum(self.turned(emit.MatMul(message, weight)), [1], keepdims=False)
        parts = self.cell.hidden_parts(self.trace, message, blocks)
        if step.signal(W):
            found[W] = self._in_last_blocks(_outer(emit, message, self.x), blocks)
        if step.signal(R):
            rows = [_outer(emit, at, held) for at, held in parts]
            found[R] = self._in_last_blocks(rows[0] if len(rows) == 1 else emit.Concat(*rows, axis=1), blocks)
        if step.signal(B):
            at_hidden = parts[0][0] if len(parts) == 1 else emit.Concat(*(at for at, _ in parts), axis=-1)
            sums = [self._in_last_blocks(emit.sum(m, [0, 2], keepdims=False), blocks) for m in (message, at_hidden)]
            found[B] = emit.Concat(*sums, axis=-1)
        for state, value in enumerate(initial):
            if step.signal(H0 + state):
                found[H0 + state] = value
        return found

    def per_input(self, bias: ir.Value) -> ir.Value:
        """bias / number of inputs of the cell, at every step."""
        emit = self.emit
        count = emit.Cast(emit.dim(self.step.raw(W), 2), to=ir.DataType.FLOAT) + float(self.hidden)
        return emit.Expand(bias / count, emit.Shape(self.trace["h"]))

    def peephole_gradient(self, message: ir.Value) -> ir.Value:
        """Σ over time and batch of the gate's gradient times the cell it looked at."""
        emit, t = self.emit, self.trace
        at_i, at_o, at_f, _ = split(emit, message, 4)
        pairs = ((at_i, t["c_before"]), (at_o, t["c"]), (at_f, t["c_before"]))
        return emit.Concat(*(emit.sum(at * cell, [0, 2], keepdims=False) for at, cell in pairs), axis=-1)

    def _in_last_blocks(self, found: ir.Value, blocks: int) -> ir.Value:
        """Zeros for the gates in front of what the candidate got; axis 1."""
        if blocks == self.gates:
            return found
        return self.emit.Concat(*([self.emit.zeros_like(found)] * (self.gates - blocks)), found, axis=1)


def _chosen(emit: Emit, mask: Values, new: ir.Value, old: ir.Value) -> ir.Value:
    """The new state within a sample's length, the old one behind it."""
    return emit.Where(emit.Greater(mask[0], 0.5), new, old) if mask else new


def _outer(emit: Emit, at: ir.Value, held: ir.Value) -> ir.Value:
    """Σ over time and batch of at · heldᵀ, per direction."""
    return emit.Einsum(at, held, equation="tdbg,tdbi->dgi")
