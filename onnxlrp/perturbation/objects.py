"""Where the object is: boxes or masks per file, for the metrics that ask whether relevance lies inside.

    flamingo.jpg    40,10,180,200       left, top, right, bottom in pixels of the model's input, the last two outside
    walk.csv        120,160             from, to, in steps
    cat.png         masks/cat.png       a mask of the input's size: .npy, or a picture that is not black inside

Mask files are looked up beside the table. Several lines of one file are one object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.masks import load_mask
from onnxlrp.data.sample import Sample
from onnxlrp.errors import InputError

Inside = NDArray[np.bool_]
Objects = Callable[[Sample, Sequence[int]], Inside]
"""(sample, size of the map along its spatial axes) → which cells belong to the object."""


def read_objects(path: Path) -> Objects:
    """Read a table of objects.

    Errors: InputError for a table that does not fit, and later for a sample without a line or a mask of another size.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table of objects ({error}).") from error
    places: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        name, place = (part.strip() for part in line.partition("\t")[::2])
        if line.strip() and not (name and place):
            raise InputError(f"{path}: line {number} is {line!r}. Expected file name, tab, a box or a mask file.")
        for key in {name, Path(name).stem} - {""}:
            places.setdefault(key, []).append(place)

    def inside(sample: Sample, size: Sequence[int]) -> Inside:
        if sample.name not in places:
            raise InputError(f"{sample.name}: has no object in {path}. Add a line, or leave the sample out.")
        found = [_inside(place, size, path) for place in places[sample.name]]
        return np.asarray(np.logical_or.reduce(found))

    return inside


def _inside(place: str, size: Sequence[int], table: Path) -> Inside:
    edges = place.split(",")
    if all(edge.strip().lstrip("-").isdigit() for edge in edges):
        return _box([int(edge) for edge in edges], size, table)
    mask = load_mask(table.parent / place)
    if mask.shape != tuple(size):
        raise InputError(
            f"{table.parent / place}: the mask has {list(mask.shape)} cells, the model's input {list(size)}."
        )
    return mask


def _box(edges: Sequence[int], size: Sequence[int], table: Path) -> Inside:
    """Written x before y, held height before width."""
    count = len(size)
    low, high = edges[:count][::-1], edges[count:][::-1]
    if len(edges) != 2 * count or not all(0 <= a < b <= n for a, b, n in zip(low, high, size, strict=False)):
        wanted = "left,top,right,bottom" if count == 2 else "from,to"
        raise InputError(f"{table}: the box {','.join(map(str, edges))} does not fit {list(size)}. Expected {wanted}.")
    inside = np.zeros(tuple(size), np.bool_)
    inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return inside
