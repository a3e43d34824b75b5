"""Dense twins: every linear layer as a matrix, every rule as its formula in float64. Nothing here calls onnxlrp.

`LAYERS` is the table that a new linear operator joins by one line. The matrix of a layer is read off onnxruntime by
feeding unit vectors, so that the table needs no second implementation of any operator.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from nets import Array, Net, session, signed

X = "the explained operand"

UNIT = 2.0**12
"""Length of the unit vectors: a power of two costs no digits, and a large one keeps a weight above its bias."""

STABILISER = 1e-6

WEIGHTLESS = ("AveragePool", "GlobalAveragePool", "ReduceSum", "ReduceMean", "Resize", "CumSum")
"""Operators without weights of their own: there is nothing to square or to set to one, they share as they compute."""


@dataclass(frozen=True, eq=False)
class Layer:
    """z = A·x + b, as a model with the input x and the output z.  node : the name that a rule is given by"""

    name: str
    model: onnx.ModelProto
    shape: tuple[int, ...]
    node: str

    @cached_property
    def _session(self) -> Any:
        return session(self.model)

    def run(self, x: Array) -> Array:
        return np.asarray(self._session.run(None, {"x": x.astype(np.float32)})[0])

    @cached_property
    def bias(self) -> Array:
        """f(0), float64, shaped like z."""
        return self.run(np.zeros(self.shape)).astype(np.float64)

    @cached_property
    def matrix(self) -> Array:
        """(elements of z, elements of x), float64."""
        size = int(np.prod(self.shape))
        columns = [self.run((UNIT * unit).reshape(self.shape)).astype(np.float64) for unit in np.eye(size)]
        return np.stack([(column - self.bias).reshape(-1) / UNIT for column in columns], axis=1)

    @property
    def weightless(self) -> bool:
        node = self.model.graph.node[0]
        return node.op_type in WEIGHTLESS or (node.op_type == "Einsum" and len(node.input) == 1)

    @property
    def has_bias(self) -> bool:
        return bool(self.bias.any())

    def random(self, salt: str = "") -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{self.name}{salt}".encode()))

    def input(self) -> Array:
        """Both signs, and some exact zeros."""
        random = self.random("x")
        x = signed(random, *self.shape)
        return np.where(random.random(self.shape) < 0.1, 0.0, x).astype(np.float32)

    def __str__(self) -> str:
        return self.name


# --- the table -------------------------------------------------------------------------------------------------------


def layer(name: str, shape: Sequence[int], op_type: str, *operands: Any, opset: int = 17, **attributes: Any) -> Layer:
    """One operator. Operands: X, the shape of a random constant, an array, or "" for an absent one."""
    return chain(name, shape, (op_type, operands, attributes), opset=opset)


def chain(name: str, shape: Sequence[int], *nodes: tuple[str, Sequence[Any], dict[str, Any]], opset: int = 17) -> Layer:
    """Several operators that make one layer; X is what the one before gives."""
    net, random = Net(opset), np.random.default_rng(zlib.crc32(name.encode()))
    value = net.input("x", shape)
    for index, (op_type, operands, attributes) in enumerate(nodes):
        names = [value if o is X else o if o == "" else net.weight(_array(o, random)) for o in _compared(operands)]
        last = index == len(nodes) - 1
        value = net.add(op_type, names, name=f"node{index}", out="z" if last else f"inner{index}", **attributes)
    return Layer(name, net.model("z"), tuple(shape), "node0")


def _compared(operands: Sequence[Any]) -> list[Any]:
    """Arrays wrapped, so that `==` on an operand is a plain answer."""
    return [_Kept(o) if isinstance(o, np.ndarray) else o for o in operands]


@dataclass(frozen=True, eq=False)
class _Kept:
    array: Array


def _array(operand: Any, random: np.random.Generator) -> Array:
    return operand.array if isinstance(operand, _Kept) else signed(random, *operand)


def positive(*shape: int) -> Array:
    return np.linspace(0.5, 2.0, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def batch_norm(channels: int) -> list[Any]:
    """Operands of BatchNormalization: scale and mean of both signs, positive variance."""
    return [X, (channels,), (channels,), (channels,), positive(channels)]


def normalised(channels: int) -> tuple[str, Sequence[Any], dict[str, Any]]:
    return ("BatchNormalization", batch_norm(channels), {})


def scales(*numbers: float) -> list[Any]:
    return [X, "", np.array(numbers, np.float32)]


def axes(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


UPPER, LOWER = "SAME_UPPER", "SAME_LOWER"

IMAGE, WIDE = (2, 3, 5, 6), (1, 4, 5, 6)

LAYERS: list[Layer] = [
    # convolutions
    layer("conv-1d", (2, 3, 9), "Conv", X, (4, 3, 3), (4,)),
    layer("conv-1d-all", (2, 4, 11), "Conv", X, (6, 2, 3), (6,), group=2, strides=[2], dilations=[2], pads=[2, 1]),
    layer("conv-2d", IMAGE, "Conv", X, (4, 3, 3, 3), (4,), pads=[1, 1, 1, 1]),
    layer("conv-2d-no-bias", IMAGE, "Conv", X, (4, 3, 3, 2)),
    layer("conv-2d-pads", IMAGE, "Conv", X, (4, 3, 3, 3), (4,), pads=[0, 2, 1, 0]),
    layer("conv-2d-pads-beyond-kernel", (1, 2, 4, 4), "Conv", X, (3, 2, 2, 2), (3,), pads=[3, 2, 0, 1]),
    layer("conv-2d-strides", (2, 2, 7, 8), "Conv", X, (3, 2, 3, 3), (3,), strides=[2, 3], pads=[1, 1, 0, 1]),
    layer("conv-2d-stride-beyond-kernel", (1, 2, 7, 7), "Conv", X, (3, 2, 1, 2), (3,), strides=[2, 3]),
    layer("conv-2d-dilations", (1, 2, 7, 8), "Conv", X, (3, 2, 3, 2), (3,), dilations=[2, 3], pads=[2, 1, 2, 1]),
    layer("conv-2d-dilated-strides", (1, 2, 9, 8), "Conv", X, (3, 2, 3, 2), (3,), dilations=[2, 2], strides=[2, 2]),
    layer("conv-2d-groups", WIDE, "Conv", X, (6, 2, 3, 3), (6,), group=2, pads=[1, 1, 1, 1]),
    layer("conv-2d-groups-strides", WIDE, "Conv", X, (6, 2, 3, 3), (6,), group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
    layer("conv-2d-depthwise", WIDE, "Conv", X, (4, 1, 3, 3), (4,), group=4, pads=[1, 1, 1, 1]),
    layer("conv-2d-same-upper", (1, 2, 6, 5), "Conv", X, (3, 2, 3, 2), (3,), auto_pad=UPPER, strides=[2, 1]),
    layer("conv-2d-same-lower", (1, 2, 6, 5), "Conv", X, (3, 2, 3, 2), (3,), auto_pad=LOWER, strides=[2, 1]),
    layer("conv-2d-valid", (1, 2, 6, 5), "Conv", X, (3, 2, 3, 2), (3,), auto_pad="VALID", strides=[2, 2]),
    layer("conv-3d", (1, 2, 4, 4, 3), "Conv", X, (3, 2, 2, 3, 2), (3,), strides=[2, 1, 1], pads=[1, 0, 0, 0, 1, 1]),
    # transposed convolutions
    layer("conv-transpose-1d", (2, 3, 5), "ConvTranspose", X, (3, 4, 3), (4,), strides=[2], pads=[1, 0]),
    layer("conv-transpose-2d", (2, 3, 3, 4), "ConvTranspose", X, (3, 2, 2, 2), (2,), strides=[2, 2]),
    layer("conv-transpose-2d-no-bias", (1, 3, 3, 4), "ConvTranspose", X, (3, 2, 3, 3), pads=[1, 1, 1, 1]),
    layer("conv-transpose-pads", (1, 2, 4, 3), "ConvTranspose", X, (2, 3, 3, 3), strides=[2, 1], pads=[2, 0, 1, 1]),
    layer("conv-transpose-groups", (1, 4, 3, 3), "ConvTranspose", X, (4, 3, 2, 3), (6,), group=2, strides=[1, 2]),
    layer("conv-transpose-dilations", (1, 2, 3, 4), "ConvTranspose", X, (2, 3, 2, 2), (3,), dilations=[2, 3]),
    layer(
        "conv-transpose-output-padding",
        (1, 2, 3, 3),
        "ConvTranspose",
        X,
        (2, 3, 3, 3),
        (3,),
        strides=[2, 3],
        output_padding=[1, 2],
        pads=[1, 1, 1, 0],
    ),
    layer(
        "conv-transpose-output-shape",
        (1, 2, 3, 3),
        "ConvTranspose",
        X,
        (2, 3, 3, 3),
        (3,),
        strides=[2, 2],
        output_shape=[6, 5],
    ),
    layer(
        "conv-transpose-same-upper",
        (1, 2, 3, 3),
        "ConvTranspose",
        X,
        (2, 3, 3, 3),
        (3,),
        strides=[2, 2],
        auto_pad=UPPER,
    ),
    layer(
        "conv-transpose-same-lower",
        (1, 2, 3, 3),
        "ConvTranspose",
        X,
        (2, 3, 3, 3),
        (3,),
        strides=[2, 2],
        auto_pad=LOWER,
    ),
    layer("conv-transpose-3d", (1, 2, 2, 3, 2), "ConvTranspose", X, (2, 2, 2, 2, 2), (2,), strides=[2, 1, 2]),
    # dense layers
    layer("gemm", (3, 5), "Gemm", X, (5, 4), (4,)),
    layer("gemm-trans-b", (3, 5), "Gemm", X, (4, 5), (4,), transB=1, alpha=0.5, beta=2.0),
    layer("gemm-trans-a", (5, 3), "Gemm", X, (5, 4), (3, 1), transA=1, beta=0.75),
    layer("gemm-trans-both", (5, 3), "Gemm", X, (4, 5), (3, 4), transA=1, transB=1, alpha=1.5),
    layer("gemm-no-bias", (3, 5), "Gemm", X, (5, 4), alpha=-2.0),
    layer("gemm-scalar-bias", (3, 5), "Gemm", X, (5, 4), (1,)),
    layer("gemm-second-factor", (5, 4), "Gemm", (3, 5), X, (4,), alpha=0.5),
    layer("gemm-second-factor-trans", (4, 5), "Gemm", (5, 3), X, (4,), transA=1, transB=1),
    layer("matmul-2d", (3, 5), "MatMul", X, (5, 4)),
    layer("matmul-3d", (2, 3, 5), "MatMul", X, (5, 4)),
    layer("matmul-batched", (2, 3, 5), "MatMul", X, (2, 5, 4)),
    layer("matmul-broadcast-weight", (2, 2, 3, 5), "MatMul", X, (2, 5, 4)),
    layer("matmul-broadcast-signal", (3, 5), "MatMul", X, (2, 5, 4)),
    layer("matmul-broadcast-ones", (1, 3, 5), "MatMul", X, (2, 5, 4)),
    layer("matmul-vector-matrix", (5,), "MatMul", X, (5, 4)),
    layer("matmul-matrix-vector", (3, 5), "MatMul", X, (5,)),
    layer("matmul-vector-vector", (5,), "MatMul", X, (5,)),
    layer("matmul-second-factor", (5, 4), "MatMul", (3, 5), X),
    layer("matmul-second-factor-batched", (2, 5, 4), "MatMul", (3, 5), X),
    layer("matmul-second-factor-vector", (5,), "MatMul", (2, 3, 5), X),
    layer("einsum-matmul", (3, 5), "Einsum", X, (5, 4), equation="bi,ij->bj"),
    layer("einsum-second-factor", (3, 5), "Einsum", (4, 5), X, equation="ij,bj->bi"),
    layer("einsum-channels", (2, 3, 2, 4), "Einsum", X, (3, 4), equation="bchw,cd->bdhw"),
    layer("einsum-ellipsis", (2, 3, 5), "Einsum", X, (5, 4), equation="...i,ij->...j"),
    layer("einsum-implicit", (2, 3, 5), "Einsum", X, (5, 4), equation="bij,jk"),
    layer("einsum-elementwise", (3, 5), "Einsum", X, (3, 5), equation="bi,bi->b"),
    layer("einsum-outer", (3, 2), "Einsum", X, (4,), equation="bi,j->bij"),
    layer("einsum-summed-away", (3, 2, 4), "Einsum", X, (4, 2), equation="bij,jk->bk"),
    layer("einsum-one-operand", (2, 3, 4), "Einsum", X, equation="bij->jb"),
    # per channel and per element
    layer("batch-norm-2d", (3, 4), "BatchNormalization", *batch_norm(4)),
    layer("batch-norm-3d", (2, 3, 4), "BatchNormalization", *batch_norm(3), epsilon=1e-3),
    layer("batch-norm-4d", (2, 3, 2, 4), "BatchNormalization", *batch_norm(3)),
    layer("add", (2, 3, 4), "Add", X, (3, 4)),
    layer("add-to-constant", (2, 3, 1), "Add", (2, 3, 4), X),
    layer("add-broadcast-signal", (3, 1), "Add", X, (2, 1, 4)),
    layer("sub", (2, 3, 4), "Sub", X, (4,)),
    layer("sub-from-constant", (2, 3, 4), "Sub", (2, 3, 4), X),
    layer("sub-broadcast-signal", (4,), "Sub", (2, 3, 1), X),
    layer("sum-of-three", (2, 1, 4), "Sum", (3, 4), X, (2, 3, 1)),
    layer("mean-of-three", (2, 1, 4), "Mean", (3, 4), X, (2, 3, 1)),
    layer("mul", (2, 3, 4), "Mul", X, (3, 4)),
    layer("mul-constant-first", (2, 3, 4), "Mul", (3, 1), X),
    layer("mul-broadcast-signal", (3, 1), "Mul", X, (2, 1, 4)),
    layer("div", (2, 3, 4), "Div", X, (3, 4)),
    layer("div-broadcast-signal", (3, 1), "Div", X, (2, 1, 4)),
    # averages and sums
    layer("average-pool", (2, 2, 4, 6), "AveragePool", X, kernel_shape=[2, 3], strides=[2, 3]),
    layer("average-pool-overlap", (1, 2, 5, 5), "AveragePool", X, kernel_shape=[3, 3], strides=[2, 1]),
    layer("average-pool-pads", (1, 2, 5, 5), "AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
    layer(
        "average-pool-include-pad",
        (1, 2, 5, 5),
        "AveragePool",
        X,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    layer("average-pool-ceil", (1, 2, 6, 6), "AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    layer(
        "average-pool-ceil-include-pad",
        (1, 2, 6, 6),
        "AveragePool",
        X,
        opset=19,
        kernel_shape=[3, 3],
        strides=[2, 2],
        ceil_mode=1,
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    layer(
        "average-pool-dilations",
        (1, 2, 7, 6),
        "AveragePool",
        X,
        opset=19,
        kernel_shape=[3, 2],
        dilations=[2, 3],
        pads=[1, 0, 1, 0],
    ),
    layer("average-pool-same", (1, 2, 6, 5), "AveragePool", X, kernel_shape=[3, 2], strides=[2, 2], auto_pad=UPPER),
    layer("average-pool-same-low", (1, 2, 6, 5), "AveragePool", X, kernel_shape=[3, 2], strides=[2, 1], auto_pad=LOWER),
    layer("average-pool-1d", (2, 2, 7), "AveragePool", X, kernel_shape=[3], strides=[2], pads=[1, 1]),
    layer("average-pool-3d", (1, 2, 3, 4, 4), "AveragePool", X, kernel_shape=[2, 2, 3], pads=[0, 1, 0, 0, 0, 1]),
    layer("global-average-pool", (2, 3, 3, 4), "GlobalAveragePool", X),
    layer("reduce-sum", (2, 3, 4), "ReduceSum", X, axes(1), keepdims=0),
    layer("reduce-sum-all", (2, 3, 4), "ReduceSum", X),
    layer("reduce-mean", (2, 3, 4), "ReduceMean", X, axes=[-1, 1], keepdims=1),
    layer("reduce-mean-axes-as-input", (2, 3, 4), "ReduceMean", X, axes(2), keepdims=0, opset=18),
    # resizing
    layer("resize-nearest", (1, 2, 3, 4), "Resize", *scales(1, 1, 2, 3), mode="nearest"),
    layer(
        "resize-nearest-down",
        (1, 2, 5, 6),
        "Resize",
        *scales(1, 1, 0.6, 0.5),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    layer("resize-linear", (1, 2, 3, 4), "Resize", *scales(1, 1, 2, 1.5), mode="linear"),
    layer("resize-linear-down", (1, 2, 6, 5), "Resize", *scales(1, 1, 0.5, 0.6), mode="linear"),
    layer(
        "resize-align-corners",
        (1, 2, 3, 4),
        "Resize",
        X,
        "",
        "",
        np.array([1, 2, 5, 6], np.int64),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    layer("resize-cubic", (1, 1, 4, 4), "Resize", *scales(1, 1, 2, 2), mode="cubic"),
    # several nodes, one layer
    chain("conv+bn", IMAGE, ("Conv", [X, (4, 3, 3, 3), (4,)], {"pads": [1, 1, 1, 1]}), normalised(4)),
    chain("conv-no-bias+bn", IMAGE, ("Conv", [X, (4, 3, 3, 3)], {"strides": [2, 2]}), normalised(4)),
    chain("conv-groups+bn", WIDE, ("Conv", [X, (6, 2, 3, 3), (6,)], {"group": 2}), normalised(6)),
    chain(
        "conv-transpose-groups+bn",
        (1, 4, 3, 3),
        ("ConvTranspose", [X, (4, 3, 2, 2), (6,)], {"group": 2, "strides": [2, 2]}),
        normalised(6),
    ),
    chain(
        "conv+mul+add",
        IMAGE,
        ("Conv", [X, (4, 3, 3, 3)], {}),
        ("Mul", [(4, 1, 1), X], {}),
        ("Add", [X, (1, 4, 1, 1)], {}),
    ),
    chain(
        "conv+sub+div",
        IMAGE,
        ("Conv", [X, (4, 3, 3, 3), (4,)], {}),
        ("Sub", [X, (4, 1, 1)], {}),
        ("Div", [X, (4, 1, 1)], {}),
    ),
    chain("matmul+add", (3, 5), ("MatMul", [X, (5, 4)], {}), ("Add", [X, (4,)], {})),
    chain("matmul-3d+add", (2, 3, 5), ("MatMul", [X, (5, 4)], {}), ("Add", [(4,), X], {})),
    chain("matmul+bn", (3, 5), ("MatMul", [X, (5, 4)], {}), normalised(4)),
    chain("gemm+mul+add", (3, 5), ("Gemm", [X, (5, 4), (4,)], {}), ("Mul", [X, (4,)], {}), ("Add", [X, (4,)], {})),
    chain("gemm-trans-b+bn", (3, 5), ("Gemm", [X, (4, 5), (4,)], {"transB": 1}), normalised(4)),
]


# --- the rules -------------------------------------------------------------------------------------------------------

Rule = tuple[Any, ...]
"""A name and its numbers, such as ("gamma", 0.25)."""

RULES: list[Rule] = [
    ("epsilon", 1e-6),
    ("epsilon", 0.0),
    ("epsilon", 0.25),
    ("gamma", 0.25),
    ("gamma", 3.0),
    ("alpha-beta", 2.0, 1.0),
    ("alpha-beta", 1.0, 0.0),
    ("z-plus",),
    ("z-box", -1.5, 2.0),
    ("w-square",),
    ("flat",),
]

BIASED_RULES: list[Rule] = [RULES[0], RULES[2], RULES[3], RULES[5], RULES[7], RULES[9]]
"""Rules in which the bias has a part."""

Term = tuple[Array, Array]
"""(input part, weight part): vectors of x's size, matrices like A."""


@dataclass(frozen=True)
class Bracket:
    """coefficient · Σ part ⊙ Wᵀ s with s = R / stabilise(Σ W·part + bias), at the outputs where `taking` holds."""

    terms: list[Term]
    bias: Array
    coefficient: float = 1.0
    taking: Array | bool = True


@dataclass(frozen=True)
class Twin:
    """relevance : as the formula has it, float64
    scale     : the same sums without cancellation, times their condition

    Each float32 operation is off by at most 2⁻²⁴ of its result, so an error is some roundings · 2⁻²⁴ · scale, element
    by element. That is the tightest tolerance that is fair to an order of summation nobody promised.
    """

    relevance: Array
    scale: Array

    def roundings(self, ours: Array) -> float:
        """How many times 2⁻²⁴ · scale the worst element is off; infinite for NaN, and for anything where scale is 0."""
        if ours.shape != self.relevance.shape or not np.isfinite(ours).all():
            return float("inf")
        off = np.abs(ours.astype(np.float64) - self.relevance) * 2.0**24
        return float(np.max(np.divide(off, self.scale, out=np.where(off > 0, np.inf, 0.0), where=self.scale > 0)))


def twin(rule: Rule, layer: Layer, x: Array, relevance: Array, bias: str = "absorb") -> Twin:
    """The relevance of x by the rule's formula on dense matrices.  relevance : of z"""
    x64, A, b = x.reshape(-1).astype(np.float64), layer.matrix, layer.bias.reshape(-1)
    R = relevance.reshape(-1).astype(np.float64)
    connected = A if layer.weightless else (A != 0).astype(np.float64)
    eps = rule[1] if rule[0] == "epsilon" else STABILISER
    total, scale = np.zeros_like(x64), np.zeros_like(x64)
    for bracket in brackets(rule, x64, A, b, connected, layer.weightless):
        kept = np.zeros_like(b) if bias == "drop" else bracket.bias
        z = sum(W @ part for part, W in bracket.terms) + kept
        size = sum(np.abs(W) @ np.abs(part) for part, W in bracket.terms) + np.abs(kept) + np.abs(b)
        denominator = z + eps * np.where(z >= 0, 1.0, -1.0)
        taken = np.where(bracket.taking, bracket.coefficient * R, 0.0)
        s = np.divide(taken, denominator, out=np.zeros_like(R), where=denominator != 0)
        unsure = np.abs(s) * (1 + np.divide(size, np.abs(denominator), out=np.zeros_like(R), where=denominator != 0))
        for part, W in bracket.terms:
            total += part * (W.T @ s)
            scale += np.abs(part) * (np.abs(W).T @ unsure)
        if bias == "distribute":
            total += spread(s * kept, connected)
            scale += spread(unsure * np.abs(kept), connected)
    return Twin(total.reshape(x.shape), scale.reshape(x.shape))


def brackets(rule: Rule, x: Array, A: Array, b: Array, connected: Array, weightless: bool) -> list[Bracket]:
    """The rules' table, from the papers."""
    plus, minus, nothing = lambda v: np.maximum(v, 0), lambda v: np.minimum(v, 0), np.zeros_like(b)
    match rule:
        case ("epsilon", _):
            return [Bracket([(x, A)], b)]
        case ("gamma", g):
            z, up, down = A @ x + b, lambda v: v + g * plus(v), lambda v: v + g * minus(v)
            return [
                Bracket([(plus(x), up(A)), (minus(x), down(A))], up(b), taking=z > 0),
                Bracket([(plus(x), down(A)), (minus(x), up(A))], down(b), taking=z < 0),
            ]
        case ("alpha-beta", alpha, beta):
            return [
                Bracket([(plus(x), plus(A)), (minus(x), minus(A))], plus(b), alpha),
                Bracket([(plus(x), minus(A)), (minus(x), plus(A))], minus(b), -beta),
            ]
        case ("z-plus",):
            return [Bracket([(plus(x), plus(A)), (minus(x), minus(A))], plus(b))]
        case ("z-box", low, high):
            return [Bracket([(x, A), (-low * np.ones_like(x), plus(A)), (-high * np.ones_like(x), minus(A))], nothing)]
        case ("w-square",):
            return [Bracket([(np.ones_like(x), A if weightless else A * A)], b * b)]
        case ("flat",):
            return [Bracket([(np.ones_like(x), connected)], nothing)]
    raise ValueError(f"no twin for {rule}")


def fits(layer: Layer, rule: Rule) -> bool:
    """Cubic interpolation has negative weights and no tensor that holds them, so only whole sums are for it."""
    return rule[0] == "epsilon" or layer.name != "resize-cubic"


def spread(taken: Array, connected: Array) -> Array:
    """What biases took, in equal parts to the inputs that each of them is added to."""
    count = connected.sum(axis=1)
    return np.asarray(connected.T @ np.divide(taken, count, out=np.zeros_like(taken), where=count != 0))


def written(rule: Rule) -> str:
    """A rule as users write it: `gamma(0.25)`."""
    return rule[0] + (f"({', '.join(f'{number:g}' for number in rule[1:])})" if len(rule) > 1 else "")
