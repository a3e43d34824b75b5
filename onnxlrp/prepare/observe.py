"""Ranks and types that inference could not tell, read off one run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import InputError, ModelError
from onnxlrp.graph import FLOATS
from onnxlrp.prepare.dynamic_batch import random_feeds
from onnxlrp.prepare.infer import fill_in_shapes
from onnxlrp.session import Session

SMALL_WEIGHTS = 1 << 20

ANY = 8
"""What `random_feeds` puts in place of a size that is only known at run time."""

ELEMENTWISE = {"Scaler": ir.DataType.FLOAT, "Normalizer": ir.DataType.FLOAT, "Imputer": None, "Binarizer": None}
"""Operators of ai.onnx.ml with one value for each, and the type they give; None where it stays."""

AS_MANY_AS_FOUND = frozenset(
    {"NonZero", "Unique", "Compress", "NonMaxSuppression", "Range", "OneHot", "Loop", "StringSplit"}
)
"""Operators whose output's size follows from values."""


def observe_unknown(model: ir.Model) -> str:
    """Run the model once on made-up numbers and note type and shape of every tensor that has none, in place.

    Sizes are only noted where they are the same in every run (see `_has_fixed_sizes`); else the rank alone.
    returns: what was done, in words; "" when nothing was unknown, or the model does not run on made-up numbers.
    """
    graph = model.graph
    _keep_shapes(graph)
    unknown = _unknown(graph)
    if unknown:
        fill_in_shapes(model)
        unknown = _unknown(graph)
    if not (unknown or _is_tabular(graph)) or any(value.shape is None for value in graph.inputs):
        return ""
    shown = model.clone()
    visible = {value.name for value in shown.graph.outputs}
    shown.graph.outputs.extend(
        v for node in shown.graph for v in node.outputs if v.name in unknown and v.name not in visible
    )
    try:
        session = Session(shown, "cpu", optimise=False)
        found = session.run(random_feeds(model, np.random.default_rng(0)))
    except (InputError, ModelError):
        return ""
    fixed = _has_fixed_sizes(graph)
    for node in graph:
        for value in node.outputs:
            array = found.get(value.name or "")
            if value.name in unknown and isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
                value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
                value.shape = ir.Shape(array.shape if fixed else [None] * array.ndim)
    wrong = [value.name or "" for value in graph.outputs if _corrected(value, found.get(value.name or ""), fixed)]
    notes = [f"Types and ranks of {len(unknown)} tensors were read off one run."] if unknown else []
    notes += [f"The file declares another size of {', '.join(wrong)} than a run gives."] if wrong else []
    return " ".join(notes)


def _unknown(graph: ir.Graph) -> set[str]:
    return {v.name for node in graph for v in node.outputs if v.name and (v.shape is None or v.dtype is None)}


def _has_fixed_sizes(graph: ir.Graph) -> bool:
    """Every input has a fixed size and none holds whole numbers, which may be sizes; and nothing is counted."""
    inputs = all(v.dtype in FLOATS and all(isinstance(d, int) for d in v.shape or ()) for v in graph.inputs)
    return inputs and not any(node.op_type in AS_MANY_AS_FOUND for node in graph.all_nodes())


def _keep_shapes(graph: ir.Graph) -> None:
    """Operators of tables that the standard's inference knows nothing of: one value for each."""
    for node in graph:
        if node.domain == "ai.onnx.ml" and node.op_type in ELEMENTWISE and node.inputs[0] is not None:
            node.outputs[0].shape = node.inputs[0].shape
            dtype = node.outputs[0].dtype or ELEMENTWISE[node.op_type] or node.inputs[0].dtype
            if dtype is not None:
                node.outputs[0].type = ir.TensorType(dtype)


def _is_tabular(graph: ir.Graph) -> bool:
    """Small models of tables, whose exporters are careless about the sizes they declare; their run costs nothing."""
    weights = sum(v.const_value.size for v in graph.initializers.values() if v.const_value is not None)
    return weights < SMALL_WEIGHTS and all(v.shape is not None and len(v.shape) <= 2 for v in graph.inputs)


def _corrected(value: ir.Value, array: object, fixed: bool) -> bool:
    """Where the file fixes other sizes of an output than a run gives, forget or correct them.  returns: whether so"""
    if not isinstance(array, np.ndarray) or value.shape is None:
        return False
    if len(value.shape) != array.ndim:
        value.shape = ir.Shape([None] * array.ndim)
        return True
    pairs = list(zip(value.shape, array.shape, strict=True))
    if all(not isinstance(d, int) or d == s for d, s in pairs):
        return False
    known = [s if fixed and s != ANY else None for s in array.shape]
    value.shape = ir.Shape(
        [d if not isinstance(d, int) or d == s else k for (d, s), k in zip(pairs, known, strict=True)]
    )
    return True
