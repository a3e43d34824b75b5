"""Operators of old opsets that newer ones do not have, or not with that meaning, restated in ones that last.

onnxruntime still runs them, and the standard's converter does not know them or forgets what they meant: experiments
that never became standard (in files converted from Core ML and Caffe2), and Hardmax over a matrix. Each entry says what
takes a node's place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxlrp.reading.structure import graphs_in

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
        """Append a node, in the form that the node's own opset has for it; its output's name."""
        names = [given if isinstance(given, str) else self._constant(given) for given in inputs]
        result = f"{self._node.output[0]}/{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, names, [result], result, **attributes))
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


def _mean_variance(w: _Writer) -> str:
    """y = (x − mean) / √variance per channel, or over all channels, of all samples of a batch, as in the standard."""
    axes = [0, 1, 2, 3] if w.attribute("across_channels", 0) else [0, 2, 3]
    centred = w.op("Sub", w.x, w.op("ReduceMean", w.x, axes=axes))
    if not w.attribute("normalize_variance", 1):
        return centred
    variance = w.op("ReduceMean", w.op("Mul", centred, centred), axes=axes)
    return w.op("Div", centred, w.op("Add", w.op("Sqrt", variance), MVN_EPSILON))


def _hardmax(w: _Writer) -> str:
    """One winner per matrix of all axes from `axis` on: each is a row of what Flatten gives."""
    rows = w.op("Flatten", w.x, axis=w.attribute("axis", 1))
    return w.op("Reshape", w.op("Hardmax", rows, axis=1), w.op("Shape", w.x))


MVN_EPSILON = 1e-9
"""As in the standard's function of MeanVarianceNormalization."""


@dataclass(frozen=True)
class Former:
    """What takes a node's place, in models below the opset that no longer has it so."""

    parts: Callable[[_Writer], str]
    below: int = 10


RESTATED: dict[str, Former] = {
    "Affine": Former(_affine),
    "Scale": Former(_scale),
    "ImageScaler": Former(_image_scaler),
    "ScaledTanh": Former(_scaled_tanh),
    "ParametricSoftplus": Former(_parametric_softplus),
    "ThresholdedRelu": Former(_thresholded_relu),
    "Crop": Former(_crop),
    "MeanVarianceNormalization": Former(_mean_variance, below=9),
    "Hardmax": Former(_hardmax, below=13),
}


def restate(proto: onnx.ModelProto, opset: int) -> list[str]:
    """Replace former operators, in place, in bodies too.  returns: their types"""
    types = {op_type for op_type, former in RESTATED.items() if opset < former.below}
    found: set[str] = set()
    for graph in graphs_in(proto.graph):
        here = {node.op_type for node in graph.node if not node.domain} & types
        if here:
            found |= here
            kept: list[onnx.NodeProto] = []
            for node in graph.node:
                kept.extend(_parts(node, graph) if node.op_type in here and not node.domain else [node])
            del graph.node[:]
            graph.node.extend(kept)
    return sorted(found)


def _parts(node: onnx.NodeProto, graph: onnx.GraphProto) -> Sequence[onnx.NodeProto]:
    writer = _Writer(node)
    RESTATED[node.op_type].parts(writer)
    writer.finish()
    graph.initializer.extend(writer.constants)
    return writer.nodes
