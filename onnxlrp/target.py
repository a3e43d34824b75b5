"""What is explained: the tensor (stepping back from labels and probabilities to logits), and where relevance starts.

In the compiled model a target is an int64 per sample (or one for all) and a seed that multiplies:

    R = mask(target) ⊙ seed ⊙ y for LRP,    mask(target) ⊙ seed for gradients

with mask = the largest element (−1), everything (−2), or index k on axis 1 (k ≥ 0).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.graph import FLOATS, Dimension

LARGEST, EVERYTHING = -1, -2

Target = Any
"""None, int, tuple, list, label, "a-b", pair of labels, "all", or a float array: see `resolve`."""

_PROBABILITIES = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_SAME_ELEMENTS = frozenset({"Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Dropout", "Cast"})
_LABELS = frozenset(
    {"ZipMap", "Cast", "ArgMax", "ArgMin", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "Identity"}
    | {"LabelEncoder", "ArrayFeatureExtractor", "Gather", "Squeeze", "Reshape", "Unsqueeze", "Flatten", "Binarizer"}
)


@dataclass(frozen=True)
class Output:
    """The explained output.

    asked   : the tensor that target and seed are indexed and shaped like
    tensor  : the tensor that is explained; the same elements in the same order
    batched : whether axis 0 counts samples
    because : how `tensor` was found
    """

    asked: ir.Value
    tensor: ir.Value
    batched: bool
    because: str


def find_output(graph: ir.Graph, name: str | None, logits: str | None = None) -> Output:
    """Choose what is explained.

    name   : any tensor; taken exactly. None: the first float output, stepped back to scores and logits
    logits : the sidecar's word on where the logits are
    Errors: ChoiceError for an unknown tensor, or one that holds no floats.
    """
    if name is not None:
        value = find_tensor(graph, name, "output")
        return Output(value, value, is_batched(value, graph), "as asked")
    if logits is not None:
        value = find_tensor(graph, logits, "logits tensor")
        asked = next((v for v in graph.outputs if v.dtype in FLOATS and v.shape == value.shape), value)
        return Output(asked, value, is_batched(asked, graph), "the sidecar's logits")
    floats = [value for value in graph.outputs if value.dtype in FLOATS]
    asked = next((value for value in floats if _depends_on_input(value)), floats[0] if floats else None)
    because = "first float output"
    if asked is None:
        asked, because = _scores(graph.outputs[0]), "the scores behind the labels"
    tensor = _logits(asked)
    if tensor is not asked:
        node = tensor.uses()[0].node
        because = f"the logits before {node.op_type} '{node.name}'"
    return Output(asked, tensor, is_batched(asked, graph), because)


def find_tensor(graph: ir.Graph, name: str, what: str) -> ir.Value:
    """A tensor by name.  Errors: ChoiceError with the closest names."""
    values = {v.name: v for v in [*graph.inputs, *(o for node in graph for o in node.outputs)] if v.name}
    values |= {n: v for n, v in graph.initializers.items() if n not in values}
    if name in values:
        return values[name]
    close = difflib.get_close_matches(name, [n for n in values if n], n=3)
    hint = f" Close to it: {', '.join(close)}." if close else ""
    outputs = ", ".join(v.name or "" for v in graph.outputs)
    inputs = ", ".join(v.name or "" for v in graph.inputs)
    raise ChoiceError(f"The model has no {what} '{name}'.{hint} Its inputs: {inputs}; its outputs: {outputs}.")


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
    seen, waiting = {value}, [value]
    while waiting:
        current = waiting.pop()
        if current.is_graph_input():
            return True
        node = current.producer()
        fresh = [o for o in node.inputs if o is not None and o not in seen] if node is not None else []
        seen.update(fresh)
        waiting.extend(fresh)
    return False


def _scores(value: ir.Value) -> ir.Value:
    """Step back from labels to the first float tensor."""
    found = value
    for _ in range(32):
        node = found.producer()
        if found.dtype in FLOATS and found is not value:
            return found
        if node is None or node.op_type not in _LABELS or node.inputs[0] is None:
            break
        data = 1 if node.op_type in ("Gather", "ArrayFeatureExtractor") and node.inputs[0].producer() is None else 0
        operand = node.inputs[data]
        if operand is None:
            break
        found = operand
    if found.dtype in FLOATS:
        return found
    raise ChoiceError(
        f"No output of the model holds floats ('{value.name}' is {value.dtype}), and no scores were found behind it. "
        "Name the tensor to explain with output=."
    )


def _logits(value: ir.Value) -> ir.Value:
    """Step back from final probabilities, also behind Reshape, Flatten, Identity, to the logits."""
    found = value
    while True:
        node = found.producer()
        if node is None or node.domain or node.inputs[0] is None or node.inputs[0].dtype not in FLOATS:
            return value
        if node.op_type in _PROBABILITIES:
            return node.inputs[0]
        if node.op_type == "Div" and (spelled_out := _softmax_in_pieces(node)) is not None:
            return spelled_out
        if node.op_type not in _SAME_ELEMENTS:
            return value
        found = node.inputs[0]


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


def _behind_movement(value: ir.Value | None) -> ir.Node | None:
    """The node that computed a tensor, seen through what only reshapes or bounds it."""
    for _ in range(8):
        node = value.producer() if value is not None else None
        if node is None or node.op_type not in _SAME_ELEMENTS | {"Expand", "Max", "Where"}:
            return node
        value = next((o for o in node.inputs if o is not None and o.producer() is not None), None)
    return None


# --- in the graph ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seed:
    """relevance : of the explained tensor, shaped like it        score : per sample, Σ seed ⊙ y over the mask"""

    relevance: ir.Value
    score: ir.Value


def emit_seed(emit: Emit, output: Output, target: ir.Value, seed: ir.Value, *, times_output: bool) -> Seed:
    """Where the relevance graph starts.  target : int64 (1,) or (batch,)        seed : float, broadcastable to the output"""
    tensor = output.tensor
    floats = tensor if tensor.dtype == ir.DataType.FLOAT else emit.Cast(tensor, to=ir.DataType.FLOAT)
    asked_shape = emit.Shape(output.asked)
    y = floats if output.asked is tensor else emit.Reshape(floats, asked_shape, allowzero=1)
    rank = len(output.asked.shape) if output.asked.shape is not None else 2
    view = _as_samples(emit, y, rank, output.batched)
    mask = _mask(emit, view, target, rank=max(rank, 2) if output.batched else rank + 1)
    weighted = emit.Mul(emit.Reshape(mask, emit.Shape(y), allowzero=1), seed if rank else emit.Squeeze(seed, [0]))
    contribution = emit.Mul(weighted, y)
    relevance = contribution if times_output else weighted
    axes = list(range(1, rank)) if output.batched else list(range(rank))
    score = emit.sum(contribution, axes, keepdims=False)
    return Seed(relevance if output.asked is tensor else emit.reshape_like(relevance, tensor), score)


def _as_samples(emit: Emit, y: ir.Value, rank: int, batched: bool) -> ir.Value:
    """(sample, class, …): a lone sample gets a leading axis, a batch of scalars a class axis."""
    if not batched:
        y = emit.Unsqueeze(y, [0])
        rank += 1
    return emit.Unsqueeze(y, [1]) if rank == 1 else y


def _mask(emit: Emit, y: ir.Value, target: ir.Value, rank: int) -> ir.Value:
    """1 where relevance starts, shaped like y (sample, class, …)."""
    if rank < 2:
        y, rank = emit.Unsqueeze(y, [1]), 2
    flat = emit.Flatten(y, axis=1)
    best = emit.ArgMax(flat, axis=1, keepdims=1)
    places = emit.Range(0, emit.Squeeze(emit.dim(flat, 1), [0]), 1)
    largest = emit.Reshape(emit.Equal(places, best), emit.Shape(y), allowzero=1)
    per_sample = emit.Reshape(target, [-1] + [1] * (rank - 1))
    classes = emit.Range(0, emit.Squeeze(emit.dim(y, 1), [0]), 1)
    chosen = emit.Equal(emit.Reshape(classes, [1, -1] + [1] * (rank - 2)), per_sample)
    by_index = emit.Or(chosen, emit.Equal(per_sample, EVERYTHING))
    mask = emit.mask(emit.Or(emit.And(emit.Equal(per_sample, LARGEST), largest), by_index))
    return emit.Expand(mask, emit.Shape(y))  # type: ignore[no-any-return]


# --- from the call ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolved:
    """What goes into the compiled model, and the words for it."""

    target: np.ndarray[Any, Any]
    seed: np.ndarray[Any, Any]
    shown: str = ""


def resolve(target: Target, shape: Sequence[Dimension], batched: bool, samples: int, labels: Sequence[str] | None) -> Resolved:
    """Turn a target into the two inputs of the compiled model.

    target  : None = the largest element per sample; int = index on axis 1; tuple of ints = a full index; list = one per
              sample; label; pair of labels or "a-b" = a contrast; float array shaped like the output = the seed itself
    shape   : of the output, symbolic dimensions as names        samples : in this call
    Errors: ChoiceError for an index out of range or an unknown label; InputError for a seed that does not fit.
    """
    if target is None:
        return Resolved(np.array([LARGEST], np.int64), np.ones(1, np.float32), "largest")
    if isinstance(target, str):
        return _by_label(target, shape, batched, samples, labels)
    if isinstance(target, bool):
        raise ChoiceError(f"target={target} is no target: give an index, a label, a list, or a float array.")
    if isinstance(target, int | np.integer):
        index = _in_range(int(target), _class_count(shape, batched))
        return Resolved(np.array([index], np.int64), np.ones(1, np.float32), _shown(index, labels))
    if isinstance(target, tuple) and len(target) == 2 and all(isinstance(t, str) for t in target):
        return _contrast(target[0], target[1], shape, batched, samples, labels)
    if isinstance(target, tuple):
        return _full_index(target, shape, batched, samples)
    if isinstance(target, np.ndarray) and target.dtype.kind == "f":
        return Resolved(np.array([EVERYTHING], np.int64), _fitting_seed(target, shape), "seed array")
    return _per_sample(list(target), shape, batched, samples, labels)


def _per_sample(
    targets: list[Any], shape: Sequence[Dimension], batched: bool, samples: int, labels: Sequence[str] | None
) -> Resolved:
    if len(targets) != samples:
        raise ChoiceError(f"{len(targets)} targets were given for {samples} samples: one per sample, or one for all.")
    indices = [index_of(t, labels) if isinstance(t, str) else int(t) for t in targets]
    count = _class_count(shape, batched)
    checked = np.array([_in_range(index, count) for index in indices], np.int64)
    return Resolved(checked, np.ones(1, np.float32), ", ".join(_shown(int(i), labels) for i in checked[:8]))


def _by_label(
    text: str, shape: Sequence[Dimension], batched: bool, samples: int, labels: Sequence[str] | None
) -> Resolved:
    if labels is not None and text in labels or text.lstrip("-").isdigit():
        index = _in_range(index_of(text, labels), _class_count(shape, batched))
        return Resolved(np.array([index], np.int64), np.ones(1, np.float32), _shown(index, labels))
    for position, character in enumerate(text):
        left, right = text[:position].strip(), text[position + 1 :].strip()
        if character == "-" and _is_label(left, labels) and _is_label(right, labels):
            return _contrast(left, right, shape, batched, samples, labels)
    index = index_of(text, labels)
    return Resolved(np.array([index], np.int64), np.ones(1, np.float32), _shown(index, labels))


def _contrast(
    plus: str, minus: str, shape: Sequence[Dimension], batched: bool, samples: int, labels: Sequence[str] | None
) -> Resolved:
    """+1 at one class, −1 at the other."""
    count = _class_count(shape, batched)
    axis = 1 if batched else 0
    if count is None or len(shape) <= axis:
        raise ChoiceError(f"A contrast needs an output with a known number of classes; it is {list(shape)}.")
    seed = np.zeros([count if i == axis else 1 for i in range(len(shape))], np.float32)
    indices = [_in_range(index_of(label, labels), count) for label in (plus, minus)]
    for index, value in zip(indices, (1.0, -1.0), strict=True):
        seed[tuple(index if i == axis else 0 for i in range(len(shape)))] += value
    shown = " − ".join(_shown(index, labels) for index in indices)
    return Resolved(np.array([EVERYTHING], np.int64), seed, shown)


def _full_index(index: tuple[Any, ...], shape: Sequence[Dimension], batched: bool, samples: int) -> Resolved:
    """One element of every sample."""
    dims = list(shape[1:] if batched else shape)
    if len(index) != len(dims):
        raise ChoiceError(f"target={index} has {len(index)} indices; one sample of the output has {len(dims)}: {dims}.")
    checked = [_in_range(int(i), d if isinstance(d, int) else None) for i, d in zip(index, dims, strict=True)]
    if not all(isinstance(d, int) for d in dims):
        raise ChoiceError(f"target={index}: the output's size {dims} is only known at run time; give a seed array instead.")
    seed = np.zeros([int(d) for d in dims if isinstance(d, int)], np.float32)
    seed[tuple(checked)] = 1.0
    return Resolved(np.array([EVERYTHING], np.int64), seed[None] if batched else seed, str(index))


def index_of(label: str, labels: Sequence[str] | None) -> int:
    """The index of a label, or of a number written as text.  Errors: ChoiceError with the closest labels."""
    if labels is not None and label in labels:
        return list(labels).index(label)
    if label.lstrip("-").isdigit():
        return int(label)
    if labels is None:
        raise ChoiceError(f"target='{label}' is a label, but no labels are known: put `labels` into the sidecar, or give an index.")
    close = difflib.get_close_matches(label, labels, n=3)
    hint = f" Close to it: {', '.join(close)}." if close else f" There are {len(labels)}: {', '.join(list(labels)[:5])}, …"
    raise ChoiceError(f"There is no label '{label}'.{hint}")


def _is_label(text: str, labels: Sequence[str] | None) -> bool:
    return text.isdigit() or labels is not None and text in labels


def _class_count(shape: Sequence[Dimension], batched: bool) -> int | None:
    axis = 1 if batched else 0
    size = shape[axis] if len(shape) > axis else 1
    return size if isinstance(size, int) else None


def _in_range(index: int, count: int | None) -> int:
    if index < 0 or count is not None and index >= count:
        limit = f"0 to {count - 1}" if count is not None else "0 and above"
        raise ChoiceError(f"The target {index} is out of range: the output has indices {limit}.")
    return index


def _fitting_seed(seed: np.ndarray[Any, Any], shape: Sequence[Dimension]) -> np.ndarray[Any, Any]:
    fits = seed.ndim == len(shape) and all(
        not isinstance(d, int) or d == s or i == 0 for i, (d, s) in enumerate(zip(shape, seed.shape, strict=True))
    )
    if not fits:
        raise InputError(f"The seed has shape {list(seed.shape)}, and the output {list(shape)}: they have to agree.")
    if not np.isfinite(seed).all():
        raise InputError("The seed holds NaN or infinity.")
    return seed.astype(np.float32)


def _shown(index: int, labels: Sequence[str] | None) -> str:
    return labels[index] if labels is not None and index < len(labels) else str(index)
