"""What is explained in each sample: an index, a label, a contrast, or a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxlrp.data.labels import index_of, shown_label
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.graph import Dimension
from onnxlrp.output import Output
from onnxlrp.places import Place, find_place, place_of

LARGEST, EVERYTHING = -1, -2
"""Targets of the compiled model that are no index: the largest element per sample, and all elements."""

Target = Any
"""None, int, tuple, list, label, "a-b", pair of labels, "all", a place, or a float array: see `resolve`."""

Value = Callable[[], np.ndarray[Any, Any]]
"""Runs the model forward and gives the explained output."""


@dataclass(frozen=True)
class Resolved:
    """What goes into the compiled model, and the words for it.

    each   : the words per sample, where they differ
    inside : cells (height, width) of the output's map, where the target is a box or a mask of it
    """

    target: np.ndarray[Any, Any]
    seed: np.ndarray[Any, Any]
    shown: str = ""
    inside: np.ndarray[Any, Any] | None = None
    each: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """What a target is looked up in.

    shape : of the output, symbolic dimensions as names        samples : in this call        labels : of the classes
    """

    shape: tuple[Dimension, ...]
    output: Output
    samples: int
    labels: Sequence[str] | None

    @property
    def axis(self) -> int:
        """The class axis."""
        return 1 if self.output.batched else 0

    @property
    def classes(self) -> int | None:
        """How many classes there are; None when only run time can tell."""
        size = self.shape[self.axis] if len(self.shape) > self.axis else 1
        return size if isinstance(size, int) else None


def resolve(
    target: Target,
    shape: Sequence[Dimension],
    output: Output,
    samples: int,
    labels: Sequence[str] | None,
    value: Value | None = None,
    layout: str | None = None,
) -> Resolved:
    """Turn a target into the two inputs of the compiled model.

    target  : None = the largest element per sample; int = index on axis 1; tuple of ints = a full index; list = one per
              sample; label; pair of labels or "a-b" = a contrast; float array shaped like the output = the seed itself;
              a place in the output or its text, see `onnxlrp.places`
    shape   : of the output, symbolic dimensions as names        samples : in this call
    value   : the output itself, for places        layout : of the input
    Errors: ChoiceError for an index out of range or an unknown label; InputError for a seed that does not fit.
    """
    scores = Scores(tuple(shape), output, samples, labels)
    if target is None:
        return Resolved(np.array([LARGEST], np.int64), np.ones(1, np.float32), "largest")
    place = _place(target, labels)
    if place is not None and value is not None:
        found = find_place(place, value(), output, samples, labels, layout)
        shown = ", ".join(dict.fromkeys(found.shown[:8]))
        return Resolved(np.array([EVERYTHING], np.int64), found.seed, shown, found.inside, found.shown)
    if isinstance(target, str):
        return _by_label(target, scores)
    if isinstance(target, np.floating):
        target = np.asarray(target)
    if _is_index(target):
        return _one_class(int(target), scores)
    if isinstance(target, tuple) and len(target) == 2 and all(isinstance(t, str) for t in target):
        return _contrast(target[0], target[1], scores)
    if isinstance(target, tuple):
        return _full_index(target, scores)
    if isinstance(target, np.ndarray) and target.dtype.kind == "f":
        return Resolved(np.array([EVERYTHING], np.int64), _fitting_seed(target, scores), "seed array")
    if isinstance(target, list) or (isinstance(target, np.ndarray) and target.ndim == 1):
        return _per_sample(list(target), scores)
    raise _no_target(target)


def _place(target: Target, labels: Sequence[str] | None) -> Place | None:
    """A label that looks like a place is a label."""
    if isinstance(target, str):
        return None if _is_label(target, labels) else place_of(target)
    return target if isinstance(target, Place) else None


def _is_index(target: Any) -> bool:
    return isinstance(target, int | np.integer) and not isinstance(target, bool)


def _no_target(target: Any) -> ChoiceError:
    return ChoiceError(f"{target!r} is no target: give an index, a label, a list of them, or a float array.")


def _one_class(index: int, scores: Scores) -> Resolved:
    checked = _in_range(index, scores.classes)
    return Resolved(np.array([checked], np.int64), np.ones(1, np.float32), shown_label(checked, scores.labels))


def _per_sample(targets: list[Any], scores: Scores) -> Resolved:
    if len(targets) != scores.samples:
        raise ChoiceError(
            f"{len(targets)} targets were given for {scores.samples} samples: one per sample, or one for all."
        )
    strange = [t for t in targets if not isinstance(t, str) and not _is_index(t)]
    if strange:
        raise _no_target(strange[0])
    indices = [index_of(t, scores.labels) if isinstance(t, str) else int(t) for t in targets]
    checked = np.array([_in_range(index, scores.classes) for index in indices], np.int64)
    return Resolved(checked, np.ones(1, np.float32), ", ".join(shown_label(int(i), scores.labels) for i in checked[:8]))


def _by_label(text: str, scores: Scores) -> Resolved:
    labels = scores.labels
    if _is_label(text.lstrip("-"), None) or _is_label(text, labels):
        return _one_class(index_of(text, labels), scores)
    for position, character in enumerate(text):
        left, right = text[:position].strip(), text[position + 1 :].strip()
        if character == "-" and _is_label(left, labels) and _is_label(right, labels):
            return _contrast(left, right, scores)
    return _one_class(index_of(text, labels), scores)


def _contrast(plus: str, minus: str, scores: Scores) -> Resolved:
    """+1 at one class, −1 at the other."""
    axis, rank, count = scores.axis, len(scores.shape), scores.classes
    if count is None or rank <= axis:
        raise ChoiceError(f"A contrast needs an output with a known number of classes; it is {list(scores.shape)}.")
    seed = np.zeros([count if i == axis else 1 for i in range(rank)], np.float32)
    indices = [_in_range(index_of(label, scores.labels), count) for label in (plus, minus)]
    for index, value in zip(indices, (1.0, -1.0), strict=True):
        seed[tuple(index if i == axis else 0 for i in range(rank))] += value
    shown = " − ".join(shown_label(index, scores.labels) for index in indices)
    return Resolved(np.array([EVERYTHING], np.int64), seed, shown)


def _full_index(index: tuple[Any, ...], scores: Scores) -> Resolved:
    """One element of every sample."""
    dims = list(scores.shape[scores.axis :])
    if len(index) != len(dims):
        raise ChoiceError(f"target={index} has {len(index)} indices; one sample of the output has {len(dims)}: {dims}.")
    checked = [_in_range(int(i), d if isinstance(d, int) else None) for i, d in zip(index, dims, strict=True)]
    if not all(isinstance(d, int) for d in dims):
        raise ChoiceError(
            f"target={index}: the output's size {dims} is only known at run time; give a seed array instead."
        )
    seed = np.zeros([int(d) for d in dims if isinstance(d, int)], np.float32)
    seed[tuple(checked)] = 1.0
    return Resolved(np.array([EVERYTHING], np.int64), seed[None] if scores.output.batched else seed, str(index))


def _is_label(text: str, labels: Sequence[str] | None) -> bool:
    return text.isdigit() or (labels is not None and text in labels)


def _in_range(index: int, count: int | None) -> int:
    if index < 0 or (count is not None and index >= count):
        limit = f"0 to {count - 1}" if count is not None else "0 and above"
        raise ChoiceError(f"The target {index} is out of range: the output has indices {limit}.")
    return index


def _fitting_seed(seed: np.ndarray[Any, Any], scores: Scores) -> np.ndarray[Any, Any]:
    """Errors: InputError; the batch axis may be 1 for all samples alike."""
    batched, wanted = scores.output.batched, list(scores.shape)
    if batched and scores.output.counted and wanted:
        wanted[0] = scores.samples
    fits = seed.ndim == len(wanted) and all(
        not isinstance(d, int) or d == s or (batched and i == 0 and s == 1)
        for i, (d, s) in enumerate(zip(wanted, seed.shape, strict=True))
    )
    if not fits:
        raise InputError(f"The seed has shape {list(seed.shape)}, and the output {wanted}: they have to agree.")
    if not np.isfinite(seed).all():
        raise InputError("The seed holds NaN or infinity.")
    return seed.astype(np.float32)


# --- on arrays: what the compiled model does with a target, for methods that only run it forward ---------------------


def as_samples(y: np.ndarray[Any, Any], output: Output) -> np.ndarray[Any, Any]:
    """(sample, …): an output without a batch axis is one sample."""
    return y if output.batched and y.ndim else y[None]


def frozen(resolved: Resolved, y: np.ndarray[Any, Any], output: Output) -> Resolved:
    """The largest element of the unperturbed input as a seed: a perturbation must not change what is explained."""
    if int(resolved.target[0]) != LARGEST:
        return resolved
    flat = as_samples(y, output)
    flat = flat.reshape(len(flat), -1)
    seed = np.zeros(flat.shape, np.float32)
    seed[np.arange(len(flat)), flat.argmax(axis=1)] = 1.0
    return Resolved(np.array([EVERYTHING], np.int64), seed.reshape(y.shape), resolved.shown)


def weights_of(resolved: Resolved, shape: Sequence[int], output: Output) -> np.ndarray[Any, Any]:
    """mask ⊙ seed as an array of the output's shape."""
    if int(resolved.target[0]) == EVERYTHING:
        return np.broadcast_to(resolved.seed, shape) if len(shape) else resolved.seed.reshape(())
    weights = np.zeros(shape if output.batched else (1, *shape), np.float32)
    if weights.ndim < 2:
        return np.ones(shape, np.float32)
    weights[np.arange(len(weights)), np.broadcast_to(resolved.target, len(weights))] = 1.0
    return weights.reshape(shape) * resolved.seed.reshape(-1)[0] if resolved.seed.size == 1 else weights.reshape(shape)


def score_of(y: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], output: Output) -> np.ndarray[Any, Any]:
    """Σ weights ⊙ y per sample; y may hold whole repetitions of the batch that the weights were made for."""
    rows = len(as_samples(y, output))
    flat = y.reshape(rows, -1).astype(np.float64)
    per_sample = weights.reshape(-1, flat.shape[1])
    return np.asarray((flat * np.tile(per_sample, (rows // len(per_sample), 1))).sum(axis=1))
