"""onnxruntime's Attention without a bias gets one of zeros: its CPU kernel reads the bias unasked, and crashes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

GIVEN = "onnxruntime's Attention without a bias gets one of zeros, for its CPU kernel would crash."

BIAS = 2
"""Operand."""

ITEM_SIZES = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2}
"""Bytes per number, of the types that the operator knows."""


def give_missing_biases(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    """Add biases of zeros, as long as the weights' columns, in place; weights that are no initialisers stay alone."""
    del where
    for graph in _graphs(proto.graph):
        weights = {tensor.name: tensor for tensor in (*proto.graph.initializer, *graph.initializer)}
        for node in graph.node:
            if (node.domain, node.op_type) != ("com.microsoft", "Attention") or len(node.input) < BIAS:
                continue
            weight, given = weights.get(node.input[1]), node.input[BIAS:]
            if weight is None or weight.data_type not in ITEM_SIZES or (given and given[0]):
                continue
            bias = onnx.TensorProto(name=f"{node.output[0]}/bias", data_type=weight.data_type, dims=[weight.dims[-1]])
            bias.raw_data = bytes(bias.dims[0] * ITEM_SIZES[weight.data_type])
            graph.initializer.append(bias)
            node.input[BIAS:] = [bias.name, *given[1:]]
            notes.extend({GIVEN} - set(notes))
    return proto


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inside in (attribute.g, *attribute.graphs):
                yield from _graphs(inside)
