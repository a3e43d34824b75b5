"""Matrix products with a transpose, a scale or an activation fused into them."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.lowering.fused import Fused, lowered
from onnxlrp.lowering.linear import activated


@lowered("FusedMatMul", "TransposeMatMul", "SparseToDenseMatMul")
def fused_matmul(node: Fused) -> ir.Value:
    """y = α · A' · B', where A' and B' have their last axes, or batch and last axes, exchanged."""
    return _product(node)


@lowered("FusedMatMulActivation")
def fused_matmul_activation(node: Fused) -> ir.Value:
    """y = activation(α · A' · B')."""
    z, name = _product(node), str(node.attribute("activation"))
    if name == "Softmax":
        return node.emit.Softmax(z, axis=int(node.attribute("activation_axis", -1)))
    parameters = [node.attribute(f"activation_{part}") for part in ("alpha", "beta", "gamma")]
    return activated(node, z, name, [value for value in parameters if value is not None])


def _product(node: Fused) -> ir.Value:
    alpha = float(node.attribute("alpha", 1.0))
    product = node.emit.MatMul(_operand(node, 0, "A"), _operand(node, 1, "B"))
    return product if alpha == 1.0 else node.emit.Mul(product, alpha)


def _operand(node: Fused, index: int, name: str) -> ir.Value:
    """transBatch first: (batch…, m, …) with the last batch axis and m exchanged; then trans: the last two axes."""
    x, swap, batch = node.x(index), node.attribute(f"trans{name}", 0), node.attribute(f"transBatch{name}", 0)
    if not swap and not batch:
        return x
    order = list(range(node.rank(index)))
    if len(order) < 2:
        return x
    if batch:
        order = [*order[1:-1], order[0], order[-1]]
    if swap:
        order[-2:] = order[:-3:-1]
    return node.emit.Transpose(x, perm=order)
