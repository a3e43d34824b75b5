"""Data movement: every value of the output stands somewhere in an operand, and goes back there.

The adjoint is the inverse movement where there is a cheap one. Otherwise the forward operator itself says where each
value came from: it is applied to the positions 0, 1, 2… of its operand, and `send_back` adds every value up at its
position. That works at any shape, static or symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.rules.crossing import STABILISER, in_proportion
from onnxlrp.rules.registry import Bilinear, Contribution, choice, linear, lookup, movement
from onnxlrp.rules.step import Step

Move = Callable[[ir.Value], ir.Value]


def send_back(step: Step, g: ir.Value, move: Move) -> ir.Value:
    """Add each value of g to the element of operand 0 that `move` took it from.

    g : shaped like the output        move : the forward operator, as a function of operand 0
    returns: shaped like operand 0
    """
    emit, shape = step.emit, step.shape(0)
    count = emit.Size(step.raw(0))
    positions = move(emit.Reshape(emit.Range(0, count, 1), shape, allowzero=1))
    nothing = emit.Expand(0.0, emit.Reshape(count, [1]))
    flat = emit.Reshape(positions, [-1]), emit.Reshape(g, [-1])
    return emit.Reshape(emit.ScatterElements(nothing, *flat, reduction="add"), shape, allowzero=1)


def pad_back(step: Step, g: ir.Value, begins: ir.Value) -> ir.Value:
    """Put g where it was cut out of operand 0, zeros around it.

    begins : int64 vector, the first index per axis of the operand        returns: shaped like operand 0
    """
    emit = step.emit
    ends = emit.Sub(emit.Sub(step.shape(0), begins), emit.Shape(g))
    return emit.Pad(g, emit.Concat(begins, ends, axis=0))


def _operands(step: Step, first: int = 1) -> list[ir.Value | None]:
    """The operands after the data, as the model has them."""
    return [step.raw(index) if step.has(index) else None for index in range(first, step.count)]


def _only_data(step: Step, contribution: Contribution) -> list[Contribution]:
    return [contribution, *[None] * (step.count - 1)]


# --- the same values in another shape or order -----------------------------------------------------------------------


@movement("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(step: Step, g: ir.Value) -> list[Contribution]:
    """The same values in the same order: back to the operand's shape."""
    return _only_data(step, step.emit.reshape_like(g, step.raw(0)))


@movement("Transpose")
def transpose(step: Step, g: ir.Value) -> list[Contribution]:
    """R_x = transpose(R_y, perm⁻¹)."""
    perm = step.attribute("perm")
    return [step.emit.Transpose(g, perm=None if perm is None else np.argsort(perm).tolist())]


@movement("DepthToSpace")
def depth_to_space(step: Step, g: ir.Value) -> list[Contribution]:
    """SpaceToDepth writes channels as (block, block, channel); in mode CRD they were (channel, block, block)."""
    emit, block = step.emit, int(step.attribute("blocksize"))
    back = emit.SpaceToDepth(g, blocksize=block)
    if step.attribute("mode") == "CRD":
        back = _exchange_channels(step, back, [block * block, -1], step.shape(0))
    return [back]


@movement("SpaceToDepth")
def space_to_depth(step: Step, g: ir.Value) -> list[Contribution]:
    """DepthToSpace in the same mode; before opset 28 that is DCR."""
    mode = step.attribute("mode", "DCR")
    return [step.emit.DepthToSpace(g, blocksize=int(step.attribute("blocksize")), mode=mode)]


def _exchange_channels(step: Step, x: ir.Value, split: list[int], shape: ir.Value) -> ir.Value:
    """Channels read as a table of shape `split`, transposed.  x (batch, channel, height, width)"""
    emit = step.emit
    table = emit.Concat([0], split, emit.Slice(shape, [2], [4]), axis=0)
    turned = emit.Transpose(emit.Reshape(x, table), perm=[0, 2, 1, 3, 4])
    return emit.Reshape(turned, shape, allowzero=1)


@movement("ReverseSequence")
def reverse_sequence(step: Step, g: ir.Value) -> list[Contribution]:
    """Reversing again puts everything back."""
    return [step.emit.ReverseSequence(g, step.raw(1), **step.given_attributes), None]


@movement("Trilu")
def trilu(step: Step, g: ir.Value) -> list[Contribution]:
    """What lies outside the triangle came from nowhere."""
    return _only_data(step, step.emit.Trilu(g, *_operands(step), **step.given_attributes))


# --- joining and cutting ---------------------------------------------------------------------------------------------


@movement("Concat")
def concat(step: Step, g: ir.Value) -> list[Contribution]:
    """Each operand gets its part."""
    if step.count == 1:
        return [g]
    emit, axis = step.emit, step.axis()
    sizes = [step.dims(index)[axis] for index in range(step.count)]
    if all(isinstance(size, int) for size in sizes):
        split = emit.constant([size for size in sizes if isinstance(size, int)])
    else:
        split = emit.Concat(*[emit.dim(step.raw(index), axis) for index in range(step.count)], axis=0)
    return list(emit.nodes("Split", g, split, axis=axis, outputs=step.count))


@movement("Split", outputs=True)
def split(step: Step, cotangents: Sequence[Contribution]) -> list[Contribution]:
    """The parts are joined again; a part that nobody uses counts as zeros."""
    parts = [
        step.emit.zeros_like(output) if g is None else g
        for g, output in zip(cotangents, step.unit.outputs, strict=True)
    ]
    return _only_data(step, parts[0] if len(parts) == 1 else step.emit.Concat(*parts, axis=step.axis()))


@movement("Slice")
def slice_(step: Step, g: ir.Value) -> list[Contribution]:
    """With step 1 everywhere zeros are put around it; other steps go back one by one."""
    steps = step.constant(4)
    if step.has(4) and (steps is None or np.any(steps != 1)):
        return _only_data(step, send_back(step, g, lambda data: step.emit.Slice(data, *_operands(step))))
    return _only_data(step, pad_back(step, g, _first_taken(step)))


def _first_taken(step: Step) -> ir.Value:
    """The first index that a Slice with step 1 takes, per axis of its operand; out-of-range starts are clamped."""
    emit, shape = step.emit, step.shape(0)
    starts = _int64(step, step.raw(1))
    axes = _int64(step, step.raw(3)) if step.has(3) else emit.Range(0, emit.Size(starts), 1)
    sizes = emit.Gather(shape, axes)
    counted = emit.Where(emit.Less(starts, 0), emit.Add(starts, sizes), starts)
    clamped = emit.Min(emit.Max(counted, 0), sizes)
    return emit.ScatterElements([0] * step.rank(0), axes, clamped)


def _int64(step: Step, value: ir.Value) -> ir.Value:
    return value if value.dtype == ir.DataType.INT64 else step.emit.Cast(value, to=ir.DataType.INT64)


@movement("Pad")
def pad(step: Step, g: ir.Value) -> list[Contribution]:
    """Constant: cut the padding off (negative pads put zeros back), the constant gets what was filled with it.

    Reflect, edge and wrap repeat values, and what their copies get is added up.
    """
    emit, (pads, value, axes) = step.emit, [*_operands(step), None, None][:3]
    if step.attribute("mode") != "constant":
        return _only_data(step, send_back(step, g, lambda data: _pad(step, data, pads, None, axes)))
    contributions = _only_data(step, _pad(step, g, emit.Neg(pads), None, axes) if step.signal(0) else None)
    if value is not None and step.signal(2):
        filled = _pad(step, emit.zeros_like(step.raw(0)), pads, 1.0, axes)
        contributions[2] = emit.reshape_like(emit.sum(g * filled, keepdims=False), value)
    return contributions


def _pad(step: Step, x: ir.Value, pads: ir.Value | None, value: float | None, axes: ir.Value | None) -> ir.Value:
    return step.emit.Pad(x, pads, value, axes, **step.given_attributes)


@movement("CenterCropPad")
def center_crop_pad(step: Step, g: ir.Value) -> list[Contribution]:
    """Cropping and padding around the same centre undo each other."""
    axes = step.attribute("axes")
    size = step.shape(0) if axes is None else step.emit.Gather(step.shape(0), list(axes))
    return [step.emit.CenterCropPad(g, size, axes=axes), None]


# --- repeating -------------------------------------------------------------------------------------------------------


@movement("Expand", elementwise=True)
def expand(step: Step, g: ir.Value) -> list[Contribution]:
    """Broadcasting; the walk sums over it."""
    return [g, None]


@movement("Tile")
def tile(step: Step, g: ir.Value) -> list[Contribution]:
    """(repeats₀, size₀, repeats₁, size₁, …), summed over the repeats."""
    emit, rank = step.emit, step.rank(0)
    pairs = emit.Concat(emit.Unsqueeze(step.raw(1), [1]), emit.Unsqueeze(step.shape(0), [1]), axis=1)
    apart = emit.Reshape(g, emit.Reshape(pairs, [-1]), allowzero=1)
    return [emit.sum(apart, list(range(0, 2 * rank, 2)), keepdims=False), None]


@linear("Col2Im")
def col2im(step: Step) -> Bilinear:
    """z = Σ of the columns that overlap. The adjoint cuts windows out: a convolution with one-hot kernels.

    x (batch, channel·block, windows) → z (batch, channel, *image)
    """
    emit = step.emit
    block = [int(size) for size in step.known(2, "block shape")]
    one_hot = emit.constant(np.eye(int(np.prod(block)), dtype=np.float32).reshape(-1, 1, *block))

    def windows(s: ir.Value, _: Contribution) -> ir.Value:
        images = emit.Reshape(s, emit.Concat([-1, 1], emit.Slice(emit.Shape(s), [2], [2 + len(block)]), axis=0))
        return emit.reshape_like(emit.Conv(images, one_hot, **step.given_attributes), step.raw(0))

    return Bilinear(
        forward=lambda x, _: emit.Col2Im(x, step.raw(1), step.raw(2), **step.given_attributes), adjoint=windows
    )


# --- choosing by index -----------------------------------------------------------------------------------------------


@movement("Gather")
def gather(step: Step, g: ir.Value) -> list[Contribution]:
    """Values go back to the rows they were read from.

    Integer indices that are explained themselves (tokens that look up an embedding) get the sum over what was looked
    up, if the table is no signal.
    """
    axis, indices = step.axis(), step.raw(1)
    if step.signal(0):
        return [_gather_back(step, g, indices, axis, step.rank(1)), None]
    looked_up = [*range(axis), *range(axis + step.rank(1), step.rank(0) + step.rank(1) - 1)]
    return [None, step.emit.sum(g, looked_up, keepdims=False)]


def _gather_back(step: Step, g: ir.Value, indices: ir.Value, axis: int, index_rank: int) -> ir.Value:
    """The adjoint of Gather(x, indices, axis): indices as one axis, expanded to every element of g."""
    emit, rank, shape = step.emit, step.rank(0), step.shape(0)
    if index_rank == 0 or step.facts.dims(indices) == (1,):
        rows = emit.Unsqueeze(g, [axis]) if index_rank == 0 else g
        return pad_back(step, rows, _one_taken(step, indices, axis))
    rows = g
    if index_rank > 1:
        before, after = emit.Slice(shape, [0], [axis]), emit.Slice(shape, [axis + 1], [rank])
        rows = emit.Reshape(g, emit.Concat(before, emit.Reshape(emit.Size(indices), [1]), after, axis=0), allowzero=1)
    places = emit.Reshape(indices, [-1] + [1] * (rank - axis - 1))
    places = emit.Expand(places, emit.Shape(rows))
    return emit.ScatterElements(emit.zeros_like(step.raw(0)), places, rows, axis=axis, reduction="add")


def _one_taken(step: Step, index: ir.Value, axis: int) -> ir.Value:
    """The begins of a single row along `axis`."""
    emit = step.emit
    row = emit.Reshape(_int64(step, index), [1])
    counted = emit.Where(emit.Less(row, 0), emit.Add(row, emit.dim(step.raw(0), axis)), row)
    return emit.Concat([0] * axis, counted, [0] * (step.rank(0) - axis - 1), axis=0)


@movement("GatherElements")
def gather_elements(step: Step, g: ir.Value) -> list[Contribution]:
    """x[i] read at the indices: added up there again."""
    nothing = step.emit.zeros_like(step.raw(0))
    return [step.emit.ScatterElements(nothing, step.raw(1), g, axis=step.axis(), reduction="add"), None]


@movement("GatherND")
def gather_nd(step: Step, g: ir.Value) -> list[Contribution]:
    """Not by ScatterND: onnxruntime's CPU kernel adds to the same element from several threads without a lock."""
    return [send_back(step, g, lambda data: step.emit.GatherND(data, step.raw(1), **step.given_attributes)), None]


@movement("Compress")
def compress(step: Step, g: ir.Value) -> list[Contribution]:
    """What was left out gets zero."""
    return [send_back(step, g, lambda data: step.emit.Compress(data, step.raw(1), **step.given_attributes)), None]


@movement("Unique", outputs=True)
def unique(step: Step, cotangents: Sequence[Contribution]) -> list[Contribution]:
    """Of equal values the first one is kept, and gets everything."""
    emit, axis, g = step.emit, step.attribute("axis"), cotangents[0]
    if g is None:
        return [None]
    _, first = emit.nodes("Unique", step.raw(0), outputs=2, **step.given_attributes)
    if axis is not None:
        return [_gather_back(step, g, first, step.axis(), 1)]
    nothing = emit.Expand(0.0, emit.Reshape(emit.Size(step.raw(0)), [1]))
    return [emit.reshape_like(emit.ScatterElements(nothing, first, g, reduction="add"), step.raw(0))]


@choice("TopK", outputs=True)
def top_k(step: Step, cotangents: Sequence[Contribution]) -> list[Contribution]:
    """The largest (or smallest) values go back to where they stood."""
    values, nothing = cotangents[0], step.emit.zeros_like(step.raw(0))
    if values is None:
        return [None, None]
    return [step.emit.ScatterElements(nothing, step.unit.outputs[1], values, axis=step.axis()), None]


@movement("Where", elementwise=True)
def where(step: Step, g: ir.Value) -> list[Contribution]:
    """Each branch gets what was taken from it; the walk sums over broadcasting."""
    emit, condition = step.emit, step.raw(0)
    return [
        None,
        emit.Where(condition, g, 0.0) if step.signal(1) else None,
        emit.Where(condition, 0.0, g) if step.signal(2) else None,
    ]


@movement("OneHot")
def one_hot(step: Step, g: ir.Value) -> list[Contribution]:
    """y = off + (on − off)·[index]. Integer indices that are explained themselves get the sum along the new axis."""
    emit, axis = step.emit, int(step.attribute("axis"))
    contributions: list[Contribution] = [None] * 3
    if step.signal(2):
        on = emit.OneHot(step.raw(0), step.raw(1), [0.0, 1.0], axis=axis)
        sums = [emit.Reshape(emit.sum(g * part, keepdims=False), [1]) for part in (1.0 - on, on)]
        contributions[2] = emit.Concat(*sums, axis=0)
    elif not step.facts.is_float(step.raw(0)):
        contributions[0] = emit.sum(g, [axis], keepdims=False)
    return contributions


# --- writing by index ------------------------------------------------------------------------------------------------


class _Writing:
    """ScatterElements or ScatterND: `take` reads the elements that are written, `put` writes there."""

    def __init__(self, step: Step) -> None:
        self.step, self.emit = step, step.emit
        self.indices = step.raw(1)
        self.attributes: dict[str, Any] = {} if step.unit.op_type == "ScatterND" else {"axis": step.axis()}

    def take(self, data: ir.Value) -> ir.Value:
        op_type = "GatherElements" if self.attributes else "GatherND"
        return self.emit.node(op_type, data, self.indices, **self.attributes)

    def put(self, data: ir.Value, updates: ir.Value, reduction: str | None = None) -> ir.Value:
        """For ScatterND through flat positions, since its own kernel races where indices repeat."""
        emit = self.emit
        if self.attributes:
            return emit.ScatterElements(data, self.indices, updates, reduction=reduction, **self.attributes)
        shape = emit.Shape(data)
        positions = emit.GatherND(emit.Reshape(emit.Range(0, emit.Size(data), 1), shape, allowzero=1), self.indices)
        flat = [emit.Reshape(value, [-1]) for value in (data, positions, updates)]
        return emit.Reshape(emit.ScatterElements(*flat, reduction=reduction), shape, allowzero=1)


def _scatter_relevance(step: Step, relevance: ir.Value) -> Sequence[Contribution]:
    """Where updates are added, in proportion; where they multiply, all to the data; otherwise where it came from."""
    operator = lookup(step.unit.op_type, step.unit.domain)
    assert operator is not None
    if step.attribute("reduction", "none") in ("none", "max", "min"):
        return operator.vjp(step, relevance)
    if step.attribute("reduction", "none") == "mul" and step.signal(0):
        return _only_data(step, relevance)
    return in_proportion(operator, step, relevance, STABILISER)


@movement("ScatterElements", "ScatterND", relevance=_scatter_relevance, conserves="up to epsilon")
def scatter(step: Step, g: ir.Value) -> list[Contribution]:
    """y = data with updates written, added, multiplied in, or the larger or smaller of both kept, at the indices."""
    at_data, at_updates = _SCATTERS[step.attribute("reduction", "none")](step, _Writing(step), g)
    return [at_data if step.signal(0) else None, None, at_updates if step.signal(2) else None]


def _overwrite(step: Step, writing: _Writing, g: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Data that is overwritten gets nothing."""
    return writing.put(g, step.emit.zeros_like(step.raw(2))), writing.take(g)


def _add(step: Step, writing: _Writing, g: ir.Value) -> tuple[ir.Value, ir.Value]:
    return g, writing.take(g)


def _multiply(step: Step, writing: _Writing, g: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Each factor gets the product of the others. Zeros are counted, so that nothing is divided by zero."""
    emit, updates = step.emit, step.x(2)
    zero = emit.Equal(updates, 0.0)
    others = writing.put(emit.ones_like(g), emit.Where(zero, 1.0, updates), "mul")
    zeros = writing.take(writing.put(emit.zeros_like(g), emit.mask(zero), "add"))
    other_zeros = emit.Sub(zeros, emit.mask(zero))
    without_own = emit.Div(writing.take(g * step.x(0) * others), emit.Where(zero, 1.0, updates))
    at_data = g * writing.put(emit.ones_like(g), updates, "mul")
    return at_data, emit.Where(emit.Equal(other_zeros, 0.0), without_own, 0.0)


def _choose(step: Step, writing: _Writing, g: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The data where it won; otherwise the update that won, in equal parts where several tie."""
    emit = step.emit
    kept = emit.Equal(step.x(0), step.y())
    won = emit.mask(emit.Equal(step.x(2), writing.take(step.y())))
    ties = writing.take(writing.put(emit.zeros_like(g), won, "add"))
    share = writing.take(emit.Where(kept, 0.0, g)) * won / emit.Max(ties, 1.0)
    return emit.Where(kept, g, 0.0), share


_Scatter = Callable[[Step, _Writing, ir.Value], tuple[ir.Value, ir.Value]]
_SCATTERS: dict[str, _Scatter] = {
    "none": _overwrite,
    "add": _add,
    "mul": _multiply,
    "max": _choose,
    "min": _choose,
}
