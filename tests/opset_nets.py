"""Small models in the form that each opset has for them: attributes that became inputs, operators that were renamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.parser
from onnx import numpy_helper

LOWEST, HIGHEST = 7, 26
"""What onnxruntime promises to run, and the highest that the one of our development runs."""

LAST_CHANGE = 20

IR_OF_OPSET = ((9, 3), (13, 4), (16, 7), (21, 8), (99, 10))
"""Below which opset a file gets which IR version; version 3 lists every initialiser as an input."""


@dataclass
class Form:
    """Lines of a model of one opset, and its weights.  Each method writes one operator as that opset has it."""

    opset: int
    lines: list[str] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    weights: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def op(self, op_type: str, *operands: str, outputs: int = 1, **attributes: Any) -> str:
        """Append a node; its outputs, separated by commas."""
        given = ", ".join(f"{name} = {_literal(value)}" for name, value in attributes.items())
        results = ", ".join(f"t{len(self.lines)}_{index}" for index in range(outputs))
        self.lines.append(f"{results} = {op_type} {f'<{given}>' if given else ''} ({', '.join(operands)})")
        return results

    def weight(self, *shape: int) -> str:
        return self.constant(self.random.normal(size=shape).astype(np.float32))

    def constant(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def whole(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def by_axes(self, op_type: str, x: str, axes: list[int], since: int, **attributes: Any) -> str:
        """Squeeze, Unsqueeze and the reductions: axes are an attribute below `since`, and an operand from there on."""
        if self.opset < since:
            return self.op(op_type, x, axes=axes, **attributes)
        return self.op(op_type, x, self.whole(*axes), **attributes)

    def dropout(self, x: str) -> str:
        if self.opset < 12:
            return self.op("Dropout", x, ratio=0.4)
        return self.op("Dropout", x, self.constant(np.float32(0.4)))

    def slice(self, x: str, starts: list[int], ends: list[int], axes: list[int]) -> str:
        if self.opset < 10:
            return self.op("Slice", x, starts=starts, ends=ends, axes=axes)
        return self.op("Slice", x, self.whole(*starts), self.whole(*ends), self.whole(*axes))

    def pad(self, x: str, pads: list[int], value: float) -> str:
        if self.opset < 11:
            return self.op("Pad", x, pads=pads, value=value)
        return self.op("Pad", x, self.whole(*pads), self.constant(np.float32(value)))

    def clip(self, x: str, low: float, high: float) -> str:
        if self.opset < 11:
            return self.op("Clip", x, min=low, max=high)
        return self.op("Clip", x, self.constant(np.float32(low)), self.constant(np.float32(high)))

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        if self.opset < 13:
            return self.op("Split", x, outputs=len(sizes), axis=axis, split=sizes).split(", ")
        return self.op("Split", x, self.whole(*sizes), outputs=len(sizes), axis=axis).split(", ")

    def top_k(self, x: str, k: int) -> str:
        if self.opset < 10:
            return self.op("TopK", x, outputs=2, k=k).split(", ")[0]
        return self.op("TopK", x, self.whole(k), outputs=2).split(", ")[0]

    def larger(self, x: str, mode: str) -> str:
        """Twice as high and wide, samples at i / 2."""
        scales = [1.0, 1.0, 2.0, 2.0]
        if self.opset < 9:
            return self.op("Upsample", x, mode=mode, scales=scales)
        operand = self.constant(np.array(scales, np.float32))
        if self.opset < 11:
            return self.op("Upsample" if self.opset < 10 else "Resize", x, operand, mode=mode)
        nothing = self.constant(np.zeros(0, np.float32)) if self.opset < 13 else ""
        where = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.op("Resize", x, nothing, operand, mode=mode, **where)

    def flattened(self, op_type: str, x: str, axis: int, sizes: list[int]) -> str:
        """Softmax and its like over all axes from `axis` on, which they did by themselves below opset 13."""
        if self.opset < 13:
            return self.op(op_type, x, axis=axis)
        rows = self.op(op_type, self.op("Reshape", x, self.whole(*sizes[:axis], -1)), axis=-1)
        return self.op("Reshape", rows, self.whole(*sizes))

    def model(self, shape: list[int], result: str) -> onnx.ModelProto:
        self.lines.append(f"y = Identity ({result})")
        version = next(ir for below, ir in IR_OF_OPSET if self.opset < below)
        text = f"""<ir_version: {version}, opset_import: ["" : {self.opset}]>
            net (float{shape} x) => (float y) {{ {" ".join(self.lines)} }}"""
        proto = onnx.parser.parse_model(text)
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        for name, array in self.weights.items():
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
            if version == 3:
                kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                proto.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
        return proto


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


# --- the nets --------------------------------------------------------------------------------------------------------


def cnn(form: Form) -> str:
    op = form.op
    x = op("Conv", "x", form.weight(4, 3, 3, 3), form.weight(4), pads=[1, 1, 1, 1])
    variance = form.constant(np.array([0.5, 1.0, 2.0, 1.5], np.float32))
    oldest = {"spatial": 1} if form.opset < 9 else {}
    x = op("BatchNormalization", x, form.weight(4), form.weight(4), form.weight(4), variance, **oldest)
    x = op("MaxPool", op("Relu", x), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0])
    x = op("AveragePool", x, kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)
    x = op("ConvTranspose", op("LeakyRelu", x), form.weight(4, 4, 2, 2), strides=[2, 2])
    x = form.dropout(op("PRelu", x, form.weight(4, 1, 1)))
    x = op("Flatten", op("GlobalAveragePool", x))
    return op("Softmax", op("Gemm", x, form.weight(4, 5), form.weight(5)), axis=1)


def pictures(form: Form) -> str:
    op = form.op
    x = op("Conv", form.larger("x", "nearest"), form.weight(3, 3, 2, 2))
    x = op("LRN", op("InstanceNormalization", form.larger(x, "linear"), form.weight(3), form.weight(3)), size=3)
    x = op("DepthToSpace", op("SpaceToDepth", form.slice(x, [0, 1], [28, 29], [2, 3]), blocksize=2), blocksize=2)
    return form.by_axes("ReduceMean", op("Elu", x), [2, 3], 18, keepdims=0)


def pieces(form: Form) -> str:
    op = form.op
    x = form.pad(form.slice("x", [1, -6], [7, 8], [2, 3]), [0, 0, 1, 0, 0, 0, 0, 2], 0.3)
    first, second = form.split(form.clip(x, -0.9, 1.1), [1, 2], 1)
    wide = form.by_axes("Unsqueeze", form.by_axes("Squeeze", first, [1], 13), [1], 13)
    x = op("Concat", op("Transpose", second, perm=[0, 1, 3, 2]), op("Transpose", wide, perm=[0, 1, 3, 2]), axis=1)
    x = op("Reshape", op("Tile", x, form.whole(1, 1, 2, 1)), form.whole(0, -1, 4))
    x = op("Expand", x, form.whole(1, 1, 4)) if form.opset >= 8 else x
    x = form.by_axes("ReduceSum", x, [2], 13, keepdims=0)
    return op("Gather", form.top_k(x, 7), form.whole(0, 2, 6), axis=1)


def softmaxes(form: Form) -> str:
    op, sizes = form.op, [1, 3, 8, 8]
    x = form.flattened("Softmax", "x", 2, sizes)
    x = op("Mul", x, form.flattened("LogSoftmax", "x", 1, sizes))
    x = op("Mul", op("Add", x, "x"), form.flattened("Hardmax", "x", 2, sizes))
    return form.by_axes("ReduceL2", x, [2, 3], 18, keepdims=0)


def arithmetic(form: Form) -> str:
    op = form.op
    rows = form.by_axes("ReduceMax", "x", [3], 18, keepdims=1)
    same = op("Sum", "x", op("Abs", "x"), op("Max", "x", op("Neg", "x")))
    x = op("Div", op("Sub", op("Mul", same, rows), form.weight(8)), form.constant(np.float32(1.7)))
    x = op("Min", x, op("Pow", x, form.constant(np.float32(2)))) if form.opset >= 8 else op("Min", x, op("Mul", x, x))
    inverse = op("Reciprocal", op("Add", op("Mul", x, x), form.constant(np.float32(1))))
    x = op("Mean", x, op("Sqrt", op("Exp", x)), inverse)
    x = op("Cast", op("Cast", x, to=11), to=1)
    x = op("MatMul", op("Sigmoid", op("HardSigmoid", x)), form.weight(8, 4))
    x = op("Softplus", op("Tanh", op("Selu", x)))
    return form.by_axes("ReduceLogSumExp", x, [2, 3], 18, keepdims=0)


def recurrent(form: Form) -> str:
    op = form.op
    x = op("Transpose", op("Reshape", "x", form.whole(3, 8, 8)), perm=[1, 0, 2])
    both = {"hidden_size": 5, "direction": "bidirectional"}
    x = op("LSTM", x, form.weight(2, 20, 8), form.weight(2, 20, 5), form.weight(2, 40), **both)
    x = op("Reshape", op("Transpose", x, perm=[0, 2, 1, 3]), form.whole(8, 3, 10))
    x = form.by_axes("Squeeze", op("GRU", x, form.weight(1, 12, 10), form.weight(1, 12, 4), hidden_size=4), [1], 13)
    x = op("RNN", x, form.weight(1, 4, 4), form.weight(1, 4, 4), hidden_size=4)
    return op("Reshape", form.slice(x, [7], [8], [0]), form.whole(3, 4))


def attention(form: Form) -> str:
    op, one, small = form.op, form.constant(np.float32(1)), form.constant(np.float32(1e-5))
    x = op("Reshape", "x", form.whole(3, 8, 8))
    if form.opset < 17:
        centred = op("Sub", x, form.by_axes("ReduceMean", x, [-1], 18))
        variance = form.by_axes("ReduceMean", op("Mul", centred, centred), [-1], 18)
        normal = op("Div", centred, op("Sqrt", op("Add", variance, small)))
        n = op("Add", op("Mul", normal, form.weight(8)), form.weight(8))
    else:
        n = op("LayerNormalization", x, form.weight(8), form.weight(8))
    q, k, v = (op("MatMul", n, form.weight(8, 8)) for _ in range(3))
    scores = op("Div", op("MatMul", q, op("Transpose", k, perm=[0, 2, 1])), form.constant(np.float32(8**0.5)))
    mask = form.constant(np.triu(np.full((8, 8), -1e9, np.float32), 1))
    softmax = op("Softmax", op("Add", scores, mask), axis=2 if form.opset < 11 else -1)
    x = op("Add", x, op("MatMul", softmax, v))
    h = op("MatMul", x, form.weight(8, 12))
    if form.opset < 20:
        inner = op("Add", op("Erf", op("Div", h, form.constant(np.float32(2**0.5)))), one)
        h = op("Mul", op("Mul", h, inner), form.constant(np.float32(0.5)))
    else:
        h = op("Gelu", h)
    x = op("Add", x, op("MatMul", h, form.weight(12, 8)))
    return form.by_axes("ReduceMean", x, [1], 18, keepdims=0)


def positions(form: Form) -> str:
    op = form.op
    x = op("Reshape", "x", form.whole(3, 64))
    best = op("ArgMax", x, axis=1, keepdims=0)
    code = op("OneHot", best, form.constant(np.int64(64)), form.constant(np.array([0.5, 1.5], np.float32)))
    x = op("Where", op("Greater", x, form.constant(np.float32(0))), op("Mul", x, code), op("Sign", x))
    indices = form.constant(np.array([[0, 9], [5, 5], [63, 1]])[:, :2])
    updates = form.slice(x, [3], [5], [1])
    x = op("Scatter" if form.opset < 11 else "ScatterElements", op("Add", x, x), indices, updates, axis=1)
    x = op("Mul", x, op("Cast", op("Shrink", x, lambd=0.2, bias=0.1), to=1))
    ends = op("Gather", x, form.whole(0, -1 if form.opset >= 11 else 63), axis=1)
    return op("MatMul", op("Concat", form.top_k(x, 3), ends, axis=1), form.weight(5, 3))


def loops(form: Form) -> str:
    for value in (np.int64(3), np.bool_(True), np.float32(0)):
        form.constant(value)
    form.lines.append(
        """q = ReduceSum <keepdims = 0> (x) p = Greater (q, w2)
        b = If (p) <
            then_branch = one () => (float[1, 3, 8, 8] u) { u = Exp (x) },
            else_branch = two () => (float[1, 3, 8, 8] v) { v = Abs (x) }
        >
        l = Loop (w0, w1, b) <body = turn (int64 i, bool go, float[1, 3, 8, 8] s) => (bool more, float[1, 3, 8, 8] r) {
            more = Identity (go) a = Tanh (s) r = Add (a, x)
        }>"""
    )
    return form.by_axes("ReduceMean", "l", [2, 3], 18, keepdims=0)


def scans(form: Form) -> str:
    """Below opset 9 along a batch as well; from there on the batch is in the state."""
    rows = form.op("Reshape", "x", form.whole(3, 8, 8))
    start, of_each = form.constant(np.zeros((3, 8), np.float32)), "float[8]" if form.opset < 9 else "float[3, 8]"
    given = f", {start}, {rows}" if form.opset < 9 else f"{start}, {form.op('Transpose', rows, perm=[1, 0, 2])}"
    form.lines.append(
        f"""last, all = Scan <num_scan_inputs = 1, body = turn
            ({of_each} s, {of_each} v) => ({of_each} t, {of_each} o) {{
            a = Add (s, v) t = Tanh (a) o = Mul (t, v)
        }}> ({given})"""
    )
    return form.by_axes("ReduceSum", "all", [1 if form.opset < 9 else 0], 13, keepdims=0)


def lists(form: Form) -> str:
    op = form.op
    parts = op("SplitToSequence", "x", form.whole(2, 1), axis=1)
    more = op("SequenceInsert", parts, op("CumSum", "x", form.constant(np.int64(3))))
    x = op("ConcatFromSequence", more, axis=1)
    x = op("Mul", x, op("SequenceAt", more, form.constant(np.int64(1))))
    return form.by_axes("ReduceSum", op("GatherND", x, form.constant(np.array([[0, 1], [0, 5]]))), [2], 13, keepdims=0)


def rounded(form: Form) -> str:
    op, scale, zero = form.op, form.constant(np.float32(0.05)), form.constant(np.uint8(128))
    x = op("DequantizeLinear", op("QuantizeLinear", "x", scale, zero), scale, zero)
    w = form.constant(form.random.integers(-90, 90, (4, 3, 3, 3)).astype(np.int8))
    weight = op("DequantizeLinear", w, form.constant(np.float32(0.02)), form.constant(np.int8(0)))
    return form.by_axes("ReduceMean", op("Relu", op("Conv", x, weight)), [2, 3], 18, keepdims=0)


@dataclass(frozen=True)
class Net:
    """build : writes the nodes; the last one's output        since : the lowest opset that has its operators"""

    build: Callable[[Form], str]
    since: int = LOWEST

    def at(self, opset: int) -> onnx.ModelProto:
        form = Form(opset)
        result = self.build(form)
        return form.model([1, 3, 8, 8], result)

    def opsets(self) -> list[int]:
        """Where one of its operators changes, the lowest and the highest; later changes add types of numbers alone."""
        nodes = [node for opset in range(self.since, HIGHEST + 1) for node in self.at(opset).graph.node]
        changes = {
            schema.since_version
            for schema in onnx.defs.get_all_schemas_with_history()
            if not schema.domain and schema.name in {node.op_type for node in nodes}
        }
        return sorted({self.since, HIGHEST} | {c for c in changes if self.since <= c <= LAST_CHANGE})


NETS = {
    "convolutions": Net(cnn),
    "pictures": Net(pictures),
    "pieces": Net(pieces),
    "softmaxes": Net(softmaxes),
    "arithmetic": Net(arithmetic),
    "recurrent": Net(recurrent),
    "attention": Net(attention, since=9),
    "positions": Net(positions, since=9),
    "loops": Net(loops),
    "scans": Net(scans, since=8),
    "lists": Net(lists, since=11),
    "rounded": Net(rounded, since=10),
}
