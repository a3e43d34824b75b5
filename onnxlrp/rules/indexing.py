"""Reading and writing by index: every value goes back to the element that it was read from, or written as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.rules.crossing import STABILISER, in_proportion
from onnxlrp.rules.movement import pad_back, send_back
from onnxlrp.rules.registry import Contribution, choice, lookup, movement, nothing_flows, steps
from onnxlrp.rules.step import Step

MASKED = 1e4
"""Magnitude from which a constant is a mask's."""

# --- reading by index ------------------------------------------------------------------------------------------------


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
    row = emit.Reshape(step.as_int64(index), [1])
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
    """Each branch gets what was taken from it; the walk sums over broadcasting.

    Where they are constants, it is the condition as numbers, and passes relevance as truth values do; but for masks,
    whose −inf or −10000 stands for nothing.
    """
    emit, condition = step.emit, step.raw(0)
    return [
        g if step.signals == (0,) and all(_stands_for_something(step, i) for i in (1, 2)) else None,
        emit.Where(condition, g, 0.0) if step.signal(1) else None,
        emit.Where(condition, 0.0, g) if step.signal(2) else None,
    ]


def _stands_for_something(step: Step, index: int) -> bool:
    """Whether an operand is a constant of ordinary size, one number in the shape of another tensor, or indices."""
    if step.raw(index).dtype in (ir.DataType.INT64, ir.DataType.INT32) and step.constant(index) is None:
        return True
    constant, node = step.constant(index), step.raw(index).producer()
    if constant is None and node is not None and node.op_type == "ConstantOfShape":
        filler = node.attributes.get("value")
        constant = np.zeros(1) if filler is None else filler.value.numpy()
    return constant is not None and constant.dtype.kind in "fiu" and bool((np.abs(constant) < MASKED).all())


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
        return step.only(relevance)
    return in_proportion(operator, step, relevance, STABILISER)


@movement("ScatterElements", "ScatterND", relevance=_scatter_relevance, conserves="up to epsilon")
def scatter(step: Step, g: ir.Value) -> list[Contribution]:
    """y = data with updates written, added, multiplied in, or the larger or smaller of both kept, at the indices."""
    at_data, at_updates = _SCATTERS[step.attribute("reduction", "none")](step, _Writing(step), g)
    return [at_data if step.signal(0) else None, None, at_updates if step.signal(2) else None]


def _overwrite(step: Step, writing: _Writing, g: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Data that is overwritten gets nothing, and so does an update that a later one overwrites."""
    emit, at_updates = step.emit, writing.take(g)
    if step.signal(2) and not _each_written_once(step):
        shape = emit.Shape(step.raw(2))
        ids = emit.Reshape(emit.Range(0, emit.Size(step.raw(2)), 1), shape, allowzero=1)
        written = writing.put(emit.Expand(0, emit.Shape(step.raw(0))), ids)
        at_updates = emit.Where(emit.Equal(writing.take(written), ids), at_updates, 0.0)
    return writing.put(g, emit.zeros_like(step.raw(2))), at_updates


def _each_written_once(step: Step) -> bool:
    """Whether no two updates are known to go to the same element; False where that is only known at run time."""
    flat = step.unit.op_type == "ScatterND"
    axis = -1 if flat else step.axis()
    sizes = step.dims(1)[:-1] if flat else step.dims(1)[axis : axis + 1]
    if all(size == 1 for size in sizes):
        return True
    indices = step.constant(1)
    if indices is None:
        return False
    reach = step.dims(0)[: indices.shape[-1]] if flat else (step.dims(0)[axis],)
    if (indices < 0).any():
        if not all(isinstance(size, int) for size in reach):
            return False
        indices = np.where(indices < 0, indices + np.array(reach, np.int64), indices)
    if flat:
        rows = indices.reshape(-1, indices.shape[-1])
        return len(np.unique(rows, axis=0)) == len(rows)
    return bool((np.diff(np.sort(indices, axis=axis), axis=axis) != 0).all())


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


# --- positions -------------------------------------------------------------------------------------------------------


def to_the_winner(step: Step, relevance: ir.Value) -> list[Contribution]:
    """The element whose position was chosen gets what the position got."""
    emit, axis = step.emit, step.axis()
    position, given = step.unit.outputs[0], relevance
    if not step.attribute("keepdims"):
        position, given = emit.Unsqueeze(position, [axis]), emit.Unsqueeze(relevance, [axis])
    return [emit.ScatterElements(emit.zeros_like(step.raw(0)), position, given, axis=axis)]


steps("ArgMax", "ArgMin", relevance=to_the_winner, source="a position's relevance is its element's")(nothing_flows)
