"""What a lowering sees: one fused node, the writer that works in its place, and the table of all lowerings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import NeedsShape, Unsupported
from onnxlrp.graph import KEPT, READ_AS, Dimension, Facts

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Fused:
    """A node that is about to be replaced.

    emit  : writes in front of the node, under names that begin with the node's own
    opset : of the default domain; a lowering writes nothing newer
    """

    emit: Emit
    node: ir.Node
    facts: Facts

    @property
    def opset(self) -> int:
        return self.emit.opset

    # --- operands and outputs ----------------------------------------------------------------------------------------

    def __getitem__(self, index: int) -> ir.Value | None:
        """An operand; None where it is absent."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def __iter__(self) -> Iterator[ir.Value | None]:
        return iter(self.node.inputs)

    def x(self, index: int = 0) -> ir.Value:
        """An operand that must be there."""
        operand = self[index]
        if operand is None:
            raise Unsupported(f"Operand {index} is absent.")
        return operand

    def has(self, index: int) -> bool:
        return self[index] is not None

    def wants(self, index: int) -> bool:
        """Whether somebody reads this output."""
        if index >= len(self.node.outputs) or not self.node.outputs[index].name:
            return False
        output = self.node.outputs[index]
        return bool(output.uses()) or output.is_graph_output()

    # --- facts -------------------------------------------------------------------------------------------------------

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value, text as `str`."""
        found = self.node.attributes.get(name)
        value = default if found is None else found.value
        return value.decode() if isinstance(value, bytes) else value

    def rank(self, index: int = 0) -> int:
        """Errors: NeedsShape when nobody could infer it."""
        return self.facts.rank(self.x(index))

    def dims(self, index: int = 0) -> tuple[Dimension, ...]:
        self.rank(index)
        return self.facts.dims(self.x(index)) or ()

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        """The value of a small constant operand; None when it is absent or only known at run time."""
        return self.facts.constant(self[index])

    def known(self, index: int, what: str) -> np.ndarray[Any, Any]:
        """Like `constant`, for operands that a lowering cannot do without.  Errors: Unsupported."""
        found = self.constant(index)
        if found is None:
            raise Unsupported(f"It computes its {what} at run time; the lowering needs a constant.")
        return found

    def size(self, index: int, axis: int, what: str) -> int:
        """A dimension that has to be known.  Errors: NeedsShape."""
        found = self.dims(index)[axis]
        if not isinstance(found, int):
            raise NeedsShape(f"The size of axis {axis} of '{self.x(index).name}' ({what}) is unknown.")
        return found

    # --- a node that keeps computing the model's own values ----------------------------------------------------------

    def kept(self) -> tuple[ir.Value, ...]:
        """The outputs of this node as it stands: the model goes on computing with it, and no relevance enters it."""
        operands = list(self.node.inputs)
        attributes = {name: attribute.value for name, attribute in self.node.attributes.items()}
        values = self.emit.nodes(
            self.node.op_type, *operands, outputs=len(self.node.outputs), domain=self.node.domain, **attributes
        )
        for value, original in zip(values, self.node.outputs, strict=True):
            value.type, value.shape = original.type, original.shape
        return self.keep(values)

    def keep(self, values: tuple[ir.Value, ...]) -> tuple[ir.Value, ...]:
        """Let no relevance enter the nodes that gave these values."""
        for value in values:
            producer = value.producer()
            assert producer is not None
            producer.metadata_props[KEPT] = "computes the model's own values; its float view carries the relevance"
        return values

    def through(self, actual: ir.Value, view: ir.Value) -> ir.Value:
        """A tensor that has the values of `actual` and hands gradient and relevance to `view`, shaped alike."""
        value = self.emit.Where(np.array(True), actual, view)
        node = value.producer()
        assert node is not None
        node.metadata_props[READ_AS] = "StraightThrough"
        return value

    def as_deployed(self, views: Sequence[ir.Value | None]) -> list[ir.Value | None]:
        """The outputs of this node as it stands; gradient and relevance go to their float views."""
        found: list[ir.Value | None] = []
        for actual, view in zip(self.kept(), views, strict=False):
            if view is None or view is actual:
                found.append(actual)
                continue
            value = self.emit.CastLike(actual, view)
            node = value.producer()
            assert node is not None
            node.metadata_props[READ_AS] = "Deployed"
            found.append(value)
        return found


Lowered = ir.Value | Sequence[ir.Value | None]
"""One value per output, None where the lowering does not give it; the value itself for operators with one output."""

Lowering = Callable[[Fused], Lowered]

_LOWERINGS: dict[tuple[str, str], Lowering] = {}
_VIEWS: dict[tuple[str, str], Lowering] = {}
_REFUSALS: dict[tuple[str, str], str] = {}


def lowered(*op_types: str, domain: str = MICROSOFT) -> Callable[[Lowering], Lowering]:
    """An entry: operators that are written out as primitive ones before anything else looks at the graph."""

    def decorate(lowering: Lowering) -> Lowering:
        _LOWERINGS.update({(domain, op_type): lowering for op_type in op_types})
        return lowering

    return decorate


def viewed(*op_types: str, domain: str = MICROSOFT) -> Callable[[Lowering], Lowering]:
    """An entry for operators that compute in integers: the model keeps them, and relevance walks their float view."""

    def decorate(lowering: Lowering) -> Lowering:
        _VIEWS.update({(domain, op_type): lowering for op_type in op_types})
        return lowering

    return decorate


def not_lowered(reason: str, *op_types: str, domain: str = MICROSOFT) -> None:
    """Operators that have neither a lowering nor a rule: a decision on record, told to whoever meets one."""
    _REFUSALS.update({(domain, op_type): reason for op_type in op_types})


def find_lowering(node: ir.Node) -> Lowering | None:
    return _LOWERINGS.get((node.domain, node.op_type)) or _VIEWS.get((node.domain, node.op_type))


def has_view(node: ir.Node) -> bool:
    """Whether the model computes with this node in integers, and relevance walks a float view of it."""
    return (node.domain, node.op_type) in _VIEWS and KEPT not in node.metadata_props


def refusal(node: ir.Node) -> str:
    """Why an operator has no lowering; empty where nobody decided."""
    return _REFUSALS.get((node.domain, node.op_type), "")


def lowerings() -> list[tuple[str, str]]:
    """(domain, operator) of every entry."""
    return sorted(_LOWERINGS | _VIEWS)


def refusals() -> dict[tuple[str, str], str]:
    return dict(_REFUSALS)


def views() -> list[tuple[str, str]]:
    """(domain, operator) of every entry with a float view."""
    return sorted(_VIEWS)
