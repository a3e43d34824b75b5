"""Convolutions and their adjoints in standard operators: one lowering table decides how.

Measured on onnxruntime's CPU provider: the adjoint of a stride-1 convolution is fastest as a convolution with flipped,
transposed weights; for larger strides ConvTranspose is. Both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import NeedsShape
from onnxlrp.graph import Dimension
from onnxlrp.rules.registry import Contribution
from onnxlrp.rules.step import Step


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution or pooling over its spatial axes; pads are (begins, ends) and always explicit.

    same : the pads of auto_pad SAME_* where only run time tells them, int64 vectors; `begins` and `ends` are zero then
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    group: int
    auto_pad: str = "NOTSET"
    same: tuple[ir.Value, ir.Value] | None = None

    @property
    def axes(self) -> int:
        return len(self.kernel)

    @classmethod
    def of(cls, step: Step) -> Window:
        """Read kernel, strides, dilations and pads; auto_pad is resolved while compiling where the sizes are known."""
        kernel = tuple(k for k in step.attribute("kernel_shape") or step.dims(1)[2:] if isinstance(k, int))
        if len(kernel) != step.rank(0) - 2:
            raise NeedsShape(f"The kernel size of {step.unit} is only known at run time; the rule needs it.")
        count = len(kernel)
        strides = tuple(step.attribute("strides") or [1] * count)
        dilations = tuple(step.attribute("dilations") or [1] * count)
        auto_pad = step.attribute("auto_pad", "NOTSET")
        pads = tuple(step.attribute("pads") or [0] * (2 * count))
        begins, ends, same = pads[:count], pads[count:], None
        if auto_pad != "NOTSET":
            begins = ends = (0,) * count
        if auto_pad.startswith("SAME"):
            totals = _same_totals(step, kernel, strides, dilations)
            if totals is None:
                same = _halves_at_run_time(step, kernel, strides, dilations, auto_pad)
            else:
                begins, ends = _halves(totals, auto_pad)
        return cls(kernel, strides, dilations, begins, ends, int(step.attribute("group", 1)), auto_pad, same)

    @property
    def attributes(self) -> dict[str, Any]:
        """Of a Conv over this window."""
        pads = {"pads": [*self.begins, *self.ends]} if self.same is None else {"auto_pad": self.auto_pad}
        return pads | self.unpadded

    @property
    def unpadded(self) -> dict[str, Any]:
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "group": self.group,
        }

    def begin_values(self, emit: Emit) -> ir.Value:
        return emit.constant(list(self.begins)) if self.same is None else self.same[0]

    def padded(self, emit: Emit, x: ir.Value) -> ir.Value:
        """x with the pads that no attribute can state."""
        if self.same is None:
            return x
        begins, ends = self.same
        return emit.Pad(x, emit.Concat([0, 0], begins, [0, 0], ends, axis=0))


def _same_totals(
    step: Step, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int] | None:
    """Both pads of auto_pad SAME_* together: ⌈input / stride⌉ elements come out. None where a size is open."""
    totals = []
    for size, k, stride, dilation in zip(step.dims(0)[2:], kernel, strides, dilations, strict=True):
        reach = (k - 1) * dilation + 1
        if stride == 1 or step.unit.op_type == "ConvTranspose":
            totals.append(max(reach - stride, 0))
        elif isinstance(size, int):
            totals.append(max((-(-size // stride) - 1) * stride + reach - size, 0))
        else:
            return None
    return totals


def _halves(totals: Sequence[int], auto_pad: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(begins, ends); an odd cell goes to the side that auto_pad names."""
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def _halves_at_run_time(
    step: Step, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], auto_pad: str
) -> tuple[ir.Value, ir.Value]:
    emit = step.emit
    size, stride = emit.Shape(step.raw(0), start=2), emit.constant(list(strides))
    reach = emit.constant([(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)])
    out = emit.Div(emit.Sub(emit.Add(size, stride), 1), stride)
    covered = emit.Add(emit.Mul(emit.Sub(out, 1), stride), reach)
    total = emit.Max(emit.Sub(covered, size), 0)
    small = emit.Div(total, 2)
    large = emit.Sub(total, small)
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def conv_forward(emit: Emit, window: Window, x: ir.Value, w: Contribution) -> ir.Value:
    return emit.Conv(x, w, **window.attributes)


def conv_adjoint(step: Step, window: Window, s: ir.Value, w: Contribution) -> ir.Value:
    """⟨Conv(x, w), s⟩ = ⟨x, conv_adjoint(s, w)⟩; s (batch, out, *space) → shaped like x."""
    assert w is not None
    sizes, out = step.dims(0)[2:], (step.facts.dims(step.unit.outputs[0]) or ())[2:]
    if all(stride == 1 for stride in window.strides) and _fits_flipped(window):
        return _flipped_convolution(step, window, s, w)
    padding = _output_padding(window, sizes, out) if window.same is None else None
    if padding is not None:
        return step.emit.ConvTranspose(s, w, output_padding=padding, **window.attributes)
    return crop_to_input(step, window, step.emit.ConvTranspose(s, w, **window.unpadded))


def _fits_flipped(window: Window) -> bool:
    """The flipped convolution needs pads d·(k−1) − p ≥ 0."""
    reach = [d * (k - 1) for d, k in zip(window.dilations, window.kernel, strict=True)]
    return all(r >= b and r >= e for r, b, e in zip(reach, window.begins, window.ends, strict=True))


def _flipped_convolution(step: Step, window: Window, s: ir.Value, w: ir.Value) -> ir.Value:
    """The adjoint for stride 1: convolve with the weights flipped in space and their channel axes swapped per group."""
    reach = [d * (k - 1) for d, k in zip(window.dilations, window.kernel, strict=True)]
    pads = [r - b for r, b in zip(reach, window.begins, strict=True)]
    pads += [r - e for r, e in zip(reach, window.ends, strict=True)]
    flipped = flip_space(step.emit, swap_channels(step.emit, w, window), window.axes)
    return step.emit.Conv(
        s, flipped, kernel_shape=list(window.kernel), dilations=list(window.dilations), pads=pads, group=window.group
    )


def swap_channels(emit: Emit, w: ir.Value, window: Window) -> ir.Value:
    """(group·out, in, *k) → (group·in, out, *k)."""
    axes = list(range(2, 2 + window.axes))
    if window.group == 1:
        return emit.Transpose(w, perm=[1, 0, *axes])
    spatial = list(window.kernel)
    inner = emit.dim(w, 1)
    grouped = emit.Reshape(w, emit.Concat(emit.constant([window.group, -1]), inner, emit.constant(spatial), axis=0))
    swapped = emit.Transpose(grouped, perm=[0, 2, 1, *[axis + 1 for axis in axes]])
    rows = emit.Mul(inner, emit.constant([window.group]))
    return emit.Reshape(swapped, emit.Concat(rows, emit.constant([-1, *spatial]), axis=0))


def flip_space(emit: Emit, w: ir.Value, axes: int) -> ir.Value:
    """Reverse the last `axes` axes."""
    count = list(range(-axes, 0))
    return emit.Slice(w, [-1] * axes, [-(2**31)] * axes, count, [-1] * axes)


def _output_padding(window: Window, sizes: Sequence[Dimension], out: Sequence[Dimension]) -> list[int] | None:
    """x − ((y − 1)·stride − pads + d·(k − 1) + 1) per axis; None unless static and allowed by the operator."""
    padding = []
    for i, (x, y) in enumerate(zip(sizes, out, strict=False)):
        if not isinstance(x, int) or not isinstance(y, int):
            return None
        covered = (y - 1) * window.strides[i] - window.begins[i] - window.ends[i]
        padding.append(x - (covered + window.dilations[i] * (window.kernel[i] - 1) + 1))
    fits = all(0 <= p < max(s, d) for p, s, d in zip(padding, window.strides, window.dilations, strict=False))
    return padding if len(padding) == window.axes and fits else None


def crop_to_input(step: Step, window: Window, full: ir.Value) -> ir.Value:
    """Cut the begin pads off an unpadded ConvTranspose, and cut or fill the end to the input's size at run time."""
    emit = step.emit
    spatial = emit.Slice(step.shape(0), [2], [2 + window.axes])
    begins = window.begin_values(emit)
    missing = emit.Max(emit.Sub(emit.Add(spatial, begins), emit.Slice(emit.Shape(full), [2], [2 + window.axes])), 0)
    pads = emit.Concat(emit.constant([0] * (4 + window.axes)), missing, axis=0)
    filled = emit.Pad(full, pads)
    axes = list(range(2, 2 + window.axes))
    return emit.Slice(filled, begins, emit.Add(begins, spatial), axes)


def conv_weight_adjoint(step: Step, window: Window, s: ir.Value, x: Contribution) -> ir.Value:
    """The weights' cotangent: a convolution of x with s, batch and channels exchanged, strides and dilations too.

    x (batch, group·in, *space), s (batch, group·out, *space) → (group·out, in, *kernel)
    """
    assert x is not None
    padded = window.padded(step.emit, x)
    return _correlate(step, window, s, padded, step.emit.Shape(padded))


def _correlate(step: Step, window: Window, s: ir.Value, x: ir.Value, x_shape: ir.Value) -> ir.Value:
    emit, space = step.emit, list(range(window.axes))
    group = window.group
    batch, size = emit.Slice(x_shape, [0], [1]), emit.Slice(x_shape, [2], [2 + window.axes])
    lead = emit.Concat(batch, emit.constant([group, -1]), size, axis=0)
    by_channel = emit.Transpose(emit.Reshape(x, lead), perm=[2, 1, 0, *[3 + i for i in space]])
    folded = emit.Reshape(
        by_channel, emit.Concat(emit.constant([-1]), emit.Mul(batch, emit.constant([group])), size, axis=0)
    )
    kernels = emit.Transpose(s, perm=[1, 0, *[2 + i for i in space]])
    correlated = emit.Conv(
        folded,
        kernels,
        strides=list(window.dilations),
        dilations=list(window.strides),
        pads=[*window.begins, *window.ends],
        group=group,
    )
    swapped = emit.Transpose(correlated, perm=[1, 0, *[2 + i for i in space]])
    return emit.Slice(swapped, [0] * window.axes, list(window.kernel), [2 + i for i in space])


# --- transposed convolution ------------------------------------------------------------------------------------------


def conv_transpose_forward(step: Step, window: Window, x: ir.Value, w: Contribution) -> ir.Value:
    """The layer itself, without its bias: every attribute as the model has it."""
    return step.emit.ConvTranspose(x, w, **step.given_attributes)


def conv_transpose_adjoint(step: Step, window: Window, s: ir.Value, w: Contribution) -> ir.Value:
    """The adjoint of ConvTranspose is Conv over its output, cut to the input's size."""
    padded = _with_full_reach(step, window, s)
    full = step.emit.Conv(
        padded, w, strides=list(window.strides), dilations=list(window.dilations), pads=None, group=window.group
    )
    axes = [2 + i for i in range(window.axes)]
    size = step.emit.Slice(step.shape(0), [2], [2 + window.axes])
    return step.emit.Slice(full, [0] * window.axes, size, axes)


def conv_transpose_weight_adjoint(step: Step, window: Window, s: ir.Value, x: Contribution) -> ir.Value:
    """The weights' cotangent: as for Conv, with data and result exchanged."""
    assert x is not None
    padded = _with_full_reach(step, window, s)
    unpadded = Window(
        window.kernel, window.strides, window.dilations, (0,) * window.axes, (0,) * window.axes, window.group
    )
    return _correlate(step, unpadded, x, padded, step.emit.Shape(padded))


def _with_full_reach(step: Step, window: Window, s: ir.Value) -> ir.Value:
    """s with what the forward layer cut off put back as zeros, so that the full reach of every input is there.

    Full size per axis: (x − 1)·stride + d·(k − 1) + 1. The begin pads are known; the end is filled at run time.
    """
    emit, count = step.emit, window.axes
    begins = _begin_pads(step, window)
    reach = emit.constant([d * (k - 1) + 1 for d, k in zip(window.dilations, window.kernel, strict=True)])
    size = emit.Slice(step.shape(0), [2], [2 + count])
    full = emit.Add(emit.Mul(emit.Sub(size, 1), emit.constant(list(window.strides))), reach)
    have = emit.Add(emit.Slice(emit.Shape(s), [2], [2 + count]), begins)
    missing = emit.Max(emit.Sub(full, have), 0)
    pads = emit.Concat(emit.constant([0, 0]), begins, emit.constant([0, 0]), missing, axis=0)
    return emit.Pad(s, pads)


def _begin_pads(step: Step, window: Window) -> ir.Value:
    """Begin pads of a ConvTranspose; from output_shape when that is given. An odd cell goes to the end for SAME_UPPER
    alone, as onnxruntime does it.
    """
    emit, count = step.emit, window.axes
    wanted = step.attribute("output_shape")
    extra = list(step.attribute("output_padding") or [0] * count)
    if not wanted and not window.auto_pad.startswith("SAME"):
        return emit.constant(list(window.begins))
    reach = [d * (k - 1) + 1 + e for d, k, e in zip(window.dilations, window.kernel, extra, strict=True)]
    size = emit.Slice(step.shape(0), [2], [2 + count])
    full = emit.Add(emit.Mul(emit.Sub(size, 1), emit.constant(list(window.strides))), emit.constant(reach))
    target = emit.constant(list(wanted)) if wanted else emit.Mul(size, emit.constant(list(window.strides)))
    total = emit.Max(emit.Sub(full, target), 0)
    half = emit.Div(total, 2)
    return half if window.auto_pad == "SAME_UPPER" else emit.Sub(total, half)
