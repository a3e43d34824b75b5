"""Ranks and types that inference could not tell, read off one run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import InputError, ModelError
from onnxlrp.graph import FLOATS
from onnxlrp.prepare.dynamic_batch import random_feeds
from onnxlrp.session import Session


def observe_unknown(model: ir.Model) -> str:
    """Run the model once on made-up numbers and note type and shape of every tensor that has none, in place.

    Sizes are only noted where every input's size is fixed and none holds whole numbers, which may be sizes themselves;
    else the rank alone.
    returns: what was done, in words; "" when nothing was unknown, or the model does not run on made-up numbers.
    """
    graph = model.graph
    unknown = {v.name for node in graph for v in node.outputs if v.name and (v.shape is None or v.dtype is None)}
    if not unknown or any(value.shape is None for value in graph.inputs):
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
    fixed = all(v.dtype in FLOATS and all(isinstance(d, int) for d in v.shape or ()) for v in graph.inputs)
    for node in graph:
        for value in node.outputs:
            array = found.get(value.name or "")
            if value.name in unknown and isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
                value.dtype = ir.DataType.from_numpy(array.dtype)
                value.shape = ir.Shape(array.shape if fixed else [None] * array.ndim)
    return f"Types and ranks of {len(unknown)} tensors were read off one run."
