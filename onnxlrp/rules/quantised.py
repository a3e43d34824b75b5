"""Quantised models: the deployed integers are explained as the numbers they stand for; rounding passes.

Scales and zero points are held constant, also where they are fed or computed (DynamicQuantizeLinear): a scale says what
one step of the integers is worth, and is no signal.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.graph import OURS, Facts
from onnxlrp.rules.registry import Contribution, general
from onnxlrp.rules.step import Step

SIGNED = frozenset({ir.DataType.INT2, ir.DataType.INT4, ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32})
UNSIGNED = frozenset({ir.DataType.UINT2, ir.DataType.UINT4, ir.DataType.UINT8, ir.DataType.UINT16})


def bounds(dtype: ir.DataType | None) -> tuple[float, float]:
    """Where a quantised type saturates; uint8 is the operators' default.

    Floating-point types of 8 and 4 bits saturate at their largest finite number.
    """
    if dtype is None:
        return 0.0, 255.0
    if dtype in UNSIGNED:
        return 0.0, 2.0 ** int(dtype.bitwidth) - 1
    if dtype in SIGNED:
        half = 2.0 ** (int(dtype.bitwidth) - 1)
        return -half, half - 1
    largest = LARGEST_FLOATS[dtype]
    return -largest, largest


LARGEST_FLOATS = {
    ir.DataType.FLOAT8E4M3FN: 448.0,
    ir.DataType.FLOAT8E4M3FNUZ: 240.0,
    ir.DataType.FLOAT8E5M2: 57344.0,
    ir.DataType.FLOAT8E5M2FNUZ: 57344.0,
    ir.DataType.FLOAT4E2M1: 6.0,
}


FOUR_BITS = frozenset({ir.DataType.INT4, ir.DataType.UINT4})
CAST_KNOWS_FOUR_BITS = 21
"""Opset; below it onnxruntime has them in its own DequantizeLinear alone."""


def as_float(emit: Emit, value: ir.Value) -> ir.Value:
    if value.dtype == ir.DataType.FLOAT:
        return value
    if value.dtype in FOUR_BITS and emit.opset < CAST_KNOWS_FOUR_BITS:
        floats = emit.node("DequantizeLinear", value, 1.0, domain="com.microsoft")
    else:
        floats = emit.Cast(value, to=ir.DataType.FLOAT)
    floats.type, floats.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
    return floats


def along_axis(emit: Emit, values: ir.Value, x: ir.Value, axis: int, block: int) -> ir.Value:
    """Scales or zero points, one for all, per index of `axis` or per block of it, as floats that broadcast to x.

    x : in floats; its rank and, for blocks, its shape at run time
    """
    floats = as_float(emit, values)
    rank = len(x.shape) if x.shape is not None else None
    alone = values.shape is not None and math.prod(d if isinstance(d, int) else 2 for d in values.shape) == 1
    if alone or rank is None or rank < 2:
        return floats if block == 0 or rank != 1 else _repeated(emit, floats, x, axis % 1, block)
    axis %= rank
    if block:
        return _repeated(emit, floats, x, axis, block)
    if values.shape is not None and len(values.shape) != 1:
        return floats
    return emit.Reshape(floats, [-1 if i == axis else 1 for i in range(rank)])


def _repeated(emit: Emit, floats: ir.Value, x: ir.Value, axis: int, block: int) -> ir.Value:
    """Every value `block` times along `axis`, cut to the size of x."""
    indices = emit.Div(emit.Range(0, emit.Squeeze(emit.dim(x, axis), [0]), 1), block)
    return emit.Gather(floats, indices, axis=axis)


def dequantized(emit: Emit, node: ir.Node) -> ir.Value:
    """(x − zero point)·scale of a DequantizeLinear, in plain arithmetic."""
    x, scale = node.inputs[0], node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None and scale is not None
    floats = as_float(emit, x)
    shifted = floats if zero is None else emit.Sub(floats, spread(emit, node, zero, floats))
    return emit.Mul(shifted, spread(emit, node, scale, floats))


def spread(emit: Emit, node: ir.Node, values: ir.Value, x: ir.Value) -> ir.Value:
    """A scale or zero point of a QuantizeLinear or DequantizeLinear, broadcastable to x."""
    return along_axis(emit, values, x, node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0))


def unrounded(emit: Emit, node: ir.Node, x: ir.Value) -> ir.Value:
    """x / scale + zero point of a QuantizeLinear: what it rounds and saturates."""
    scale = node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    assert scale is not None
    steps = emit.Div(x, spread(emit, node, scale, x))
    return steps if zero is None else emit.Add(steps, spread(emit, node, zero, x))


def clipped(emit: Emit, node: ir.Node) -> ir.Value:
    """What a QuantizeLinear rounds, inside of where its type saturates."""
    x = node.inputs[0]
    assert x is not None
    lowest, highest = bounds(node.outputs[0].dtype)
    return emit.Clip(unrounded(emit, node, x), lowest, highest)


def _starts_at_zero(node: ir.Node, facts: Facts) -> bool:
    """No integer stands for a negative number: the zero point is the lowest one, and the scales are positive."""
    x, scale = node.inputs[0], facts.constant(node.inputs[1])
    zero = facts.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if x is None or x.dtype is None or scale is None or not bool((scale > 0).all()):
        return False
    if zero is None:
        return x.dtype in UNSIGNED and (len(node.inputs) < 3 or node.inputs[2] is None)
    return x.dtype in UNSIGNED | SIGNED and bool((zero.astype(float) == bounds(x.dtype)[0]).all())


for DOMAIN in ("", "com.microsoft"):

    @general(
        "DequantizeLinear",
        domain=DOMAIN,
        source="y stands for x: relevance passes",
        elementwise=True,
        nonnegative_if=_starts_at_zero,
    )
    def dequantize(step: Step, g: ir.Value) -> list[Contribution]:
        """y = (x − zero point)·scale."""
        return step.only(g * spread(step.emit, step.unit.node, step.raw(1), as_float(step.emit, step.raw(0))))

    @general(
        "QuantizeLinear",
        domain=DOMAIN,
        source="rounding passes; saturation is the Clip that it implies",
        elementwise=True,
    )
    def quantize(step: Step, g: ir.Value) -> list[Contribution]:
        """y = saturate(round(x / scale) + zero point): slope 1 / scale where the unrounded is inside."""
        emit, node = step.emit, step.unit.node
        lowest, highest = bounds(step.unit.outputs[0].dtype)
        before = unrounded(emit, node, step.x())
        inside = emit.And(emit.Greater(before, lowest), emit.Less(before, highest))
        slope = g / spread(emit, node, step.raw(1), step.raw(0))
        return step.only(emit.Where(inside, slope, 0.0))


@general(
    "WholeNumbers", domain=OURS, source="a float that is a whole number already, in an integer type", elementwise=True
)
def whole_numbers(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x."""
    return step.only(g)
