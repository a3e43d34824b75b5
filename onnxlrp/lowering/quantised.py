"""Operators that compute in integers, as the float operators and roundings that they stand for.

An integer operator is read as DequantizeLinear → float operator → QuantizeLinear. Scales and zero points are held
constant, those of DynamicQuantizeLinear too.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxlrp.graph import READ_AS
from onnxlrp.lowering.fused import MICROSOFT, Fused, not_lowered, viewed
from onnxlrp.lowering.linear import CONVOLUTION, given

POOLING = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


def dequantized(
    node: Fused, x: ir.Value | None, scale: ir.Value | float | None, zero: ir.Value | None, axis: int = 1
) -> ir.Value:
    """(x − zero point)·scale, with one scale for all or one per index of `axis`."""
    assert x is not None
    if isinstance(scale, float) and zero is not None and (zero.shape is None or len(zero.shape)):
        scale = node.emit.Expand(scale, node.emit.Shape(zero))
    value = node.emit.DequantizeLinear(x, _vector(node, scale), _vector(node, zero), axis=axis)
    return _typed(value, ir.DataType.FLOAT, x.shape)


def _vector(node: Fused, values: ir.Value | float | None) -> ir.Value | float | None:
    """Per-channel values as the vector that the standard wants; some operators take (1, channels)."""
    if isinstance(values, ir.Value) and values.shape is not None and len(values.shape) > 1:
        return node.emit.Reshape(values, [-1])
    return values


def operand(node: Fused, first: int, axis: int = 1) -> ir.Value:
    """The float value of operands (x, scale, zero point) that begin at `first`."""
    return dequantized(node, node.x(first), node[first + 1], node[first + 2], axis)


def requantized(node: Fused, y: ir.Value, scale: ir.Value | None, zero: ir.Value | None) -> ir.Value:
    """saturate(round(y / scale) + zero point)."""
    return node.emit.QuantizeLinear(y, _vector(node, scale), _vector(node, zero))


def _typed(value: ir.Value, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    value.type, value.shape = ir.TensorType(dtype), shape
    return value


def whole(node: Fused, y: ir.Value) -> ir.Value:
    """A float value that is a whole number, in the integer type of the node's output."""
    dtype = node.node.outputs[0].dtype or ir.DataType.INT32
    value = node.emit.Cast(y, to=dtype)
    producer = value.producer()
    assert producer is not None
    producer.metadata_props[READ_AS] = "WholeNumbers"
    return value


# --- the standard's own ----------------------------------------------------------------------------------------------


@viewed("QLinearConv", domain="")
@viewed("QLinearConv")
def qlinear_conv(node: Fused) -> ir.Value:
    """y_q = quantise(Conv(x, w) + b), the bias in steps of x_scale·w_scale."""
    emit = node.emit
    x, w = operand(node, 0), operand(node, 3, axis=0)
    bias = None
    if node.has(8):
        steps = emit.Mul(_vector(node, node[1]), _vector(node, node[4]))
        bias = emit.Mul(emit.Cast(node.x(8), to=ir.DataType.FLOAT), steps)
    if not node.attribute("channels_last", 0):
        return requantized(node, emit.Conv(x, w, bias, **given(node, *CONVOLUTION)), node[6], node[7])
    convolved = emit.Conv(first_channel(node, x), w, bias, **given(node, *CONVOLUTION))
    return requantized(node, last_channel(node, convolved), node[6], node[7])


def first_channel(node: Fused, x: ir.Value) -> ir.Value:
    """(batch, …, channel) → (batch, channel, …)."""
    rank = node.rank(0)
    return node.emit.Transpose(x, perm=[0, rank - 1, *range(1, rank - 1)])


def last_channel(node: Fused, x: ir.Value) -> ir.Value:
    """(batch, channel, …) → (batch, …, channel)."""
    rank = node.rank(0)
    return node.emit.Transpose(x, perm=[0, *range(2, rank), 1])


@viewed("QLinearMatMul", domain="")
def qlinear_matmul(node: Fused) -> ir.Value:
    """y_q = quantise(a @ b); scales per row of a and per column of b."""
    product = node.emit.MatMul(operand(node, 0, axis=-2), operand(node, 3, axis=-1))
    return requantized(node, product, node[6], node[7])


@viewed("MatMulInteger", domain="")
def matmul_integer(node: Fused) -> ir.Value:
    """y = (a − a_zero) @ (b − b_zero) in whole numbers."""
    a, b = dequantized(node, node[0], 1.0, node[2], axis=-2), dequantized(node, node[1], 1.0, node[3], axis=-1)
    return whole(node, node.emit.MatMul(a, b))


@viewed("ConvInteger", domain="")
def conv_integer(node: Fused) -> ir.Value:
    """y = Conv(x − x_zero, w − w_zero) in whole numbers."""
    x, w = dequantized(node, node[0], 1.0, node[2]), dequantized(node, node[1], 1.0, node[3], axis=0)
    return whole(node, node.emit.Conv(x, w, **given(node, *CONVOLUTION)))


@viewed("DynamicQuantizeLinear", domain="")
def dynamic_quantize_linear(node: Fused) -> tuple[ir.Value, ...]:
    """y_q = quantise(x) with scale and zero point of this batch, which are held."""
    _, scale, zero = node.kept()
    return node.emit.QuantizeLinear(node.x(), scale, zero), scale, zero


def dynamically_quantized(node: Fused, x: ir.Value) -> ir.Value:
    """x, rounded to 256 steps between its extremes, as operators do that quantise their input themselves."""
    _, scale, zero = node.keep(node.emit.nodes("DynamicQuantizeLinear", x, outputs=3))
    _typed(scale, ir.DataType.FLOAT, ir.Shape([]))
    _typed(zero, ir.DataType.UINT8, ir.Shape([]))
    q = _typed(node.emit.QuantizeLinear(x, scale, zero), ir.DataType.UINT8, x.shape)
    return dequantized(node, q, scale, zero)


# --- onnxruntime's: one operand or two, quantised again --------------------------------------------------------------


def _binary(op_type: str) -> Callable[[Fused], ir.Value]:
    def lowering(node: Fused) -> ir.Value:
        return requantized(node, node.emit.node(op_type, operand(node, 0), operand(node, 3)), node[6], node[7])

    return lowering


def _unary(op_type: str, *attributes: str) -> Callable[[Fused], ir.Value]:
    def lowering(node: Fused) -> ir.Value:
        y = node.emit.node(op_type, operand(node, 0), **given(node, *attributes))
        return requantized(node, y, node[3], node[4])

    return lowering


viewed("QLinearAdd")(_binary("Add"))
viewed("QLinearMul")(_binary("Mul"))
viewed("QLinearSigmoid")(_unary("Sigmoid"))
viewed("QLinearLeakyRelu")(_unary("LeakyRelu", "alpha"))


@viewed("QLinearAveragePool", "QLinearGlobalAveragePool")
def qlinear_pool(node: Fused) -> ir.Value:
    """y_q = quantise(mean over each window)."""
    emit, x, last = node.emit, operand(node, 0), bool(node.attribute("channels_last", 0))
    x = first_channel(node, x) if last else x
    if node.node.op_type == "QLinearAveragePool":
        y = emit.AveragePool(x, **given(node, *POOLING))
    else:
        y = emit.GlobalAveragePool(x)
    return requantized(node, last_channel(node, y) if last else y, node[3], node[4])


@viewed("QLinearSoftmax")
def qlinear_softmax(node: Fused) -> ir.Value:
    """y_q = quantise(softmax(x)); below opset 13 over all axes from `axis` on."""
    emit, x, axis = node.emit, operand(node, 0), int(node.attribute("axis", -1))
    if int(node.attribute("opset", 13)) < 13:
        flat = emit.Softmax(emit.Flatten(x, axis=axis), axis=1)
        return requantized(node, emit.Reshape(flat, emit.Shape(x), allowzero=1), node[3], node[4])
    return requantized(node, emit.Softmax(x, axis=axis), node[3], node[4])


@viewed("QLinearConcat")
def qlinear_concat(node: Fused) -> ir.Value:
    """y_q = quantise(all operands behind each other)."""
    parts = [operand(node, first) for first in range(2, len(node.node.inputs), 3)]
    return requantized(node, node.emit.Concat(*parts, axis=node.attribute("axis")), node[0], node[1])


@viewed("QLinearWhere")
def qlinear_where(node: Fused) -> ir.Value:
    """y_q = quantise(x where the condition holds, else y)."""
    return requantized(node, node.emit.Where(node.x(), operand(node, 1), operand(node, 4)), node[7], node[8])


@viewed("QGemm")
def qgemm(node: Fused) -> ir.Value:
    """y = alpha·a @ b + c, the addend in steps of alpha·a_scale·b_scale; quantised where an output scale is given."""
    emit, columns = node.emit, 0 if node.attribute("transB", 0) else 1
    alpha = float(node.attribute("alpha", 1.0))
    c = None
    if node.has(6):
        steps = emit.Mul(emit.Mul(_vector(node, node[1]), _vector(node, node[4])), alpha)
        c = emit.Mul(emit.Cast(node.x(6), to=ir.DataType.FLOAT), steps)
    y = emit.Gemm(operand(node, 0), operand(node, 3, columns), c, alpha=alpha, **given(node, "transA", "transB"))
    return requantized(node, y, node[7], node[8]) if node.has(7) else y


# --- onnxruntime's: float results ------------------------------------------------------------------------------------


@viewed("MatMulIntegerToFloat")
def matmul_integer_to_float(node: Fused) -> ir.Value:
    """y = a @ b + bias."""
    a = dequantized(node, node[0], node[2], node[4], axis=-2)
    b = dequantized(node, node[1], node[3], node[5], axis=-1)
    y = node.emit.MatMul(a, b)
    return y if node[6] is None else y + node[6]


@viewed("DynamicQuantizeMatMul")
def dynamic_quantize_matmul(node: Fused) -> ir.Value:
    """y = quantise(a) @ b + bias."""
    b = dequantized(node, node[1], node[2], node[3], axis=-1)
    y = node.emit.MatMul(dynamically_quantized(node, node.x()), b)
    return y if node[4] is None else y + node[4]


@viewed("DynamicQuantizeLSTM")
def dynamic_quantize_lstm(node: Fused) -> tuple[ir.Value, ...]:
    """LSTM with integer weights (direction, input, 4·hidden); operands 8 to 11 are their scales and zero points."""
    emit = node.emit
    w, r = (_transposed_weights(node, node.x(i), node.x(8 + 2 * (i - 1)), node[9 + 2 * (i - 1)]) for i in (1, 2))
    names = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget")
    operands = [node.x(), w, r, *(node[index] for index in range(3, 8))]
    return emit.nodes("LSTM", *operands, outputs=len(node.node.outputs), **given(node, *names))


def _transposed_weights(node: Fused, w: ir.Value, scale: ir.Value, zero: ir.Value | None) -> ir.Value:
    """(direction, 4·hidden, input) in floats; scales per direction, or per direction and column."""
    emit = node.emit
    per_column = scale.shape is not None and len(scale.shape) == 2
    axes = [1] if per_column else [1, 2]
    floats = emit.Cast(w, to=ir.DataType.FLOAT)
    if zero is not None:
        floats = floats - emit.Unsqueeze(emit.Cast(zero, to=ir.DataType.FLOAT), axes)
    return emit.Transpose(floats * emit.Unsqueeze(scale, axes), perm=[0, 2, 1])


@viewed("QAttention")
def qattention(node: Fused) -> tuple[ir.Value, ...]:
    """Attention of what its integers stand for."""
    x = dequantized(node, node[0], node[3], node[6])
    w = dequantized(node, node[1], node[4], node[7], axis=-1)
    names = ("do_rotary", "mask_filter_value", "num_heads", "past_present_share_buffer", "scale", "unidirectional")
    operands = [x, w, node[2], node[5], node[8]]
    outputs = len(node.node.outputs)
    return node.emit.nodes("Attention", *operands, outputs=outputs, domain=MICROSOFT, **given(node, *names))


@viewed("QEmbedLayerNormalization")
def qembed_layer_normalization(node: Fused) -> tuple[ir.Value, ...]:
    """EmbedLayerNormalization of what its tables stand for: operands 2 to 6, scales from 8, zero points from 13 on."""
    tables = [dequantized(node, node[2 + i], node[8 + i], node[13 + i]) if node.has(2 + i) else None for i in range(5)]
    operands = [node[0], node[1], *tables, node[7]]
    outputs = len(node.node.outputs)
    epsilon = given(node, "epsilon")
    return node.emit.nodes("EmbedLayerNormalization", *operands, outputs=outputs, domain=MICROSOFT, **epsilon)


not_lowered(
    "its integers lie in the tiled orders of CUDA's tensor cores, which no other provider reads",
    "QOrderedMatMul",
    "QOrderedLayerNormalization",
    "QOrderedGelu",
    "QOrderedAttention",
    "QOrderedLongformerAttention",
    "QuantizeWithOrder",
    "DequantizeWithOrder",
)
not_lowered("no provider of onnxruntime runs it", "QLinearReduceMean")
