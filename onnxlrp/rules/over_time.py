"""Loops over time in the relevance graph: the ONNX operator Scan, its body written like any other formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from onnxlrp.body import BodyEmit
from onnxlrp.emit import Emit

Values = Sequence[ir.Value]
Body = Callable[[Emit, Values, Values], tuple[Values, Values]]
"""(writer, states, what the scanned tensors hold now) → (states afterwards, what is kept of this step)."""


def scan(
    emit: Emit, states: Values, scanned: Values, body: Body, *, rank: int, backwards: bool = False
) -> tuple[Values, Values]:
    """Run `body` along the first axis of `scanned`, from its end where `backwards`.

    states  : what the loop starts with        scanned : tensors (time, …)
    rank    : of every state, and of what is kept of a step
    returns : the last states, and what each step kept, stacked along time in the order of `scanned`
    """
    inner = BodyEmit(emit)
    before = [inner.input("state") for _ in states]
    now = [inner.input("now") for _ in scanned]
    with inner.active():
        after, kept = body(inner, before, now)
    for value in [*after, *kept]:
        inner.give(value, rank)
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
