"""Small graphs of random operators: a pool of tensors grows by one layer at a time, and a few end in one output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from node_cases import FED, FIXED, Array, Case
from onnx import TensorProto, helper, numpy_helper

OPSET = 18

SMOOTH = (
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Elu",
    "Erf",
    "Softsign",
    "Selu",
    "Celu",
    "Mish",
    "Sin",
    "Cos",
    "Atan",
    "Asinh",
)
KINKED = ("Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "Abs", "ThresholdedRelu", "Neg", "Identity", "Dropout")


class Sketch:
    """A graph that is being drawn.  shapes : of every tensor that may be read on, by name"""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.shapes: dict[str, tuple[int, ...]] = {"x": shape}
        self.outside = dict(self.shapes)

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def weights(self, *shape: int, size: float = 1.0) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        return self.constant((self.rng.normal(size=shape) * size / np.sqrt(fan_in)).astype(np.float32))

    def per_channel(self, count: int) -> str:
        return self.constant(self.rng.uniform(0.5, 1.5, count).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, op_type: str, *inputs: str, shape: tuple[int, ...] | None = None, **attributes: Any) -> str:
        """Append a node; its output joins the pool. shape : None = the first operand's"""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"{op_type}_{name}", **attributes))
        self.shapes[name] = self.shapes[inputs[0]] if shape is None else shape
        return name

    def pick(self, rank: int | None = None) -> str:
        """Any tensor of the pool, the younger the likelier."""
        fitting = [name for name, shape in self.shapes.items() if rank is None or len(shape) == rank]
        ages = np.arange(1, len(fitting) + 1, dtype=float) ** 2
        return str(self.rng.choice(fitting, p=ages / ages.sum())) if fitting else ""

    def choose(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def axis(self, name: str) -> int:
        return int(self.rng.integers(len(self.shapes[name])))

    def model(self) -> onnx.ModelProto:
        last = list(self.shapes)[-1]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shapes["x"])],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, self.shapes[last])],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


Layer = Callable[[Sketch, str], str | None]
"""(sketch, a tensor) → the new tensor; None where the layer does not fit."""


def pointwise(sketch: Sketch, x: str) -> str:
    return sketch.add(sketch.choose(*SMOOTH, *KINKED), x)


def two_of_a_kind(sketch: Sketch, x: str) -> str | None:
    """A join of two tensors of one shape, or a gate."""
    alike = [name for name, shape in sketch.shapes.items() if shape == sketch.shapes[x] and name != x]
    if not alike:
        return None
    other = str(sketch.rng.choice(alike))
    op_type = sketch.choose("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", "Gate", "Div")
    if op_type == "Gate":
        return sketch.add("Mul", x, sketch.add("Sigmoid", other))
    if op_type == "Div":
        return sketch.add("Div", x, sketch.add("Exp", sketch.add("Tanh", other)))
    return sketch.add(op_type, x, other)


def with_a_constant(sketch: Sketch, x: str) -> str:
    shape = sketch.shapes[x]
    wide = tuple(d if sketch.choose(True, False) else 1 for d in shape)
    other = sketch.constant(sketch.rng.uniform(0.5, 1.5, wide).astype(np.float32))
    return sketch.add(sketch.choose("Add", "Sub", "Mul", "Div", "Max", "PRelu"), x, other)


def dense(sketch: Sketch, x: str) -> str:
    *lead, width = sketch.shapes[x]
    out = sketch.choose(2, 3, 5)
    if len(lead) == 1 and sketch.choose(True, False):
        return sketch.add("Gemm", x, sketch.weights(out, width), sketch.weights(out), shape=(*lead, out), transB=1)
    return sketch.add("MatMul", x, sketch.weights(width, out), shape=(*lead, out))


def attention(sketch: Sketch, x: str) -> str | None:
    """softmax(x xᵀ) x over the last two axes."""
    shape = sketch.shapes[x]
    if len(shape) < 3 or shape[-2] > 8:
        return None
    perm = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    turned = sketch.add("Transpose", x, shape=(*shape[:-2], shape[-1], shape[-2]), perm=perm)
    scores = sketch.add("MatMul", x, turned, shape=(*shape[:-1], shape[-2]))
    return sketch.add("MatMul", sketch.add("Softmax", scores, axis=-1), x, shape=shape)


def convolution(sketch: Sketch, x: str) -> str | None:
    shape = sketch.shapes[x]
    if len(shape) != 4 or min(shape[2:]) < 3:
        return None
    batch, channels, *space = shape
    k, stride, pad = sketch.choose(1, 2, 3), sketch.choose(1, 1, 2), sketch.choose(0, 1)
    pad = min(pad, k - 1)
    group = channels if sketch.choose(True, False, False) else 1
    out = channels if group > 1 else sketch.choose(2, 4)
    size = [(d + 2 * pad - k) // stride + 1 for d in space]
    attributes = {"strides": [stride] * 2, "pads": [pad] * 4, "group": group}
    weights, bias = sketch.weights(out, channels // group, k, k), sketch.weights(out)
    return sketch.add("Conv", x, weights, bias, shape=(batch, out, *size), **attributes)


def up(sketch: Sketch, x: str) -> str | None:
    shape = sketch.shapes[x]
    if len(shape) != 4 or max(shape[2:]) > 8:
        return None
    batch, channels, *space = shape
    if sketch.choose(True, False):
        size = [(d - 1) * 2 + 2 for d in space]
        return sketch.add(
            "ConvTranspose", x, sketch.weights(channels, 3, 2, 2), shape=(batch, 3, *size), strides=[2, 2]
        )
    mode = sketch.choose("nearest", "linear", "cubic")
    scales = sketch.constant(np.array([1, 1, 2, 2], np.float32))
    return sketch.add("Resize", x, "", scales, shape=(batch, channels, *(2 * d for d in space)), mode=mode)


def pooling(sketch: Sketch, x: str) -> str | None:
    shape = sketch.shapes[x]
    if len(shape) != 4 or min(shape[2:]) < 2:
        return None
    if sketch.choose(True, False, False):
        return sketch.add(sketch.choose("GlobalAveragePool", "GlobalMaxPool"), x, shape=(*shape[:2], 1, 1))
    stride, pad = sketch.choose(1, 2), sketch.choose(0, 1)
    size = [(d + 2 * pad - 2) // stride + 1 for d in shape[2:]]
    attributes = {"kernel_shape": [2, 2], "strides": [stride] * 2, "pads": [pad] * 4}
    return sketch.add(sketch.choose("MaxPool", "AveragePool", "LpPool"), x, shape=(*shape[:2], *size), **attributes)


def normalisation(sketch: Sketch, x: str) -> str | None:
    shape = sketch.shapes[x]
    if shape[-1] < 3:
        return None
    if len(shape) != 4 or sketch.choose(True, False):
        return sketch.add(
            "LayerNormalization", x, sketch.per_channel(shape[-1]), sketch.per_channel(shape[-1]), epsilon=0.1
        )
    count = shape[1]
    gamma, beta, mean, variance = (sketch.per_channel(count) for _ in range(4))
    if sketch.choose(True, False):
        return sketch.add("BatchNormalization", x, gamma, beta, mean, variance)
    if shape[2] * shape[3] > 2 and sketch.choose(True, False):
        return sketch.add("InstanceNormalization", x, gamma, beta, epsilon=0.1)
    return sketch.add("LRN", x, size=3, alpha=0.1)


def softmax(sketch: Sketch, x: str) -> str:
    return sketch.add(sketch.choose("Softmax", "LogSoftmax"), x, axis=-1)


def reduction(sketch: Sketch, x: str) -> str | None:
    """Any axis but the samples'."""
    shape = sketch.shapes[x]
    if len(shape) < 3:
        return None
    axis, keep = int(sketch.rng.integers(1, len(shape))), sketch.choose(0, 1)
    size = [1] if keep else []
    reduced = (*shape[:axis], *size, *shape[axis + 1 :])
    op_type = sketch.choose("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp")
    return sketch.add(op_type, x, sketch.ints(axis), shape=reduced, keepdims=keep)


def movement(sketch: Sketch, x: str) -> str:
    """The same values elsewhere."""
    shape, axis = sketch.shapes[x], sketch.axis(x)
    kind = sketch.choose("Transpose", "Flatten", "Concat", "Slice", "Pad", "Tile", "Gather", "Unsqueeze", "CumSum")
    if kind == "Transpose":
        perm = [0, *(1 + sketch.rng.permutation(len(shape) - 1))]
        return sketch.add(kind, x, shape=tuple(shape[i] for i in perm), perm=[int(i) for i in perm])
    if kind == "Flatten":
        return sketch.add(kind, x, shape=(shape[0], int(np.prod(shape[1:]))), axis=1)
    axis = max(axis, 1)
    if kind == "Concat":
        return sketch.add(kind, x, x, shape=_resized(shape, axis, 2 * shape[axis]), axis=axis)
    if kind == "Slice" and shape[axis] > 1:
        step = sketch.choose(1, 2, -1)
        bounds = (shape[axis] - 1, -(2**31)) if step < 0 else (1, 2**31)
        size = len(range(shape[axis])[bounds[0] :: step]) if step > 0 else shape[axis]
        operands = [sketch.ints(v) for v in (*bounds, axis, step)]
        return sketch.add(kind, x, *operands, shape=_resized(shape, axis, size))
    if kind == "Pad":
        before = [1 if i == axis else 0 for i in range(len(shape))]
        mode = sketch.choose("constant", "edge")
        pads = sketch.ints(*before, *[0] * len(shape))
        return sketch.add(kind, x, pads, shape=_resized(shape, axis, shape[axis] + 1), mode=mode)
    if kind == "Tile":
        repeats = sketch.ints(*(2 if i == axis else 1 for i in range(len(shape))))
        return sketch.add(kind, x, repeats, shape=_resized(shape, axis, 2 * shape[axis]))
    if kind == "Gather":
        rows = sketch.rng.integers(0, shape[axis], 3)
        return sketch.add(kind, x, sketch.ints(*map(int, rows)), shape=_resized(shape, axis, 3), axis=axis)
    if kind == "CumSum":
        return sketch.add(kind, x, sketch.constant(np.array(axis)))
    return sketch.add("Identity", x)


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


LAYERS: tuple[Layer, ...] = (
    *(pointwise, pointwise, two_of_a_kind, two_of_a_kind, with_a_constant, dense, attention),
    *(convolution, convolution, up, pooling, normalisation, softmax, reduction, movement, movement),
)

SHAPES = ((2, 4, 5, 5), (2, 3, 6, 4), (3, 5), (2, 4, 6))

LARGEST = 2000
"""Elements of a tensor, beyond which nothing is built on it."""


def random_case(seed: int, layers: int) -> Case:
    """The same case for the same numbers."""
    rng = np.random.default_rng(seed)
    sketch = Sketch(rng, SHAPES[int(rng.integers(len(SHAPES)))])
    while len(sketch.nodes) < layers:
        x = sketch.pick()
        layer = LAYERS[int(rng.integers(len(LAYERS)))]
        if np.prod(sketch.shapes[x]) <= LARGEST:
            layer(sketch, x)
    feeds = {"x": rng.normal(size=sketch.shapes["x"]).astype(np.float32)}
    model, form = sketch.model(), FIXED
    if rng.random() < 0.5:
        form = FED
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return Case(f"random graph {seed} of {layers} layers", form, model, feeds, ("x",))
