"""Reading an image at computed places: between its pixels, by the weights of the nearest ones.

Along one axis the weights are polynomials of the fraction f = coordinate − ⌊coordinate⌋ (`Kernel`); over several axes
they are multiplied. The map is linear in the image. Places have a gradient, by the slopes of those polynomials, and in
LRP what is read counts, not where: places get relevance only where the image is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.rules.registry import Bilinear, Contribution, linear
from onnxlrp.rules.step import Step


@dataclass(frozen=True)
class Kernel:
    """Weights of neighbouring pixels along one axis: Σ_k coefficients[k] · fᵏ.

    first        : the first neighbour, counted from the pixel at or below the coordinate
    coefficients : (power, neighbour)        rounds : whether the coordinate counts from the nearest pixel instead
    """

    first: int
    coefficients: tuple[tuple[float, ...], ...]
    rounds: bool = False

    @property
    def slopes(self) -> tuple[tuple[float, ...], ...]:
        """The same for the derivative by the coordinate."""
        raised = [tuple(k * c for c in row) for k, row in enumerate(self.coefficients)][1:]
        return (*raised, tuple(0.0 for _ in self.coefficients[0]))

    @property
    def signed(self) -> bool:
        return len(self.coefficients) > 2


def _cubic(a: float) -> Kernel:
    """Cubic convolution.  Source: Keys 1981."""
    columns = ((0, a, -2 * a, a), (1, 0, -a - 3, a + 2), (0, -a, 2 * a + 3, -a - 2), (0, 0, a, -a))
    return Kernel(-1, tuple(zip(*columns, strict=True)))


NEAREST, LINEAR, CUBIC = Kernel(0, ((1.0,),), rounds=True), Kernel(0, ((1.0, 0.0), (-1.0, 1.0))), _cubic(-0.75)
KERNELS = {"nearest": NEAREST, "linear": LINEAR, "bilinear": LINEAR, "cubic": CUBIC, "bicubic": CUBIC}

Beyond = Callable[[Emit, ir.Value, ir.Value], ir.Value]
"""(emit, index, size) → the pixel that stands for one beyond the border."""


@dataclass(frozen=True)
class Neighbours:
    """The pixels that are read along one axis.  index, weight, slope : (batch, point, neighbour)"""

    index: ir.Value
    weight: ir.Value
    slope: ir.Value


def neighbours(emit: Emit, coordinate: ir.Value, size: ir.Value, kernel: Kernel, beyond: Beyond | None) -> Neighbours:
    """coordinate : (batch, point) in pixels        size : int64 [1]        beyond : None reads zeros there"""
    count = len(kernel.coefficients[0])
    base = emit.Round(coordinate) if kernel.rounds else emit.Floor(coordinate)
    fraction = emit.Unsqueeze(coordinate - base, [-1])
    powers = [emit.ones_like(fraction)]
    while len(powers) < len(kernel.coefficients):
        powers.append(powers[-1] * fraction)
    polynomial = emit.Concat(*powers, axis=-1)
    weight, slope = (emit.MatMul(polynomial, np.array(c, np.float32)) for c in (kernel.coefficients, kernel.slopes))
    whole = emit.Unsqueeze(emit.Cast(base, to=ir.DataType.INT64), [-1])
    index = emit.Add(whole, [kernel.first + i for i in range(count)])
    if beyond is not None:
        return Neighbours(beyond(emit, index, size), weight, slope)
    held = clamp(emit, index, size)
    inside = emit.mask(emit.Equal(held, index))
    return Neighbours(held, weight * inside, slope * inside)


def clamp(emit: Emit, index: ir.Value, size: ir.Value) -> ir.Value:
    """The border itself."""
    return emit.Min(emit.Max(index, 0), emit.Sub(size, 1))


def _reflect(emit: Emit, index: ir.Value, size: ir.Value) -> ir.Value:
    """Mirrored at the outer edge of the border pixel."""
    period = emit.Mul(size, 2)
    within = emit.Mod(index, period)
    return emit.Min(within, emit.Sub(emit.Sub(period, 1), within))


def _reflect_at_centre(emit: Emit, index: ir.Value, size: ir.Value) -> ir.Value:
    """Mirrored at the centre of the border pixel."""
    period = emit.Max(emit.Mul(emit.Sub(size, 1), 2), 1)
    within = emit.Mod(index, period)
    return emit.Min(within, emit.Sub(period, within))


@dataclass(frozen=True)
class Places:
    """Points of an image, each a weighted sum of pixels.

    axes  : the neighbours along each axis of space, first axis first
    sizes : of those axes, int64 [1] each
    """

    emit: Emit
    axes: Sequence[Neighbours]
    sizes: Sequence[ir.Value]

    @cached_property
    def index(self) -> ir.Value:
        """(batch, point, neighbour): flat over space."""
        emit, total = self.emit, self.axes[0].index
        for axis, size in zip(self.axes[1:], self.sizes[1:], strict=True):
            total = self._pairs(emit.Add, emit.Mul(total, size), axis.index)
        return total

    @cached_property
    def weight(self) -> ir.Value:
        return self._product([axis.weight for axis in self.axes])

    def read(self, x: ir.Value) -> ir.Value:
        """x (batch, channel, *space) → (batch, channel, point)."""
        return self.emit.sum(self._pixels(x) * self.emit.Unsqueeze(self.weight, [1]), [-1], keepdims=False)

    def spread(self, s: ir.Value, like: ir.Value) -> ir.Value:
        """The adjoint: s (batch, channel, point) → shaped like `like`, added up where several points read a pixel."""
        emit = self.emit
        parts = emit.Unsqueeze(s, [-1]) * emit.Unsqueeze(self.weight, [1])
        index = emit.Expand(emit.Unsqueeze(self.index, [1]), emit.Shape(parts))
        rows = [emit.Reshape(value, [0, 0, -1]) for value in (index, parts)]
        nothing = emit.zeros_like(emit.Reshape(like, [0, 0, -1]))
        return emit.reshape_like(emit.ScatterElements(nothing, *rows, axis=2, reduction="add"), like)

    def slopes(self, x: ir.Value, s: ir.Value) -> list[ir.Value]:
        """Per axis of space: Σ over channels of s · ∂read/∂coordinate, (batch, point)."""
        emit = self.emit
        by_pixel = emit.sum(self._pixels(x) * emit.Unsqueeze(s, [-1]), [1], keepdims=False)
        found = []
        for own in range(len(self.axes)):
            factors = [axis.slope if i == own else axis.weight for i, axis in enumerate(self.axes)]
            found.append(emit.sum(by_pixel * self._product(factors), [-1], keepdims=False))
        return found

    def _pixels(self, x: ir.Value) -> ir.Value:
        """(batch, channel, point, neighbour)."""
        emit = self.emit
        flat = emit.Reshape(x, [0, 0, -1])
        index = emit.Reshape(self.index, [0, 1, -1])
        shape = emit.Concat(emit.Shape(flat, end=2), emit.Shape(index, start=2), axis=0)
        read = emit.GatherElements(flat, emit.Expand(index, shape), axis=2)
        return emit.Reshape(read, emit.Concat([0, 0], emit.Shape(self.index, start=1), axis=0))

    def _product(self, factors: Sequence[ir.Value]) -> ir.Value:
        total = factors[0]
        for factor in factors[1:]:
            total = self._pairs(self.emit.Mul, total, factor)
        return total

    def _pairs(self, combine: Callable[..., ir.Value], a: ir.Value, b: ir.Value) -> ir.Value:
        """Every neighbour of a with every neighbour of b."""
        pairs = combine(self.emit.Unsqueeze(a, [3]), self.emit.Unsqueeze(b, [2]))
        return self.emit.Reshape(pairs, [0, 0, -1])


# --- grids -----------------------------------------------------------------------------------------------------------


def _of_what_is_read(step: Step, relevance: ir.Value) -> list[Contribution]:
    """Places that are explained alone: each gets what was read there, its coordinates in equal parts."""
    emit, space = step.emit, step.rank(0) - 2
    summed = emit.Unsqueeze(emit.sum(relevance, [1], keepdims=False), [-1])
    return step.only(emit.Expand(summed * (1.0 / space), step.shape(1)), 1)


@linear(
    "GridSample",
    parameters=(1,),
    relevance=_of_what_is_read,
    source="Jaderberg et al. 2015; the adjoint of reading",
)
def grid_sample(step: Step) -> Bilinear:
    """z = x read at the places of the grid.

    x (batch, channel, *space), grid (batch, *out, axis) in −1…1, the last axis of space first
    """
    emit, attributes = step.emit, step.given_attributes
    places, scales = _grid_places(step)

    def of_grid(s: ir.Value) -> ir.Value:
        slopes = places.slopes(step.x(0), emit.Reshape(s, [0, 0, -1]))
        along = [emit.Unsqueeze(slope * scale, [-1]) for slope, scale in zip(slopes, scales, strict=True)]
        return emit.reshape_like(emit.Concat(*along[::-1], axis=-1), step.raw(1))

    return Bilinear(
        forward=lambda x, _: emit.GridSample(x, step.x(1), **attributes),
        adjoint=lambda s, _: places.spread(emit.Reshape(s, [0, 0, -1]), step.raw(0)),
        others={1: of_grid},
        signed=KERNELS[step.attribute("mode")].signed,
    )


def _grid_places(step: Step) -> tuple[Places, list[ir.Value]]:
    """The grid in pixels, and how many pixels one unit of it is, per axis of space."""
    emit, space = step.emit, step.rank(0) - 2
    kernel, corners = KERNELS[step.attribute("mode")], bool(step.attribute("align_corners"))
    mirror = _reflect_at_centre if corners else _reflect
    beyond = {"zeros": None, "border": clamp, "reflection": mirror}[step.attribute("padding_mode")]
    points = emit.Reshape(step.x(1), [0, -1, space])
    axes, sizes, scales = [], [], []
    for axis in range(space):
        size = emit.dim(step.raw(0), 2 + axis)
        extent = emit.Cast(size, to=ir.DataType.FLOAT)
        scale = (extent - 1.0 if corners else extent) * 0.5
        coordinate = emit.Gather(points, space - 1 - axis, axis=2) * scale + (extent - 1.0) * 0.5
        axes.append(neighbours(emit, coordinate, size, kernel, beyond))
        sizes.append(size)
        scales.append(scale)
    return Places(emit, axes, sizes), scales


@linear("AffineGrid", source="Jaderberg et al. 2015, eq. 1")
def affine_grid(step: Step) -> Bilinear:
    """z = base · thetaᵀ: theta (batch, axis, axis + 1) moves the regular grid base (*out, axis + 1), whose last is 1.

    The regular grid is what the operator itself makes of the identity.
    """
    emit, axes = step.emit, step.facts.rank(step.unit.outputs[0]) - 2

    def forward(theta: ir.Value, _: Contribution) -> ir.Value:
        return emit.AffineGrid(theta, step.raw(1), **step.given_attributes)

    def adjoint(s: ir.Value, _: Contribution) -> ir.Value:
        identity = emit.Expand(np.eye(axes, axes + 1, dtype=np.float32), step.shape(0))
        base = emit.Reshape(forward(identity, None), [0, -1, axes])
        ones = emit.ones_like(emit.Slice(base, [0], [1], [2]))
        columns = emit.Transpose(emit.Reshape(s, [0, -1, axes]), perm=[0, 2, 1])
        return emit.MatMul(columns, emit.Concat(base, ones, axis=2))

    return Bilinear(forward, adjoint, signed=True)
