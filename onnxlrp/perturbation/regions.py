"""Regions: what is replaced together (patches, words, frames, windows, columns, any mask), as integer label maps.

A label map holds one whole number per element of one sample; elements of one number are one region, and what is below
zero is never replaced. Every kind of input walks through the same code, which knows no pictures and no words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import ChoiceError, InputError

Size = int | Mapping[str, int]
"""Edge of a patch or length of a window; or one per axis letter, as in {"T": 1} for frames."""

LARGEST_EDGE, LEAST_ACROSS = 9, 7

LAID_OUT = {1: "F", 2: "LF", 3: "CHW", 4: "TCHW"}
_EDGES = ("HW", "H", "W", "L", "T", "D", "F")
"""The axes that one number speaks of: the first of these that the layout has."""


@dataclass(frozen=True)
class Regions:
    """The regions of one sample.

    labels : int, shaped like the sample, 0 … count − 1, or −1        count : of regions
    """

    labels: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, labels: Any, shape: Sequence[int]) -> Regions:
        """Any whole numbers as regions of a sample of this shape; axes of length 1 hold for all of the sample's.

        Errors: InputError where the shapes do not fit, the labels are no whole numbers, or nothing is left to replace.
        """
        given = np.asarray(labels)
        if given.dtype.kind not in "iub":
            raise InputError(f"regions: labels are whole numbers, met {given.dtype}. Give an integer label map.")
        try:
            full = np.broadcast_to(given.astype(np.int64), shape)
        except ValueError:
            raise InputError(
                f"regions: the mask has shape {list(given.shape)}, the sample {list(shape)}. "
                "Give one label per element, or axes of length 1 that hold for all."
            ) from None
        numbers, positions = np.unique(full, return_inverse=True)
        below = int(np.searchsorted(numbers, 0))
        if below == len(numbers):
            raise InputError("regions: every label is below zero, so nothing is left to replace.")
        consecutive = np.maximum(positions.reshape(full.shape) - below, -1)
        return cls(consecutive.astype(np.int64), len(numbers) - below)

    @cached_property
    def cells(self) -> list[NDArray[np.int64]]:
        """Per region the flat positions of its elements."""
        flat = self.labels.ravel()
        order = np.argsort(flat, kind="stable")
        edges = np.searchsorted(flat[order], np.arange(self.count + 1))
        return [order[begin:end] for begin, end in pairwise(edges)]

    def sums(self, relevance: NDArray[Any]) -> NDArray[np.float64]:
        """Σ R of each region.  relevance : shaped like the sample        returns: (count,)"""
        flat = self.labels.ravel()
        # What belongs to no region is counted in a place of its own, which is then dropped.
        weights = relevance.ravel().astype(np.float64)
        return np.asarray(np.bincount(flat + 1, weights, minlength=self.count + 1)[1:], np.float64)


def grid(shape: Sequence[int], sizes: Sequence[int | None]) -> NDArray[np.int64]:
    """A label map of boxes side by side from the origin; those at the far border are cut.

    shape : of one sample        sizes : of a box per axis, None = the whole axis
    """
    labels = np.zeros([1] * len(shape), np.int64)
    for axis, (length, size) in enumerate(zip(shape, sizes, strict=True)):
        if size is None:
            continue
        if size < 1:
            raise ChoiceError(f"region={size}: a region has at least one element per axis.")
        blocks = np.arange(length) // size
        labels = labels * (int(blocks[-1]) + 1) + blocks.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return labels


def regions_for(
    shape: Sequence[int], layout: str | None = None, size: Size = 9, picture: tuple[int, int] | None = None
) -> Regions:
    """Regions side by side, over what the layout calls height and width, else length, time, depth or feature.

    shape   : of one sample        layout : a letter per axis, batch included or not; None goes by the rank
    size    : 9 = patches of 9×9 through all channels; {"T": 1} = frames; {"H": 8, "W": 8, "T": 4} = blocks
    picture : (height, width) of a flattened picture
    """
    letters = (layout or LAID_OUT.get(len(shape), "F" * len(shape))).replace("N", "")
    full: Sequence[int] = shape
    if len(letters) != len(shape) and picture is not None:
        known = {"H": picture[0], "W": picture[1], "C": int(np.prod(shape)) // (picture[0] * picture[1])}
        full = [known[letter] for letter in letters]
    if len(letters) != len(full) or int(np.prod(full)) != int(np.prod(shape)):
        raise ChoiceError(f'regions: layout "{layout}" does not fit a sample of shape {list(shape)}. Say another one.')
    edges = _edges(letters, size)
    labels = np.broadcast_to(grid(full, [edges.get(letter) for letter in letters]), full)
    return Regions.of(labels.reshape(shape), shape)


def _edges(letters: str, size: Size) -> dict[str, int]:
    """Box size per axis letter."""
    if not isinstance(size, Mapping):
        axes = next((axes for axes in _EDGES if set(axes) <= set(letters)), letters)
        # A column of a table is a region of its own, whatever a patch of a picture measures.
        return {letter: 1 if letter == "F" else int(size) for letter in axes}
    unknown = [letter for letter in size if letter not in letters]
    if unknown:
        raise ChoiceError(f"region: the layout {letters} has no axis '{unknown[0]}'; it has {', '.join(letters)}.")
    return dict(size)


def suited_edge(shape: Sequence[Any], layout: str | None = None, picture: tuple[int, int] | None = None) -> int:
    """The edge that makes at least `LEAST_ACROSS` regions across, at most `LARGEST_EDGE`, as in the paper.

    shape : of one sample; sizes that only run time knows leave the largest
    """
    letters = (layout or LAID_OUT.get(len(shape), "F" * len(shape))).replace("N", "")
    if picture is not None and len(letters) != len(shape):
        lengths: list[Any] = list(picture)
    else:
        axes = next((axes for axes in _EDGES if set(axes) <= set(letters)), "")
        lengths = [shape[letters.index(letter)] for letter in axes] if len(letters) == len(shape) else []
    known = [length for length in lengths if isinstance(length, int)]
    return max(1, min(LARGEST_EDGE, *(length // LEAST_ACROSS for length in known))) if known else LARGEST_EDGE


def spatial_axes(layout: str | None, shape: Sequence[int]) -> list[int]:
    """Axes of one sample that are height and width, else length or time.

    Errors: ChoiceError for a layout that has neither.
    """
    letters = (layout or LAID_OUT.get(len(shape), "")).replace("N", "")
    for wanted in ("HW", "L", "T"):
        if len(letters) == len(shape) and set(wanted) <= set(letters):
            return [letters.index(letter) for letter in wanted]
    raise ChoiceError(f'The layout "{layout}" of a sample {list(shape)} names no height and width, length or time.')


def ranked(sums: NDArray[np.float64], random: np.random.Generator, *, least_first: bool = False) -> NDArray[np.int64]:
    """Regions in the order of replacement: most relevant first, or least. Ties fall by chance, not by position."""
    chance = random.permutation(len(sums))
    return np.lexsort((chance, sums if least_first else -sums)).astype(np.int64)
