"""Operators that were experiments before opset 10 and never became standard, restated in standard ones.

onnxruntime still runs them, the standard's converter does not know them, and files converted from Core ML and Caffe2
have them. Each entry says what takes a node's place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.defs
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]


class _Writer:
    """Nodes and constants that take the place of one node."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self._node = node
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def attribute(self, name: str, default: Any) -> Any:
        return self._attributes.get(name, default)

    @property
    def x(self) -> str:
        return str(self._node.input[0])

    def op(self, op_type: str, *inputs: str | float | Array, **attributes: Any) -> str:
        """Append a node; its output's name."""
        names = [given if isinstance(given, str) else self._constant(given) for given in inputs]
        result = f"{self._node.output[0]}/{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, names, [result], f"{self._node.name}/{op_type}", **attributes))
        return result

    def _constant(self, value: float | Array) -> str:
        name = f"{self._node.output[0]}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def finish(self) -> None:
        """The last node gives what the replaced one gave, under its name."""
        self.nodes[-1].output[0] = self._node.output[0]
        self.nodes[-1].name = self._node.name


def _affine(w: _Writer) -> str:
    """y = α·x + β."""
    return w.op("Add", w.op("Mul", w.x, w.attribute("alpha", 1.0)), w.attribute("beta", 0.0))


def _scale(w: _Writer) -> str:
    """y = s·x."""
    return w.op("Mul", w.x, w.attribute("scale", 1.0))


def _image_scaler(w: _Writer) -> str:
    """y = s·x + b, one b per channel."""
    bias = np.asarray(w.attribute("bias", [0.0]), np.float32).reshape(1, -1, 1, 1)
    return w.op("Add", w.op("Mul", w.x, w.attribute("scale", 1.0)), bias)


def _scaled_tanh(w: _Writer) -> str:
    """y = α·tanh(β·x)."""
    return w.op("Mul", w.op("Tanh", w.op("Mul", w.x, w.attribute("beta", 1.0))), w.attribute("alpha", 1.0))


def _parametric_softplus(w: _Writer) -> str:
    """y = α·softplus(β·x)."""
    return w.op("Mul", w.op("Softplus", w.op("Mul", w.x, w.attribute("beta", 1.0))), w.attribute("alpha", 1.0))


def _thresholded_relu(w: _Writer) -> str:
    """y = x where x > α, else 0."""
    above = w.op("Greater", w.x, w.attribute("alpha", 1.0))
    return w.op("Mul", w.x, w.op("Cast", above, to=onnx.TensorProto.FLOAT))


def _crop(w: _Writer) -> str:
    """A border (left, top, right, bottom) is cut off; with `scale`, (height, width) are kept from its corner on."""
    left, top, right, bottom = w.attribute("border", [0, 0, 0, 0])
    size = w.attribute("scale", [])
    ends = [top + size[0], left + size[1]] if size else [-bottom or 2**31 - 1, -right or 2**31 - 1]
    return w.op("Slice", w.x, starts=[top, left], ends=ends, axes=[2, 3])


RESTATED: dict[str, Callable[[_Writer], str]] = {
    "Affine": _affine,
    "Scale": _scale,
    "ImageScaler": _image_scaler,
    "ScaledTanh": _scaled_tanh,
    "ParametricSoftplus": _parametric_softplus,
    "ThresholdedRelu": _thresholded_relu,
    "Crop": _crop,
}


def restate(proto: onnx.ModelProto, opset: int) -> list[str]:
    """Replace experimental nodes of a model below opset 10, in place.  returns: the operators that were replaced."""
    if opset >= 10:
        return []
    found = [node for node in proto.graph.node if not node.domain and _is_experimental(node.op_type, opset)]
    if not found:
        return []
    kept: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        kept.extend(_parts(node, proto.graph) if node in found else [node])
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    return sorted({node.op_type for node in found})


def _is_experimental(op_type: str, opset: int) -> bool:
    return op_type in RESTATED and not _is_standard(op_type, opset)


def _is_standard(op_type: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    return True


def _parts(node: onnx.NodeProto, graph: onnx.GraphProto) -> Sequence[onnx.NodeProto]:
    writer = _Writer(node)
    RESTATED[node.op_type](writer)
    writer.finish()
    graph.initializer.extend(writer.constants)
    return writer.nodes
