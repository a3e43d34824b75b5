"""What a node reads, its subgraphs included, and so what lies upstream and downstream of a tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import onnx_ir as ir

Reads = Callable[[ir.Node], Iterable[ir.Value | None]]
"""node → the tensors that count as read by it."""


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a node holds: branches, bodies of loops."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def captured(graph: ir.Graph) -> tuple[ir.Value, ...]:
    """What a subgraph reads of the graphs around it, its own subgraphs included, in the order of first use."""
    own = {*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)}
    read = [*(operand for node in graph for operand in operands(node)), *graph.outputs]
    return tuple(dict.fromkeys(value for value in read if value is not None and value not in own))


def operands(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The inputs of a node, and behind them what its subgraphs read of the graphs around them."""
    inside = dict.fromkeys(value for graph in subgraphs(node) for value in captured(graph))
    return (*node.inputs, *inside)


def upstream(*values: ir.Value, reads: Reads = operands) -> Iterator[ir.Value]:
    """These tensors and all that they are computed from, each once, the nearest first.

    reads : the tensors that a node hands on; none for a node that is not to be passed
    """
    yield from _reached(values, lambda value: reads(node) if (node := value.producer()) is not None else ())


def downstream(*values: ir.Value) -> Iterator[ir.Value]:
    """These tensors and all that is computed from them, each once, the nearest first."""
    yield from _reached(values, lambda value: (output for use in value.uses() for output in use.node.outputs))


def _reached(values: Iterable[ir.Value], beside: Callable[[ir.Value], Iterable[ir.Value | None]]) -> Iterator[ir.Value]:
    seen = dict.fromkeys(values)
    waiting = deque(seen)
    while waiting:
        value = waiting.popleft()
        yield value
        fresh = dict.fromkeys(other for other in beside(value) if other is not None and other not in seen)
        seen |= fresh
        waiting.extend(fresh)


def a_category(value: ir.Value) -> str:
    """A text that what reads this input knows; "" where nobody says what it knows."""
    for use in (use for tensor in downstream(value) for use in tensor.uses()):
        for name in ("cats_strings", "keys_strings", "classes_strings", "pool_strings"):
            known = use.node.attributes.get(name)
            if known is not None and len(known.value):
                first = known.value[0]
                return first.decode() if isinstance(first, bytes) else str(first)
    return ""
