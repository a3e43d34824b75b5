"""Values that are known while compiling: initialisers, and what small nodes compute from constants alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlrp.graph.flow import subgraphs
from onnxlrp.reading.storage import array_of

Dimension = int | str | None

SMALL = 1 << 16
"""Elements up to which a constant subgraph is evaluated while compiling."""

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


class Constants:
    """The values of one graph's constants, each computed once."""

    def __init__(self) -> None:
        self._values: dict[ir.Value, NDArray[Any] | None] = {}

    def __call__(self, value: ir.Value | None) -> NDArray[Any] | None:
        """The value of a small constant, initialiser or computed from constants alone; None for everything else."""
        if value is None:
            return None
        if value not in self._values:
            self._values[value] = self._evaluate(value)
        return self._values[value]

    def _evaluate(self, value: ir.Value) -> NDArray[Any] | None:
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
        inputs = [self(operand) for operand in node.inputs]
        if any(a is None for a, o in zip(inputs, node.inputs, strict=True) if o is not None):
            return None
        sizes = [a.size for a in inputs if a is not None]
        dims = dims_of(value)
        size = math.prod(d for d in dims or () if isinstance(d, int))
        if max([size, *sizes]) > SMALL:
            return None
        return _run_node(node, inputs)[value.index() or 0]

    def _static_shape(self, node: ir.Node) -> NDArray[Any] | None:
        operand = node.inputs[0]
        dims = dims_of(operand) if operand is not None else None
        if dims is None:
            return None
        start = node.attributes.get_int("start", 0)
        asked = dims[start : node.attributes.get_int("end", len(dims))]
        return np.asarray(asked, np.int64) if all(isinstance(d, int) for d in asked) else None

    def _one_of_the_sizes(self, node: ir.Node) -> NDArray[Any] | None:
        """Gather from a Shape: what is asked for may be fixed where other sizes are not."""
        shape, indices = node.inputs[0], self(node.inputs[1])
        asked = shape.producer() if shape is not None else None
        if asked is None or asked.op_type != "Shape" or asked.attributes or indices is None or asked.inputs[0] is None:
            return None
        dims = dims_of(asked.inputs[0])
        if dims is None or not all(-len(dims) <= i < len(dims) and isinstance(dims[i], int) for i in indices.ravel()):
            return None
        return np.asarray([dims[i] for i in indices.ravel()], np.int64).reshape(indices.shape)


def dims_of(value: ir.Value) -> tuple[Dimension, ...] | None:
    """Static or symbolic dimensions; None when the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def _constant_node(node: ir.Node) -> NDArray[Any] | None:
    if node.op_type != "Constant" or node.domain:
        return None
    return _run_node(node, [])[0]


STANDARD_HAS_16_BITS = 21
"""The opset in which the standard's DequantizeLinear learned what onnxruntime's own knew before."""


def _run_node(node: ir.Node, inputs: Sequence[NDArray[Any] | None]) -> Sequence[NDArray[Any] | None]:
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
    if proto.domain == "com.microsoft" and proto.op_type == "DequantizeLinear":
        graph.node[0].domain, version = "", STANDARD_HAS_16_BITS
    domain = graph.node[0].domain
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(domain, version)])
    feeds = {name: array for name, array in zip(proto.input, inputs, strict=True) if name}
    try:
        return list(onnx.reference.ReferenceEvaluator(model).run(None, feeds))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return [None] * len(proto.output)  # the reference does not cover every operator: then it is not known here
