"""Marks what may be undefined and is masked afterwards: log x where x ≤ 0, under a Where or an Imputer.

Where such a tensor is not finite, relevance stays 0: 0 · NaN would spread to every input. Only nodes that work element
by element lie between a partial function and its mask, so that one element's NaN is no other's.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.graph import MASKED
from onnxlrp.rules.registry import Family, lookup

PARTIAL = frozenset({"Log", "Pow", "Sqrt", "Reciprocal", "Div", "Asin", "Acos", "Acosh", "Atanh"})
"""Operators that give NaN or infinity for some finite numbers."""

MASKS = {"Where": (1, 2), "Imputer": (0,)}
"""Operator → the operands that it may leave out."""


def mark_masked(model: ir.Model) -> str:
    """Mark every node from a partial function to a mask, in place.  returns: "", for nothing changes"""
    behind = set[ir.Node]()
    for node in model.graph:
        operands = [value.producer() for value in node.inputs if value is not None]
        if _by_element(node) and (node.op_type in PARTIAL or not behind.isdisjoint(filter(None, operands))):
            behind.add(node)
    waiting: list[ir.Node | None] = [
        value.producer()
        for node in model.graph
        for index, value in enumerate(node.inputs)
        if value is not None and index in MASKS.get(node.op_type, ())
    ]
    while waiting:
        maker = waiting.pop()
        if maker is not None and maker in behind and MASKED not in maker.metadata_props:
            maker.metadata_props[MASKED] = "yes"
            waiting.extend(value.producer() for value in maker.inputs if value is not None)
    return ""


def _by_element(node: ir.Node) -> bool:
    operator = lookup(node.op_type, node.domain)
    return operator is not None and (operator.elementwise or operator.family is Family.POINTWISE or _passes(node))


def _passes(node: ir.Node) -> bool:
    return node.op_type in ("Imputer", "Identity", "Cast")
