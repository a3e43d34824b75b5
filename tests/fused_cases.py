"""Fused operators with operands, one line per operator and variant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from node_cases import FIXED, Case
from onnx import TensorProto, helper

MICROSOFT = "com.microsoft"

Array = np.ndarray[Any, Any]


def normal(*shape: int, scale: float = 1.0) -> Array:
    """Random numbers that differ from call to call with the shape alone."""
    drawn: Array = (np.random.default_rng(list(shape)).normal(size=shape) * scale).astype(np.float32)
    return drawn


def positive(*shape: int) -> Array:
    return np.abs(normal(*shape)) + np.float32(0.1)


@dataclass(frozen=True)
class FusedCase:
    """One fused node.

    operands : arrays in the node's order; None for one that is absent
    outputs  : how many of its outputs are named; an empty name leaves one out
    constant : positions of operands that stay as they are; all other floats get relevance
    """

    op_type: str
    operands: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    constant: tuple[int, ...] = ()
    domain: str = MICROSOFT
    opset: int = 16

    def __str__(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.attributes.items())
        return f"{self.op_type}({options})/{sum(o is not None for o in self.operands)}"

    def model(self, symbolic: bool = False) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """The node as a model, with everything fed but the constants."""
        arrays = {f"x{i}": a for i, a in enumerate(self.operands) if a is not None}
        fed = {name: a for name, a in arrays.items() if int(name[1:]) not in self.constant}
        names = [f"x{i}" if a is not None else "" for i, a in enumerate(self.operands)]
        node = helper.make_node(self.op_type, names, list(self.outputs), "fused", domain=self.domain, **self.attributes)
        graph = helper.make_graph(
            [node],
            "fused",
            [_declared(name, array, symbolic) for name, array in fed.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs if name],
            [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items() if name not in fed],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9), fed

    def case(self) -> Case:
        model, feeds = self.model()
        floats = tuple(name for name, array in feeds.items() if array.dtype == np.float32)
        return Case(str(self), FIXED, model, feeds, floats)


def _declared(name: str, array: Array, symbolic: bool) -> onnx.ValueInfoProto:
    shape = [f"{name}_{axis}" for axis in range(array.ndim)] if symbolic else list(array.shape)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def fused_cases() -> Iterator[FusedCase]:
    yield from _linear()


# --- linear operators with something fused ---------------------------------------------------------------------------


def _linear() -> Iterator[FusedCase]:
    a, b, c = normal(3, 4), normal(4, 2), normal(2)
    yield FusedCase("FusedGemm", (a, b, c), {"activation": "Tanh"})
    yield FusedCase("FusedGemm", (a, b.T, c), {"transB": 1, "alpha": 0.5, "beta": 2.0, "activation": "Relu"})
    yield FusedCase("FusedGemm", (a, b), {"activation": "LeakyRelu", "activation_alpha": 0.1})
    image, kernel, bias = normal(2, 3, 6, 6), normal(4, 3, 3, 3), normal(4)
    yield FusedCase("FusedConv", (image, kernel, bias), {"activation": "Relu", "pads": [1, 1, 1, 1]})
    yield FusedCase("FusedConv", (image, kernel, bias), {"activation": "LeakyRelu", "activation_params": [0.2]})
    yield FusedCase("FusedConv", (image, kernel, bias), {"activation": "HardSigmoid", "activation_params": [0.2, 0.4]})
    yield FusedCase("FusedConv", (image, kernel, None, normal(2, 4, 2, 2)), {"strides": [2, 2]})
    yield FusedCase("FusedConv", (image, kernel, bias), {"activation": "Clip", "activation_params": [0.0, 6.0]})
