"""Quantised models: the deployed integers are explained as the numbers they stand for; rounding passes."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.rules.registry import Contribution, general
from onnxlrp.rules.step import Step


def _along_axis(step: Step, values: ir.Value, rank_of: int) -> ir.Value:
    """Scales or zero points per tensor or per channel, shaped to broadcast along the quantisation axis."""
    dims = step.facts.dims(values)
    if dims is None or len(dims) != 1 or step.rank(0) == 1 or dims == (1,):
        return step.as_float(values)
    axis = int(step.attribute("axis", 1)) % rank_of
    return step.emit.Reshape(step.as_float(values), [-1 if i == axis else 1 for i in range(rank_of)])


@general("DequantizeLinear", source="y stands for x: relevance passes")
def dequantize(step: Step, g: ir.Value) -> list[Contribution]:
    """y = (x − zero point)·scale."""
    return step.only(g * _along_axis(step, step.raw(1), step.rank(0)))


@general("QuantizeLinear", source="rounding passes; saturation is the Clip that it implies")
def quantize(step: Step, g: ir.Value) -> list[Contribution]:
    """y = saturate(round(x / scale) + zero point): slope 1 / scale where y is not saturated, else 0."""
    emit, y = step.emit, step.y()
    lowest, highest = _range_of(step.unit.outputs[0].dtype)
    inside = emit.And(emit.Greater(y, lowest), emit.Less(y, highest))
    slope = g / _along_axis(step, step.raw(1), step.rank(0))
    return step.only(emit.Where(inside, slope, 0.0))


def _range_of(dtype: ir.DataType | None) -> tuple[float, float]:
    """The saturation bounds of an integer type; uint8 is the operator's default."""
    bits = 8 if dtype is None else max(int(dtype.bitwidth), 1)
    signed = dtype is not None and dtype.name.startswith("INT")
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
