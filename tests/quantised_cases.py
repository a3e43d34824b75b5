"""One small model per operator that computes in integers, between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
SCALE, ZERO = 0.03, 121
"""Of every quantised tensor in and out, unless a case says otherwise: −3.6 … 4.0 in steps of 0.03."""


@dataclass
class Case:
    """A graph under construction.  feeds : its inputs"""

    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    feeds: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def whole(self, *shape: int, dtype: Any = np.int8) -> str:
        """Random integers."""
        low, high = (-90, 90) if dtype == np.int8 else (20, 240)
        return self.constant(self.random.integers(low, high, shape), dtype)

    def input(self, *shape: int) -> str:
        name = f"x{len(self.feeds)}"
        self.feeds[name] = self.random.standard_normal(shape).astype(np.float32)
        return name

    def quantised(self, *shape: int) -> list[str]:
        """A float input, quantised: names of (integers, scale, zero point)."""
        ends = [self.constant(SCALE), self.constant(ZERO, np.uint8)]
        return [self.node("QuantizeLinear", self.input(*shape), *ends), *ends]

    def node(self, op_type: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        names = [name, *(f"{name}_{index}" for index in range(1, outputs))]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=name, domain=domain, **attributes))
        return name

    def output(self, value: str, rank: int) -> None:
        """A float output."""
        name = f"y{len(self.outputs)}"
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank))

    def dequantised(self, value: str, scale: str, zero: str, rank: int) -> None:
        self.output(self.node("DequantizeLinear", value, scale, zero), rank)

    def model(self) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), ["batch", *array.shape[1:]]
            )
            for name, array in self.feeds.items()
        ]
        graph = helper.make_graph(self.nodes, self.name, inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


CASES: dict[str, list[Callable[[Case], None]]] = {}


def case(op_type: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    def decorate(build: Callable[[Case], None]) -> Callable[[Case], None]:
        CASES.setdefault(op_type, []).append(build)
        return build

    return decorate


def built() -> list[Case]:
    found = []
    for op_type, builders in CASES.items():
        for build in builders:
            made = Case(f"{op_type}-{build.__name__}")
            build(made)
            found.append(made)
    return found


def ends(c: Case, scale: float = 0.05, zero: int = 118) -> list[str]:
    """Scale and zero point of a result."""
    return [c.constant(scale), c.constant(zero, np.uint8)]


# --- convolutions and products ---------------------------------------------------------------------------------------


@case("QLinearConv")
def per_channel(c: Case) -> None:
    w = [c.whole(4, 2, 3, 3), c.constant([0.01, 0.004, 0.006, 0.01]), c.constant([0, 0, 0, 0], np.int8)]
    to = ends(c)
    bias = c.constant([20, -300, 0, 55], np.int32)
    y = c.node("QLinearConv", *c.quantised(2, 2, 6, 6), *w, *to, bias, pads=[1, 1, 1, 1], strides=[2, 2])
    c.dequantised(y, *to, rank=4)


@case("QLinearConv")
def per_tensor(c: Case) -> None:
    w = [c.whole(4, 1, 3, 3, dtype=np.uint8), c.constant(0.004), c.constant(130, np.uint8)]
    to = ends(c)
    c.dequantised(c.node("QLinearConv", *c.quantised(2, 4, 5, 5), *w, *to, group=4), *to, rank=4)


@case("QLinearConv")
def channels_last(c: Case) -> None:
    w = [c.whole(4, 3, 3, 3), c.constant(0.005), c.constant(0, np.int8)]
    to = ends(c)
    y = c.node("QLinearConv", *c.quantised(2, 6, 5, 3), *w, *to, domain=MICROSOFT, channels_last=1, pads=[1, 1, 1, 1])
    c.dequantised(y, *to, rank=4)


@case("QLinearMatMul")
def per_column(c: Case) -> None:
    b = [c.whole(5, 3), c.constant([0.01, 0.02, 0.005]), c.constant([0, 0, 0], np.int8)]
    to = ends(c)
    c.dequantised(c.node("QLinearMatMul", *c.quantised(4, 5), *b, *to), *to, rank=2)


@case("QLinearMatMul")
def two_signals(c: Case) -> None:
    to = ends(c, 0.1)
    c.dequantised(c.node("QLinearMatMul", *c.quantised(2, 3, 5), *c.quantised(2, 5, 4), *to), *to, rank=3)


@case("MatMulInteger")
def scaled_behind(c: Case) -> None:
    x, scale, zero = c.quantised(4, 5)
    product = c.node("MatMulInteger", x, c.whole(5, 3), zero, c.constant([0, 3, -2], np.int8))
    floats = c.node("Cast", product, to=TensorProto.FLOAT)
    c.output(c.node("Mul", floats, c.node("Mul", scale, c.constant([0.01, 0.02, 0.03]))), rank=2)


@case("ConvInteger")
def padded(c: Case) -> None:
    x, scale, zero = c.quantised(2, 2, 5, 5)
    product = c.node(
        "ConvInteger", x, c.whole(3, 2, 3, 3, dtype=np.uint8), zero, c.constant(127, np.uint8), pads=[1] * 4
    )
    c.output(c.node("Mul", c.node("Cast", product, to=TensorProto.FLOAT), scale), rank=4)


@case("DynamicQuantizeLinear")
def dynamic(c: Case) -> None:
    x = c.node("DynamicQuantizeLinear", c.input(3, 5), outputs=3)
    product = c.node("MatMulInteger", x, c.whole(5, 4), f"{x}_2", c.constant(0, np.int8))
    scale = c.node("Mul", f"{x}_1", c.constant(0.02))
    c.output(c.node("Mul", c.node("Cast", product, to=TensorProto.FLOAT), scale), rank=2)


@case("MatMulIntegerToFloat")
def with_bias(c: Case) -> None:
    x, scale, zero = c.quantised(3, 5)
    b = [c.whole(5, 4), c.constant([0.01, 0.02, 0.03, 0.01])]
    operands = [x, b[0], scale, b[1], zero, c.constant([0] * 4, np.int8), c.constant([1.0, -1.0, 0.5, 0.0])]
    c.output(c.node("MatMulIntegerToFloat", *operands, domain=MICROSOFT), rank=2)


@case("DynamicQuantizeMatMul")
def with_dynamic_input(c: Case) -> None:
    b = [c.whole(5, 4), c.constant(0.02), c.constant(0, np.int8), c.constant([1.0, -1.0, 0.5, 0.0])]
    c.output(c.node("DynamicQuantizeMatMul", c.input(3, 5), *b, domain=MICROSOFT), rank=2)


@case("QGemm")
def requantised(c: Case) -> None:
    b, to = [c.whole(4, 5), c.constant(0.01), c.constant(0, np.int8)], ends(c)
    addend = c.constant([30, -200, 0, 90], np.int32)
    y = c.node("QGemm", *c.quantised(3, 5), *b, addend, *to, domain=MICROSOFT, transB=1, alpha=0.5)
    c.dequantised(y, *to, rank=2)


@case("QGemm")
def in_floats(c: Case) -> None:
    b = [c.whole(5, 4), c.constant([0.01, 0.02, 0.01, 0.03]), c.constant([0] * 4, np.int8)]
    c.output(c.node("QGemm", *c.quantised(3, 5), *b, domain=MICROSOFT), rank=2)


# --- one operand or two ----------------------------------------------------------------------------------------------


def binary(op_type: str) -> None:
    @case(op_type)
    def of_two(c: Case) -> None:
        to = ends(c)
        operands = [*c.quantised(3, 4), *c.quantised(3, 4)]
        c.dequantised(c.node(op_type, *operands, *to, domain=MICROSOFT), *to, rank=2)

    @case(op_type)
    def of_a_constant(c: Case) -> None:
        to = ends(c)
        operands = [*c.quantised(3, 4), c.whole(4, dtype=np.uint8), c.constant(0.02), c.constant(100, np.uint8)]
        c.dequantised(c.node(op_type, *operands, *to, domain=MICROSOFT), *to, rank=2)


binary("QLinearAdd")
binary("QLinearMul")


def unary(op_type: str, *shape: int, scale: float = 0.05, zero: int = 118, **attributes: Any) -> None:
    @case(op_type)
    def of_one(c: Case) -> None:
        to = ends(c, scale, zero)
        y = c.node(op_type, *c.quantised(*shape), *to, domain=MICROSOFT, **attributes)
        c.dequantised(y, *to, rank=len(shape) - (attributes.get("keepdims") == 0))


unary("QLinearSigmoid", 3, 5, scale=1 / 256, zero=0)
unary("QLinearLeakyRelu", 3, 5, alpha=0.2)
unary("QLinearSoftmax", 3, 5, scale=1 / 256, zero=0, axis=-1, opset=13)
unary("QLinearSoftmax", 3, 2, 4, scale=1 / 256, zero=0, axis=1, opset=12)
unary("QLinearAveragePool", 2, 3, 5, 5, kernel_shape=[2, 2], strides=[2, 2])
unary("QLinearAveragePool", 2, 5, 5, 3, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1, channels_last=1)
unary("QLinearGlobalAveragePool", 2, 3, 5, 5, channels_last=0)
unary("QLinearGlobalAveragePool", 2, 5, 5, 3, channels_last=1)


@case("QLinearConcat")
def of_three(c: Case) -> None:
    to = ends(c)
    operands = [
        *c.quantised(2, 3),
        *c.quantised(2, 2),
        c.whole(2, 2, dtype=np.uint8),
        c.constant(0.04),
        c.constant(99, np.uint8),
    ]
    c.dequantised(c.node("QLinearConcat", *to, *operands, domain=MICROSOFT, axis=1), *to, rank=2)


@case("QLinearWhere")
def by_a_mask(c: Case) -> None:
    to, mask = ends(c), c.constant([[True, False, True, True]], np.bool_)
    c.dequantised(
        c.node("QLinearWhere", mask, *c.quantised(3, 4), *c.quantised(3, 4), *to, domain=MICROSOFT), *to, rank=2
    )


@case("DynamicQuantizeLSTM")
def one_direction(c: Case) -> None:
    w, r = c.whole(1, 3, 16), c.whole(1, 4, 16)
    scales = [c.constant([0.005]), c.constant([0], np.int8)] * 2
    bias = c.constant(c.random.standard_normal((1, 32)) * 0.1)
    operands = [c.input(5, 2, 3), w, r, bias, "", "", "", "", *scales]
    c.node("DynamicQuantizeLSTM", *operands, domain=MICROSOFT, outputs=2, hidden_size=4)
    c.output(f"{c.nodes[-1].output[1]}", rank=3)


@case("QAttention")
def with_two_heads(c: Case) -> None:
    x, scale, zero = c.quantised(2, 3, 4)
    bias = c.constant(c.random.standard_normal(24) * 0.1)
    operands = [x, c.whole(4, 24), bias, scale, c.constant(0.01), "", zero, c.constant(0, np.int8)]
    c.output(c.node("QAttention", *operands, domain=MICROSOFT, num_heads=2), rank=3)


@case("QEmbedLayerNormalization")
def of_tokens(c: Case) -> None:
    c.feeds = {name: c.random.integers(0, 2, (2, 3)).astype(np.int32) for name in ("ids", "segments")}
    tables = [c.whole(7, 4, dtype=np.uint8), c.whole(5, 4, dtype=np.uint8), c.whole(2, 4, dtype=np.uint8)]
    tables += [c.whole(4, dtype=np.uint8), c.whole(4, dtype=np.uint8)]
    scales = [c.constant(0.01 * (index + 1)) for index in range(5)]
    zeros = [c.constant(120, np.uint8) for _ in range(5)]
    operands = ["ids", "segments", *tables, "", *scales, *zeros]
    c.output(c.node("QEmbedLayerNormalization", *operands, domain=MICROSOFT, outputs=2), rank=3)


# --- packed weights --------------------------------------------------------------------------------------------------


def nbits(name: str, bits: int, zeros: str, **attributes: Any) -> None:
    def matmul(c: Case) -> None:
        n, k, block = 5, 40, 16
        blocks, per_byte = -(-k // block), 8 // bits
        b = c.constant(c.random.integers(0, 256, (n, blocks, block // per_byte)), np.uint8)
        scales = c.constant(0.01 + 0.02 * c.random.random(n * blocks))
        zero = ""
        if zeros == "packed":
            zero = c.constant(c.random.integers(0, 256, n * -(-blocks // per_byte)), np.uint8)
        elif zeros == "floats":
            zero = c.constant(2.0 ** (bits - 1) + c.random.standard_normal(n * blocks))
        operands = [c.input(3, k), b, scales, zero, "", c.constant(c.random.standard_normal(n))]
        names = {"N": n, "K": k, "bits": bits, "block_size": block} | attributes
        c.output(c.node("MatMulNBits", *operands, domain=MICROSOFT, **names), 2)

    matmul.__name__ = name
    case("MatMulNBits")(matmul)


nbits("four", 4, "none")
nbits("four_and_zeros", 4, "packed")
nbits("four_and_float_zeros", 4, "floats")
nbits("eight", 8, "none")
nbits("eight_and_zeros", 8, "packed")
nbits("fast", 4, "packed", accuracy_level=4)


def mixture(kind: str, bits: int, normalised: int) -> None:
    @case("QMoE")
    def of_experts(c: Case) -> None:
        experts, wide, inner = 4, 32, 32
        packed = [(experts, inner, wide * bits // 8), (experts, wide, inner * bits // 8)]
        first, second = (
            [c.whole(*s, dtype=np.uint8), c.constant(0.2 / 2**bits * (1 + c.random.random(s[:2])))] for s in packed
        )
        names = {"k": 2, "expert_weight_bits": bits, "activation_type": kind, "normalize_routing_weights": normalised}
        y = c.node("QMoE", c.input(3, wide), c.input(3, experts), *first, "", *second, domain=MICROSOFT, **names)
        c.output(y, 2)


mixture("relu", 4, 1)
mixture("silu", 8, 1)
mixture("gelu", 4, 0)


def bnb4(kind: int) -> None:
    @case("MatMulBnb4")
    def matmul(c: Case) -> None:
        n, k, block = 6, 24, 16
        b, absmax = (
            c.constant(c.random.integers(0, 256, n * k // 2), np.uint8),
            c.constant(c.random.random(n * k // block)),
        )
        y = c.node(
            "MatMulBnb4", c.input(3, k), b, absmax, domain=MICROSOFT, N=n, K=k, block_size=block, quant_type=kind
        )
        c.output(y, 2)


bnb4(0)
bnb4(1)


def gather(bits: int) -> None:
    @case("GatherBlockQuantized")
    def rows(c: Case) -> None:
        c.feeds["ids"] = np.array([[0, 3, 2], [1, 1, 4]])
        data = c.constant(c.random.integers(0, 256, (5, 32 * bits // 8)), np.uint8)
        operands = [
            data,
            "ids",
            c.constant(0.1 * c.random.random((5, 2))),
            c.constant([[i * 8 // bits] * (2 * bits // 8) for i in range(5)], np.uint8),
        ]
        names = {"block_size": 16, "quantize_axis": 1, "bits": bits}
        c.output(c.node("GatherBlockQuantized", *operands, domain=MICROSOFT, **names), 3)


gather(4)
gather(8)
