"""How far the float view of a quantised model, which relevance walks, lies from the integers of the deployed one.

Every part of the view reads deployed integers, so a distance is that part's own and does not add up:

    d = deployed integers − clip(x / scale + zero point, lowest, highest)      half a step at most where all is well
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxlrp.deployed import PREFIX, QUANTIZE, float_view, is_quantised, keep_deployed
from onnxlrp.emit import Emit
from onnxlrp.errors import Unsupported
from onnxlrp.explanation import Arrays
from onnxlrp.findings import Finding
from onnxlrp.graph import FLOATS, KEPT
from onnxlrp.judging.straight import straightened
from onnxlrp.lowering import has_view
from onnxlrp.model import Model
from onnxlrp.rules.quantised import clipped
from onnxlrp.session import Session, run_in_own_batch

ROUNDED, RESULTS = "the float view rounds to the deployed integers", "the float view gives the deployed results"

STEPS = 0.75
"""Mean over a tensor: rounding takes a quarter on average and a half at most; a zero point that is off by one, 1."""

RELATIVE = 0.05
"""Of results in floats: some kernels round their input themselves, to 8 bits."""


MANTISSA = {
    ir.DataType.FLOAT8E4M3FN: 3,
    ir.DataType.FLOAT8E4M3FNUZ: 3,
    ir.DataType.FLOAT8E5M2: 2,
    ir.DataType.FLOAT8E5M2FNUZ: 2,
    ir.DataType.FLOAT4E2M1: 1,
}
"""Bits behind the leading one."""

RESULTS_IN = FLOATS | {ir.DataType.INT32}


def view_agrees(model: Model, feeds: Arrays, providers: str | Sequence[str] | None = None) -> list[Finding]:
    """One finding per kind of tensor that a quantised model has: integers, and floats that integer kernels give."""
    if not is_quantised(model.graph):
        return []
    try:
        model = straightened(model, feeds, is_quantised, providers)
    except Unsupported as error:
        return [Finding(ROUNDED, True, None, None, "", f"not applicable: it rounds inside, and {error}")]
    integers, results = _distances(model, feeds, providers)
    found = []
    if integers:
        where, (mean, largest) = max(integers.items(), key=lambda item: item[1])
        detail = f"mean at '{where}', at most {largest:.3g} there; {len(integers)} tensors"
        found.append(Finding(ROUNDED, mean <= STEPS, mean, STEPS, "steps", detail))
    if results:
        where, distance = max(results.items(), key=lambda item: item[1])
        found.append(Finding(RESULTS, distance <= RELATIVE, distance, RELATIVE, "relative", f"at '{where}'"))
    return found


def _distances(
    model: Model, feeds: Arrays, providers: str | Sequence[str] | None
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """By name of a tensor.  returns: (mean, largest) distance in steps; relative distance of results in floats"""
    joint = float_view(model)
    emit, nodes = Emit(joint.graph, model.opset), list(joint.graph)
    with emit.serving("agreement"):
        views = {node.outputs[0]: clipped(emit, node) for node in nodes if node.op_type == QUANTIZE}
    names = {value.name for node in model.graph if has_view(node) for value in node.outputs}
    written = [node for node in nodes if KEPT not in node.metadata_props]
    results = [v for node in written for v in node.outputs if v.name in names and v.dtype in RESULTS_IN]
    joint.graph.outputs.clear()
    anchors = keep_deployed(joint, model.copy(), emit)
    deployed = {value.name: value for node in joint.graph for value in node.outputs}
    pairs = {value: (anchors[value], view) for value, view in views.items() if value in anchors}
    pairs |= {value: (deployed[f"{PREFIX}{value.name}"], value) for value in results}
    if not pairs:
        return {}, {}
    for pair in pairs.values():
        joint.graph.outputs.extend(_shown(emit, value) for value in pair)
    arrays = list(run_in_own_batch(Session(joint, providers), feeds).values())
    integers, relative = dict[str, tuple[float, float]](), dict[str, float]()
    for value, theirs, ours in zip(pairs, arrays[::2], arrays[1::2], strict=True):
        apart = np.abs(theirs - ours)
        if value in views:
            apart = apart / _step(value.dtype, theirs)
            integers[value.name or ""] = float(apart.mean()), float(apart.max(initial=0.0))
        else:
            size = float(np.linalg.norm(theirs)) or 1.0
            relative[value.name or ""] = float(np.linalg.norm(apart)) / size
    return integers, relative


def _step(dtype: ir.DataType | None, numbers: np.ndarray) -> np.ndarray | float:
    """How far a number and the next one lie apart: 1 for integers, a power of two for small floats."""
    bits = MANTISSA.get(dtype) if dtype is not None else None
    if bits is None:
        return 1.0
    _, exponents = np.frexp(numbers)
    return np.asarray(2.0 ** (exponents - 1 - bits))


def _shown(emit: Emit, value: ir.Value) -> ir.Value:
    with emit.serving("agreement"):
        shown = emit.fresh("Cast", value, to=ir.DataType.DOUBLE)
    shown.type = ir.TensorType(ir.DataType.DOUBLE)
    return shown
