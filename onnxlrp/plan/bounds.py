"""The box of an input, followed to the layer that reads it: through transposes, scales and shifts.

Exporters put a Transpose between a channels-last input and its first convolution, Keras a rescaling. The z-box rule
wants the box where the layer reads. Scales and shifts are monotone, so a box's image is the box of its ends' images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlrp.graph import Facts
from onnxlrp.rules.decompositions import Rule, ZBox

Bound = NDArray[Any]

_ARITHMETIC: dict[str, Callable[[Bound, Bound], Bound]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}


def at_layer(rule: Rule, read: ir.Value | None, facts: Facts) -> Rule:
    """A z-box rule whose box is the explained input's, with the box of the tensor that the layer reads.

    read : the layer's operand        Other rules, and boxes of layers that read the input itself, stay as they are.
    """
    if not isinstance(rule, ZBox) or read is None:
        return rule
    low, high = np.asarray(rule.low), np.asarray(rule.high)
    nodes = _between(read, facts)
    for node, signal in nodes:
        ends = [_image(end, node, signal, facts) for end in (low, high)]
        low, high = np.minimum(*ends), np.maximum(*ends)
    if not nodes:
        return rule
    if not _fits(low, high, facts.dims(read)):
        low, high = low.min(), high.max()
    return replace(rule, low=low, high=high)


def _between(value: ir.Value, facts: Facts) -> list[tuple[ir.Node, int]]:
    """The nodes from the explained tensor to this one, each with the position of its signal; where several signals
    meet the walk ends."""
    nodes: list[tuple[ir.Node, int]] = []
    while (node := value.producer()) is not None:
        signals = [index for index, operand in enumerate(node.inputs) if facts.is_signal(operand)]
        if len(signals) != 1:
            break
        nodes.append((node, signals[0]))
        value = node.inputs[signals[0]]  # type: ignore[assignment]
    return nodes[::-1]


def _image(bound: Bound, node: ir.Node, signal: int, facts: Facts) -> Bound:
    """Of one end; of operators that are neither a transpose nor arithmetic with a constant the end itself."""
    if node.domain not in ("", "ai.onnx"):
        return bound
    if node.op_type == "Transpose" and bound.size > 1:
        rank = facts.rank(node.outputs[0])
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(rank)[::-1]
        return np.transpose(bound.reshape((1,) * (rank - bound.ndim) + bound.shape), perm)
    if node.op_type in _ARITHMETIC and (other := facts.constant(node.inputs[1 - signal])) is not None:
        operands = (bound, other) if signal == 0 else (other, bound)
        return np.asarray(_ARITHMETIC[node.op_type](*operands), np.float32)
    return bound


def _fits(low: Bound, high: Bound, dims: tuple[Any, ...] | None) -> bool:
    """Whether both ends broadcast to the tensor; where they do not, the widest box of all channels holds as well."""
    shape = np.broadcast_shapes(low.shape, high.shape)
    if dims is None or len(shape) > len(dims):
        return low.size == high.size == 1
    return all(size in (1, dim) for size, dim in zip(shape[::-1], dims[::-1], strict=False))
