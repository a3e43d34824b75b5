"""RoiAlign: a box of an image becomes a table of fixed size, read between the pixels.

It is separable: with A (height) and B (width) the weights of the samples that a cell averages, z = A · x · Bᵀ for
every region; linear in the image; boxes say where to read, have a gradient, and relevance goes past them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.rules.regions import read_images, scatter_into_images
from onnxlrp.rules.registry import Bilinear, Contribution, linear
from onnxlrp.rules.step import Step

X, BOXES, BATCH = range(3)


def _as_float(emit: Emit, value: ir.Value) -> ir.Value:
    return emit.Cast(value, to=ir.DataType.FLOAT)


def _counted(emit: Emit, count: ir.Value | int) -> ir.Value:
    """0.0, 1.0, … below `count`."""
    stop = count if isinstance(count, int) else emit.Squeeze(count, [0])
    return _as_float(emit, emit.Range(0, stop, 1))


@dataclass(frozen=True)
class _Axis:
    """One axis of RoiAlign.  first, last : the columns of the boxes that bound it        cells : along the output"""

    step: Step
    axis: int
    first: int
    last: int
    cells: int

    @property
    def emit(self) -> Emit:
        return self.step.emit

    @cached_property
    def size(self) -> ir.Value:
        return _as_float(self.emit, self.emit.dim(self.step.raw(X), self.axis))

    @cached_property
    def _half_pixel(self) -> bool:
        return bool(self.step.attribute("coordinate_transformation_mode", "output_half_pixel") == "half_pixel")

    def _bound(self, column: int) -> ir.Value:
        """(region, 1, 1) in pixels."""
        scaled = self.emit.Gather(self.step.x(BOXES), [column], axis=1) * float(self.step.attribute("spatial_scale"))
        shifted = scaled - 0.5 if self._half_pixel else scaled
        return self.emit.Unsqueeze(shifted, [2])

    @cached_property
    def extent(self) -> ir.Value:
        given = self._bound(self.last) - self._bound(self.first)
        return given if self._half_pixel else self.emit.Max(given, 1.0)

    @cached_property
    def samples(self) -> ir.Value:
        """How many samples a cell of each region has, (region, 1, 1); as many as its pixels where none are given."""
        given = int(self.step.attribute("sampling_ratio"))
        if given > 0:
            return self.emit.filled(self.emit.Shape(self.extent), float(given))
        return self.emit.Max(self.emit.Ceil(self.extent * (1.0 / self.cells)), 0.0)

    @cached_property
    def _sample(self) -> ir.Value:
        """0, 1, … (1, 1, sample)."""
        most = self.emit.reduce("ReduceMax", self.samples, None, keepdims=False)
        return self.emit.Unsqueeze(_as_float(self.emit, self.emit.Range(0, self._whole(most), 1)), [0, 1])

    def _whole(self, number: ir.Value) -> ir.Value:
        return self.emit.Cast(number, to=ir.DataType.INT64)

    @cached_property
    def place(self) -> ir.Value:
        """Where a sample lies between first (0) and last (1), (region, cell, sample)."""
        cell = self.emit.Unsqueeze(_counted(self.emit, self.cells), [0, 2])
        within = (self._sample + 0.5) / self.emit.Max(self.samples, 1.0)
        return (cell + within) * (1.0 / self.cells)  # type: ignore[no-any-return]

    @cached_property
    def coordinate(self) -> ir.Value:
        return self._bound(self.first) + self.extent * self.place  # type: ignore[no-any-return]

    @cached_property
    def counted(self) -> ir.Value:
        """1 for samples that lie on the image, (region, cell, sample)."""
        emit, y = self.emit, self.coordinate
        there = emit.And(emit.GreaterOrEqual(y, -1.0), emit.LessOrEqual(y, self.size))
        return emit.mask(emit.And(there, emit.Less(self._sample, self.samples)))

    @cached_property
    def held(self) -> ir.Value:
        """The coordinate, held within the image."""
        return self.emit.Min(self.emit.Max(self.coordinate, 0.0), self.size - 1.0)

    @cached_property
    def bounds(self) -> tuple[ir.Value, ir.Value]:
        """∂ held / ∂ first and ∂ held / ∂ last, (region, cell, sample)."""
        emit, y = self.emit, self.coordinate
        free = emit.And(emit.Greater(y, 0.0), emit.Less(y, self.size - 1.0))
        moves = emit.mask(free) * float(self.step.attribute("spatial_scale"))
        last = moves * self.place
        if not self._half_pixel:
            last = last * emit.mask(emit.Greater(self._bound(self.last) - self._bound(self.first), 1.0))
        return moves - last, last

    # --- averages ----------------------------------------------------------------------------------------------------

    @cached_property
    def _share(self) -> ir.Value:
        share: ir.Value = self.counted / self.emit.Max(self.samples, 1.0)
        return share

    @cached_property
    def _distance(self) -> ir.Value:
        """From each sample to each pixel: (region, cell, sample, pixel)."""
        pixels = _counted(self.emit, self.emit.dim(self.step.raw(X), self.axis))
        distance: ir.Value = self.emit.Unsqueeze(self.held, [3]) - pixels
        return distance

    @cached_property
    def weights(self) -> ir.Value:
        """(region, cell, pixel)."""
        emit = self.emit
        tent = emit.positive(1.0 - emit.Abs(self._distance))
        return emit.sum(tent * emit.Unsqueeze(self._share, [3]), [2], keepdims=False)

    def at_bounds(self, arriving: ir.Value) -> list[ir.Value]:
        """The gradient at the weights, (region, cell, pixel), brought to first and last: (region) each."""
        emit = self.emit
        near = emit.mask(emit.Less(emit.Abs(self._distance), 1.0))
        slope = emit.Neg(emit.Sign(self._distance)) * near
        by_sample = emit.sum(slope * emit.Unsqueeze(arriving, [2]), [3], keepdims=False) * self._share
        return [emit.sum(by_sample * bound, [1, 2], keepdims=False) for bound in self.bounds]

    # --- maxima ------------------------------------------------------------------------------------------------------

    @cached_property
    def taps(self) -> Taps:
        """Both pixels beside every sample."""
        emit = self.emit
        low = emit.Floor(self.held)
        f = self.held - low
        below = self._whole(low)
        above = emit.Min(emit.Add(below, 1), emit.Sub(emit.dim(self.step.raw(X), self.axis), 1))
        moves = [bound * self.counted for bound in self.bounds]
        return Taps(
            self._beside(below, above),
            self._beside((1.0 - f) * self.counted, f * self.counted),
            [self._beside(-bound, bound) for bound in moves],
        )

    def _beside(self, below: ir.Value, above: ir.Value) -> ir.Value:
        return self.emit.Concat(below, above, axis=2)


@dataclass(frozen=True)
class Taps:
    """The pixels that a cell looks at along one axis, (region, cell, tap).  bounds : ∂ weight / ∂ first and ∂ last"""

    index: ir.Value
    weight: ir.Value
    bounds: list[ir.Value]


def _by_image(step: Step) -> ir.Value:
    """Which image a region lies in, as zeros and ones (batch, region)."""
    emit = step.emit
    images = emit.Unsqueeze(_counted(emit, emit.dim(step.raw(X), 0)), [1])
    return emit.mask(emit.Equal(images, _as_float(emit, step.raw(BATCH))))


def _boxes_get_theirs(step: Step, relevance: ir.Value) -> list[Contribution]:
    """Boxes that are explained alone: each gets what was read in it, its bounds in equal parts."""
    summed = step.emit.Unsqueeze(step.emit.sum(relevance, [1, 2, 3], keepdims=False), [1])
    return step.only(step.emit.Expand(summed * 0.25, step.shape(BOXES)), BOXES)


@linear("RoiAlign", parameters=(BOXES,), relevance=_boxes_get_theirs, source="He et al. 2017; the adjoint of reading")
def roi_align(step: Step) -> Bilinear:
    """Averages are z (region, channel, *cells) = A x Bᵀ, maxima a weight times the pixel that won.

    x (batch, channel, height, width), boxes (region, x₁ y₁ x₂ y₂)
    """
    height = _Axis(step, 2, 1, 3, int(step.attribute("output_height")))
    width = _Axis(step, 3, 0, 2, int(step.attribute("output_width")))
    declare = _maxima if step.attribute("mode") == "max" else _averages
    return declare(step, height, width)


def _averages(step: Step, height: _Axis, width: _Axis) -> Bilinear:
    emit = step.emit

    def adjoint(s: ir.Value, _: Contribution) -> ir.Value:
        """Σ over regions and their rows of cells at once, so that no region needs an image of its own."""
        across = emit.MatMul(s, emit.Unsqueeze(width.weights, [1]))
        rows = emit.Transpose(across, perm=[0, 2, 1, 3])
        flat = emit.Reshape(rows, emit.Concat([-1], emit.Mul(emit.dim(rows, 2), emit.dim(rows, 3)), axis=0))
        down = emit.Unsqueeze(_by_image(step), [1, 3]) * emit.Transpose(height.weights, perm=[2, 0, 1])
        image = emit.MatMul(emit.Reshape(down, [0, 0, -1]), flat)
        shape = emit.Concat(emit.Shape(image, end=2), emit.dim(step.raw(X), 1), [-1], axis=0)
        return emit.Transpose(emit.Reshape(image, shape), perm=[0, 2, 1, 3])

    def of_boxes(s: ir.Value) -> ir.Value:
        images = emit.Gather(step.x(X), step.raw(BATCH), axis=0)
        swapped = emit.Transpose(images, perm=[0, 1, 3, 2])
        at_height = emit.MatMul(emit.MatMul(s, emit.Unsqueeze(width.weights, [1])), swapped)
        transposed = emit.Transpose(s, perm=[0, 1, 3, 2])
        at_width = emit.MatMul(emit.MatMul(transposed, emit.Unsqueeze(height.weights, [1])), images)
        top, bottom = height.at_bounds(emit.sum(at_height, [1], keepdims=False))
        left, right = width.at_bounds(emit.sum(at_width, [1], keepdims=False))
        return _columns(emit, left, top, right, bottom)

    return Bilinear(
        forward=lambda x, _: emit.RoiAlign(x, step.x(BOXES), step.raw(BATCH), **step.given_attributes),
        adjoint=adjoint,
        others={BOXES: of_boxes},
    )


def _columns(emit: Emit, *bounds: ir.Value) -> ir.Value:
    return emit.Concat(*(emit.Unsqueeze(bound, [1]) for bound in bounds), axis=1)


def _maxima(step: Step, height: _Axis, width: _Axis) -> Bilinear:
    """The largest of all weighted pixels beside the samples, as onnxruntime takes it.

    (The standard takes the largest of the interpolated samples; onnxruntime warns of the difference.)
    """
    emit, down, across = step.emit, height.taps, width.taps

    def pairs(combine: str, rows: ir.Value, columns: ir.Value) -> ir.Value:
        """(region, cell, candidate)."""
        table = emit.node(combine, emit.Unsqueeze(rows, [2, 4]), emit.Unsqueeze(columns, [1, 3]))
        cells = emit.constant([height.cells * width.cells, -1])
        return emit.Reshape(table, emit.Concat([0], cells, axis=0))

    pixel = pairs("Add", emit.Mul(down.index, emit.dim(step.raw(X), 3)), across.index)
    weight = pairs("Mul", down.weight, across.weight)
    values = read_images(emit, step.x(X), step.raw(BATCH), pixel)
    winner = emit.ArgMax(values * emit.Unsqueeze(weight, [1]), axis=3, keepdims=1)

    def won(candidates: ir.Value) -> ir.Value:
        """Of (region, cell, candidate) the winner's, (region, channel, cell)."""
        everywhere = emit.Expand(emit.Unsqueeze(candidates, [1]), emit.Shape(values))
        return emit.Squeeze(emit.GatherElements(everywhere, winner, axis=3), [3])

    def by_cell(s: ir.Value) -> ir.Value:
        return emit.Reshape(s, [0, 0, -1])

    def forward(x: ir.Value, _: Contribution) -> ir.Value:
        read = emit.GatherElements(read_images(emit, x, step.raw(BATCH), pixel), winner, axis=3)
        return emit.reshape_like(emit.Squeeze(read, [3]) * won(weight), step.unit.outputs[0])

    def adjoint(s: ir.Value, _: Contribution) -> ir.Value:
        return scatter_into_images(step, step.as_int64(step.raw(BATCH)), by_cell(s) * won(weight), won(pixel))

    def of_boxes(s: ir.Value) -> ir.Value:
        read = by_cell(s) * emit.Squeeze(emit.GatherElements(values, winner, axis=3), [3])
        top, bottom = (
            emit.sum(read * won(pairs("Mul", b, across.weight)), [1, 2], keepdims=False) for b in down.bounds
        )
        left, right = (
            emit.sum(read * won(pairs("Mul", down.weight, b)), [1, 2], keepdims=False) for b in across.bounds
        )
        return _columns(emit, left, top, right, bottom)

    return Bilinear(forward, adjoint, others={BOXES: of_boxes})
