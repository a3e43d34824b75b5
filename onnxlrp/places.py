"""Targets that are a place in the output: a box or a mask of a map of scores, one detection of a list.

    Box(10, 20, 50, 60, "cat")        "box:10,20,50,60:cat"        Σ of a class's scores inside a box of the map
    Mask(array, "cat")                "mask:cat.png:cat"           Σ inside a mask shaped like the map
    Detection(3, "face")              "detection:3:face"           one entry of (detection, class)
    Detection("best", "face")         "detection:best:face"        the one with the largest score

Without a class it is the one with the largest sum inside, per sample. Boxes are left, top, right, bottom in cells of
the output's map, the last two outside. The score is a sum, as it is for a class that is summed over a whole map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.labels import index_of, shown_label
from onnxlrp.data.masks import checked_mask, load_mask
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.output import Output

Array = NDArray[Any]
Class = int | str | None

BEST = "best"


@dataclass(frozen=True)
class Box:
    """left, top, right, bottom : cells of the output's map, from 0; the last two lie outside"""

    left: int
    top: int
    right: int
    bottom: int
    label: Class = None

    def cells(self, height: int, width: int) -> NDArray[np.bool_]:
        if not (0 <= self.left < self.right <= width and 0 <= self.top < self.bottom <= height):
            raise ChoiceError(
                f"{self} does not fit the output's map of {width} × {height} (width × height): "
                f"0 ≤ left < right ≤ {width} and 0 ≤ top < bottom ≤ {height}, in cells of that map."
            )
        inside = np.zeros((height, width), np.bool_)
        inside[self.top : self.bottom, self.left : self.right] = True
        return inside

    def __str__(self) -> str:
        return f"box {self.left},{self.top},{self.right},{self.bottom}"


@dataclass(frozen=True)
class Mask:
    """inside : (height, width) of the output's map, true or not zero where the scores count"""

    inside: Any = field(compare=False)
    label: Class = None
    name: str = ""

    def cells(self, height: int, width: int) -> NDArray[np.bool_]:
        met = np.asarray(self.inside)
        if met.shape != (height, width):
            size = " × ".join(map(str, met.shape[::-1]))
            raise InputError(
                f"{self} has {size} cells, and the output's map {width} × {height} (width × height). "
                "Give a mask of the output's size."
            )
        return checked_mask(met != 0, str(self))

    def __str__(self) -> str:
        return f"mask {self.name}".strip()


@dataclass(frozen=True)
class Detection:
    """index : along the axis of detections, or "best", the one with the largest score"""

    index: int | str
    label: Class = None

    def __str__(self) -> str:
        return f"detection {self.index}"


Place = Box | Mask | Detection


@dataclass(frozen=True)
class Placed:
    """seed : 1 where the place is, shaped like the output        shown : the place in words, per sample

    inside : (height, width) of a map, else None
    """

    seed: NDArray[np.float32]
    shown: tuple[str, ...]
    inside: NDArray[np.bool_] | None = None


def place_of(text: str) -> Place | None:
    """A place from its text; None for texts that speak of none.  Errors: ChoiceError with the form that is expected."""
    kind, colon, rest = text.partition(":")
    reader = _READERS.get(kind.strip().lower())
    return reader(rest.strip()) if colon and reader is not None else None


def find_place(
    place: Place,
    y: Array,
    output: Output,
    count: int,
    labels: Sequence[str] | None,
    layout: str | None = None,
) -> Placed:
    """Where a place lies in one call's output.

    y : the explained output in its own shape        count : of samples in this call
    layout : of the input; where it ends with C, classes come last
    Errors: ChoiceError for an output without such a place, and for an index outside it.
    """
    samples = y if output.batched and y.ndim else y[None]
    if len(samples) != count:
        raise ChoiceError(
            f"{place}: the output has shape {list(y.shape)} for {count} samples, so its first axis counts something "
            "else, as behind NonMaxSuppression. Name the tensor of scores before it with --output."
        )
    if isinstance(place, Detection):
        seed, shown = _detection(place, samples, labels)
        return Placed(seed.reshape(y.shape), shown)
    seed, classes, inside = _of_map(place, samples, labels, layout)
    return Placed(seed.reshape(y.shape), tuple(_with_class(str(place), label) for label in classes), inside)


def _of_map(
    place: Box | Mask, samples: Array, labels: Sequence[str] | None, layout: str | None
) -> tuple[NDArray[np.float32], list[str], NDArray[np.bool_]]:
    last = bool(layout) and str(layout).endswith("C")
    if samples.ndim not in (3, 4):
        raise ChoiceError(
            f"{place}: the explained output has shape {list(samples.shape)} and holds no map of scores: that has "
            "(sample, class, height, width). Name such a tensor with --output, or give another target."
        )
    maps = samples[:, None] if samples.ndim == 3 else np.moveaxis(samples, -1, 1) if last else samples
    inside = place.cells(*maps.shape[2:])
    seed = np.zeros(maps.shape, np.float32)
    chosen = _classes(place.label, (maps * inside).sum(axis=(2, 3)), labels)
    seed[np.arange(len(maps)), chosen] = inside
    if samples.ndim == 4 and last:
        seed = np.moveaxis(seed, 1, -1)
    return seed, _named(chosen, labels, maps.shape[1]), inside


def _detection(
    place: Detection, samples: Array, labels: Sequence[str] | None
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    kept = [size for size in samples.shape[1:] if size > 1]
    if not 1 <= len(kept) <= 2:
        raise ChoiceError(
            f"{place}: the explained output has shape {list(samples.shape)}, and detections have (sample, detection, "
            "class) or (sample, detection). Name the tensor that holds their scores with --output."
        )
    table = samples.reshape(len(samples), *kept)
    table = table[..., None] if table.ndim == 2 else table
    turned = table.shape[2] > table.shape[1]
    table = table.swapaxes(1, 2) if turned else table
    rows, count = np.arange(len(table)), table.shape[1]
    if place.index == BEST:
        known = None if place.label is None else _index(place.label, labels, table.shape[2])
        scores = table.max(axis=2) if known is None else table[:, :, known]
        found = scores.argmax(axis=1)
    else:
        if not isinstance(place.index, int) or not 0 <= place.index < count:
            raise ChoiceError(f"{place}: the output lists {count} detections, 0 to {count - 1}; or say detection:best.")
        found = np.full(len(table), place.index)
    chosen = _classes(place.label, table[rows, found], labels)
    seed = np.zeros(table.shape, np.float32)
    seed[rows, found, chosen] = 1
    best = " (best)" * (place.index == BEST)
    classes = _named(chosen, labels, table.shape[2])
    shown = tuple(_with_class(f"detection {i}{best}", label) for i, label in zip(found, classes, strict=True))
    return (seed.swapaxes(1, 2) if turned else seed).reshape(samples.shape), shown


def _classes(label: Class, sums: Array, labels: Sequence[str] | None) -> NDArray[np.intp]:
    """One class per sample: the one that is named, else the one with the largest sum.  sums : (sample, class)"""
    if label is None:
        return np.asarray(sums.argmax(axis=1), np.intp)
    return np.full(len(sums), _index(label, labels, sums.shape[1]), np.intp)


def _index(label: int | str, labels: Sequence[str] | None, count: int) -> int:
    index = index_of(label, labels) if isinstance(label, str) else int(label)
    if not 0 <= index < count:
        raise ChoiceError(f"The class {index} is out of range: the output has classes 0 to {count - 1}.")
    return index


def _named(chosen: NDArray[np.intp], labels: Sequence[str] | None, count: int) -> list[str]:
    """What the classes are called, per sample; nothing where there is only one."""
    return ["" if count == 1 else shown_label(int(index), labels) for index in chosen]


def _with_class(place: str, label: str) -> str:
    return f"{place} of {label}" if label else place


def _box(text: str) -> Box:
    edges, _, label = text.partition(":")
    try:
        left, top, right, bottom = (int(edge) for edge in edges.split(","))
    except ValueError:
        raise ChoiceError(
            f"target 'box:{text}': give left,top,right,bottom in whole cells of the output's map, and a class if one "
            "is meant, as in box:10,20,50,60:cat."
        ) from None
    return Box(left, top, right, bottom, label.strip() or None)


def _mask(text: str) -> Mask:
    path, label = Path(text), ""
    if not path.is_file():
        before, colon, label = text.rpartition(":")
        path = Path(before) if colon else path
    if not path.is_file():
        raise InputError(f"target 'mask:{text}': there is no file {path}. Give mask:FILE or mask:FILE:CLASS.")
    return Mask(load_mask(path), label.strip() or None, str(path))


def _detected(text: str) -> Detection:
    index, _, label = text.partition(":")
    index = index.strip().lower()
    if index != BEST and not index.isdecimal():
        raise ChoiceError(
            f"target 'detection:{text}': give its number or 'best', as in detection:3 or detection:best:face."
        )
    return Detection(index if index == BEST else int(index), label.strip() or None)


_READERS: dict[str, Callable[[str], Place]] = {"box": _box, "mask": _mask, "detection": _detected}
