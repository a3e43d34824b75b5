"""Gates: which operand of a product of signals only says how much of the other passes."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.graph import Facts, Unit
from onnxlrp.rules.registry import Family, lookup

_SQUASHING = frozenset({"Sigmoid", "HardSigmoid", "Softmax"}) | frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"}
)
"""Operators whose outputs lie between 0 and 1."""

_TRANSPARENT = frozenset({"Cast", "Identity", "Dropout", "Mul", "Div", "QuantizeLinear", "DequantizeLinear"})
"""Operators that what was squashed may pass on its way, beside data movement."""

_SPREADING = frozenset({"Unsqueeze", "Expand", "Reshape", "Tile"})

_LONGEST_WAY = 8

MASK = "mask"


def gate_of(unit: Unit, signals: tuple[int, ...], facts: Facts) -> tuple[int | None, bool]:
    """The operand that comes from a sigmoid, softmax, reciprocal or mask, if just one does, and whether from a softmax.

    A product with a reciprocal is a division by a signal written otherwise: a normalisation. A mask is an input of
    whole numbers or truth values that was spread over features, as pooling over tokens does with an attention mask.
    """
    sources = {index: _squashed_by(unit.inputs[index], facts) for index in signals}
    gates = [index for index, source in sources.items() if source]
    return (gates[0], sources[gates[0]] == "Softmax") if len(gates) == 1 else (None, False)


def _squashed_by(value: ir.Value | None, facts: Facts) -> str:
    """The operator that a tensor was squashed by, at most some nodes before; "" where none is found."""
    spread = False
    for _ in range(_LONGEST_WAY):
        node = value.producer() if value is not None else None
        if node is None:
            return MASK if spread and value is not None and _counts(value) else ""
        spread = spread or node.op_type in _SPREADING
        if node.op_type in _SQUASHING or _is_reciprocal(node, facts):
            return node.op_type
        operator = lookup(node.op_type, node.domain)
        if operator is None or (operator.family is not Family.MOVEMENT and node.op_type not in _TRANSPARENT):
            return ""
        signals = [operand for operand in node.inputs if facts.is_signal(operand)]
        if len(signals) != 1:
            return ""
        value = signals[0]
    return ""


def _counts(value: ir.Value) -> bool:
    """An input of whole numbers or truth values."""
    return (
        value.is_graph_input()
        and value.dtype is not None
        and not value.dtype.is_floating_point()
        and (value.dtype != ir.DataType.STRING)
    )


def _is_reciprocal(node: ir.Node, facts: Facts) -> bool:
    """1/x, c/x, x^(−½): where exporters divide by a norm in two steps."""
    if node.domain or node.op_type not in ("Reciprocal", "Div", "Pow"):
        return False
    if node.op_type == "Pow":
        exponent = facts.constant(node.inputs[1])
        return exponent is not None and bool((exponent < 0).all())
    return node.op_type == "Reciprocal" or not facts.is_signal(node.inputs[0])
