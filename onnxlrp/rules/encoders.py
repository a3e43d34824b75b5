"""Preprocessing of tables (ai.onnx.ml): scaling, imputing, and codes for categories.

A category has no derivative, whether it is text, a whole number or a bin of floats. In LRP a column gets what its code
got, as truth values pass relevance on to what was compared: so an input of texts gets relevance of its own shape.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir

from onnxlrp.rules.movement import send_back
from onnxlrp.rules.registry import (
    Bilinear,
    Contribution,
    Keeps,
    general,
    linear,
    movement,
    no_signal,
    normalisation,
    nothing_flows,
    steps,
)
from onnxlrp.rules.step import Step
from onnxlrp.rules.trees import ML

# --- numbers ---------------------------------------------------------------------------------------------------------


@linear("Scaler", domain=ML, layer="scale")
def scaler(step: Step) -> Bilinear:
    """z = (x − offset) · scale, per column."""
    emit = step.emit
    scale, offset = (np.asarray(step.attribute(name), np.float64) for name in ("scale", "offset"))
    return Bilinear(
        forward=lambda x, w: emit.Mul(x, w),
        adjoint=lambda s, w: emit.Mul(s, w),
        weight=emit.constant(scale.astype(np.float32)),
        bias=emit.constant((-offset * scale).astype(np.float32)),
    )


def pass_on(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = R_y."""
    return [relevance, *[None] * (step.count - 1)]


@general("Imputer", domain=ML, relevance=pass_on, source="a missing value's column gets what its stand-in got")
def imputer(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x, or the column's stand-in where x is missing: no slope there."""
    emit = step.emit
    missing = step.attribute("replaced_value_float", np.nan)
    if not step.facts.is_float(step.raw(0)):
        missing = float(step.attribute("replaced_value_int64", 0))
    absent = emit.IsNaN(step.x()) if np.isnan(missing) else emit.Equal(step.x(), float(missing))
    return [emit.Where(absent, 0.0, g)]


@normalisation("Normalizer", domain=ML, relevance=pass_on, source="the norm is held constant", conserves="exactly")
def normalizer(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x / n with n = max x, Σ|x| or √Σx² of a row: (g − (∂n/∂x) Σ g·y) / n; y = x where n = 0."""
    emit, x, y = step.emit, step.x(), step.y()
    norm = step.attribute("norm")
    inner = emit.sum(g * y, [-1])
    if norm == "MAX":
        n = emit.reduce("ReduceMax", x, [-1])
        slope = emit.mask(emit.Equal(x, n))
        slope = slope / emit.sum(slope, [-1])
    elif norm == "L1":
        n, slope = emit.sum(emit.Abs(x), [-1]), emit.Sign(x)
    else:
        n, slope = emit.Sqrt(emit.sum(x * x, [-1])), y
    zero = emit.Equal(n, 0.0)
    return [emit.Where(zero, g, (g - slope * inner) / emit.Where(zero, 1.0, n))]


# --- categories ------------------------------------------------------------------------------------------------------


def pass_to_column(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = R_y, given the operand's shape."""
    return [step.emit.reshape_like(relevance, step.raw(0)), *[None] * (step.count - 1)]


steps(
    "LabelEncoder", "CategoryMapper", domain=ML, relevance=pass_to_column, source="the column gets what its code got"
)(nothing_flows)
steps("Binarizer", domain=ML, relevance=pass_to_column, nonnegative=Keeps.ALWAYS, source="as a comparison")(
    nothing_flows
)


def sum_of_code(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = Σ over the code of each element."""
    code = step.emit.sum(relevance, [-1], keepdims=False)
    return [step.emit.reshape_like(code, step.raw(0))]


steps(
    "OneHotEncoder",
    domain=ML,
    relevance=sum_of_code,
    nonnegative=Keeps.ALWAYS,
    source="the column gets what its indicators got",
)(nothing_flows)


# --- columns ---------------------------------------------------------------------------------------------------------


@movement("FeatureVectorizer", domain=ML)
def feature_vectorizer(step: Step, g: ir.Value) -> list[Contribution]:
    """Columns side by side, as floats: each operand gets its own."""
    widths = [int(width) for width in step.attribute("inputdimensions")]
    bounds = np.cumsum([0, *widths]).tolist()
    parts = [step.emit.Slice(g, [start], [end], [1]) for start, end in pairwise(bounds)]
    return [step.emit.reshape_like(part, step.raw(index)) for index, part in enumerate(parts)]


@movement("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(step: Step, g: ir.Value) -> list[Contribution]:
    """Columns picked by number: back to where they stood, added up where one was picked twice.

    Where the numbers are the signal and the columns a table, each number gets the sum of what was looked up.
    """
    if not step.signal(0):
        emit, numbers = step.emit, step.raw(1)
        rows = emit.Reshape(g, emit.Concat([-1], emit.Reshape(emit.Size(numbers), [1]), axis=0))
        return step.only(emit.reshape_like(emit.sum(rows, [0], keepdims=False), numbers), 1)
    return step.only(
        send_back(step, g, lambda data: step.emit.node("ArrayFeatureExtractor", data, step.raw(1), domain=ML))
    )


@movement("StringNormalizer")
def string_normalizer(step: Step, g: ir.Value) -> list[Contribution]:
    """Texts in another case; where stop words are left out, the others keep their relevance and nobody else has any."""
    return [step.emit.reshape_like(g, step.raw(0))]


no_signal("gives the scores of a tensor names: read as that tensor", "ZipMap", domain=ML)
