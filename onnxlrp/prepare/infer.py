"""Shapes and types of tensors that have none yet, by the standard's inference."""

from __future__ import annotations

import onnx.defs
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxlrp.rules.registry import Family, lookup

DOUBTFUL = "onnxlrp.doubtful"
"""Mark of a tensor whose sizes are better not known (see `confirm_shapes`)."""


def fill_in_shapes(model: ir.Model) -> None:
    """Infer what is unknown, in place; what is known stays as it is."""
    _infer(model)
    given = [_give_rank(node) for node in model.graph]
    if any(given):
        _infer(model)


def _infer(model: ir.Model) -> None:
    trial = model.clone()
    for node in trial.graph:
        if _is_foreign(node, model.opset_imports[""]) and _keeps_shape(node):
            _read_as_identity(node)
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(trial)
    inferred = {value.name: value for node in trial.graph for value in node.outputs if value.name}
    for node in model.graph:
        for value in node.outputs:
            found = inferred.get(value.name or "")
            if found is None:
                continue
            if value.dtype is None and found.dtype is not None:
                value.dtype = found.dtype
            if found.shape is not None and DOUBTFUL not in value.meta:
                value.shape = _joined(value.shape, found.shape)


def _is_foreign(node: ir.Node, opset: int) -> bool:
    """Whether the standard does not know the operator, as onnxruntime's LayerNormalization below opset 17."""
    return bool(node.domain) or not onnx.defs.has(node.op_type, opset, node.domain)


def _keeps_shape(node: ir.Node) -> bool:
    operator = lookup(node.op_type, node.domain)
    if operator is None:
        return False
    return operator.derivative is not None or operator.family in (Family.NORMALISATION, Family.SOFTMAX)


def _read_as_identity(node: ir.Node) -> None:
    node.op_type, node.domain = "Identity", ""
    node.resize_inputs(1)
    node.attributes.clear()
    for value in node.outputs[1:]:
        value.name = ""


def _joined(known: ir.Shape | None, found: ir.Shape) -> ir.Shape:
    """The known dimensions, and the found ones where they are unknown."""
    if known is None:
        return found
    if len(known) != len(found):
        return known
    unknown = [not isinstance(d, int) and d.value is None for d in known]
    return ir.Shape([f if u else k for k, f, u in zip(known, found, unknown, strict=True)])


def _give_rank(node: ir.Node) -> bool:
    """The rank alone, where the standard's inference gives up for want of values.  returns: whether that was new"""
    if node.domain or any(value.shape is not None for value in node.outputs) or not node.inputs:
        return False
    like = node.inputs[1] if node.op_type == "Reshape" else node.inputs[0]
    if node.op_type not in ("Split", "Reshape") or like is None or like.shape is None:
        return False
    rank = len(like.shape) if node.op_type == "Split" else like.shape[0]
    if isinstance(rank, int):
        for value in node.outputs:
            value.shape = ir.Shape([None] * rank)
            if value.dtype is None and node.inputs[0] is not None and node.inputs[0].dtype is not None:
                value.dtype = node.inputs[0].dtype
    return isinstance(rank, int)
