"""A model without branches and loops: each is written out as it went at one point.

There it gives what the model gives, and around it as long as the same branches are taken and loops do as many turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxlrp.body import BodyEmit, write_copy
from onnxlrp.emit import Emit
from onnxlrp.errors import Unsupported
from onnxlrp.graph import subgraphs
from onnxlrp.model import Model
from onnxlrp.prepare import PREPARED
from onnxlrp.prepare.infer import fill_in_shapes
from onnxlrp.prepare.lower import take_over
from onnxlrp.session import Arrays, Session

MOST_NODES = 4000
"""That one loop may become."""

Values = list[ir.Value | None]


def straightened(
    model: Model, point: Arrays, which: Callable[[ir.Graph], bool], providers: str | Sequence[str] | None = None
) -> Model:
    """Write out every If, Scan and Loop with a subgraph of some kind; the same model where there is none.

    Errors: Unsupported where a loop does no turn, or too many.
    """
    proto = model.copy()
    graph, found = proto.graph, False
    while (node := _next(graph, which)) is not None:
        found = True
        emit = Emit(graph, model.opset)
        with emit.serving(node.name or node.op_type):
            run = _Run(proto, node, point, providers)
            written = {"If": _branch, "Scan": _scan, "Loop": _loop}[node.op_type](emit, node, run)
            take_over(emit, node, written, [])
        graph.sort()
    if not found:
        return model
    fill_in_shapes(proto)
    proto.meta[PREPARED] = True
    return replace(model, proto=proto)


def _next(graph: ir.Graph, which: Callable[[ir.Graph], bool]) -> ir.Node | None:
    kinds = (node for node in graph if node.op_type in ("If", "Scan", "Loop") and not node.domain)
    return next((node for node in kinds if any(map(which, subgraphs(node)))), None)


class _Run:
    """What a node of the main graph reads at the point."""

    def __init__(self, proto: ir.Model, node: ir.Node, point: Arrays, providers: str | Sequence[str] | None) -> None:
        self._proto, self._node, self._point, self._providers = proto, node, point, providers

    def of(self, value: ir.Value) -> np.ndarray:
        """The value of a tensor in front of the node."""
        shown = self._proto.clone()
        return self._shown(shown, next(v for v in _tensors(shown.graph) if v.name == value.name))

    def turns(self) -> int:
        """How many turns a Loop does: one more output of its body counts them."""
        shown = self._proto.clone()
        node = next(node for node in shown.graph if node.name == self._node.name)
        body = BodyEmit(Emit(shown.graph, shown.opset_imports[""]), subgraphs(node)[0])
        body.give(
            body.Cast(body.graph.inputs[0], to=ir.DataType.INT64),
            len(body.graph.inputs[0].shape or ()),
            ir.DataType.INT64,
        )
        node.resize_outputs(len(node.outputs) + 1)
        node.outputs[-1].name, node.outputs[-1].type = "onnxlrp/turns", ir.TensorType(ir.DataType.INT64)
        return len(self._shown(shown, node.outputs[-1]))

    def _shown(self, shown: ir.Model, value: ir.Value) -> np.ndarray:
        shown.graph.outputs[:] = [value]
        return np.asarray(Session(shown, self._providers).run(self._point)[value.name or ""])


def _tensors(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _branch(emit: Emit, node: ir.Node, run: _Run) -> Values:
    condition = node.inputs[0]
    assert condition is not None
    name = "then_branch" if run.of(condition).reshape(-1)[0] else "else_branch"
    return _copy(emit, node.attributes[name].as_graph(), [])


def _scan(emit: Emit, node: ir.Node, run: _Run) -> Values:
    body, given = subgraphs(node)[0], [value for value in node.inputs if value is not None]
    scanned = node.attributes.get_int("num_scan_inputs", 0)
    states, sequences = given[: len(given) - scanned], given[len(given) - scanned :]
    axes = _per_tensor(node, "scan_input_axes", scanned)
    turns = run.of(sequences[0]).shape[axes[0]]
    _few_enough(node, body, turns)
    backwards = _per_tensor(node, "scan_input_directions", scanned)
    now: Values = list(states)
    collected = []
    for turn in range(turns):
        places = [turns - 1 - turn if back else turn for back in backwards]
        slices = [emit.Gather(x, np.array(i), axis=a) for x, i, a in zip(sequences, places, axes, strict=True)]
        outputs = _copy(emit, body, [*now, *slices])
        now = outputs[: len(states)]
        collected.append(outputs[len(states) :])
    count = len(body.outputs) - len(states)
    axes, backwards = (_per_tensor(node, f"scan_output_{what}", count) for what in ("axes", "directions"))
    stacked = [_stacked(emit, *which) for which in zip(zip(*collected, strict=True), axes, backwards, strict=True)]
    return [*now, *stacked]


def _loop(emit: Emit, node: ir.Node, run: _Run) -> Values:
    body, states = subgraphs(node)[0], list(node.inputs[2:])
    turns = run.turns()
    _few_enough(node, body, turns)
    now: Values = states
    collected = []
    for turn in range(turns):
        counter, goes_on = (
            np.full([1] * len(v.shape or ()), n) for v, n in zip(body.inputs, (turn, True), strict=False)
        )
        outputs = _copy(emit, body, [emit.constant(counter), emit.constant(goes_on), *now])
        now = outputs[1 : 1 + len(states)]
        collected.append(outputs[1 + len(states) :])
    return [*now, *(_stacked(emit, pieces, 0, 0) for pieces in zip(*collected, strict=True))]


def _copy(emit: Emit, body: ir.Graph, inputs: Values) -> Values:
    twins = dict(zip(body.inputs, inputs, strict=True))
    before = len(emit.graph)
    write_copy(body, emit, twins)  # type: ignore[arg-type]
    for node in list(emit.graph)[before:]:
        node.name = emit.new_name(f"{emit.scope}/{node.name}")
    return [twins.get(value, value) for value in body.outputs]


def _stacked(emit: Emit, pieces: Sequence[ir.Value | None], axis: int, backwards: int) -> ir.Value:
    """What every turn gave, along a new axis."""
    in_order = list(pieces)[::-1] if backwards else list(pieces)
    return emit.Concat(*(emit.Unsqueeze(piece, [axis]) for piece in in_order), axis=axis)


def _per_tensor(node: ir.Node, name: str, count: int) -> list[int]:
    return list(node.attributes.get_ints(name, default=())) or [0] * count


def _few_enough(node: ir.Node, body: ir.Graph, turns: int) -> None:
    if not 0 < turns * len(list(body.all_nodes())) <= MOST_NODES:
        raise Unsupported(f"{node.op_type} '{node.name}' does {turns} turns")
