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
    weights  : positions of operands whose sizes onnxruntime has to know
    """

    op_type: str
    operands: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    constant: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
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
            [_declared(name, array, symbolic and int(name[1:]) not in self.weights) for name, array in fed.items()],
            [_output(name) for name in self.outputs if name],
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


def _output(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT32 if name == "lengths" else TensorProto.FLOAT, None)


def fused_cases() -> Iterator[FusedCase]:
    yield from _linear()
    yield from _products()
    yield from _activations()
    yield from _normalisations()
    yield from _attention()
    yield from _multi_head_attention()
    yield from _group_query_attention()
    yield from _rotary_embedding()
    yield from _others()


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


def _products() -> Iterator[FusedCase]:
    a, b = normal(2, 3, 4), normal(2, 4, 5)
    at, bt = np.ascontiguousarray(a.transpose(0, 2, 1)), np.ascontiguousarray(b.transpose(0, 2, 1))
    yield FusedCase("FusedMatMul", (a, b), {"alpha": 0.25})
    yield FusedCase("FusedMatMul", (at, bt), {"transA": 1, "transB": 1})
    yield FusedCase("FusedMatMul", (normal(3, 2, 4), b), {"transBatchA": 1})
    yield FusedCase("FusedMatMul", (a, normal(4, 2, 5)), {"transBatchB": 1, "alpha": 2.0})
    yield FusedCase("FusedMatMul", (a, normal(5, 2, 4)), {"transBatchB": 1, "transB": 1})
    yield FusedCase("TransposeMatMul", (a, bt), {"transB": 1})


# --- activations -----------------------------------------------------------------------------------------------------


def _activations() -> Iterator[FusedCase]:
    x, bias = normal(2, 3, 4), normal(4)
    yield FusedCase("Gelu", (x,))
    yield FusedCase("Gelu", (x,), opset=20)
    yield FusedCase("BiasGelu", (x, bias))
    yield FusedCase("FastGelu", (x,))
    yield FusedCase("FastGelu", (x, bias))
    yield FusedCase("FastGelu", (x, bias), opset=20)
    yield FusedCase("QuickGelu", (x,))
    yield FusedCase("QuickGelu", (x,), {"alpha": 1.0})
    yield FusedCase("ScaledSiLU", (x,))
    yield FusedCase("ScaledSiLU", (x,), {"alpha": 0.5})
    yield FusedCase("GatedAdd", (x, x * 2, normal(2, 3, 1)))


# --- normalisations --------------------------------------------------------------------------------------------------


def _normalisations() -> Iterator[FusedCase]:
    x, skip, scale, shift, bias = normal(2, 3, 8), normal(2, 3, 8) * 2, positive(8), normal(8), normal(8) * 0.5
    for opset in (16, 17):
        yield FusedCase("SkipLayerNormalization", (x, skip, scale, shift, bias), {"epsilon": 1e-5}, opset=opset)
        yield FusedCase("SkipLayerNormalization", (x, skip, scale), {"epsilon": 1e-3}, opset=opset)
    everything = ("y", "", "", "sum")
    yield FusedCase("SkipLayerNormalization", (x, skip, scale, shift), {}, everything)
    yield FusedCase("SkipLayerNormalization", (x, normal(1, 3, 8), scale, shift, bias), {}, everything)
    yield FusedCase("SkipSimplifiedLayerNormalization", (x, skip, scale, bias), {"epsilon": 1e-6}, everything)
    yield FusedCase("SkipSimplifiedLayerNormalization", (x, skip, scale), {"epsilon": 1e-6})
    yield FusedCase("SimplifiedLayerNormalization", (x, scale), {"axis": -1, "epsilon": 1e-6}, domain="")
    yield FusedCase("SimplifiedLayerNormalization", (x, normal(3, 8)), {"axis": 1, "epsilon": 1e-6}, domain="")
    yield FusedCase("GatedRMSNorm", (x, scale, skip), {"epsilon": 1e-6})
    tokens, segments = (
        np.array([[3, 1, 0, 2], [1, 1, 4, 0]], np.int32),
        np.array([[0, 0, 1, 1], [0, 1, 1, 1]], np.int32),
    )
    words, places, kinds = normal(5, 8), normal(6, 8), normal(2, 8)
    mask, order = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32), np.array([[3, 2, 1, 0]], np.int32)
    embedded, table = ("y", "", "sum"), (2, 3, 4, 5, 6)
    yield FusedCase(
        "EmbedLayerNormalization", (tokens, segments, words, places, kinds, scale, shift), {}, embedded, weights=table
    )
    yield FusedCase(
        "EmbedLayerNormalization",
        (tokens, None, words, places, None, scale, shift),
        {},
        ("y", "lengths"),
        weights=table,
    )
    yield FusedCase(
        "EmbedLayerNormalization",
        (tokens, segments, words, places, kinds, scale, shift, mask, order),
        {"epsilon": 1e-5, "mask_index_type": 1},
        ("y", "lengths"),
        weights=table,
    )


# --- attention -------------------------------------------------------------------------------------------------------


def _attention() -> Iterator[FusedCase]:
    x, weights, bias = normal(2, 3, 4), normal(4, 24, scale=0.5), normal(24)
    two, table = {"num_heads": 2}, (1, 2)

    def case(*operands: Array | None, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> FusedCase:
        return FusedCase("Attention", (x, weights, bias, *operands), two | attributes, outputs, weights=table)

    yield case()
    yield case(unidirectional=1, scale=0.3)
    yield case(qkv_hidden_sizes=[8, 8, 8])
    yield FusedCase("Attention", (x, normal(4, 20), normal(20)), two | {"qkv_hidden_sizes": [8, 8, 4]}, weights=table)
    yield case(np.array([[1, 1, 0], [1, 1, 1]], np.int32))
    yield case(np.array([[1, 1, 0], [1, 0, 0]], np.int32), mask_filter_value=-3.0)
    yield case(np.array([[1, 1, 0], [1, 1, 1]], np.int32), unidirectional=1)
    yield case(np.array([[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 1], [1, 1, 0], [0, 1, 1]]], np.int32))
    yield case(np.array([2, 3], np.int32))
    yield case(np.array([3, 2, 1, 0], np.int32))
    yield case(np.array([[1], [1]], np.int32))
    past = normal(2, 2, 2, 2, 4)
    yield case(None, past, outputs=("y", "present"))
    yield case(None, past, outputs=("y", "present"), unidirectional=1)
    yield case(np.array([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]], np.int32), past, outputs=("y", "present"), unidirectional=1)
    yield case(None, None, normal(1, 2, 3, 3))


def _multi_head_attention() -> Iterator[FusedCase]:
    q, k, v, bias = normal(2, 3, 8), normal(2, 5, 8), normal(2, 5, 8) * 0.5, normal(24)
    two = {"num_heads": 2}

    def case(*operands: Array | None, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> FusedCase:
        return FusedCase("MultiHeadAttention", operands, two | attributes, outputs)

    yield case(q, k, v)
    yield case(q, k, v, bias, scale=0.7)
    yield case(q, k, normal(2, 5, 4), normal(20))
    yield case(q, normal(2, 2, 5, 4), normal(2, 2, 5, 4) * 2)
    yield case(q, k, v, bias, np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32))
    yield case(q, k, v, None, np.array([3, 5], np.int32))
    yield case(q, k, v, None, np.arange(30).reshape(2, 3, 5).astype(np.int32) % 4)
    yield case(q, k, v, None, None, normal(1, 2, 3, 5))
    yield case(q, k, v, bias, None, normal(2, 1, 3, 5))
    new, cache = (normal(2, 3, 8) * 0.7, normal(2, 3, 8) * 0.9), (normal(2, 2, 4, 4), normal(2, 2, 4, 4) * 0.5)
    caches = ("y", "keys", "values")
    yield case(q, *new, None, None, None, *cache, outputs=caches)
    yield case(q, *new, bias, None, None, *cache, outputs=caches, unidirectional=1)
    yield case(q, q * 0.3, q * 0.5, unidirectional=1)
    yield case(q, *new, None, None, normal(2, 2, 3, 7), *cache, outputs=(*caches, "scores"))
    one, written = normal(2, 1, 8), np.array([2], np.int32)
    step = (one, one * 0.5, one * 0.7)
    shared = two | {"past_present_share_buffer": 1}
    yield FusedCase("DecoderMaskedMultiHeadAttention", (*step, None, None, *cache, written), shared, caches)
    yield FusedCase(
        "DecoderMaskedMultiHeadAttention",
        (*step, np.array([[1, 0, 1], [1, 1, 1]], np.int32), None, *cache, written, None, None, bias),
        shared,
        caches,
    )
    yield FusedCase("DecoderMaskedMultiHeadAttention", (one, *cache), two)
    yield case(*step, None, None, None, *cache, written, outputs=caches)


def _group_query_attention() -> Iterator[FusedCase]:
    q, k, v = normal(2, 3, 64), normal(2, 3, 32), normal(2, 3, 32) * 0.5
    heads, caches = {"num_heads": 4, "kv_num_heads": 2}, ("y", "keys", "values")
    angle = np.arange(8)[:, None] * 0.5 ** np.arange(8)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    last, total = np.array([2, 2], np.int32), np.array(3, np.int32)

    def case(*operands: Array | None, outputs: tuple[str, ...] = caches, **attributes: Any) -> FusedCase:
        return FusedCase("GroupQueryAttention", operands, heads | attributes, outputs)

    yield case(q, k, v, None, None, last, total)
    yield case(normal(2, 3, 128), None, None, None, None, last, total)
    yield case(q, k, v, None, None, last, total, scale=0.3, softcap=2.0)
    yield case(q, k, v, None, None, last, total, local_window_size=1)
    yield case(q, k, v, None, None, last, total, smooth_softmax=1)
    yield case(q, k, v, None, None, last, total, cos, sin, do_rotary=1)
    yield case(q, k, v, None, None, last, total, cos, sin, do_rotary=1, rotary_interleaved=1)
    one, past = (
        (normal(2, 1, 64), normal(2, 1, 32), normal(2, 1, 32) * 0.5),
        (normal(2, 2, 4, 16), normal(2, 2, 4, 16) * 0.5),
    )
    full, five = np.array([4, 4], np.int32), np.array(5, np.int32)
    yield case(*one, *past, full, five)
    yield case(*one, *past, np.array([4, 2], np.int32), five)
    yield case(*one, *past, full, five, cos, sin, do_rotary=1)
    yield case(*one, *past, full, five, cos, sin, local_window_size=2, do_rotary=1)
    yield case(*one, *past, np.array([2, 1], np.int32), np.array(3, np.int32), softcap=1.5)
    yield case(*one, *past, full, five, None, None, None, normal(1, 4, 1, 5))
    yield case(q, k, v, None, None, last, total, None, None, None, normal(2, 1, 3, 3), normal(4))


def _rotary_embedding() -> Iterator[FusedCase]:
    angle = np.arange(8)[:, None] * np.array([1.0, 0.1])
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    places, first = np.array([[0, 1, 2], [3, 1, 2]], np.int64), np.array([2], np.int64)
    yield FusedCase("RotaryEmbedding", (normal(2, 3, 8), places, cos, sin), weights=(2, 3))
    yield FusedCase("RotaryEmbedding", (normal(2, 3, 8), first, cos, sin), {"interleaved": 1}, weights=(2, 3))
    yield FusedCase("RotaryEmbedding", (normal(2, 2, 3, 4), places, cos, sin), weights=(2, 3))
    partial = {"num_heads": 2, "rotary_embedding_dim": 4}
    yield FusedCase("RotaryEmbedding", (normal(2, 3, 16), places, cos, sin), partial, weights=(2, 3))
    yield FusedCase(
        "RotaryEmbedding", (normal(2, 2, 3, 8), places, cos, sin), partial | {"interleaved": 1}, weights=(2, 3)
    )


def _others() -> Iterator[FusedCase]:
    a, b = normal(3, 4), normal(5, 4)
    yield FusedCase("CDist", (a, b), {"metric": "sqeuclidean"})
    yield FusedCase("CDist", (a, b), {"metric": "euclidean"})
    yield FusedCase("Trilu", (a, np.array(1)), {"upper": 1}, constant=(1,))
    yield FusedCase("ExpandDims", (a, np.array(1, np.int32)), constant=(1,))
    yield FusedCase("GatherND", (a, np.array([[0], [2]])))
    yield FusedCase("Pad", (a, np.array([1, 0, 0, 2]), np.array([0.5], np.float32)), constant=(1,))
    image, kernel = normal(1, 3, 4, 4), normal(3, 2, 3, 3)
    yield FusedCase(
        "ConvTransposeWithDynamicPads", (image, kernel, np.array([1, 1, 1, 1])), {"strides": [2, 2]}, constant=(2,)
    )
