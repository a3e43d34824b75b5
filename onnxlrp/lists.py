"""Lists of tensors (ONNX sequences) in the relevance graph: the relevance of a list is a list, element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxlrp.body import BodyEmit
from onnxlrp.emit import Emit

LIST = ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))
"""Type of the relevance of a list."""


def is_list(value: ir.Value) -> bool:
    return isinstance(value.type, ir.SequenceType)


def zeros_like(emit: Emit, value: ir.Value) -> ir.Value:
    """Relevance of a tensor, a list or an optional tensor that none has reached."""
    if is_list(value):
        return _each(emit, [value], lambda inner, items: inner.zeros_like(items[0]))
    if isinstance(value.type, ir.OptionalType):
        there, absent = BodyEmit(emit), BodyEmit(emit)
        there.give(there.zeros_like(there.OptionalGetElement(value)))
        absent.give(absent.constant(0.0))
        return emit.If(emit.OptionalHasElement(value), then_branch=there.graph, else_branch=absent.graph)
    return emit.zeros_like(value)


def total(emit: Emit, parts: Sequence[ir.Value], value: ir.Value) -> ir.Value:
    """The sum of what met on a tensor or on a list."""
    if is_list(value) and len(parts) > 1:
        return _each(emit, parts, lambda inner, items: inner.Sum(*items))
    return emit.total(parts, value)


def sum_of(emit: Emit, value: ir.Value) -> ir.Value:
    """All elements of a tensor or of a list in one number."""
    if not is_list(value):
        return emit.sum(value, keepdims=False)
    sums = _stacked(emit, value, lambda inner, item: inner.sum(item, keepdims=False))
    return emit.sum(sums, keepdims=False)


def absolute(emit: Emit, value: ir.Value) -> ir.Value:
    """|R|, element by element."""
    return _each(emit, [value], lambda inner, items: inner.Abs(items[0])) if is_list(value) else emit.Abs(value)


def sizes(emit: Emit, value: ir.Value, axis: int) -> ir.Value:
    """The sizes of a list's tensors along an axis, int64 vector."""
    return _stacked(emit, value, lambda inner, item: inner.Squeeze(inner.dim(item, axis), [0]))


def _each(emit: Emit, parts: Sequence[ir.Value], make: Callable[[Emit, list[ir.Value]], ir.Value]) -> ir.Value:
    """The list of what is made of the tensors that stand at the same place."""
    inner = BodyEmit(emit)
    turn, goes_on = _counters(inner)
    so_far = inner.input("list", kind=LIST)
    made = make(inner, [inner.SequenceAt(part, turn) for part in parts])
    for value in (goes_on, inner.SequenceInsert(so_far, made)):
        inner.give(value)
    start = emit.SequenceEmpty(dtype=int(ir.DataType.FLOAT))
    found = emit.Loop(emit.SequenceLength(parts[0]), None, start, body=inner.graph)
    found.type = LIST
    return found


def _stacked(emit: Emit, value: ir.Value, make: Callable[[Emit, ir.Value], ir.Value]) -> ir.Value:
    """A vector with one number per tensor of the list."""
    inner = BodyEmit(emit)
    turn, goes_on = _counters(inner)
    made = make(inner, inner.SequenceAt(value, turn))
    for output in (goes_on, made):
        inner.give(output)
    return emit.Reshape(emit.Loop(emit.SequenceLength(value), True, body=inner.graph), [-1])


def _counters(inner: BodyEmit) -> tuple[ir.Value, ir.Value]:
    turn = inner.input("turn", kind=ir.TensorType(ir.DataType.INT64))
    goes_on = inner.input("goes_on", kind=ir.TensorType(ir.DataType.BOOL))
    turn.shape = goes_on.shape = ir.Shape([])
    return turn, goes_on
