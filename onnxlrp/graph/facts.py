"""What is known about every tensor, and the way from the explained inputs to the target.

`Facts` answers questions about one tensor: its rank and dimensions, its value if it is constant, whether relevance
flows through it. `Unit` is what the walk treats as one layer. `between` keeps the units that matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from onnxlrp.errors import NeedsShape
from onnxlrp.storage import array_of

OURS = "onnxlrp"
"""Domain of the operators that only units have (never written to a model)."""

Dimension = int | str | None

Inflows = Callable[[ir.Node], Iterable[ir.Value | None]]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

QUANTISED = frozenset(
    ir.DataType[name] for name in ("INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16")
)
"""Whole numbers too small to count or to point at anything: they stand for floats."""

SMALL = 1 << 16
"""Elements up to which a constant subgraph is evaluated while compiling."""

FROM_NODE, FROM_TYPE = "onnxlrp.from_node", "onnxlrp.from_type"
"""Written on a node: name and operator type of the file's node that it is a part of."""

NOT_LOWERED = "onnxlrp.not_lowered"
"""Written on a fused node that could not be written out: the reason."""

MASKED = "onnxlrp.masked"
"""Mark of a node whose output may be undefined where something downstream leaves it out (see `prepare.masked`)."""

KEPT, READ_AS = "onnxlrp.kept", "onnxlrp.read_as"
"""Written on a node: nothing flows through it; or the operator of ours whose record it has."""

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a node holds: branches, bodies of loops."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def captured(graph: ir.Graph) -> tuple[ir.Value, ...]:
    """What a subgraph reads of the graphs around it, its own subgraphs included, in the order of first use."""
    own = {*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)}
    read = [*(operand for node in graph for operand in operands(node)), *graph.outputs]
    return tuple(dict.fromkeys(value for value in read if value is not None and value not in own))


def operands(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The inputs of a node, and behind them what its subgraphs read of the graphs around them."""
    inside = dict.fromkeys(value for graph in subgraphs(node) for value in captured(graph))
    return (*node.inputs, *inside)


class Facts:
    """What the plan and the rules may ask about a tensor.

    graph     : the forward graph, or a subgraph of it
    explained : tensors that relevance is wanted for; everything computed from them is a signal
    inflows  : the operands of a node that a signal passes through; none of Shape, ArgMax…
    outside   : what is known about the graph around a subgraph
    """

    def __init__(
        self,
        graph: ir.Graph,
        explained: Iterable[ir.Value],
        inflows: Inflows,
        outside: Facts | None = None,
    ) -> None:
        self.graph = graph
        self._inflows = inflows
        self.signals: set[ir.Value] = _downstream(
            graph, {*explained, *(outside.signals if outside is not None else ())}, inflows
        )
        self.nonnegative: set[ir.Value] = set(outside.nonnegative) if outside is not None else set()
        self._values: dict[ir.Value, np.ndarray[Any, Any] | None] = {}

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
        if value.shape is None:
            return None
        return tuple(d if isinstance(d, int) else d.value for d in value.shape)

    def rank(self, value: ir.Value) -> int:
        """Errors: NeedsShape when nobody could infer it."""
        if value.shape is None:
            raise NeedsShape(
                f"The rank of '{value.name}' is unknown: neither the file nor shape inference gives it, and the rule "
                "needs it. Export with shapes, or run onnx.shape_inference on the file."
            )
        return len(value.shape)

    def constant(self, value: ir.Value | None) -> np.ndarray[Any, Any] | None:
        """The value of a small constant, initialiser or computed from constants alone; None for everything else."""
        if value is None:
            return None
        if value not in self._values:
            self._values[value] = self._evaluate(value)
        return self._values[value]

    def _evaluate(self, value: ir.Value) -> np.ndarray[Any, Any] | None:
        if value.const_value is not None:
            return array_of(value.const_value)
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Shape" and not node.domain and node.inputs[0] is not None:
            return self._static_shape(node)
        if node.op_type == "Gather" and not node.domain:
            found = self._one_of_the_sizes(node)
            if found is not None:
                return found
        if node.op_type in RANDOM or subgraphs(node) or not node.inputs:
            return _constant_node(node)
        inputs = [self.constant(operand) for operand in node.inputs]
        if any(a is None for a, o in zip(inputs, node.inputs, strict=True) if o is not None):
            return None
        sizes = [a.size for a in inputs if a is not None]
        dims = self.dims(value)
        size = math.prod(d for d in dims or () if isinstance(d, int))
        if max([size, *sizes]) > SMALL:
            return None
        return _run_node(node, inputs)[value.index() or 0]

    def _static_shape(self, node: ir.Node) -> np.ndarray[Any, Any] | None:
        operand = node.inputs[0]
        dims = self.dims(operand) if operand is not None else None
        if dims is None:
            return None
        start = node.attributes.get_int("start", 0)
        asked = dims[start : node.attributes.get_int("end", len(dims))]
        return np.asarray(asked, np.int64) if all(isinstance(d, int) for d in asked) else None

    def _one_of_the_sizes(self, node: ir.Node) -> np.ndarray[Any, Any] | None:
        """Gather from a Shape: what is asked for may be fixed where other sizes are not."""
        shape, indices = node.inputs[0], self.constant(node.inputs[1])
        asked = shape.producer() if shape is not None else None
        if asked is None or asked.op_type != "Shape" or asked.attributes or indices is None or asked.inputs[0] is None:
            return None
        dims = self.dims(asked.inputs[0])
        if dims is None or not all(-len(dims) <= i < len(dims) and isinstance(dims[i], int) for i in indices.ravel()):
            return None
        return np.asarray([dims[i] for i in indices.ravel()], np.int64).reshape(indices.shape)


@dataclass(frozen=True, eq=False)
class Unit:
    """What the walk treats as one layer: one node, or several that make up one.

    nodes   : in graph order; the last one produces the outputs
    inputs  : the operands, and behind them what the node's subgraphs read of the graphs around them
    op_type : the node's own, or a name of ours in the domain `onnxlrp` (`LinearChain`, `DecomposedActivation`)
    """

    nodes: tuple[ir.Node, ...]
    op_type: str
    domain: str
    inputs: tuple[ir.Value | None, ...]
    outputs: tuple[ir.Value, ...]

    @classmethod
    def of(cls, node: ir.Node) -> Unit:
        read_as = node.metadata_props.get(READ_AS)
        op_type, domain = (node.op_type, node.domain) if read_as is None else (read_as, OURS)
        return cls((node,), op_type, domain, operands(node), tuple(node.outputs))

    @property
    def node(self) -> ir.Node:
        return self.nodes[-1]

    @property
    def name(self) -> str:
        return self.nodes[0].name or "" if len(self.nodes) == 1 else " + ".join(node.name or "" for node in self.nodes)

    @cached_property
    def names(self) -> frozenset[str]:
        """Of its nodes, and of the fused nodes in the file that these are parts of."""
        fused = {node.metadata_props.get(FROM_NODE, "") for node in self.nodes} - {""}
        return frozenset(node.name or "" for node in self.nodes) | fused

    @property
    def described_type(self) -> str:
        return "+".join(node.op_type for node in self.nodes)

    def on(self, twins: Mapping[ir.Value, ir.Value]) -> Unit:
        """The same layer in a copy of its graph."""
        producers = [next(twins[o] for o in node.outputs if o in twins).producer() for node in self.nodes]
        return Unit(
            tuple(node for node in producers if node is not None),
            self.op_type,
            self.domain,
            tuple(None if value is None else twins.get(value, value) for value in self.inputs),
            tuple(twins.get(value, value) for value in self.outputs),
        )

    def __str__(self) -> str:
        return f"{self.described_type} '{self.name}'"


def between(units: Sequence[Unit], facts: Facts, targets: Iterable[ir.Value]) -> list[Unit]:
    """The units on some way from an explained tensor to a target, in graph order."""
    reached = set(targets)
    kept = []
    for unit in reversed(units):
        signals = facts.signals_into(unit)
        if signals and any(output in reached and facts.is_signal(output) for output in unit.outputs):
            kept.append(unit)
            reached.update(signals)
    return kept[::-1]


def as_networkx(units: Sequence[Unit], facts: Facts) -> nx.DiGraph:
    """The reversed relevance graph: one vertex a unit, edges from a layer to the layers its relevance goes to.

    Vertex attributes: operator, nodes. Edge attribute: tensor.
    """
    graph = nx.DiGraph()
    producer = {output: unit for unit in units for output in unit.outputs}
    for unit in units:
        graph.add_node(unit.name, operator=unit.described_type)
        for operand in facts.signals_into(unit):
            below = producer.get(operand)
            name = below.name if below is not None else operand.name
            if below is None:
                graph.add_node(name, operator="input")
            graph.add_edge(unit.name, name, tensor=operand.name)
    return graph


def _downstream(graph: ir.Graph, explained: Iterable[ir.Value], inflows: Inflows) -> set[ir.Value]:
    signals = set(explained)
    for node in graph:
        if any(operand in signals for operand in inflows(node)):
            signals.update(output for output in node.outputs if _may_carry(node, output))
    return signals


def _may_carry(node: ir.Node, output: ir.Value) -> bool:
    """Floats and quantised numbers do; of others only a first output, for second ones are indices and masks."""
    return output.dtype is None or output.dtype in FLOATS | QUANTISED or output is node.outputs[0]


def _constant_node(node: ir.Node) -> np.ndarray[Any, Any] | None:
    if node.op_type != "Constant" or node.domain:
        return None
    return _run_node(node, [])[0]


def _run_node(node: ir.Node, inputs: Sequence[np.ndarray[Any, Any] | None]) -> Sequence[np.ndarray[Any, Any] | None]:
    """Evaluate one small node with the standard's reference implementation."""
    proto = ir.to_proto(node)
    names = [name for name in proto.input if name]
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in dict.fromkeys(names)],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in proto.output if name],
    )
    version = node.version or (node.graph.opset_imports.get(node.domain, 1) if node.graph is not None else 1)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
    feeds = {name: array for name, array in zip(proto.input, inputs, strict=True) if name}
    try:
        return list(onnx.reference.ReferenceEvaluator(model).run(None, feeds))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return [None] * len(proto.output)  # the reference does not cover every operator: then it is not known here


def a_category(value: ir.Value) -> str:
    """A text that what reads this input knows; "" where nobody says what it knows."""
    waiting, seen = [value], {value}
    while waiting:
        for use in waiting.pop().uses():
            for name in ("cats_strings", "keys_strings", "classes_strings", "pool_strings"):
                known = use.node.attributes.get(name)
                if known is not None and len(known.value):
                    first = known.value[0]
                    return first.decode() if isinstance(first, bytes) else str(first)
            fresh = [output for output in use.node.outputs if output not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return ""
