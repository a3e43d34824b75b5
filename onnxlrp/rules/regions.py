"""Regions of interest in whole pixels, and what regions share: each reads one image of the batch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.rules.pooling import scatter_flat
from onnxlrp.rules.registry import Contribution, Keeps, choice
from onnxlrp.rules.step import Step

FAR_BELOW = -3.0e38


def read_images(emit: Emit, x: ir.Value, image: ir.Value, pixel: ir.Value) -> ir.Value:
    """Each region's pixels from its own image.

    image (region), pixel (region, cell, candidate) → (region, channel, cell, candidate)
    """
    images = emit.Reshape(emit.Gather(x, image, axis=0), [0, 0, -1])
    flat = emit.Reshape(pixel, [0, 1, -1])
    shape = emit.Concat(emit.Shape(images, end=2), emit.Shape(flat, start=2), axis=0)
    read = emit.GatherElements(images, emit.Expand(flat, shape), axis=2)
    return emit.Reshape(read, emit.Concat([0, 0], emit.Shape(pixel, start=1), axis=0))


def scatter_into_images(step: Step, image: ir.Value, values: ir.Value, pixels: ir.Value) -> ir.Value:
    """Add values (region, channel, cell) at flat pixels of each region's image (region)."""
    emit, shape = step.emit, step.shape(0)
    channels, space = emit.dim(step.raw(0), 1), emit.ReduceProd(emit.Shape(step.raw(0), start=2), keepdims=1)
    channel = emit.Reshape(emit.Range(0, emit.Squeeze(channels, [0]), 1), [1, -1, 1])
    plane = emit.Add(emit.Mul(emit.Reshape(image, [-1, 1, 1]), channels), channel)
    places = emit.Add(emit.Mul(plane, space), pixels)
    return emit.Reshape(scatter_flat(emit, values, places, step.raw(0)), shape, allowzero=1)


def _rounded(step: Step, column: int) -> ir.Value:
    """A bound in whole pixels, halves away from zero, (region, 1) int64."""
    emit = step.emit
    scaled = emit.Gather(step.x(1), [column], axis=1) * float(step.attribute("spatial_scale"))
    whole = emit.Sign(scaled) * emit.Floor(emit.Abs(scaled) + 0.5)
    return emit.Cast(whole, to=ir.DataType.INT64)


def _pixels_of_cells(step: Step, axis: int, first: int, last: int, cells: int) -> ir.Value:
    """Which pixels of one axis lie in which cell, (region, cell, pixel)."""
    emit = step.emit
    start = _rounded(step, first)
    extent = emit.Max(emit.Add(emit.Sub(_rounded(step, last), start), 1), 1)
    count = np.arange(cells)
    begins = emit.Add(start, emit.Div(emit.Mul(extent, count[None]), cells))
    ends = emit.Add(start, emit.Div(emit.Add(emit.Mul(extent, count[None] + 1), cells - 1), cells))
    pixel = emit.Range(0, emit.Squeeze(emit.dim(step.raw(0), axis), [0]), 1)
    return emit.And(
        emit.GreaterOrEqual(pixel, emit.Unsqueeze(begins, [2])), emit.Less(pixel, emit.Unsqueeze(ends, [2]))
    )


@choice("MaxRoiPool", nonnegative=Keeps.INPUTS, source="Girshick 2015; the first maximum of a cell wins")
def max_roi_pool(step: Step, g: ir.Value) -> list[Contribution]:
    """The winner of each cell, over rows and then over columns; boxes are rounded, so they have slope 0.

    x (batch, channel, height, width), boxes (region, image x₁ y₁ x₂ y₂), g (region, channel, *cells)
    """
    emit, (tall, wide) = step.emit, step.attribute("pooled_shape")
    rows, columns = _pixels_of_cells(step, 2, 2, 4, tall), _pixels_of_cells(step, 3, 1, 3, wide)
    image = emit.Cast(emit.Gather(step.x(1), 0, axis=1), to=ir.DataType.INT64)
    x = emit.Unsqueeze(emit.Gather(step.x(0), image, axis=0), [2])
    in_rows = emit.Where(emit.Unsqueeze(rows, [1, 4]), x, FAR_BELOW)
    best_row = emit.ArgMax(in_rows, axis=3, keepdims=0)
    row_values = emit.reduce("ReduceMax", in_rows, [3], keepdims=False)
    in_columns = emit.Where(emit.Unsqueeze(columns, [1, 2]), emit.Unsqueeze(row_values, [3]), FAR_BELOW)
    best_column = emit.ArgMax(in_columns, axis=4, keepdims=0)
    row = emit.GatherElements(best_row, best_column, axis=3)
    pixel = emit.Add(emit.Mul(row, emit.dim(step.raw(0), 3)), best_column)
    empty = emit.LessOrEqual(emit.reduce("ReduceMax", in_columns, [4], keepdims=False), FAR_BELOW)
    values = emit.Where(empty, 0.0, g)
    flat = (emit.Reshape(value, [0, 0, -1]) for value in (values, pixel))
    return step.only(scatter_into_images(step, image, *flat))
