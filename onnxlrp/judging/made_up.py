"""An input that nobody gave: numbers of the declared types and shapes that the model runs on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import InputError
from onnxlrp.graph import a_category
from onnxlrp.model import Model
from onnxlrp.prepare.dynamic_batch import MOST_ELEMENTS
from onnxlrp.session import Arrays, Session

SIZES = (8, 1, 16, 32, 64, 128, 224, 256)
"""Tried for dimensions that the model leaves open, beside the batch."""

Draw = Callable[[np.random.Generator, list[int]], np.ndarray[Any, Any]]

FLOATS: tuple[Draw, ...] = (np.random.Generator.standard_normal, np.random.Generator.random)
"""Standard-normal numbers, and positive ones for models with logarithms and roots."""

INTEGERS: tuple[Draw, ...] = (
    lambda random, shape: random.integers(0, 2, shape),
    lambda random, shape: np.ones(shape, np.int64),
)
"""Small enough to be an index into anything; ones for sizes and lengths."""


def sample_input(model: Model, seed: int, providers: str | Sequence[str] | None = None, *, batch: int = 2) -> Arrays:
    """Numbers that the model runs on: fixed dimensions as declared, others tried from a short list.

    batch : samples, where the model leaves that open
    Those are preferred on which all outputs are finite.
    Errors: InputError when nothing of that runs.
    """
    session = Session(model.copy(), providers)
    runs: Arrays | None = None
    for feeds in _candidates(model.graph.inputs, batch, np.random.default_rng(seed)):
        try:
            outputs = session.run(feeds)
        except InputError:
            continue
        if all(map(_is_finite, outputs.values())):
            return feeds
        runs = runs or feeds
    if runs is not None:
        return runs
    shapes = ", ".join(f"'{v.name}' {v.shape}" for v in model.graph.inputs)
    raise InputError(f"No input was given, and no made-up one runs ({shapes}). Give one: verify MODEL INPUT.")


def _candidates(inputs: Sequence[ir.Value], batch: int, random: np.random.Generator) -> Iterator[Arrays]:
    for size in SIZES:
        sizes = _sizes(inputs, batch, size)
        if any(math.prod(shape) > MOST_ELEMENTS or min(shape, default=0) < 0 for shape in sizes.values()):
            continue
        for integers in INTEGERS:
            for floats in FLOATS:
                yield {v.name or "": _array(v, sizes[v.name or ""], floats, integers, random) for v in inputs}


def _sizes(inputs: Sequence[ir.Value], batch: int, size: int) -> dict[str, list[int]]:
    """The shape of every input; a name stands for one size wherever it is used."""
    named = {str(d): size for v in inputs for d in v.shape or () if not isinstance(d, int)}
    named |= {str(v.shape[0]): batch for v in inputs if v.shape and not isinstance(v.shape[0], int)}
    nameless = {0: batch}
    return {
        v.name or "": [
            d if isinstance(d, int) else nameless.get(axis, size) if d.value is None else named[str(d)]
            for axis, d in enumerate(v.shape or ())
        ]
        for v in inputs
    }


def _array(
    value: ir.Value, shape: list[int], floats: Draw, integers: Draw, random: np.random.Generator
) -> np.ndarray[Any, Any]:
    if value.dtype == ir.DataType.STRING:
        return np.full(shape, a_category(value) or "a", object)
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    is_float = value.dtype is None or value.dtype.is_floating_point()
    return np.asarray((floats if is_float else integers)(random, shape)).astype(dtype)


def _is_finite(output: Any) -> bool:
    return not isinstance(output, np.ndarray) or output.dtype.kind != "f" or bool(np.isfinite(output).all())
