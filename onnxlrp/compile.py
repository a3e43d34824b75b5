"""Compile: a model and a plan become one joint ONNX model, the original outputs plus relevance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxlrp.backward import Walker, reverse
from onnxlrp.deployed import float_view, is_quantised, keep_deployed
from onnxlrp.emit import Emit, names_in
from onnxlrp.errors import ChoiceError
from onnxlrp.graph import upstream
from onnxlrp.ledger import Ledger
from onnxlrp.lists import is_list
from onnxlrp.model import Model
from onnxlrp.output import Output, find_output, find_tensor
from onnxlrp.plan import Chooser, Decision, Plan, Rules, make_plan
from onnxlrp.reference import reference_pass
from onnxlrp.rules.registry import blocks, inflows, no_signal_operators
from onnxlrp.rules.step import Step
from onnxlrp.seed import emit_seed

TARGET, SEED, SCORE, LEDGER = "target", "seed", "score", "ledger"


@dataclass(frozen=True)
class Request:
    """What to compile.

    title        : shown on the plan
    chooser      : rule per layer        merge : whether several nodes may be one layer
    times_output : seed with R = seed ⊙ y (LRP) rather than with the seed alone (gradients)
    reduce       : (emit, input, relevance) → what is returned for that input
    baseline     : reference input of DeepLIFT; None for methods without one
    signed       : whether stabilisers have the sign of what they stabilise
    """

    title: str
    chooser: Chooser
    merge: bool
    times_output: bool
    reduce: Callable[[Emit, ir.Value, ir.Value], ir.Value] | None = None
    output: str | None = None
    logits: str | None = None
    inputs: Sequence[str] | None = None
    rules: Rules | None = None
    bias: str = "absorb"
    baseline: Any = None
    metadata: dict[str, str] = field(default_factory=dict)
    signed: bool = True


@dataclass(frozen=True)
class Compiled:
    """A joint model. relevance : input name → name of its relevance output. score : name of the score output."""

    model: ir.Model
    plan: Plan
    output: Output
    relevance: dict[str, str]
    score: str
    target: str
    seed: str
    ledger: str | None = None

    @property
    def explained(self) -> tuple[ir.Value, ...]:
        return self.plan.explained


def plan_for(model: Model, request: Request) -> tuple[ir.Model, Plan, Output]:
    """The plan alone, over a graph of its own."""
    graph_model = float_view(model)
    graph = graph_model.graph
    output = output_in(graph, find_output(model.graph, request.output, request.logits))
    explained = find_inputs(graph, request.inputs, output.tensor)
    plan = make_plan(
        graph,
        explained,
        output.tensor,
        request.chooser,
        title=request.title,
        rules=request.rules,
        merge=request.merge,
    )
    return graph_model, plan, output


def compile_model(model: Model, request: Request, ledger: Ledger | None = None) -> Compiled:
    """Write the joint model.

    ledger : kept while writing, its sums an output of their own; None in everyday use, where it would cost time
    """
    graph_model, plan, output = plan_for(model, request)
    graph = graph_model.graph
    emit = Emit(graph, model.opset, signed=request.signed)
    target = _input_with_default(graph, TARGET, np.array([-1], np.int64), 1)
    rank = len(output.asked.shape) if output.asked.shape is not None else 1
    seed = _input_with_default(graph, SEED, np.ones([1] * max(rank, 1), np.float32), max(rank, 1))
    with emit.active():
        with emit.serving("seed", **{"onnxlrp.node": output.tensor.name or ""}):
            start = emit_seed(emit, output, target, seed, times_output=request.times_output)
        reference = reference_pass(emit, plan, request.baseline) if request.baseline is not None else None

        def step(decision: Decision) -> Step:
            asked = ledger.asks(decision, plan.facts) if ledger is not None else frozenset()
            return Step(emit, decision.unit, plan.facts, model.opset, request.bias, None, reference, asked)

        walker = Walker(step, ledger.account, ledger.watch(emit)) if ledger is not None else Walker(step)
        relevance = reverse(plan, emit, start.relevance, walker)
        with emit.serving("output"):
            names = _declare_outputs(emit, graph, relevance, request, reference)
            score = _declare(emit, graph, start.score, SCORE, None)
            sums = _declare(emit, graph, ledger.total(emit), LEDGER, None) if ledger is not None else None
        if is_quantised(model.graph):
            keep_deployed(graph_model, model.copy(), emit)
    graph_model.metadata_props.update(request.metadata | _rules_of(plan))
    graph_model.producer_name = "onnxlrp"
    passes.RemoveUnusedNodesPass()(graph_model)
    passes.RemoveUnusedOpsetsPass()(graph_model)
    return Compiled(graph_model, plan, output, names, score, target.name or "", seed.name or "", sums)


def find_inputs(graph: ir.Graph, names: Sequence[str] | None, target: ir.Value) -> list[ir.Value]:
    """The explained tensors: those named, or every graph input that reaches the target.

    Errors: ChoiceError for an unknown name, or one that does not reach the target.
    """
    reaching = set(upstream(target, reads=inflows))
    if names is None:
        found = [value for value in graph.inputs if value in reaching and not is_list(value)]
        if not found:
            stops = _where_it_stops(graph)
            raise ChoiceError(
                f"No input of the model reaches '{target.name}', so there is nothing to explain."
                + (f" The way ends at {'; '.join(stops)}: name a tensor behind it with inputs=." if stops else "")
            )
        return found
    found = [find_tensor(graph, name, "input or tensor") for name in names]
    for value in found:
        if is_list(value):
            raise ChoiceError(f"'{value.name}' is a list of tensors; relevance can be wanted for tensors alone.")
        if value not in reaching:
            raise ChoiceError(f"'{value.name}' does not reach '{target.name}': nothing flows from one to the other.")
    return found


def output_in(graph: ir.Graph, output: Output) -> Output:
    """The same output in another form of its graph."""
    asked, tensor = (find_tensor(graph, value.name or "", "output") for value in (output.asked, output.tensor))
    return replace(output, asked=asked, tensor=tensor)


def _where_it_stops(graph: ir.Graph) -> list[str]:
    """The first nodes behind the inputs that let nothing through, each with the reason."""
    reached, reasons, found = set(graph.inputs), no_signal_operators(), list[str]()
    for node in graph:
        if reached.isdisjoint(operand for operand in node.inputs if operand is not None):
            continue
        if blocks(node):
            found.append(f"{node.op_type} '{node.name}' ({reasons.get((node.domain, node.op_type), 'kept as it is')})")
        else:
            reached.update(node.outputs)
    return found


def _input_with_default(graph: ir.Graph, name: str, default: np.ndarray[Any, Any], rank: int) -> ir.Value:
    """A graph input with a default: declared with symbolic dimensions, its initialiser with ones."""
    taken = names_in(graph)
    while name in taken:
        name = f"onnxlrp_{name}"
    value = ir.Value(name=name, const_value=ir.tensor(default, name=name))
    value.type = ir.TensorType(ir.DataType.from_numpy(default.dtype))
    value.shape = ir.Shape([f"{name}_{axis}" for axis in range(rank)])
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value


def _declare_outputs(
    emit: Emit,
    graph: ir.Graph,
    relevance: dict[ir.Value, ir.Value],
    request: Request,
    reference: Callable[[ir.Value], ir.Value] | None,
) -> dict[str, str]:
    names = {}
    for value, found in relevance.items():
        if reference is not None:
            found = emit.Mul(emit.Sub(value, reference(value)), found)
        reduced = request.reduce(emit, value, found) if request.reduce is not None else found
        names[value.name or ""] = _declare(emit, graph, reduced, f"relevance/{value.name}", value)
    return names


def _declare(emit: Emit, graph: ir.Graph, value: ir.Value, name: str, like: ir.Value | None) -> str:
    """Make a value a graph output under a name of its own; an Identity keeps values that are read elsewhere."""
    output = emit.node("Identity", value)
    while output in graph.outputs:
        output = emit.node("Identity", output)
    taken = names_in(graph)
    while name in taken:
        name = f"onnxlrp/{name}"
    output.name = name
    output.type = ir.TensorType(ir.DataType.FLOAT)
    if like is not None and like.shape is not None:
        output.shape = ir.Shape([d if isinstance(d, int) else d.value for d in like.shape])
    graph.outputs.append(output)
    return name


def _rules_of(plan: Plan) -> dict[str, str]:
    """`onnxlrp.rule/<node>` = rule, for the metadata of an explainer; and which of them only stand in."""
    rules = {f"onnxlrp.rule/{decision.unit.name}": str(decision.rule) for decision in plan.all()}
    return rules | ({"onnxlrp.stand-ins": "; ".join(plan.stand_ins)} if plan.stand_ins else {})
