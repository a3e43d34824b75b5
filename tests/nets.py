"""Small models, written as one reads them: `y = net.Relu(net.Conv(x, net.weight(w)))`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


class Net:
    """Collects nodes; every operator of the standard is a method that returns its output's name.

    net.Split(x, parts, outputs=2) returns a tuple; `name=` and `out=` choose the names of node and output.
    """

    def __init__(self, opset: int = 17, ir_version: int = 8) -> None:
        self.opset, self.ir_version = opset, ir_version
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._counts: dict[str, int] = {}

    def input(self, name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def weight(self, array: Any, name: str | None = None) -> str:
        array = np.asarray(array)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = name or f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)
        return lambda *inputs, **attributes: self.add(op_type, inputs, **attributes)

    def add(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        name: str = "",
        out: str = "",
        outputs: int = 1,
        domain: str = "",
        **attributes: Any,
    ) -> Any:
        self._counts[op_type] = self._counts.get(op_type, 0) + 1
        name = name or f"{op_type}_{self._counts[op_type]}"
        names = [out or name.lower()] + [f"{name.lower()}_{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=name, domain=domain, **attributes))
        return names[0] if outputs == 1 else tuple(names)

    def model(self, *outputs: str, dtypes: Mapping[str, int] | None = None) -> onnx.ModelProto:
        """The model; shapes of outputs are left to inference."""
        dtypes = dtypes or {}
        declared = [helper.make_tensor_value_info(o, dtypes.get(o, TensorProto.FLOAT), None) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, declared, self.weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir_version
        )
        return with_shapes(model)


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its outputs' shapes declared, as exporters do."""
    inferred = onnx.shape_inference.infer_shapes(model)
    for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(found)
    return model


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feeds: Mapping[str, Array], *outputs: str) -> Any:
    """The named outputs of one run (all when none is named); a lone one as it is."""
    found = session(model).run(list(outputs) or None, dict(feeds))
    return found[0] if len(found) == 1 else found


def signed(random: np.random.Generator, *shape: int) -> Array:
    """Numbers of both signs, none of them next to zero, so that no check can pass because something vanished."""
    return np.asarray(random.uniform(0.25, 1.5, shape) * random.choice([-1.0, 1.0], shape), np.float32)


def relative(ours: Array, theirs: Array) -> float:
    """max |ours − theirs| / max |theirs|; infinite where ours holds NaN."""
    assert ours.shape == theirs.shape, f"{ours.shape} against {theirs.shape}"
    if not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours.astype(np.float64) - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def must(holds: bool, complaint: str) -> None:
    """What the checkers assert with: one exception type, so that a broken rule can be seen to be caught."""
    if not holds:
        raise AssertionError(complaint)
