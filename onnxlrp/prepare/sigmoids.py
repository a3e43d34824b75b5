"""Sigmoids that exporters of tables spell out: 1 / (1 + eˣ), the two columns [1 − p, p] of a binary classifier, and the
columns of several binary classifiers side by side.

Written as one Sigmoid they do not overflow, an LRP rule passes them as an activation, and the scores before them are
found: [1 − σ(z), σ(z)] = σ([−z, z]).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.graph import Facts
from onnxlrp.prepare.lower import origin, take_over
from onnxlrp.rules.registry import inflows

Rewrite = Callable[[Emit, Facts, ir.Node], ir.Value | None]


def write_sigmoids(model: ir.Model) -> str:
    """Put one Sigmoid in place of each that is spelled out, in place.  returns: what was done, in words."""
    graph = model.graph
    emit, facts = Emit(graph, model.opset_imports[""]), Facts(graph, [], inflows)
    names = []
    for rewrite in (_spelled_out, _columns):
        for node in list(graph):
            if node.domain or not _small(node):
                continue
            with emit.placed(node, node.name or node.op_type, **origin(node)) as written, emit.active():
                found = rewrite(emit, facts, node)
                if found is not None:
                    names.append(node.name or "")
                    take_over(emit, node, [found], written)
    return f"Sigmoids spelled out in pieces are read as such: {', '.join(names)}." if names else ""


def _small(node: ir.Node) -> bool:
    return node.op_type in ("Reciprocal", "Div", "Concat") and len(node.outputs) == 1


def _spelled_out(emit: Emit, facts: Facts, node: ir.Node) -> ir.Value | None:
    """1 / (1 + eˣ) = σ(−x)."""
    if node.op_type == "Concat" or (node.op_type == "Div" and not _is_one(facts, node.inputs[0])):
        return None
    total = _producer(node.inputs[-1], "Add")
    if total is None:
        return None
    for one, power in (total.inputs, total.inputs[::-1]):
        exponential = _producer(power, "Exp")
        if exponential is None or not _is_one(facts, one) or exponential.inputs[0] is None:
            continue
        x = exponential.inputs[0]
        if x.dtype != ir.DataType.FLOAT or x.shape != node.outputs[0].shape:
            return None
        return _typed(emit.Sigmoid(_typed(-x, x)), x)
    return None


def _columns(emit: Emit, facts: Facts, node: ir.Node) -> ir.Value | None:
    """[σ(a), 1 − σ(b), …] = σ([a, −b, …]), also where columns of a sigmoid are picked first."""
    if node.op_type != "Concat" or len(node.inputs) < 2 or not all(_is_squashed(facts, v) for v in node.inputs):
        return None
    parts = [_unsquashed(emit, value) for value in node.inputs if value is not None]
    scores = emit.Concat(*parts, axis=node.attributes.get_int("axis", 1))
    scores.type, scores.shape = parts[0].type, node.outputs[0].shape
    return emit.Sigmoid(scores)


_PICKS = frozenset({"Slice", "Gather", "ArrayFeatureExtractor", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}) | {
    "Identity",
    "Concat",
}
"""Operators that only move elements of their first operand, by constants; Concat those of all."""


def _is_squashed(facts: Facts, value: ir.Value | None) -> bool:
    """Whether a tensor holds σ(z), 1 − σ(z) or elements picked from such."""
    node = value.producer() if value is not None else None
    if node is None or value is None or value.dtype != ir.DataType.FLOAT:
        return False
    if node.op_type == "Sigmoid" and not node.domain:
        return True
    if node.op_type == "Sub" and not node.domain:
        return _is_one(facts, node.inputs[0]) and _is_squashed(facts, node.inputs[1])
    if node.op_type not in _PICKS:
        return False
    moved = len(node.inputs) if node.op_type == "Concat" else 1
    by_constants = all(facts.constant(operand) is not None for operand in node.inputs[moved:] if operand is not None)
    return by_constants and all(_is_squashed(facts, operand) for operand in node.inputs[:moved])


def _unsquashed(emit: Emit, value: ir.Value) -> ir.Value:
    """z of what holds σ(z), moved and negated alike."""
    node = value.producer()
    assert node is not None
    if node.op_type == "Sigmoid":
        assert node.inputs[0] is not None
        return node.inputs[0]
    moved = len(node.inputs) if node.op_type in ("Concat", "Sub") else 1
    parts = [
        _unsquashed(emit, operand) for operand in node.inputs[node.op_type == "Sub" : moved] if operand is not None
    ]
    if node.op_type == "Sub":
        return _typed(-parts[0], value)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return _typed(emit.node(node.op_type, *parts, *node.inputs[moved:], domain=node.domain, **attributes), value)


def _typed(value: ir.Value, like: ir.Value) -> ir.Value:
    value.type, value.shape = like.type, like.shape
    return value


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None


def _is_one(facts: Facts, value: ir.Value | None) -> bool:
    constant = facts.constant(value)
    return constant is not None and constant.size == 1 and bool(np.all(constant == 1))
