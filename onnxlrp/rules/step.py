"""What a rule sees of the graph: one `Step`, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import onnx.defs
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import Unsupported
from onnxlrp.graph import Dimension, Facts, Unit

Account = Callable[[str, ir.Value], None]
"""Told who took relevance: a name ("bias", "stabiliser", "z = 0") and a tensor of what was taken."""


class Copy(Protocol):
    """A subgraph copied into another graph.

    outputs : what it computes there        kept : relevance that its rules did not hand on, by who took it
    """

    outputs: Sequence[ir.Value]
    kept: dict[str, ir.Value]

    def back(self, arrived: Sequence[ir.Value | None]) -> dict[ir.Value, ir.Value]:
        """Walk back through the copy.  arrived : relevance per output; returns: relevance per tensor it reads."""


class Body(Protocol):
    """A subgraph of the layer, to be walked back.

    inputs, outputs : of the graph
    signals         : which of the inputs relevance is wanted for        targets : which of the outputs it comes from
    feedback        : (output, input), what one turn of a loop hands to the next
    """

    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    signals: frozenset[int]
    targets: frozenset[int]
    feedback: tuple[tuple[int, int], ...]

    def reached(self, outputs: Iterable[int]) -> set[int]:
        """The inputs that relevance of these outputs goes down to."""

    def copy(self, emit: Emit, inputs: Sequence[ir.Value]) -> Copy:
        """Write the nodes of the graph with other inputs in place of its own."""


@dataclass(frozen=True)
class Step:
    """One layer on the way back.

    emit      : writes nodes            unit   : the forward node or nodes       facts : what is known of each tensor
    bias      : "absorb", "drop" or "distribute"
    account   : where a rule reports relevance that it does not hand on; None unless a ledger is kept
    asked     : constant operands that a ledger asks the share of, as if relevance were wanted for them
    reference : the value of a tensor on the reference input (DeepLIFT), None elsewhere
    bodies    : of control flow, its subgraphs in the order of the operator's record
    options   : what the chosen rule tells an operator's own one, such as its ε
    """

    emit: Emit
    unit: Unit
    facts: Facts
    opset: int
    bias: str = "absorb"
    account: Account | None = None
    reference: Callable[[ir.Value], ir.Value] | None = None
    asked: frozenset[int] = frozenset()
    bodies: Sequence[Body] = ()
    options: dict[str, Any] = field(default_factory=dict)

    # --- operands ----------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        return len(self.unit.inputs)

    def has(self, index: int) -> bool:
        return index < self.count and self.unit.inputs[index] is not None

    def signal(self, index: int) -> bool:
        """Whether relevance is wanted for this operand."""
        return self.has(index) and (index in self.asked or self.facts.is_signal(self.unit.inputs[index]))

    @cached_property
    def signals(self) -> tuple[int, ...]:
        return tuple(index for index in range(self.count) if self.signal(index))

    def raw(self, index: int) -> ir.Value:
        """An operand as the model holds it, whatever its type."""
        operand = self.unit.inputs[index]
        assert operand is not None, f"operand {index} of {self.unit} is absent"
        return operand

    def x(self, index: int = 0) -> ir.Value:
        """An operand in float32."""
        return self.as_float(self.raw(index))

    def y(self, index: int = 0) -> ir.Value:
        """An output in float32."""
        return self.as_float(self.unit.outputs[index])

    def as_float(self, value: ir.Value) -> ir.Value:
        if value.dtype is None or value.dtype == ir.DataType.FLOAT:
            return value
        return self.emit.Cast(value, to=ir.DataType.FLOAT)

    def as_int64(self, value: ir.Value) -> ir.Value:
        return value if value.dtype == ir.DataType.INT64 else self.emit.Cast(value, to=ir.DataType.INT64)

    def only(self, contribution: ir.Value | None, operand: int = 0) -> list[ir.Value | None]:
        """What a rule returns when a single operand gets something."""
        return [contribution if index == operand else None for index in range(self.count)]

    # --- shapes and values -------------------------------------------------------------------------------------------

    def rank(self, index: int = 0) -> int:
        return self.facts.rank(self.raw(index))

    def dims(self, index: int = 0) -> tuple[Dimension, ...]:
        self.rank(index)
        return self.facts.dims(self.raw(index)) or ()

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        """The value of a small constant operand; None when it is absent or only known at run time."""
        return self.facts.constant(self.unit.inputs[index]) if self.has(index) else None

    def known(self, index: int, what: str) -> np.ndarray[Any, Any]:
        """Like `constant`, for operands that a rule cannot do without.  Errors: Unsupported."""
        found = self.constant(index)
        if found is None:
            raise Unsupported(f"{self.unit} computes its {what} at run time; the rule needs a constant.")
        return found

    def shape(self, index: int = 0) -> ir.Value:
        """The operand's shape at run time, int64 vector."""
        return self.emit.Shape(self.raw(index))

    def nonnegative(self, value: ir.Value) -> bool:
        return value in self.facts.nonnegative

    # --- attributes --------------------------------------------------------------------------------------------------

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the standard's default, or `default`; texts as str."""
        found = self.unit.node.attributes.get(name)
        if found is not None:
            return _as_text(found.value)
        schema_default = _schema_defaults(self.unit.op_type, self.opset, self.unit.domain).get(name)
        return default if schema_default is None else _as_text(schema_default)

    def axis(self, name: str = "axis", default: int | None = None) -> int:
        """An axis attribute, counted from the front."""
        return int(self.attribute(name, default)) % max(self.rank(0), 1)

    @property
    def given_attributes(self) -> dict[str, Any]:
        return {name: attribute.value for name, attribute in self.unit.node.attributes.items()}

    # --- derived steps -----------------------------------------------------------------------------------------------

    def inner(self, index: int) -> Step:
        """The step of one member of a merged unit."""
        return replace(self, unit=Unit.of(self.unit.nodes[index]))

    def unbroadcast(self, contribution: ir.Value, like: ir.Value) -> ir.Value:
        """Sum a contribution over the axes along which its operand was broadcast, back to the operand's shape."""
        return unbroadcast(self.emit, self.facts, contribution, like, self.facts.dims(self.unit.outputs[0]))


def unbroadcast(
    emit: Emit,
    facts: Facts,
    contribution: ir.Value,
    like: ir.Value,
    dims: tuple[Dimension, ...] | None,
) -> ir.Value:
    """Sum `contribution`, whose dimensions are `dims`, to the shape of `like` (numpy's broadcasting, reversed)."""
    wanted = facts.dims(like)
    if wanted is None or dims is None:
        raise Unsupported(f"The rank of '{like.name}' or of what it is broadcast to is unknown.")
    lead = len(dims) - len(wanted)
    pairs = list(zip(dims[lead:], wanted, strict=True))
    if lead == 0 and all(_same(have, want) for have, want in pairs):
        return contribution
    if all(want == 1 or _same(have, want) or isinstance(want, int) for have, want in pairs):
        axes = [lead + i for i, (have, want) in enumerate(pairs) if want == 1 and have != 1]
        reduced = emit.sum(contribution, axes)
        return emit.sum(reduced, list(range(lead)), keepdims=False) if lead else reduced
    shape = emit.Shape(like)
    aligned = emit.Concat(emit.constant([1] * lead), shape, axis=0) if lead else shape
    axes_at_run_time = emit.Squeeze(emit.NonZero(emit.Equal(aligned, 1)), [0])
    reduced = emit.ReduceSum(contribution, axes_at_run_time, keepdims=1, noop_with_empty_axes=1)
    return emit.Reshape(reduced, shape, allowzero=1)


def _same(have: Dimension, want: Dimension) -> bool:
    """Certainly no broadcasting between these two."""
    return have is not None and have == want


def _as_text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


@cache
def _schema_defaults(op_type: str, opset: int, domain: str) -> dict[str, Any]:
    """Attribute → its default in the standard, of those that have one."""
    if not onnx.defs.has(op_type, domain):
        return {}
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        schema = onnx.defs.get_schema(op_type, domain)
    return {
        name: onnx.helper.get_attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type
    }
