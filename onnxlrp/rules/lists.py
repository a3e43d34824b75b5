"""Lists of tensors and optional tensors: each value goes back to the tensor that it came from.

The relevance of a list is a list of the same length (`onnxlrp.lists`); that of an optional tensor is the tensor's.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp import lists
from onnxlrp.rules.registry import Contribution, movement
from onnxlrp.rules.step import Step


@movement("SequenceConstruct")
def sequence_construct(step: Step, g: ir.Value) -> list[Contribution]:
    """Each tensor takes its place in the list."""
    return [step.emit.SequenceAt(g, index) if step.signal(index) else None for index in range(step.count)]


@movement("SequenceInsert")
def sequence_insert(step: Step, g: ir.Value) -> list[Contribution]:
    """One tensor more; without a position at the end."""
    emit = step.emit
    place = _place(step, 2, step.raw(0)) if step.has(2) else emit.constant(-1)
    return [emit.SequenceErase(g, place), emit.SequenceAt(g, place), *[None] * (step.count - 2)]


@movement("SequenceErase")
def sequence_erase(step: Step, g: ir.Value) -> list[Contribution]:
    """One tensor less; it gets nothing."""
    emit, given = step.emit, step.raw(0)
    last = emit.SequenceLength(given) - 1
    place = _place(step, 1, given) if step.has(1) else last
    nothing = emit.zeros_like(emit.SequenceAt(given, place))
    return step.only(emit.SequenceInsert(g, nothing, place))


@movement("SequenceAt")
def sequence_at(step: Step, g: ir.Value) -> list[Contribution]:
    """The tensor at one place; the others get nothing."""
    emit, given = step.emit, step.raw(0)
    place = _place(step, 1, given)
    return step.only(emit.SequenceInsert(emit.SequenceErase(lists.zeros_like(emit, given), place), g, place))


@movement("SplitToSequence")
def split_to_sequence(step: Step, g: ir.Value) -> list[Contribution]:
    """A list of pieces; without sizes of one element each, whose axis may be dropped."""
    dropped = not step.has(1) and not step.attribute("keepdims", 1)
    axis = int(step.attribute("axis", 0))
    return step.only(step.emit.ConcatFromSequence(g, axis=axis, new_axis=int(dropped)))


@movement("ConcatFromSequence")
def concat_from_sequence(step: Step, g: ir.Value) -> list[Contribution]:
    """All tensors of a list in one, along an axis of theirs or a new one."""
    emit, axis = step.emit, int(step.attribute("axis"))
    if step.attribute("new_axis", 0):
        return [emit.SplitToSequence(g, axis=axis, keepdims=0)]
    return [emit.SplitToSequence(g, lists.sizes(emit, step.raw(0), axis), axis=axis)]


@movement("Optional")
def optional(step: Step, g: ir.Value) -> list[Contribution]:
    """The same tensor, or none."""
    return step.only(g)


@movement("OptionalGetElement")
def optional_get_element(step: Step, g: ir.Value) -> list[Contribution]:
    """The tensor itself."""
    return [g]


def _place(step: Step, operand: int, given: ir.Value) -> ir.Value:
    """A position in the list before it was changed, counted from its front."""
    emit, place = step.emit, step.raw(operand)
    constant = step.constant(operand)
    if constant is not None and int(constant.reshape(-1)[0]) >= 0:
        return place
    length = emit.Cast(emit.SequenceLength(given), to=place.dtype or ir.DataType.INT64)
    zero = emit.Sub(place, place)
    return emit.Where(emit.Less(place, zero), emit.Add(place, length), place)
