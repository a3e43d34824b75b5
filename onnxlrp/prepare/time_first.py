"""Recurrent operators with the batch in front (layout 1) get Transposes: onnxruntime runs layout 0 alone."""

from __future__ import annotations

import onnx_ir as ir

RECURRENT = frozenset({"RNN", "GRU", "LSTM"})
STATES = (5, 6)
"""Operands initial_h and initial_c."""

SWAP, SWAP_SEQUENCE = [1, 0, 2], [2, 0, 1, 3]
"""(batch, time, …) ↔ (time, batch, …); (time, direction, batch, hidden) → (batch, time, direction, hidden)."""


def put_time_first(model: ir.Model) -> str:
    """Rewrite every recurrent node of layout 1, in place.  returns: what was done, in words; "" where there is none."""
    found = [
        n
        for n in model.graph.all_nodes()
        if n.op_type in RECURRENT and not n.domain and n.attributes.get_int("layout", default=False)
    ]
    for node in found:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        del node.attributes["layout"]
        for index in (0, *STATES):
            operand = node.inputs[index] if index < len(node.inputs) else None
            if operand is not None:
                node.replace_input_with(index, _before(graph, node, operand, index))
        for index, value in enumerate(node.outputs):
            if value.name:
                _behind(graph, node, value, SWAP_SEQUENCE if index == 0 else SWAP)
    names = ", ".join(str(node.name) for node in found)
    return f"Recurrent layers with the batch in front run with time in front: {names}." if found else ""


def _before(graph: ir.Graph, node: ir.Node, operand: ir.Value, index: int) -> ir.Value:
    swapped = ir.node("Transpose", [operand], {"perm": SWAP}, name=f"{node.name}/time_first_{index}")
    value = swapped.outputs[0]
    value.name, value.type, value.shape = f"{swapped.name}/output", operand.type, _moved(operand.shape, SWAP)
    graph.insert_before(node, swapped)
    return value


def _behind(graph: ir.Graph, node: ir.Node, value: ir.Value, perm: list[int]) -> None:
    """The node's output under its own name, from one with time in front."""
    index = value.index() or 0
    swapped = ir.node("Transpose", [value], {"perm": perm}, name=f"{node.name}/batch_first_{index}")
    outside = swapped.outputs[0]
    graph.insert_after(node, swapped)
    outside.name, outside.type, outside.shape = value.name, value.type, value.shape
    value.name = f"{node.name}/time_first_output_{index}"
    value.shape = _moved(value.shape, [perm.index(axis) for axis in range(len(perm))])
    for use in [use for use in value.uses() if use.node is not swapped]:
        use.node.replace_input_with(use.idx, outside)
    for place, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[place] = outside


def _moved(shape: ir.Shape | None, perm: list[int]) -> ir.Shape | None:
    return None if shape is None or len(shape) != len(perm) else ir.Shape([shape[axis] for axis in perm])
