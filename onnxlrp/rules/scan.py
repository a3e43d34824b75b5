"""Loops over time in the relevance graph: the ONNX operator Scan, its body written like any other formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from onnxlrp.emit import Emit, Literal

Values = Sequence[ir.Value]
Body = Callable[[Emit, Values, Values], tuple[Values, Values]]
"""(writer, states, what the scanned tensors hold now) → (states afterwards, what is kept of this step)."""


class BodyEmit(Emit):
    """Writes the body of a loop. Constants, names and stamps are those of the graph around it, which it can read."""

    def __init__(self, outside: Emit) -> None:
        imports = dict(outside.graph.opset_imports)
        super().__init__(ir.Graph([], [], nodes=[], opset_imports=imports, name="step"), outside.opset)
        self._outside = outside
        self._names = outside._names
        self.stamp, self.scope = outside.stamp, outside.scope

    def constant(self, literal: Literal, dtype: object = None) -> ir.Value:
        return self._outside.constant(literal, dtype)

    def input(self, name: str) -> ir.Value:
        """A new input of the body, float32."""
        value = ir.Value(name=self._fresh(f"{self.scope}/{name}"), type=ir.TensorType(ir.DataType.FLOAT))
        self.graph.inputs.append(value)
        return value


def scan(emit: Emit, states: Values, scanned: Values, body: Body, *, backwards: bool = False) -> tuple[Values, Values]:
    """Run `body` along the first axis of `scanned`, from its end where `backwards`.

    states  : what the loop starts with        scanned : tensors (time, …)
    returns : the last states, and what each step kept, stacked along time in the order of `scanned`
    """
    inner = BodyEmit(emit)
    before = [inner.input("state") for _ in states]
    now = [inner.input("now") for _ in scanned]
    with inner.active():
        after, kept = body(inner, before, now)
    inner.graph.outputs.extend(inner.node("Identity", value) for value in after)
    inner.graph.outputs.extend(_own_node(inner, value) for value in kept)
    directions: dict[str, Any] = {
        "scan_input_directions": [1] * len(scanned),
        "scan_output_directions": [1] * len(kept),
    }
    count = len(states)
    found = emit.nodes(
        "Scan",
        *states,
        *scanned,
        outputs=count + len(kept),
        body=inner.graph,
        num_scan_inputs=len(scanned),
        **(directions if backwards else {}),
    )
    return found[:count], found[count:]


def _own_node(inner: Emit, value: ir.Value) -> ir.Value:
    """An output of its own, even where the value is an output already."""
    output = inner.node("Identity", value)
    while output in inner.graph.outputs:
        output = inner.node("Identity", output)
    return output
