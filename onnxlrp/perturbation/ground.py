"""What is perturbed of one sample: one tensor as it is, or several as one row of numbers, with regions through all.

packing = Packing.of(values);  rows = packing.pack(values);  values = packing.unpack(rows)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxlrp.errors import ChoiceError
from onnxlrp.perturbation.protocol import Protocol, surroundings
from onnxlrp.perturbation.regions import LAID_OUT, Regions, regions_for
from onnxlrp.perturbation.replacements import Array, Removal, Replacement, replacement
from onnxlrp.session import Arrays


@dataclass(frozen=True)
class Packing:
    """How tensors become one row and back.  shapes : of one sample each, in their order        dtypes : likewise"""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, values: Arrays) -> Packing:
        """values : (sample, …) each"""
        return cls(
            tuple((name, array.shape[1:]) for name, array in values.items()),
            tuple(array.dtype for array in values.values()),
        )

    def pack(self, values: Arrays) -> Array:
        """(row, …) of a lone tensor; else (row, elements), in float64, which holds every number of both kinds."""
        if len(self.shapes) == 1:
            return values[self.shapes[0][0]]
        flat = [np.asarray(values[name], np.float64).reshape(len(values[name]), -1) for name, _ in self.shapes]
        return np.concatenate(flat, axis=1)

    def unpack(self, rows: Array) -> Arrays:
        """(row, …) each, in the tensors' own types."""
        if len(self.shapes) == 1:
            return {self.shapes[0][0]: rows}
        pieces = np.split(rows, self._edges()[1:-1], axis=1)
        return {
            name: piece.reshape(len(rows), *shape).astype(dtype)
            for (name, shape), dtype, piece in zip(self.shapes, self.dtypes, pieces, strict=True)
        }

    def views(self, x: Array) -> list[Array]:
        """The tensors inside one row, each in its shape; writing to them writes to the row."""
        if len(self.shapes) == 1:
            return [x]
        edges = self._edges()
        return [
            x[low:high].reshape(shape) for (_, shape), low, high in zip(self.shapes, edges[:-1], edges[1:], strict=True)
        ]

    def _edges(self) -> list[int]:
        return [0, *np.cumsum([int(np.prod(shape)) for _, shape in self.shapes]).tolist()]


@dataclass(frozen=True)
class Together(Replacement):
    """A replacement per tensor of a packed row."""

    packing: Packing
    parts: tuple[tuple[Regions, Replacement], ...]

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        views = zip(self.packing.views(x), self.parts, strict=True)
        return np.concatenate([np.ravel(part.fill(view, own, random)) for view, (own, part) in views])

    def replace(self, copy: Array, regions: Regions, number: int, filled: Array) -> None:
        views = zip(self.packing.views(copy), self.packing.views(filled), self.parts, strict=True)
        for view, values, (own, part) in views:
            if number < own.count:
                part.replace(view, own, number, values)
                return
            number -= own.count


def ground_of(
    packing: Packing, protocol: Protocol, layout: str | None, labels: Any = None
) -> tuple[Regions, Replacement]:
    """Regions of one sample, and what takes their place.

    layout : of the first tensor        labels : a label map instead of a grid
    Errors: ChoiceError for what speaks of one tensor where there are several.
    """
    shape = packing.shapes[0][1]
    first = (
        Regions.of(labels, shape)
        if labels is not None
        else regions_for(shape, layout, protocol.region, protocol.picture)
    )
    if len(packing.shapes) == 1:
        return first, replacement(protocol.replace, protocol.around)
    own = replacement(protocol.replace, protocol.around)
    several = ", ".join(name for name, _ in packing.shapes)
    for what, is_there in (
        ("A mask", labels is not None),
        ("A background", protocol.around.background is not None),
        ("Removal", isinstance(own, Removal)),
    ):
        if is_there:
            raise ChoiceError(
                f"{what} belongs to one tensor, and {several} are perturbed together. Name it with --input."
            )
    parts = [(first, own), *(_beside(shape, protocol) for _, shape in packing.shapes[1:])]
    offsets = np.cumsum([0, *(regions.count for regions, _ in parts)])
    flat = [regions.labels.ravel() + offset for (regions, _), offset in zip(parts, offsets, strict=False)]
    return Regions(np.concatenate(flat), int(offsets[-1])), Together(packing, tuple(parts))


def _beside(shape: tuple[int, ...], protocol: Protocol) -> tuple[Regions, Replacement]:
    """Another tensor: the usual axes of its rank, and noise over its own range."""
    letters = LAID_OUT.get(len(shape), "F" * len(shape))
    size = protocol.region if not isinstance(protocol.region, Mapping) else 9
    around = surroundings(letters, len(shape), value=protocol.around.value, sigma=protocol.around.sigma)
    return regions_for(shape, letters, size), replacement(protocol.replace, around)
