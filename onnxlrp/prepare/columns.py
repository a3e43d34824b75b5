"""Products with a vector on the right become products with a column: onnxruntime fuses Transposes into them wrongly.

Its MatmulTransposeFusion, up to 1.31 at least, turns MatMul(Transpose(a), v) with a vector v into a FusedMatMul that
reads the vector as a matrix: wrong numbers, of the right shape. It moves Transposes through pointwise operators first,
and whether it does depends on who else reads them, so the joint graph may suffer where the model alone does not.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.graph import Facts
from onnxlrp.prepare.lower import origin, take_over
from onnxlrp.rules.registry import inflows


def write_columns(model: ir.Model) -> str:
    """a · v = (a · v[:, None])[…, 0] where the graph transposes something, in place.  returns: what was done."""
    graph = model.graph
    if not any(node.op_type == "Transpose" for node in graph):
        return ""
    emit, facts, names = Emit(graph, model.opset_imports[""]), Facts(graph, [], inflows), []
    for node in [node for node in graph if _has_vector(node)]:
        vector = node.inputs[1]
        weights = facts.constant(vector)
        with emit.placed(node, node.name or node.op_type, **origin(node)) as written, emit.active():
            column = emit.Unsqueeze(vector, [1]) if weights is None else emit.constant(weights[:, None], weights.dtype)
            take_over(emit, node, [emit.Squeeze(_shaped(emit.MatMul(node.inputs[0], column), node), [-1])], written)
        names.append(node.name or "")
    return f"Products with a vector are written with a column: {', '.join(names)}." if names else ""


def _has_vector(node: ir.Node) -> bool:
    vector = node.inputs[1] if node.op_type == "MatMul" and not node.domain else None
    return vector is not None and vector.shape is not None and len(vector.shape) == 1


def _shaped(product: ir.Value, node: ir.Node) -> ir.Value:
    """The product with the type and shape that it has."""
    found = node.outputs[0]
    product.type = found.type
    product.shape = None if found.shape is None else ir.Shape([*found.shape, 1])
    return product
