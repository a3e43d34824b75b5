"""RNN, GRU and LSTM: a loop forward that keeps every state, and one backwards for the gradient or the relevance.

Relevance follows Arras et al. 2017, who gave it for the LSTM: gates get nothing, h = o ⊙ tanh(c) hands all to c, and
sums are divided by the epsilon rule, whose ε is the plan's. GRU and RNN follow by the same three sentences. Both
directions of a bidirectional layer run side by side: a reversed sequence is turned round before and after, within its
own length. With bias="distribute" the bias is spread over the N inputs of the cell as there; the stabiliser's own
share, which that paper's code spreads too (bias_factor = 1), is not: it stays in the ledger as the stabiliser's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.rules.activations import activations
from onnxlrp.rules.cells import Cell, Rnn, Values, Way, spread
from onnxlrp.rules.crossing import report_stabiliser
from onnxlrp.rules.gru import Gru
from onnxlrp.rules.lstm import Lstm
from onnxlrp.rules.registry import Contribution, Family, Operator, register
from onnxlrp.rules.sequences import H0, Arrived, B, P, R, Run, W, X
from onnxlrp.rules.step import Step

ARRAS = "Arras et al. 2017"


def _gradient(run: Run, arrived: Arrived) -> list[Contribution]:
    way = run.cell.gradient(run.trace)
    initial, message, _ = run.backwards(way.coefficients, way.back, arrived)
    found = run.contributions(message, initial, run.gates)
    if run.step.signal(P):
        found[P] = run.peephole_gradient(message)
    return found


def _relevance(run: Run, arrived: Arrived) -> list[Contribution]:
    """A fed W counts as the gate of X, as a fed R does of the state: what multiplies a signal gets nothing."""
    step, emit, eps = run.step, run.emit, float(run.step.options["eps"])
    trace, bias = run.trace, run.cell.candidate_bias(run.trace)
    if bias is not None and step.bias == "drop":
        trace, bias = trace | {"candidate": trace["candidate"] - bias}, None
    shares = [run.per_input(bias)] if bias is not None and step.bias == "distribute" else []
    way = run.cell.relevance(trace, eps, shares)
    initial, message, state = run.backwards(way.coefficients, way.back, arrived)
    found = run.contributions(message, initial, 1)
    for index in filter(step.signal, (X, W, B)):
        found[index] = step.x(index) * _some(found[index])
    spreading = spread(emit, message, shares)
    if found[X] is not None and spreading is not None:
        found[X] = found[X] + emit.sum(run.turned(spreading), [1], keepdims=False)
    gates = [R, P, W] if step.signal(X) else [R, P]
    for index in filter(step.signal, gates):
        found[index] = emit.zeros_like(step.x(index))
    _report(run, way, trace["candidate"], None if shares or step.signal(B) else bias, message, state, initial)
    return found


def _report(
    run: Run, way: Way, z: ir.Value, bias: ir.Value | None, message: ir.Value, state: ir.Value, initial: Values
) -> None:
    """Tell the ledger what stays behind."""
    step = run.step
    if step.account is None:
        return
    if bias is not None:
        step.account("bias", message * bias)
    report_stabiliser(step, message, z, float(step.options["eps"]))
    if way.lost is not None:
        step.account("stabiliser", state * way.lost)
    for index, value in enumerate(initial):
        if not step.signal(H0 + index):
            step.account("initial state", value)


def _some(value: Contribution) -> ir.Value:
    assert value is not None
    return value


def _register(op_type: str, gates: int, make_cell: Callable[[Run], Cell]) -> None:
    def run(step: Step) -> Run:
        if step.attribute("layout", 0):
            raise Unsupported(f"{step.unit} has layout 1, which onnxruntime does not run; `prepare` puts time first.")
        return Run(step, make_cell, gates)

    register(
        Operator(
            op_type,
            Family.RECURRENT,
            lambda step, g: _gradient(run(step), g),
            relevance=lambda step, g: _relevance(run(step), g),
            outputs=True,
            conserves="up to bias",
            source=ARRAS,
        )
    )


def _rnn(run: Run) -> Cell:
    return Rnn(run.step, run.weights, activations(run.step, ("Tanh",), run.directions), 1, 1)


def _gru(run: Run) -> Cell:
    functions = activations(run.step, ("Sigmoid", "Tanh"), run.directions)
    return Gru(run.step, run.weights, functions, 3, 1, bool(run.step.attribute("linear_before_reset")))


def _lstm(run: Run) -> Cell:
    """The clip bounds what enters the gates; onnxruntime leaves the cell as it is on its way into h."""
    sigma, activate, squash = activations(run.step, ("Sigmoid", "Tanh", "Tanh"), run.directions)
    functions = (sigma, activate, replace(squash, clip=None))
    return Lstm(run.step, run.weights, functions, 4, 2, bool(run.step.attribute("input_forget")))


_register("RNN", 1, _rnn)
_register("GRU", 3, _gru)
_register("LSTM", 4, _lstm)
