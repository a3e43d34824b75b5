"""Sparse weights become dense ones, for neither shape inference nor the rules know the others."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.numpy_helper

from onnxlrp.errors import Unsupported

MOST_ELEMENTS = 1 << 28
"""Of one dense weight, a gigabyte of floats."""


def make_dense(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    """Rewrite sparse initialisers and the sparse values of Constants, in place.

    Errors: Unsupported for one that is too large to be written out.
    """
    sparse = list(proto.graph.sparse_initializer)
    proto.graph.initializer.extend(_dense(tensor, where) for tensor in sparse)
    del proto.graph.sparse_initializer[:]
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                sparse.append(attribute.sparse_tensor)
                attribute.CopyFrom(onnx.helper.make_attribute("value", _dense(attribute.sparse_tensor, where)))
    if sparse:
        notes.append(f"{len(sparse)} sparse weights are read as dense ones.")
    return proto


def _dense(tensor: onnx.SparseTensorProto, where: str) -> onnx.TensorProto:
    """indices : (number of values,) into the flat tensor, or (number of values, rank)"""
    shape = tuple(tensor.dims)
    if math.prod(shape) > MOST_ELEMENTS:
        raise Unsupported(
            f"{where} has a sparse weight '{tensor.values.name}' of shape {list(shape)}: too large to fill."
        )
    values, indices = (onnx.numpy_helper.to_array(part) for part in (tensor.values, tensor.indices))
    array = np.zeros(shape, values.dtype)
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    array.reshape(-1)[flat] = values
    return onnx.numpy_helper.from_array(array, tensor.values.name)
