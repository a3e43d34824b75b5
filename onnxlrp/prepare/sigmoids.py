"""Sigmoids that exporters of tables spell out: 1 / (1 + eˣ), and the two columns [1 − p, p] of a binary classifier.

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
    for rewrite in (_spelled_out, _two_columns):
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


def _two_columns(emit: Emit, facts: Facts, node: ir.Node) -> ir.Value | None:
    """[1 − σ(z), σ(z)] = σ([−z, z])."""
    if node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    difference, sigmoid = _producer(first, "Sub"), _producer(second, "Sigmoid")
    if difference is None or sigmoid is None or difference.inputs[1] is not second:
        return None
    z = sigmoid.inputs[0]
    if not _is_one(facts, difference.inputs[0]) or z is None:
        return None
    scores = emit.Concat(_typed(-z, z), z, axis=node.attributes.get_int("axis", 1))
    scores.type, scores.shape = z.type, node.outputs[0].shape
    return emit.Sigmoid(scores)


def _typed(value: ir.Value, like: ir.Value) -> ir.Value:
    value.type, value.shape = like.type, like.shape
    return value


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None


def _is_one(facts: Facts, value: ir.Value | None) -> bool:
    constant = facts.constant(value)
    return constant is not None and constant.size == 1 and bool(np.all(constant == 1))
