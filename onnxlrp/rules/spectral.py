"""Fourier transforms: linear maps whose adjoints are Fourier transforms too.

With F the transform without a factor, over the complex plane as pairs of reals: the adjoint of F is the inverse
transform times n, and that of the inverse is the transform divided by n. Cutting or padding with zeros go back as
padding or cutting; a real part goes back as the real part of a complex number.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import Unsupported
from onnxlrp.rules.registry import Bilinear, Contribution, linear
from onnxlrp.rules.step import Step

REAL, COMPLEX = 1, 2

Axis = int | ir.Value
"""A value, int64 [1], where only run time tells."""


def fourier(emit: Emit, x: ir.Value, axis: Axis, *, inverse: bool, onesided: bool = False) -> ir.Value:
    """x (…, n, …, 1 or 2): `axis` is an attribute below opset 20 and an operand from then on."""
    attributes = {"inverse": int(inverse), "onesided": int(onesided)}
    if emit.opset >= 20:
        operand = emit.constant(axis) if isinstance(axis, int) else emit.Squeeze(axis, [0])
        return emit.DFT(x, None, operand, **attributes)
    return emit.DFT(x, axis=axis, **attributes)


def extent(emit: Emit, x: ir.Value, axis: Axis) -> ir.Value:
    """The size of an axis, int64 [1]."""
    return emit.dim(x, axis) if isinstance(axis, int) else emit.Gather(emit.Shape(x), axis)


def along(emit: Emit, rank: int, axis: Axis, there: ir.Value | int, elsewhere: int) -> ir.Value:
    """A vector with one entry per axis, int64 [rank]."""
    if isinstance(axis, int):
        return emit.Concat([elsewhere] * axis, _vector(there), [elsewhere] * (rank - axis - 1), axis=0)
    return emit.ScatterElements([elsewhere] * rank, axis, _vector(there))


def _vector(entry: ir.Value | int) -> ir.Value | list[int]:
    return [entry] if isinstance(entry, int) else entry


def fit(emit: Emit, x: ir.Value, rank: int, axis: Axis, size: ir.Value) -> ir.Value:
    """Cut or fill with zeros at the end of `axis` to `size`, int64 [1]."""
    missing = emit.Max(emit.Sub(size, extent(emit, x, axis)), 0)
    filled = emit.Pad(x, emit.Concat([0] * rank, along(emit, rank, axis, missing, 0), axis=0))
    return emit.Slice(filled, [0], size, [axis] if isinstance(axis, int) else axis)


def with_parts(emit: Emit, x: ir.Value, rank: int, parts: ir.Value) -> ir.Value:
    """Numbers as 1 or 2 parts: real, or complex; `parts` is int64 [1]."""
    return fit(emit, x, rank, rank - 1, parts)


@linear("DFT", source="the adjoint of F is n times its inverse")
def dft(step: Step) -> Bilinear:
    """z = F x along an axis, cut or padded to dft_length; onesided gives the first ⌊n/2⌋ + 1 of a real signal's."""
    emit, rank, axis = step.emit, step.rank(), _dft_axis(step)
    inverse, onesided = bool(step.attribute("inverse")), bool(step.attribute("onesided"))
    others = step.unit.inputs[1:]

    def adjoint(s: ir.Value, _: Contribution) -> ir.Value:
        if inverse and onesided:
            back = _adjoint_of_real_inverse(step, s, axis)
        else:
            length = emit.Reshape(step.as_int64(step.raw(1)), [1]) if step.has(1) else extent(emit, step.raw(0), axis)
            n = emit.Cast(length, to=ir.DataType.FLOAT)
            whole = fit(emit, s, rank, axis, length) if onesided else s
            back = fourier(emit, whole, axis, inverse=not inverse)
            back = back / n if inverse else back * n
        back = with_parts(emit, back, rank, emit.dim(step.raw(0), rank - 1))
        return fit(emit, back, rank, axis, extent(emit, step.raw(0), axis))

    return Bilinear(lambda x, _: emit.DFT(x, *others, **step.given_attributes), adjoint, signed=True)


def _dft_axis(step: Step) -> Axis:
    if step.opset < 20:
        return int(step.attribute("axis", 1)) % step.rank()
    if not step.has(2):
        return step.rank() - 2
    known = step.constant(2)
    if known is not None:
        return int(known.reshape(-1)[0]) % step.rank()
    return step.emit.Mod(step.emit.Reshape(step.as_int64(step.raw(2)), [1]), step.rank())


def _adjoint_of_real_inverse(step: Step, s: ir.Value, axis: Axis) -> ir.Value:
    """z = the real signal whose first ⌊n/2⌋ + 1 coefficients are x: all but the first and, for even n, the last count
    twice, and the imaginary parts of those two not at all.
    """
    emit = step.emit
    size = extent(emit, s, axis)
    half = fourier(emit, s, axis, inverse=False, onesided=True)
    k = emit.Range(0, emit.Squeeze(extent(emit, half, axis), [0]), 1)
    own_mirror = emit.Equal(emit.Mod(emit.Mul(k, 2), size), 0)
    twice = emit.Where(own_mirror, 1.0, 2.0) / emit.Cast(size, to=ir.DataType.FLOAT)
    weighted: ir.Value = half * emit.Reshape(twice, along(emit, step.rank(), axis, -1, 1))
    return weighted


# --- short-time ------------------------------------------------------------------------------------------------------

SIGNAL, STEP, WINDOW, LENGTH = range(4)


@linear("STFT", factors=(SIGNAL, WINDOW), source="framing, window and F, each with its adjoint")
def stft(step: Step) -> Bilinear:
    """z[frame] = F (window ⊙ x[frame · step …]).  x (batch, length, 1 or 2), z (batch, frame, bin, 2)

    onnxruntime takes a real signal (batch, length) as well, and PyTorch exports it so.
    """
    emit, onesided, flat = step.emit, bool(step.attribute("onesided")), step.rank(SIGNAL) == 2
    length = step.raw(LENGTH) if step.has(LENGTH) else None

    def in_time(s: ir.Value) -> ir.Value:
        """Fᴴ s, real or complex as the signal is: (batch, frame, time, part)."""
        size = _frame_length(step)
        whole = fit(emit, s, 4, 2, size) if onesided else s
        back = fourier(emit, whole, 2, inverse=True) * emit.Cast(size, to=ir.DataType.FLOAT)
        parts = emit.constant([REAL]) if flat else emit.dim(step.raw(SIGNAL), 2)
        return with_parts(emit, back, 4, parts)

    def adjoint(s: ir.Value, w: Contribution) -> ir.Value:
        frames = in_time(s)
        frames = frames if w is None else frames * emit.Unsqueeze(w, [-1])
        rows = emit.Reshape(frames, emit.Concat([0, -1], emit.Shape(frames, start=3), axis=0))
        rows = emit.Squeeze(rows, [2]) if flat else rows
        places = emit.Expand(emit.Reshape(_samples_of_frames(step), [1, -1] if flat else [1, -1, 1]), emit.Shape(rows))
        return emit.ScatterElements(emit.zeros_like(step.raw(SIGNAL)), places, rows, axis=1, reduction="add")

    def of_window(s: ir.Value, x: Contribution) -> ir.Value:
        frames = emit.Gather(emit.Unsqueeze(x, [2]) if flat else x, _samples_of_frames(step), axis=1)
        return emit.sum(in_time(s) * frames, [0, 1, 3], keepdims=False)

    return Bilinear(
        forward=lambda x, w: emit.STFT(x, step.raw(STEP), w, length, onesided=int(onesided)),
        adjoint=adjoint,
        weight_adjoint=of_window,
        signed=True,
    )


def _frame_length(step: Step) -> ir.Value:
    """int64 [1]."""
    if step.has(LENGTH):
        return step.emit.Reshape(step.as_int64(step.raw(LENGTH)), [1])
    if step.has(WINDOW):
        return step.shape(WINDOW)
    raise Unsupported(f"{step.unit} has neither a window nor a frame length.")


def _samples_of_frames(step: Step) -> ir.Value:
    """Which sample of the signal each frame reads, (frame, time)."""
    emit = step.emit
    frames = emit.Range(0, emit.Squeeze(emit.dim(step.unit.outputs[0], 1), [0]), 1)
    times = emit.Range(0, emit.Squeeze(_frame_length(step), [0]), 1)
    starts = emit.Mul(emit.Unsqueeze(frames, [1]), step.as_int64(step.raw(STEP)))
    return emit.Add(starts, emit.Unsqueeze(times, [0]))
