"""Data movement: every value of the output stands somewhere in an operand, and goes back there.

The adjoint is the inverse movement where there is a cheap one. Otherwise the forward operator itself says where each
value came from: it is applied to the positions 0, 1, 2… of its operand, and `send_back` adds every value up at its
position. That works at any shape, static or symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxlrp.rules.registry import Bilinear, Contribution, linear, movement
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


# --- the same values in another shape or order -----------------------------------------------------------------------


@movement("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(step: Step, g: ir.Value) -> list[Contribution]:
    """The same values in the same order: back to the operand's shape."""
    return step.only(step.emit.reshape_like(g, step.raw(0)))


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
    inside = step.emit.Trilu(g, *step.unit.inputs[1:], **step.given_attributes)
    if step.account is not None:
        step.account("padding", g - inside)
    return step.only(inside)


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
    return step.only(parts[0] if len(parts) == 1 else step.emit.Concat(*parts, axis=step.axis()))


@movement("Slice")
def slice_(step: Step, g: ir.Value) -> list[Contribution]:
    """With step 1 everywhere zeros are put around it; other steps go back one by one."""
    steps = step.constant(4)
    if step.has(4) and (steps is None or np.any(steps != 1)):
        return step.only(send_back(step, g, lambda data: step.emit.Slice(data, *step.unit.inputs[1:])))
    return step.only(pad_back(step, g, _first_taken(step)))


def _first_taken(step: Step) -> ir.Value:
    """The first index that a Slice with step 1 takes, per axis of its operand; out-of-range starts are clamped."""
    emit, shape = step.emit, step.shape(0)
    starts = step.as_int64(step.raw(1))
    axes = step.as_int64(step.raw(3)) if step.has(3) else emit.Range(0, emit.Size(starts), 1)
    sizes = emit.Gather(shape, axes)
    counted = emit.Where(emit.Less(starts, 0), emit.Add(starts, sizes), starts)
    clamped = emit.Min(emit.Max(counted, 0), sizes)
    return emit.ScatterElements([0] * step.rank(0), axes, clamped)


@movement("Pad")
def pad(step: Step, g: ir.Value) -> list[Contribution]:
    """Constant: cut the padding off (negative pads put zeros back), the constant gets what was filled with it.

    Reflect, edge and wrap repeat values, and what their copies get is added up.
    """
    emit, (pads, value, axes) = step.emit, [*step.unit.inputs[1:], None, None][:3]
    if step.attribute("mode") != "constant":
        return step.only(send_back(step, g, lambda data: _pad(step, data, pads, None, axes)))
    contributions = step.only(_pad(step, g, emit.Neg(pads), None, axes) if step.signal(0) else None)
    fills = value is not None and step.signal(2)
    if fills or step.account is not None:
        filled = g * _pad(step, emit.zeros_like(step.raw(0)), pads, 1.0, axes)
        if value is not None and fills:
            contributions[2] = emit.reshape_like(emit.sum(filled, keepdims=False), value)
        elif step.account is not None:
            step.account("padding", filled)
    return contributions


def _pad(step: Step, x: ir.Value, pads: ir.Value | None, value: float | None, axes: ir.Value | None) -> ir.Value:
    return step.emit.Pad(x, pads, value, axes, **step.given_attributes)


@movement("CenterCropPad")
def center_crop_pad(step: Step, g: ir.Value) -> list[Contribution]:
    """Cropping and padding around the same centre undo each other."""
    axes = step.attribute("axes")
    size = step.shape(0) if axes is None else step.emit.Gather(step.shape(0), list(axes))
    if step.account is not None:
        from_input = step.emit.CenterCropPad(step.emit.ones_like(step.x()), step.unit.inputs[1], axes=axes)
        step.account("padding", g - g * from_input)
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
