"""Facts about every tensor: rank and dimensions, its value if it is constant, whether relevance flows through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from onnxlrp.errors import NeedsShape
from onnxlrp.graph.constants import Constants, Dimension, dims_of
from onnxlrp.graph.flow import Reads
from onnxlrp.graph.unit import Unit

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

QUANTISED = frozenset(
    ir.DataType[name] for name in ("INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16")
)
"""Whole numbers too small to count or to point at anything: they stand for floats."""


class Facts:
    """What the plan and the rules may ask about a tensor.

    graph     : the forward graph, or a subgraph of it
    explained : tensors that relevance is wanted for; everything computed from them is a signal
    inflows   : the operands of a node that a signal passes through; none of Shape, ArgMax…
    outside   : what is known about the graph around a subgraph
    """

    def __init__(
        self,
        graph: ir.Graph,
        explained: Iterable[ir.Value],
        inflows: Reads,
        outside: Facts | None = None,
    ) -> None:
        self.graph = graph
        self._inflows = inflows
        self.signals: set[ir.Value] = _downstream(
            graph, {*explained, *(outside.signals if outside is not None else ())}, inflows
        )
        self.nonnegative: set[ir.Value] = set(outside.nonnegative) if outside is not None else set()
        self.constant = Constants()

    def on(self, graph: ir.Graph, twins: Mapping[ir.Value, ir.Value]) -> Facts:
        """The same about a copy of the graph.  twins : tensor → the one in its place"""
        facts = Facts(graph, (), lambda node: ())
        facts._inflows = self._inflows
        facts.signals = {twins.get(value, value) for value in self.signals}
        facts.nonnegative = {twins.get(value, value) for value in self.nonnegative}
        return facts

    def is_signal(self, value: ir.Value | None) -> bool:
        return value in self.signals

    def signals_into(self, unit: Unit) -> list[ir.Value]:
        """The operands that relevance goes down to."""
        inflows = self._inflows(unit.node) if len(unit.nodes) == 1 else unit.inputs
        return [operand for operand in inflows if operand is not None and operand in self.signals]

    def is_float(self, value: ir.Value) -> bool:
        return value.dtype is None or value.dtype in FLOATS

    def dims(self, value: ir.Value) -> tuple[Dimension, ...] | None:
        """Static or symbolic dimensions; None when the rank is unknown."""
        return dims_of(value)

    def rank(self, value: ir.Value) -> int:
        """Errors: NeedsShape when nobody could infer it."""
        if value.shape is None:
            raise NeedsShape(
                f"The rank of '{value.name}' is unknown: neither the file nor shape inference gives it, and the rule "
                "needs it. Export with shapes, or run onnx.shape_inference on the file."
            )
        return len(value.shape)


def _downstream(graph: ir.Graph, explained: Iterable[ir.Value], inflows: Reads) -> set[ir.Value]:
    signals = set(explained)
    for node in graph:
        if any(operand in signals for operand in inflows(node)):
            signals.update(output for output in node.outputs if _may_carry(node, output))
    return signals


def _may_carry(node: ir.Node, output: ir.Value) -> bool:
    """Floats and quantised numbers do; of others only a first output, for second ones are indices and masks."""
    return output.dtype is None or output.dtype in FLOATS | QUANTISED or output is node.outputs[0]
