"""Nodes that make up one layer: a linear operator with bias and BatchNormalization, an activation written in pieces.

Merging changes no node of the model: a merged `Unit` has one linear map (weights scaled, biases summed, as small nodes
that onnxruntime folds when the session starts) and one rule. So the forward pass stays the original's to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnxlrp.graph import OURS, Facts, Unit
from onnxlrp.rules.linear import batch_norm_scale_and_shift
from onnxlrp.rules.registry import (
    Contribution,
    Family,
    LinearMap,
    Operator,
    lookup,
    register,
)
from onnxlrp.rules.step import Step

LINEAR_CHAIN, DECOMPOSED_ACTIVATION = "LinearChain", "DecomposedActivation"

LONGEST_ACTIVATION = 16
"""Nodes that one activation may be written in (tanh-GELU takes 8 to 10), roundings between them not counted."""

ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})


def units_of(graph: ir.Graph, facts: Facts, keep: Collection[ir.Value], *, merge: bool) -> list[Unit]:
    """The graph as units, in its order.

    keep  : tensors that must stay visible (explained, target, outputs), so nothing is merged across them
    merge : False gives one unit per node, as the gradient methods want it
    """
    nodes = list(graph)
    if not merge:
        return [Unit.of(node) for node in nodes]
    position = {node: i for i, node in enumerate(nodes)}
    visible = set(keep) | set(graph.outputs)
    merged: dict[ir.Node, Unit] = {}
    taken: set[ir.Node] = set()
    for node in reversed(nodes):
        unit = None if node in taken else _activation(node, facts, visible, position, taken)
        if unit is not None:
            merged[unit.node] = unit
            taken.update(unit.nodes)
    for node in nodes:
        unit = None if node in taken else _linear_chain(node, facts, visible, taken)
        if unit is not None:
            merged[unit.node] = unit
            taken.update(unit.nodes)
    return [merged.get(node) or Unit.of(node) for node in nodes if node in merged or node not in taken]


# --- linear chains ---------------------------------------------------------------------------------------------------


def _linear_chain(node: ir.Node, facts: Facts, visible: set[ir.Value], taken: set[ir.Node]) -> Unit | None:
    operator = lookup(node.op_type, node.domain)
    if operator is None or operator.scale_outputs is None or not _one_factor(node, operator, facts):
        return None
    chain = [node]
    while True:
        below = _only_consumer(chain[-1].outputs[0], visible)
        if below is None or below in taken or not _continues(chain, below, facts):
            break
        chain.append(below)
    if len(chain) == 1:
        return None
    return Unit(tuple(chain), LINEAR_CHAIN, OURS, tuple(node.inputs), tuple(chain[-1].outputs[:1]))


def _one_factor(node: ir.Node, operator: Operator, facts: Facts) -> bool:
    """Exactly one signal, and it is a factor: scaling outputs means scaling the other factor."""
    signals = [index for index, operand in enumerate(node.inputs) if facts.is_signal(operand)]
    return len(signals) == 1 and signals[0] == 0 and 0 in operator.factors


def _continues(chain: Sequence[ir.Node], node: ir.Node, facts: Facts) -> bool:
    """Whether `node` belongs to the linear layer that `chain` begins."""
    z = chain[-1].outputs[0]
    if node.domain or node.outputs[0].dtype != z.dtype:
        return False
    if node.op_type == "BatchNormalization":
        first_axis_is_channel = chain[0].op_type != "MatMul" or _rank(z, facts) == 2
        return node.inputs[0] is z and not node.attributes.get_int("training_mode", 0) and first_axis_is_channel
    if node.op_type in ("Add", "Sub"):
        other = node.inputs[1] if node.inputs[0] is z else node.inputs[0]
        return not (node.op_type == "Sub" and node.inputs[1] is z) and _keeps_shape(node, z, other, facts)
    if node.op_type in ("Mul", "Div"):
        other = node.inputs[1] if node.inputs[0] is z else node.inputs[0]
        in_front = node.op_type == "Mul" or node.inputs[0] is z
        return in_front and _keeps_shape(node, z, other, facts) and _per_output_channel(chain[0], z, other, facts)
    return False


def _keeps_shape(node: ir.Node, z: ir.Value, other: ir.Value | None, facts: Facts) -> bool:
    if other is None or other is z or facts.is_signal(other):
        return False
    dims, after = facts.dims(z), facts.dims(node.outputs[0])
    extra = facts.dims(other)
    if extra is None or dims is None or len(extra) > len(dims):
        return False
    return dims == after or (all(isinstance(d, int) for d in extra) and _fits_inside(extra, dims))


def _fits_inside(extra: Sequence[object], dims: Sequence[object]) -> bool:
    return all(e == 1 or e == d for e, d in zip(extra[::-1], dims[::-1], strict=False))


def _per_output_channel(linear: ir.Node, z: ir.Value, scale: ir.Value | None, facts: Facts) -> bool:
    assert scale is not None
    dims, rank = facts.dims(scale), _rank(z, facts)
    if dims is None or rank is None:
        return False
    channel_from_end = 1 if linear.op_type in ("Gemm", "MatMul") else rank - 1
    return all(d == 1 for i, d in enumerate(dims[::-1], start=1) if i != channel_from_end)


def _rank(value: ir.Value, facts: Facts) -> int | None:
    dims = facts.dims(value)
    return None if dims is None else len(dims)


def _only_consumer(value: ir.Value, visible: set[ir.Value]) -> ir.Node | None:
    uses = list(value.uses())
    alone = len(uses) == 1 and value not in visible and uses[0].node.graph is value.graph
    return uses[0].node if alone else None


def _chain_map(step: Step, operand: int) -> LinearMap:
    """The first node's map with weights scaled and biases summed by the nodes behind it."""
    first = step.inner(0)
    operator = lookup(step.unit.nodes[0].op_type)
    assert operator is not None and operator.linear_map is not None and operator.scale_outputs is not None
    linear = operator.linear_map(first, operand)
    weight, bias = linear.weight, linear.bias
    for index, node in enumerate(step.unit.nodes[1:], start=1):
        inner = step.inner(index)
        before = step.unit.nodes[index - 1].outputs[0]
        scale, shift = _scale_and_shift(inner, node, before)
        if scale is not None:
            assert weight is not None
            weight = operator.scale_outputs(first, weight, scale)
            bias = None if bias is None else bias * _beside(inner, node, before, scale)
        if shift is not None:
            bias = shift if bias is None else bias + shift
    return LinearMap(operand, linear.x, weight, bias, linear.forward, linear.adjoint, step.y())


def _scale_and_shift(inner: Step, node: ir.Node, before: ir.Value) -> tuple[Contribution, Contribution]:
    """What one following node multiplies by (a vector over channels) and what it adds (broadcastable to z)."""
    if node.op_type == "BatchNormalization":
        scale, shift = batch_norm_scale_and_shift(inner)
        return scale, inner.emit.Reshape(shift, [-1] + [1] * (inner.rank(0) - 2))
    other = inner.x(1 if node.inputs[0] is before else 0)
    if node.op_type == "Mul":
        return inner.emit.Reshape(other, [-1]), None
    if node.op_type == "Div":
        return inner.emit.Reciprocal(inner.emit.Reshape(other, [-1])), None
    return None, other if node.op_type == "Add" else -other


def _beside(inner: Step, node: ir.Node, before: ir.Value, scale: ir.Value) -> ir.Value:
    """The scale, shaped to multiply a bias that is broadcastable to z."""
    if node.op_type == "BatchNormalization":
        return inner.emit.Reshape(scale, [-1] + [1] * (inner.rank(0) - 2))
    other = inner.x(1 if node.inputs[0] is before else 0)
    return inner.emit.Reciprocal(other) if node.op_type == "Div" else other


def _vjp_through(step: Step, g: ir.Value) -> list[Contribution]:
    """The gradient of a merged unit: its nodes one after the other, from the last to the first."""
    cotangents: dict[ir.Value, ir.Value] = {step.unit.outputs[0]: g}
    for index in range(len(step.unit.nodes) - 1, -1, -1):
        node, inner = step.unit.nodes[index], step.inner(index)
        operator = lookup(node.op_type, node.domain)
        cotangent = cotangents.pop(node.outputs[0], None)
        if operator is None or cotangent is None:
            continue
        for operand, contribution in zip(node.inputs, operator.vjp(inner, cotangent), strict=False):
            if operand is None or contribution is None:
                continue
            share = inner.unbroadcast(contribution, operand) if operator.elementwise else contribution
            cotangents[operand] = cotangents[operand] + share if operand in cotangents else share
    return [None if operand is None else cotangents.get(operand) for operand in step.unit.inputs]


register(
    Operator(
        LINEAR_CHAIN,
        Family.LINEAR,
        _vjp_through,
        domain=OURS,
        factors=(0, 1),
        linear_map=_chain_map,
        conserves="up to bias",
        source="BatchNormalization and bias merged into the linear operator before them",
    )
)

# --- activations written in pieces -----------------------------------------------------------------------------------


def _activation(
    last: ir.Node,
    facts: Facts,
    visible: set[ir.Value],
    position: dict[ir.Node, int],
    taken: set[ir.Node],
) -> Unit | None:
    """y = f(x) element by element, where several ways from x meet again in `last`: x·σ(x), x·Φ(x), max(x, a·x)…"""
    operands = [operand for operand in last.inputs if operand is not None and facts.is_signal(operand)]
    if len(operands) < 2 or not _is_elementwise(last, facts):
        return None
    region = {last}
    frontier = set(operands)
    while len(frontier) > 1:
        latest = max(frontier, key=lambda v: -1 if v.producer() is None else position.get(v.producer(), -1))  # type: ignore[arg-type]
        node = latest.producer()
        counted = [inside for inside in region if inside.op_type not in ROUNDING]
        if node is None or node in taken or len(counted) >= LONGEST_ACTIVATION:
            return None
        if not _is_elementwise(node, facts) or latest in visible or any(u.node not in region for u in latest.uses()):
            return None
        region.add(node)
        frontier.remove(latest)
        frontier.update(o for o in node.inputs if o is not None and facts.is_signal(o))
    (entry,) = frontier
    if facts.dims(entry) is None or facts.dims(entry) != facts.dims(last.outputs[0]):
        return None
    nodes = sorted(region, key=position.__getitem__)
    nodes += _trailing_scale(last, facts, visible, taken)
    return Unit(tuple(nodes), DECOMPOSED_ACTIVATION, OURS, (entry,), tuple(nodes[-1].outputs[:1]))


def _trailing_scale(last: ir.Node, facts: Facts, visible: set[ir.Value], taken: set[ir.Node]) -> list[ir.Node]:
    """The ½ that some exporters put behind a GELU."""
    node = _only_consumer(last.outputs[0], visible)
    if node is None or node in taken or node.op_type not in ("Mul", "Div") or node.domain:
        return []
    other = node.inputs[1] if node.inputs[0] is last.outputs[0] else node.inputs[0]
    scalar = facts.constant(other)
    return [node] if scalar is not None and scalar.size == 1 and node.inputs[0] is not node.inputs[1] else []


def _is_elementwise(node: ir.Node, facts: Facts) -> bool:
    operator = lookup(node.op_type, node.domain)
    if operator is None or len(node.outputs) != 1:
        return False
    known = operator.elementwise or operator.derivative is not None
    return known and all(
        operand is None or facts.is_signal(operand) or facts.constant(operand) is not None for operand in node.inputs
    )


register(
    Operator(
        DECOMPOSED_ACTIVATION,
        Family.POINTWISE,
        _vjp_through,
        domain=OURS,
        elementwise=True,
        source="an activation that the exporter wrote in several nodes",
    )
)
