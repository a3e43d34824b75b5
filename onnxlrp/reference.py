"""The forward pass on a reference input, written beside the original (DeepLIFT compares the two)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import InputError, Unsupported
from onnxlrp.plan import Plan


def reference_pass(emit: Emit, plan: Plan, baseline: Any) -> Callable[[ir.Value], ir.Value]:
    """Copy every node that a signal runs through, fed with the baseline instead of the explained tensors.

    baseline : a number, an array that broadcasts to the input, or {name: number or array}
    returns  : tensor → its value on the reference input (itself where no signal reaches it)
    """
    twins: dict[ir.Value, ir.Value] = {}
    for value in plan.explained:
        given = baseline.get(value.name, 0.0) if isinstance(baseline, Mapping) else baseline
        twins[value] = emit.Expand(_as_array(given, value), emit.Shape(value))
    _refuse_control_flow(plan)
    with emit.serving("reference"):
        for node in list(plan.facts.graph):
            if not any(output in plan.facts.signals for output in node.outputs) or node.outputs[0] in twins:
                continue
            if not any(operand in twins for operand in node.inputs):
                continue
            _copy(emit, node, twins)
    return lambda value: twins.get(value, value)


def _refuse_control_flow(plan: Plan) -> None:
    found = [str(decision.unit) for decision in plan.decisions if decision.inside]
    if found:
        raise Unsupported(
            f"DeepLIFT compares two runs layer by layer, and two runs may take other branches or turns: "
            f"{', '.join(found)}. Use lrp, integrated-gradients or another method."
        )


def _copy(emit: Emit, node: ir.Node, twins: dict[ir.Value, ir.Value]) -> None:
    operands = [twins.get(operand, operand) if operand is not None else None for operand in node.inputs]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    copied = emit.nodes(node.op_type, *operands, outputs=len(node.outputs), domain=node.domain, **attributes)
    for output, twin in zip(node.outputs, copied, strict=True):
        twin.type, twin.shape = output.type, output.shape
        twins[output] = twin


def _as_array(given: Any, value: ir.Value) -> np.ndarray[Any, Any]:
    array = np.asarray(given, np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"The baseline for '{value.name}' holds NaN or infinity.")
    return array
