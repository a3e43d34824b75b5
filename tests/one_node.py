"""A model of one node, and what the library says about it: its output, its gradient, its relevance."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxlrp

Array = np.ndarray[Any, Any]

EPS = 1e-6
"""The stabiliser of every rule that has none of its own."""


def stabilise(z: Array) -> Array:
    """As in the papers, with sign(0) = +1; float64."""
    return z + EPS * np.where(z >= 0, 1.0, -1.0)


class OneNode:
    """One operator.

    operands  : arrays in the node's order, None for one left out; float64 is taken as float32
    explained : positions of the operands that are fed and get relevance; the others are initialisers
    fed       : positions of further operands that are fed, so that their values are known at run time only
    symbolic  : whether the shapes of what is explained are symbolic
    """

    def __init__(
        self,
        op_type: str,
        *operands: Array | None,
        explained: tuple[int, ...] = (0,),
        fed: tuple[int, ...] = (),
        opset: int = 18,
        symbolic: bool = False,
        outputs: tuple[str, ...] = ("y",),
        **attributes: Any,
    ) -> None:
        arrays = {f"x{i}": _single(operand) for i, operand in enumerate(operands) if operand is not None}
        names = ["" if operand is None else f"x{i}" for i, operand in enumerate(operands)]
        inputs = [f"x{i}" for i in (*explained, *fed)]
        self.op_type, self.explained = op_type, [f"x{i}" for i in explained]
        self.feeds = {name: arrays[name] for name in inputs}
        graph = helper.make_graph(
            [helper.make_node(op_type, names, list(outputs), **attributes)],
            op_type,
            [_declared(name, arrays[name], symbolic and name in self.explained) for name in inputs],
            [onnx.ValueInfoProto(name="y")],
            [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in inputs],
        )
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        self.session = self._session()
        self.y = self.forward()
        rank = [f"y_{axis}" for axis in range(self.y.ndim)]
        shape = rank if symbolic else list(self.y.shape)
        graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape))
        self.model.graph.output[0].CopyFrom(graph.output[0])

    def _session(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        return ort.InferenceSession(self.model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def forward(self, **changed: Array) -> Array:
        feeds = self.feeds | {name: _single(array) for name, array in changed.items()}
        return self.session.run(["y"], feeds)[0]  # type: ignore[no-any-return]

    def explainer(self, method: str, **choices: Any) -> onnxlrp.Explainer:
        return onnxlrp.Explainer(
            self.model, method=method, inputs=self.explained, output="y", providers="cpu", batch_size=10**9, **choices
        )

    @functools.cached_property
    def _gradient_explainer(self) -> onnxlrp.Explainer:
        return self.explainer("gradient")

    def gradient(self, cotangent: Array) -> list[Array]:
        """Per explained operand, shaped like it."""
        found = self._gradient_explainer.explain(self.feeds, target=_single(cotangent)).relevance
        return [found[name] for name in self.explained]

    def relevance(self, incoming: Array, rule: str = "own", bias: str = "absorb") -> list[Array]:
        """Per explained operand, for `incoming` shaped like y. The seed is incoming / y, so y must not be zero."""
        explainer = self.explainer("lrp", preset="epsilon", rules={self.op_type: rule}, bias=bias)
        seed = np.asarray(incoming, float) / self.y
        found = explainer.explain(self.feeds, target=_single(seed)).relevance
        return [found[name] for name in self.explained]


def close(found: Array, wanted: Array, tolerance: float = 2e-5) -> None:
    """Equal shapes, and equal values up to float32: `tolerance` of the largest value."""
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape, f"shape {found.shape}, wanted {wanted.shape}"
    scale = max(float(np.abs(wanted).max()), 1e-3) if wanted.size else 1.0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale)


def normal(*shape: int, seed: int = 0) -> Array:
    """Random numbers that float32 holds exactly, in float64."""
    drawn: Array = np.random.default_rng([seed, *shape]).normal(size=shape)
    return drawn.astype(np.float32).astype(float)


def runs_opset(opset: int) -> bool:
    """Whether the installed onnxruntime loads models of this opset."""
    try:
        OneNode("Relu", normal(1), opset=opset)
    except Exception:  # onnxruntime raises types of its own
        return False
    return True


def needs_opset(opset: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not runs_opset(opset), reason=f"the installed onnxruntime does not load opset {opset}")


def _single(array: Array) -> Array:
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _declared(name: str, array: Array, symbolic: bool) -> onnx.ValueInfoProto:
    shape = [f"{name}_{axis}" for axis in range(array.ndim)] if symbolic else list(array.shape)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)
