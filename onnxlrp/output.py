"""Which tensor is explained: the output that was asked for, stepped back from labels and probabilities to logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from onnxlrp.errors import ChoiceError, Unsupported, no_such
from onnxlrp.graph import FLOATS, READ_AS, upstream
from onnxlrp.lists import is_list
from onnxlrp.logits import PROBABILITIES, find_logits

_MOVES = frozenset({"Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Flatten"})
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

    @property
    def classes(self) -> int | None:
        """Size of the class axis, 1 where there is none; None where only run time can tell."""
        if self.asked.shape is None:
            return None
        axis = 1 if self.batched else 0
        size = self.asked.shape[axis] if len(self.asked.shape) > axis else 1
        return size if isinstance(size, int) else _columns_picked(self.asked)


def find_output(graph: ir.Graph, name: str | None, logits: str | None = None) -> Output:
    """Choose what is explained.

    name   : any tensor; taken exactly. None: the first float output, stepped back to scores and logits;
             of a list of tensors the first, of columns that are outputs each the table that they were cut from
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
    if not floats and is_list(graph.outputs[0]):
        raise Unsupported(
            f"'{graph.outputs[0].name}' is a list of tensors, and a single tensor is explained. Name one with output=."
        )
    asked, because = _scores(graph.outputs[0]) if not floats else floats[0], "first float output"
    if not floats:
        because = "the scores behind the labels"
    asked = next((value for value in floats if _depends_on_input(value)), asked)
    if (table := _table_of(floats)) is not None:
        asked, because = table, "the table that the outputs are columns of"
    tensor = find_logits(asked)
    if tensor is not asked:
        readers = sorted((use.node for use in tensor.uses()), key=lambda node: node.op_type not in PROBABILITIES)
        because = "the logits" + "".join(f" before {node.op_type} '{node.name}'" for node in readers[:1])
    return _output(asked, tensor, graph, because)


def _columns_picked(value: ir.Value) -> int | None:
    """How many columns an ArrayFeatureExtractor takes, whose numbers may be a scalar; None for all others."""
    node = value.producer()
    numbers = node.inputs[1] if node is not None and node.op_type == "ArrayFeatureExtractor" else None
    sizes = list(numbers.shape) if numbers is not None and numbers.shape is not None else [None]
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


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


def _table_of(outputs: list[ir.Value]) -> ir.Value | None:
    """(batch, class) the tensor whose columns, one by one and in order, are all the float outputs there are."""
    found = [_cut_from(value) for value in outputs]
    tables = {table for table, _ in found}
    table = tables.pop() if len(tables) == 1 and len(found) > 1 else None
    if table is None or table.shape is None or len(table.shape) != 2 or [i for _, i in found] != [*range(len(found))]:
        return None
    return table if table.shape[1] == len(found) or not isinstance(table.shape[1], int) else None


def _cut_from(value: ir.Value) -> tuple[ir.Value | None, int]:
    """The tensor that an output is a column of, and which."""
    while (node := value.producer()) is not None and node.op_type in _MOVES and node.inputs[0] is not None:
        value = node.inputs[0]
    if node is None or node.op_type not in ("Slice", "Split", "Gather", "ArrayFeatureExtractor"):
        return None, 0
    numbers = [_whole_numbers(operand) for operand in node.inputs[1:]]
    by_columns = node.op_type == "ArrayFeatureExtractor" or node.attributes.get_int("axis", 0) in (1, -1)
    if node.op_type == "Split":
        return (node.inputs[0], value.index() or 0) if by_columns else (None, 0)
    start = numbers[0] if numbers else []
    if node.op_type == "Slice":
        by_columns = len(start) == 1 and numbers[1:3] in ([[start[0] + 1], [1]], [[start[0] + 1], [-1]])
    return (node.inputs[0], start[0]) if by_columns and len(start) == 1 else (None, 0)


def _whole_numbers(value: ir.Value | None) -> list[int]:
    """A constant operand; empty where it is none."""
    known = value.const_value if value is not None else None
    return [int(number) for number in known.numpy().reshape(-1)] if known is not None else []


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
