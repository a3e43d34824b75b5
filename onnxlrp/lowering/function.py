"""Operators that the standard itself defines by a function of others: written out by that function."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.defs
import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.fused import Fused


def function_of(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    """The standard's function for this node at this opset; None where there is none.

    Errors: Unsupported where the standard needs to know a type that is unknown.
    """
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        version = _newest(schema.function_opset_versions, opset)
        data = schema.get_function_with_opset_version(version) if version else b""
    elif schema.has_context_dependent_function:
        version = _newest(schema.context_dependent_function_opset_versions, opset)
        data = _built_for(schema, node, version) if version else b""
    else:
        return None
    proto = onnx.FunctionProto.FromString(data)
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type and name not in {given.name for given in proto.attribute_proto}:
            proto.attribute_proto.append(attribute.default_value)
    return proto if proto.node else None


def expand(fused: Fused, function: onnx.FunctionProto) -> list[ir.Value | None]:
    """Write the function's nodes with the operands and attributes of the call."""
    values: dict[str, ir.Value | None] = {"": None}
    values.update(zip(function.input, fused.node.inputs, strict=False))
    defaults = {attribute.name: attribute for attribute in function.attribute_proto}
    for node in function.node:
        operands = [values.get(name) for name in node.input]
        attributes = {attribute.name: _resolved(attribute, fused, defaults) for attribute in node.attribute}
        written = fused.emit.nodes(node.op_type, *operands, outputs=len(node.output), domain=node.domain, **attributes)
        values.update((name, value) for name, value in zip(node.output, written, strict=True) if name)
    return [values.get(name) for name in function.output]


def _newest(versions: list[int], opset: int) -> int:
    return max((version for version in versions if version <= opset), default=0)


def _built_for(schema: Any, node: ir.Node, version: int) -> bytes:
    """A function that the standard builds for the types and attributes of one call."""
    types = []
    for operand in node.inputs:
        if operand is not None and operand.dtype is None:
            raise Unsupported(f"the type of its operand '{operand.name}' is unknown")
        proto = onnx.TypeProto() if operand is None else ir.to_proto(operand).type
        types.append(proto.SerializeToString())
    call = ir.to_proto(node).SerializeToString()
    built: bytes = schema.get_context_dependent_function_with_opset_version(version, call, types)
    return built


def _resolved(attribute: onnx.AttributeProto, fused: Fused, defaults: dict[str, onnx.AttributeProto]) -> Any:
    """The value of an attribute in the function's body: its own, the call's, or the default."""
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        raise Unsupported("the standard defines it by a function with subgraphs")
    name = attribute.ref_attr_name
    if not name:
        return ir.serde.deserialize_attribute(attribute).value
    if name in fused.node.attributes:
        return fused.node.attributes[name].value
    return ir.serde.deserialize_attribute(defaults[name]).value if name in defaults else None
