"""Deformable convolution: a convolution whose taps are read at places that the network computes.

z = Σ_k w_k · m_k · x(place + k + offset_k) + b, linear in the image and in the weights. Offsets say where to read and
masks how far a tap is open: relevance goes past both to the image.
Source: Zhu et al. 2019, eq. 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxlrp.rules.convolution import Window
from onnxlrp.rules.linear import CONVOLUTION
from onnxlrp.rules.registry import Bilinear, Contribution, linear
from onnxlrp.rules.sampling import LINEAR, Places, neighbours
from onnxlrp.rules.step import Step

X, W, OFFSET, BIAS, MASK = range(5)


@dataclass(frozen=True)
class _Taps:
    """The taps of one layer: `batch` counts samples × offset groups, `point` kernel positions × places."""

    step: Step
    window: Window

    @property
    def groups(self) -> int:
        return int(self.step.attribute("offset_group"))

    @cached_property
    def positions(self) -> int:
        return int(np.prod(self.window.kernel))

    @cached_property
    def places(self) -> Places:
        emit, space = self.step.emit, self.window.axes
        apart = emit.Reshape(self.step.x(OFFSET), [0, self.groups * self.positions * space, -1])
        by_axis = emit.Reshape(
            apart, emit.Concat([-1, self.positions, space], emit.Shape(apart, start=2), axis=0), allowzero=1
        )
        axes, sizes = [], []
        for axis in range(space):
            coordinate = emit.Gather(by_axis, axis, axis=2) + self._regular(axis)
            sizes.append(emit.dim(self.step.raw(X), 2 + axis))
            axes.append(neighbours(emit, emit.Reshape(coordinate, [0, -1]), sizes[-1], LINEAR, None))
        return Places(emit, axes, sizes)

    def _regular(self, axis: int) -> ir.Value:
        """Where an ordinary convolution reads along one axis, (kernel position, place)."""
        emit, window, space = self.step.emit, self.window, self.window.axes
        steps = np.indices(window.kernel)[axis].reshape(-1, 1) * window.dilations[axis] - window.begins[axis]
        extents = emit.Shape(self.step.unit.outputs[0], start=2)
        places = emit.Range(0, emit.Squeeze(emit.Gather(extents, [axis]), [0]), 1)
        lattice = emit.Expand(emit.Reshape(places, [-1 if i == axis else 1 for i in range(space)]), extents)
        flat = emit.Mul(emit.Reshape(lattice, [1, -1]), window.strides[axis])
        return emit.Cast(emit.Add(flat, steps), to=ir.DataType.FLOAT)

    @cached_property
    def mask(self) -> Contribution:
        """(batch, 1, point)."""
        if not self.step.has(MASK):
            return None
        emit = self.step.emit
        return emit.Reshape(self.step.x(MASK), emit.Concat(self._lead, [1], self._points, axis=0))

    @property
    def _lead(self) -> ir.Value:
        return self.step.emit.Shape(self.places.axes[0].index, end=1)

    @property
    def _points(self) -> ir.Value:
        return self.step.emit.Shape(self.places.axes[0].index, start=1, end=2)

    def by_offset_group(self, x: ir.Value) -> ir.Value:
        """The image as (batch, channel, *space)."""
        emit = self.step.emit
        return emit.Reshape(x, emit.Concat(self._lead, [-1], emit.Shape(x, start=2), axis=0))

    def masked(self, columns: ir.Value) -> ir.Value:
        return columns if self.mask is None else columns * self.mask

    def columns(self, x: ir.Value) -> ir.Value:
        """What the taps read, masked: (sample, group, channel · position, place)."""
        emit = self.step.emit
        read = self.masked(self.places.read(self.by_offset_group(x)))
        shape = emit.Concat(emit.Shape(x, end=1), [self.window.group, -1], self._place_count, axis=0)
        return emit.Reshape(read, shape)

    @property
    def _place_count(self) -> ir.Value:
        emit = self.step.emit
        return emit.Div(self._points, self.positions)

    def outgoing(self, s: ir.Value) -> ir.Value:
        """(sample, group, channel of the group, place)."""
        emit = self.step.emit
        return emit.Reshape(
            s, emit.Concat(emit.Shape(s, end=1), [self.window.group, -1], self._place_count, axis=0), allowzero=0
        )

    def back_to_columns(self, s: ir.Value, w: ir.Value) -> ir.Value:
        """Wᵀ s, as (batch, channel, point): what arrives at the taps before the mask."""
        emit = self.step.emit
        rows = emit.Reshape(
            w, emit.Concat([self.window.group], emit.Div(emit.dim(w, 0), self.window.group), [-1], axis=0)
        )
        columns = emit.MatMul(emit.Transpose(rows, perm=[0, 2, 1]), self.outgoing(s))
        return emit.Reshape(columns, emit.Concat(self._lead, [-1], self._points, axis=0))


@linear("DeformConv", factors=(X, W), addend=BIAS, parameters=(OFFSET, MASK), layer=CONVOLUTION)
def deform_conv(step: Step) -> Bilinear:
    """z = w ∗ (mask ⊙ x read at the offsets) + b."""
    emit, taps = step.emit, _Taps(step, Window.of(step))
    offset, mask = step.x(OFFSET), step.x(MASK) if step.has(MASK) else None

    def of_weight(s: ir.Value, x: Contribution) -> ir.Value:
        assert x is not None
        by_sample = emit.MatMul(taps.outgoing(s), emit.Transpose(taps.columns(x), perm=[0, 1, 3, 2]))
        return emit.reshape_like(emit.sum(by_sample, [0], keepdims=False), step.raw(W))

    def of_offset(s: ir.Value) -> ir.Value:
        arriving = taps.masked(taps.back_to_columns(s, step.x(W)))
        slopes = taps.places.slopes(taps.by_offset_group(step.x(X)), arriving)
        apart = [emit.Unsqueeze(emit.Reshape(slope, [0, taps.positions, -1]), [2]) for slope in slopes]
        return emit.reshape_like(emit.Concat(*apart, axis=2), step.raw(OFFSET))

    def of_mask(s: ir.Value) -> ir.Value:
        arriving = taps.back_to_columns(s, step.x(W)) * taps.places.read(taps.by_offset_group(step.x(X)))
        return emit.reshape_like(emit.sum(arriving, [1], keepdims=False), step.raw(MASK))

    return Bilinear(
        forward=lambda x, w: emit.DeformConv(x, w, offset, None, mask, **step.given_attributes),
        adjoint=lambda s, w: emit.reshape_like(
            taps.places.spread(taps.masked(taps.back_to_columns(s, _some(w))), taps.by_offset_group(step.raw(X))),
            step.raw(X),
        ),
        weight_adjoint=of_weight,
        bias_adjoint=lambda s: emit.sum(s, [axis for axis in range(step.rank()) if axis != 1], keepdims=False),
        bias=emit.Reshape(step.x(BIAS), [-1] + [1] * (step.rank() - 2)) if step.has(BIAS) else None,
        others={OFFSET: of_offset, MASK: of_mask},
    )


def _some(value: Contribution) -> ir.Value:
    assert value is not None
    return value
