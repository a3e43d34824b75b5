"""Which tensor is explained: the output that was asked for, stepped back from labels and probabilities to logits."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxlrp.errors import ChoiceError, Unsupported, no_such
from onnxlrp.graph import FLOATS, READ_AS, upstream
from onnxlrp.lists import is_list

_PROBABILITIES = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_SAME_ELEMENTS = frozenset(
    {"Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Dropout", "Cast", "QuantizeLinear"}
)
_LABELS = frozenset(
    {
        "ZipMap",
        "Cast",
        "ArgMax",
        "ArgMin",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Equal",
        "Not",
        "Identity",
    }
    | {"LabelEncoder", "ArrayFeatureExtractor", "Gather", "Squeeze", "Reshape", "Unsqueeze", "Flatten", "Binarizer"}
)


@dataclass(frozen=True)
class Output:
    """The explained output.

    asked   : the tensor that target and seed are indexed and shaped like
    tensor  : the tensor that is explained; the same elements in the same order
    batched : whether axis 0 counts samples
    counted : whether its size is certainly the number of samples (the first input's axis 0 has the same name or size)
    because : how `tensor` was found
    """

    asked: ir.Value
    tensor: ir.Value
    batched: bool
    because: str
    counted: bool = True


def find_output(graph: ir.Graph, name: str | None, logits: str | None = None) -> Output:
    """Choose what is explained.

    name   : any tensor; taken exactly. None: the first float output, stepped back to scores and logits;
             of a list of tensors the first
    logits : the sidecar's word on where the logits are
    Errors: ChoiceError for an unknown tensor and for a list; Unsupported where no output holds floats.
    """
    if name is not None:
        value = find_tensor(graph, name, "output")
        if is_list(value):
            members = ", ".join(f"'{member.name}'" for member in _members(value)) or "one of its tensors"
            raise ChoiceError(f"'{name}' is a list of tensors; a single tensor is explained. Name {members}.")
        return _output(value, value, graph, "as asked")
    if logits is not None:
        value = find_tensor(graph, logits, "logits tensor")
        asked = next((v for v in graph.outputs if v.dtype in FLOATS and _same_axes(v, value)), value)
        return _output(asked, value, graph, "the sidecar's logits")
    tensors = [tensor for value in graph.outputs for tensor in (_members(value)[:1] if is_list(value) else [value])]
    floats = [value for value in tensors if value.dtype in FLOATS]
    asked, because = _scores(graph.outputs[0]) if not floats else floats[0], "first float output"
    if not floats:
        because = "the scores behind the labels"
    asked = next((value for value in floats if _depends_on_input(value)), asked)
    tensor = _logits(asked)
    if tensor is not asked:
        behind = [f" before {use.node.op_type} '{use.node.name}'" for use in tensor.uses()][:1]
        because = "the logits" + "".join(behind)
    return _output(asked, tensor, graph, because)


def _members(value: ir.Value) -> list[ir.Value]:
    """The tensors of a list that is written out."""
    node = value.producer()
    written_out = node is not None and node.op_type == "SequenceConstruct"
    return [tensor for tensor in node.inputs if tensor is not None] if node is not None and written_out else []


def _output(asked: ir.Value, tensor: ir.Value, graph: ir.Graph, because: str) -> Output:
    first = graph.inputs[0].shape if graph.inputs else None
    counted = bool(asked.shape and first) and str(next(iter(asked.shape or ()))) == str(next(iter(first or ())))
    return Output(asked, tensor, is_batched(asked, graph), because, counted)


def _same_axes(a: ir.Value, b: ir.Value) -> bool:
    """Same rank, and no dimension known to differ; symbolic ones may bear other names."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(
        not isinstance(m, int) or not isinstance(n, int) or m == n for m, n in zip(a.shape, b.shape, strict=True)
    )


def find_tensor(graph: ir.Graph, name: str, what: str) -> ir.Value:
    """A tensor by name.  Errors: ChoiceError with the closest names."""
    values = {v.name: v for v in [*graph.inputs, *(o for node in graph for o in node.outputs)] if v.name}
    values |= {n: v for n, v in graph.initializers.items() if n not in values}
    if name in values:
        return values[name]
    outputs = ", ".join(v.name or "" for v in graph.outputs)
    inputs = ", ".join(v.name or "" for v in graph.inputs)
    raise no_such(what, name, filter(None, values), f"The model's inputs: {inputs}; its outputs: {outputs}.")


def is_batched(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether axis 0 of an output counts samples, as axis 0 of the inputs does; an axis is never guessed into being."""
    if value.shape is None or not len(value.shape):
        return value.shape is None
    inputs = [v for v in graph.inputs if v.shape is not None and len(v.shape)]
    leading = [v.shape[0] for v in inputs if v.shape is not None]
    first = value.shape[0]
    if len(value.shape) == 1 and isinstance(first, int):
        return first in leading and any(v.shape is not None and len(v.shape) > 1 for v in inputs)
    if isinstance(first, int) and leading and all(isinstance(d, int) for d in leading):
        return first in leading
    return True


def _depends_on_input(value: ir.Value) -> bool:
    """Whether some input of the model is upstream; an exported constant is no prediction."""
    return any(tensor.is_graph_input() for tensor in upstream(value))


_POSITIONS = {"ArgMax": 0, "ArgMin": 0, "TopK": 1, "NonZero": 0, "NonMaxSuppression": 0}
"""Operator → its output that holds positions."""


def chosen_by_position(value: ir.Value) -> list[str]:
    """The nodes upstream that give positions which others read, the nearest first."""
    made = [(tensor, node) for tensor in upstream(value) if (node := tensor.producer()) is not None]
    return [f"{node.op_type} '{node.name}'" for tensor, node in made if _POSITIONS.get(node.op_type) == tensor.index()]


def _scores(value: ir.Value) -> ir.Value:
    """Step back from labels to the first float tensor."""
    dequantised = [use.node for use in value.uses() if use.node.op_type == "DequantizeLinear"]
    found = dequantised[0].outputs[0] if dequantised else value
    for _ in range(32):
        node = found.producer()
        if found.dtype in FLOATS and found is not value:
            return found
        if (
            node is not None
            and node.op_type == "Where"
            and READ_AS in node.metadata_props
            and node.inputs[2] is not None
        ):
            found = node.inputs[2]
            continue
        if node is None or node.op_type not in _LABELS or not node.inputs or node.inputs[0] is None:
            break
        data = 1 if node.op_type in ("Gather", "ArrayFeatureExtractor") and node.inputs[0].producer() is None else 0
        operand = node.inputs[data]
        if operand is None:
            break
        found = operand
    if found.dtype in FLOATS:
        return found
    raise Unsupported(
        f"No output of the model holds floats ('{value.name}' is {value.dtype}), and no scores were found behind it. "
        "Name the tensor to explain with output=."
    )


def _logits(value: ir.Value) -> ir.Value:
    """Step back from final probabilities, also behind Reshape, Flatten, Identity, to the logits."""
    found = value
    while True:
        node = _before_rounding(found.producer())
        if node is not None and (shown := _integer_logits(node)) is not None:
            return shown
        if node is not None and node.inputs and node.inputs[0] is not None and _changes_no_probability(node):
            found = node.inputs[0]
            continue
        if node is None or not node.inputs or node.inputs[0] is None or _holds_no_floats(node):
            return value
        if node.domain and node.op_type != "QuantizeLinear":
            return value
        if node.op_type in _PROBABILITIES:
            return node.inputs[0]
        if node.op_type == "Where" and READ_AS in node.metadata_props and node.inputs[2] is not None:
            found = node.inputs[2]
            continue
        if node.op_type == "Div" and (spelled_out := _softmax_in_pieces(node)) is not None:
            return spelled_out
        if node.op_type == "Exp" and (spelled_out := _log_softmax_in_pieces(node.inputs[0].producer())) is not None:
            return spelled_out
        if node.op_type not in _SAME_ELEMENTS:
            return value
        found = node.inputs[0]


def _changes_no_probability(node: ir.Node) -> bool:
    """A division by the sum of what sums to 1: scikit-learn's classifiers have one behind their softmax."""
    if (node.domain, node.op_type) != ("ai.onnx.ml", "Normalizer") or node.inputs[0] is None:
        return False
    before = node.inputs[0].producer()
    by_sum = node.attributes.get_string("norm", "MAX") == "L1"
    return by_sum and before is not None and before.op_type == "Softmax" and not before.domain


def _holds_no_floats(node: ir.Node) -> bool:
    operand = node.inputs[2] if READ_AS in node.metadata_props and len(node.inputs) > 2 else node.inputs[0]
    return operand is None or operand.dtype not in FLOATS


def _before_rounding(node: ir.Node | None) -> ir.Node | None:
    """The QuantizeLinear in front of a DequantizeLinear: together they give the same elements, rounded."""
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return node
    rounding = node.inputs[0].producer()
    return rounding if rounding is not None and rounding.op_type == "QuantizeLinear" else node


def _integer_logits(node: ir.Node) -> ir.Value | None:
    """What a softmax or sigmoid in integers reads, dequantised; `node` dequantises what it gives."""
    squashing = node.inputs[0].producer() if node.op_type == "DequantizeLinear" and node.inputs[0] is not None else None
    if squashing is None or squashing.op_type not in ("QLinearSoftmax", "QLinearSigmoid"):
        return None
    x = squashing.inputs[0]
    readers = [] if x is None else [use.node for use in x.uses() if use.node.op_type == "DequantizeLinear"]
    return readers[0].outputs[0] if readers else None


def _softmax_in_pieces(node: ir.Node) -> ir.Value | None:
    """x of exp(x − max x) / Σ exp(x − max x), as TensorFlow and JAX exporters spell a softmax out."""
    numerator, denominator = node.inputs
    exponential = numerator.producer() if numerator is not None else None
    total = _behind_movement(denominator)
    if exponential is None or exponential.op_type != "Exp" or total is None or total.op_type != "ReduceSum":
        return None
    if total.inputs[0] is not numerator or exponential.inputs[0] is None:
        return None
    shifted = exponential.inputs[0].producer()
    if shifted is None or shifted.op_type != "Sub":
        return exponential.inputs[0]
    largest = _behind_movement(shifted.inputs[1])
    return shifted.inputs[0] if largest is not None and largest.op_type == "ReduceMax" else exponential.inputs[0]


def _log_softmax_in_pieces(node: ir.Node | None) -> ir.Value | None:
    """x of x − log Σ exp x, as skl2onnx spells out a softmax of log-likelihoods."""
    if node is None or node.op_type != "Sub" or node.domain:
        return None
    total = _behind_movement(node.inputs[1])
    return (
        node.inputs[0]
        if total is not None and total.op_type == "ReduceLogSumExp" and total.inputs[0] is node.inputs[0]
        else None
    )


def _behind_movement(value: ir.Value | None) -> ir.Node | None:
    """The node that computed a tensor, seen through what only reshapes or bounds it."""
    for _ in range(8):
        node = value.producer() if value is not None else None
        if node is None or node.op_type not in _SAME_ELEMENTS | {"Expand", "Max", "Where"}:
            return node
        value = next((o for o in node.inputs if o is not None and o.producer() is not None), None)
    return None
