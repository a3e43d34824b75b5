"""Shapes and types of tensors that have none yet, by the standard's inference."""

from __future__ import annotations

from collections.abc import Set

import onnx.defs
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxlrp.graph import READ_AS, subgraphs
from onnxlrp.rules.registry import Family, lookup

DOUBTFUL = "onnxlrp.doubtful"
"""Mark of a tensor whose sizes are better not known (see `confirm_shapes`)."""


MADE_UP = "unk__"
"""How inference begins the names of dimensions that it knows nothing of; each run counts anew."""


ROUNDS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""onnxruntime has them for 16 and 4 bits too, before the standard had those types."""


def fill_in_shapes(model: ir.Model) -> None:
    """Infer what is unknown, in place; what is known stays as it is."""
    _infer(model, frozenset())
    given = {value.name for node in model.graph if _give_rank(node) for value in node.outputs}
    if given:
        _infer(model, given)


def _infer(model: ir.Model, keep: Set[str | None]) -> None:
    """One run of inference.  keep : tensors whose rank it has to take over, for it does not find it"""
    trial = model.clone()
    for node in trial.graph:
        foreign = read_as_standard(node, model.opset_imports[""])
        for value in node.outputs:
            if value.shape is not None and not value.is_graph_output():
                only_rank = foreign or bool(subgraphs(node)) or value.name in keep
                value.shape = _without_made_up(value.shape, only_rank)
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(trial)
    inferred = {value.name: value for node in trial.graph for value in node.outputs if value.name}
    for node in model.graph:
        for value in node.outputs:
            found = inferred.get(value.name or "")
            if found is not None:
                _take(value, found)


def _without_made_up(shape: ir.Shape, only_rank: bool) -> ir.Shape | None:
    """A shape to start from: whole, or nothing that would hide what inference finds, or the rank with what is known."""
    if not any(_is_unknown(d) for d in shape):
        return shape
    return ir.Shape([None if _is_unknown(d) else d for d in shape]) if only_rank else None


def _is_unknown(dimension: int | ir.SymbolicDim) -> bool:
    return not isinstance(dimension, int) and (dimension.value is None or dimension.value.startswith(MADE_UP))


def _take(value: ir.Value, found: ir.Value) -> None:
    """Found type and dimensions where there are none."""
    if value.dtype is None and found.dtype is not None:
        value.type = ir.TensorType(found.dtype)
    if DOUBTFUL in value.meta:
        return
    if value.shape is None:
        value.shape = found.shape
    else:
        better = found.shape if found.shape is not None and len(found.shape) == len(value.shape) else None
        dims = better if better is not None else [None] * len(value.shape)
        value.shape = ir.Shape([f if _is_unknown(k) else k for k, f in zip(value.shape, dims, strict=True)])


def _is_foreign(node: ir.Node, opset: int) -> bool:
    """Whether the standard does not know the operator, as onnxruntime's LayerNormalization below opset 17."""
    return bool(node.domain) or not onnx.defs.has(node.op_type, opset, node.domain)


def _keeps_shape(node: ir.Node) -> bool:
    operator = lookup(node.op_type, node.domain)
    if operator is None:
        return False
    return operator.derivative is not None or operator.family in (Family.NORMALISATION, Family.SOFTMAX)


def read_as_standard(node: ir.Node, opset: int) -> bool:
    """Rewrite a foreign node whose output is shaped like its input as one that inference knows, in place.

    returns: whether the standard does not know the operator
    """
    if node.metadata_props.get(READ_AS) == "Deployed":
        node.replace_input_with(0, node.inputs[1])
        _read_as(node, None)
    elif not _is_foreign(node, opset):
        return False
    elif node.op_type in ROUNDS and len(node.inputs) > 1:
        _read_as(node, _type_behind(node))
    elif _keeps_shape(node):
        _read_as(node, None)
    return True


def _read_as(node: ir.Node, to: ir.DataType | None) -> None:
    """An Identity, or a Cast to some type."""
    node.op_type, node.domain = ("Identity" if to is None else "Cast"), ""
    node.resize_inputs(1)
    node.attributes.clear()
    if to is not None:
        node.attributes["to"] = ir.AttrInt64("to", int(to))
    for value in node.outputs[1:]:
        value.name = ""


def _type_behind(node: ir.Node) -> ir.DataType:
    """Of the integers behind a QuantizeLinear, or of the floats behind a DequantizeLinear."""
    scale, zero = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "DequantizeLinear":
        return (scale.dtype if scale is not None else None) or ir.DataType.FLOAT
    return (zero.dtype if zero is not None else None) or ir.DataType.UINT8


def _give_rank(node: ir.Node) -> bool:
    """The rank alone, where the standard's inference gives up for want of values.  returns: whether that was new"""
    if any(value.shape is not None for value in node.outputs):
        return False
    rank = _rank_of(node)
    for value in node.outputs if rank is not None else ():
        value.shape = ir.Shape([None] * (rank or 0))
        if node.op_type == "Tokenizer":
            value.type = ir.TensorType(ir.DataType.STRING)
        elif value.dtype is None and node.inputs[0] is not None and node.inputs[0].dtype is not None:
            value.type = ir.TensorType(node.inputs[0].dtype)
    return rank is not None


def _rank_of(node: ir.Node) -> int | None:
    """Of a node's outputs, from its operands alone; None where these do not tell."""
    if node.op_type == "Flatten" and not node.domain:
        return 2
    shapes = [operand.shape if operand is not None else None for operand in node.inputs]
    first = shapes[0] if shapes else None
    if node.op_type == "Split" and not node.domain and first is not None:
        return len(first)
    if (node.domain, node.op_type) == ("com.microsoft", "Tokenizer") and first is not None:
        return len(first) + 1
    if node.op_type == "Reshape" and not node.domain and len(shapes) > 1 and shapes[1]:
        return shapes[1][0] if isinstance(shapes[1][0], int) else None
    return None
