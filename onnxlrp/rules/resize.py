"""Resize: a linear map that the standard describes in seven modes, and that is separable.

Along one axis it is a matrix A (out, in), and A is what the model's own Resize makes of an identity matrix. So its
adjoint needs no static shapes and no second implementation of the modes: R = A_heightᵀ · s · A_width. Measured on
onnxruntime: every combination of modes that its CPU provider runs agrees with the node itself to 2e-6.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.graph import Facts
from onnxlrp.rules.registry import Bilinear, linear
from onnxlrp.rules.step import Step

ROI, SCALES, SIZES = 1, 2, 3


def _stays_nonnegative(node: ir.Node, facts: Facts) -> bool:
    """Only the cubic mode has negative weights."""
    cubic = node.attributes.get_string("mode", "nearest") == "cubic"
    extrapolates_below = node.attributes.get_float("extrapolation_value", 0.0) < 0
    return node.inputs[0] in facts.nonnegative and not cubic and not extrapolates_below


@linear("Resize", nonnegative_if=_stays_nonnegative, source="the adjoint of the node itself")
def resize(step: Step) -> Bilinear:
    """z = A_height · x · A_widthᵀ, and the same for any other set of axes."""
    others = step.unit.inputs[1:]
    unextrapolated = step.given_attributes | ({"extrapolation_value": 0.0} if _crops(step) else {})
    return Bilinear(
        forward=lambda x, _: step.emit.Resize(x, *others, **unextrapolated),
        adjoint=lambda s, _: _adjoint(step, s),
        bias=_extrapolated(step),
        signed=step.attribute("mode", "") == "cubic",
    )


def _extrapolated(step: Step) -> ir.Value | None:
    """What tf_crop_and_resize writes where it looks outside of x: not linear in x, so it counts as a bias."""
    if not _crops(step) or not step.attribute("extrapolation_value"):
        return None
    nothing = step.emit.zeros_like(step.x())
    return step.emit.Resize(nothing, *step.unit.inputs[1:], **step.given_attributes)


def _adjoint(step: Step, s: ir.Value) -> ir.Value:
    blocks = _blocks(step)
    if blocks is not None:
        return _sum_over_blocks(step, s, blocks)
    last_axis_first = sorted(_resized_axes(step), reverse=True)  # one large product; what follows is smaller already
    for axis, position in last_axis_first:
        s = _contract(step, s, _matrix(step, axis, position), axis)
    return s


# --- which axes, and how far -----------------------------------------------------------------------------------------


def _listed_axes(step: Step) -> list[int]:
    """The axes that roi, scales and sizes speak of, in their order."""
    rank = step.rank()
    return [axis % rank for axis in step.attribute("axes") or range(rank)]


def _resized_axes(step: Step) -> list[tuple[int, int]]:
    """(axis, its position in scales or sizes) for every axis that is not certainly left alone."""
    return [(axis, i) for i, axis in enumerate(_listed_axes(step)) if not _left_alone(step, axis, i)]


def _left_alone(step: Step, axis: int, position: int) -> bool:
    if _keeps_aspect_ratio(step) or (_crops(step) and not _whole(step, position)):
        return False
    scales = step.constant(SCALES) if not _given(step, SIZES) else None
    if scales is not None:
        return bool(scales[position] == 1)
    have, wanted = step.dims()[axis], (step.facts.dims(step.unit.outputs[0]) or step.dims())[axis]
    return have is not None and have == wanted


def _whole(step: Step, position: int) -> bool:
    roi = step.constant(ROI)
    return roi is not None and roi[position] == 0 and roi[roi.size // 2 + position] == 1


def _given(step: Step, index: int) -> bool:
    """An operand may be left out, or be there and empty."""
    return step.has(index) and step.dims(index) != (0,)


def _crops(step: Step) -> bool:
    return bool(step.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize")


def _keeps_aspect_ratio(step: Step) -> bool:
    return _given(step, SIZES) and step.attribute("keep_aspect_ratio_policy", "") not in ("", "stretch")


# --- one axis as a matrix --------------------------------------------------------------------------------------------


def _matrix(step: Step, axis: int, position: int) -> ir.Value:
    """A (out, in) of one axis: Resize of an identity matrix. onnxruntime folds it where the sizes are static."""
    emit, size = step.emit, step.dims()[axis]
    width = emit.constant([size]) if isinstance(size, int) else emit.dim(step.raw(0), axis)
    identity = emit.EyeLike(emit.filled(emit.Concat(width, width, axis=0), 0.0))
    roi = _roi(step, position)
    if _keeps_aspect_ratio(step) and len(_listed_axes(step)) > 1:
        return _matrix_beside(step, identity, roi, position)
    attributes = _mode(step)
    if _given(step, SIZES):
        sizes = emit.Concat(emit.dim(step.unit.outputs[0], axis), width, axis=0)
        return emit.Resize(identity, roi, None, sizes, **attributes)
    scales = emit.Concat(emit.Gather(step.x(SCALES), [position]), [1.0], axis=0)
    return emit.Resize(identity, roi, scales, **attributes)


def _matrix_beside(step: Step, identity: ir.Value, roi: ir.Value | None, position: int) -> ir.Value:
    """A where the aspect ratio is kept: one scale for all axes, so the other axis comes along, and is dropped again."""
    emit, axes = step.emit, _listed_axes(step)
    if len(axes) > 2:
        raise Unsupported(f"{step.unit} keeps the aspect ratio of {len(axes)} axes; the rule knows two.")
    other = emit.dim(step.raw(0), axes[1 - position])
    shape = emit.Concat([1], emit.Shape(identity), other, axis=0)
    columns = emit.Expand(emit.Unsqueeze(identity, [0, 3]), shape)
    sizes = emit.Gather(step.raw(SIZES), [position, 1 - position])
    policy = {"keep_aspect_ratio_policy": step.attribute("keep_aspect_ratio_policy", ""), "axes": [2, 3]}
    resized = emit.Resize(columns, roi, None, sizes, **_mode(step), **policy)
    return emit.Transpose(emit.Gather(emit.Squeeze(resized, [0]), 0, axis=2), perm=[1, 0])


def _roi(step: Step, position: int) -> ir.Value | None:
    """The axis' own part of the region, and all of the identity's columns."""
    if not _crops(step):
        return None
    emit, count = step.emit, len(_listed_axes(step))
    start, end = emit.Gather(step.x(ROI), [position]), emit.Gather(step.x(ROI), [position + count])
    return emit.Concat(start, [0.0], end, [1.0], axis=0)


def _mode(step: Step) -> dict[str, Any]:
    about_axes = ("axes", "keep_aspect_ratio_policy", "extrapolation_value")
    return {name: value for name, value in step.given_attributes.items() if name not in about_axes}


def _contract(step: Step, s: ir.Value, matrix: ir.Value, axis: int) -> ir.Value:
    """Σ_out matrix[out, in] · s[…, out, …] along one axis."""
    emit, rank = step.emit, step.rank()
    if axis == rank - 1:
        return emit.MatMul(s, matrix)
    if axis == rank - 2:
        return emit.MatMul(emit.Transpose(matrix, perm=[1, 0]), s)
    swapped = [rank - 1 if i == axis else axis if i == rank - 1 else i for i in range(rank)]
    return emit.Transpose(emit.MatMul(emit.Transpose(s, perm=swapped), matrix), perm=swapped)


# --- the common case: every element becomes a block ------------------------------------------------------------------

_COPIES = {
    "asymmetric": ("floor",),
    "half_pixel": ("", "round_prefer_floor", "round_prefer_ceil"),
    "pytorch_half_pixel": ("", "round_prefer_floor", "round_prefer_ceil"),
}
"""Coordinate modes and roundings under which upsampling by k copies each element exactly k times."""


def _blocks(step: Step) -> list[int] | None:
    """The block's size per spatial axis, where nearest upsampling by constant integers makes blocks; else None."""
    rank, coordinates = step.rank(), step.attribute("coordinate_transformation_mode", "")
    copies = step.attribute("mode", "") == "nearest" and step.attribute("nearest_mode", "") in _COPIES.get(
        coordinates, ()
    )
    if not copies or not 3 <= rank <= 5 or _keeps_aspect_ratio(step):
        return None
    factors = [1.0] * rank
    for axis, position in _resized_axes(step):
        factor = _factor(step, axis, position)
        if axis < 2 or factor is None or factor < 1 or factor != int(factor):
            return None
        factors[axis] = factor
    return [int(factor) for factor in factors[2:]]


def _factor(step: Step, axis: int, position: int) -> float | None:
    if not _given(step, SIZES):
        scales = step.constant(SCALES)
        return None if scales is None else float(scales[position])
    have, wanted = step.dims()[axis], (step.facts.dims(step.unit.outputs[0]) or step.dims())[axis]
    return wanted / have if isinstance(have, int) and isinstance(wanted, int) and have else None


def _sum_over_blocks(step: Step, s: ir.Value, blocks: list[int]) -> ir.Value:
    """The mean over each block times its size: one pooling."""
    count = 1
    for size in blocks:
        count *= size
    mean = step.emit.AveragePool(s, kernel_shape=blocks, strides=blocks)
    return step.emit.Mul(mean, float(count))
