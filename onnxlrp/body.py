"""The writer of a branch or of a loop's body, and of copies of one."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxlrp.emit import Emit, Literal


class BodyEmit(Emit):
    """Writes the body of a loop. Constants, names and stamps are those of the graph around it, which it can read.

    body : one that is there already; None for a new one
    """

    def __init__(self, outside: Emit, body: ir.Graph | None = None) -> None:
        imports = dict(outside.graph.opset_imports)
        super().__init__(body or ir.Graph([], [], nodes=[], opset_imports=imports, name="step"), outside.opset)
        self._outside = outside
        self._names = outside._names
        self.stamp, self.scope = outside.stamp, outside.scope

    def constant(self, literal: Literal, dtype: object = None) -> ir.Value:
        return self._outside.constant(literal, dtype)

    def input(self, name: str, like: ir.Value | None = None, kind: ir.TypeProtocol | None = None) -> ir.Value:
        """A new input of the body: float32, or of another's type and shape, or of some type."""
        kind = kind or (like.type if like is not None else None) or ir.TensorType(ir.DataType.FLOAT)
        shape = like.shape if like is not None else None
        value = ir.Value(name=self.new_name(f"{self.scope}/{name}"), type=kind, shape=shape)
        self.graph.inputs.append(value)
        return value

    def first_inputs(self, values: Sequence[ir.Value]) -> None:
        """Put some of the inputs in front, in this order."""
        rest = [value for value in self.graph.inputs if value not in values]
        self.graph.inputs.clear()
        self.graph.inputs.extend([*values, *rest])

    def give(self, value: ir.Value, rank: int | None = None, dtype: ir.DataType | None = None) -> None:
        """One more output, by a node of its own even where the value is an output already.

        rank : onnxruntime wants to know it of what a Scan gives, and cannot always infer it
        """
        output = self.node("Identity", value)
        while output in self.graph.outputs:
            output = self.node("Identity", output)
        if rank is not None:
            output.shape, output.type = ir.Shape([None] * rank), ir.TensorType(dtype or ir.DataType.FLOAT)
        self.graph.outputs.append(output)


def write_copy(graph: ir.Graph, emit: Emit, twins: dict[ir.Value, ir.Value]) -> None:
    """Append a graph's nodes, their tensors under new names, and note every tensor's twin."""
    clone = graph.clone(allow_outer_scope_values=True)
    clone.outputs.clear()
    substitutes = dict(twins)
    for value, inside in zip(graph.inputs, clone.inputs, strict=True):
        substitutes[inside] = twins[value]
    for weight, name in zip(graph.initializers.values(), list(clone.initializers), strict=True):
        inside = clone.initializers.pop(name)
        inside.name = emit.new_name(name)
        emit.graph.register_initializer(inside)
        twins[weight] = inside
    nodes = list(clone)
    for original, node in zip(graph, nodes, strict=True):
        twins.update(zip(original.outputs, node.outputs, strict=True))
    for node in clone.all_nodes():
        for index, operand in enumerate(node.inputs):
            if operand in substitutes:
                node.replace_input_with(index, substitutes[operand])
        for output in node.outputs:
            output.name = emit.new_name(output.name) if output.name else output.name
    for nested in clone.subgraphs():
        for value in [*nested.inputs, *nested.initializers.values()]:
            value.name = emit.new_name(value.name or "value")
    clone.remove(nodes)
    emit.graph.extend(nodes)
