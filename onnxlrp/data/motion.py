"""Motion vectors of a compressed video → descriptors of local motion, one per patch, as rows that a classifier reads.

    field       u(t, y, x) : displacement in pixels per frame on a grid of 8×8 blocks, 0 where the stream says nothing
    patch       16×16 pixels × 4 frames, cut into two halves in time; patches lie side by side, from the upper left
    descriptor  [HOF, MBH x, MBH y], each the histograms of both halves, divided by its sum (at least 1) and rooted

HOF: a block that moves by |u| ≥ 0.5 votes with |u| for its direction, in 8 bins, shared linearly by the two nearest;
a block that does not votes with 1 for a ninth bin. MBH x: the same over the spatial gradient of u_x, votes weighted by
its length, without a ninth bin; MBH y likewise. A patch in which no block moves has no descriptor: its row is zero.

Source: Kantorov and Laptev, CVPR 2014 (HOF and MBH of motion vectors instead of optical flow); Dalal et al., ECCV 2006
(MBH). Sizes are this project's, made for small pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]

CELL, BLOCK = 4, 8
"""Pixels: the smallest partition that carries a vector, and one block of the field."""

STILL = 0.5
"""Pixels per frame below which a block does not move: a quarter pixel is an encoder's noise."""


@dataclass(frozen=True)
class Patches:
    """How descriptors are cut out of a field.

    size : pixels, a multiple of 8        frames : even        bins : directions
    """

    size: int = 16
    frames: int = 4
    bins: int = 8

    @property
    def length(self) -> int:
        """Numbers per descriptor."""
        return 2 * (3 * self.bins + 1)


def field_of(vectors: Sequence[NDArray[Any] | None], height: int, width: int) -> Field:
    """Displacement in pixels per frame: (frame, row, column, [x, y]) on blocks of 8×8 pixels.

    vectors : per frame the stream's records, with FFmpeg's names: block centre dst_x, dst_y, size w, h, the shift
              motion_x, motion_y in 1 / motion_scale pixels to where the block comes from, and whether that is a frame
              before (source < 0) or after; None for frames that carry none
    Where blocks overlap, as those of a frame predicted from two sides do, their mean counts. A stream does not say how
    many frames lie between: vectors count as from the neighbour.
    """
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    field = np.zeros((len(vectors), rows, columns, 2))
    fine = BLOCK // CELL
    for number, records in enumerate(vectors):
        if records is None or not len(records):
            continue
        total, count = np.zeros((rows * fine, columns * fine, 2)), np.zeros((rows * fine, columns * fine))
        for places, shifts in _blocks(records):
            inside = ((places >= 0) & (places < count.shape)).all(axis=1)
            index = tuple(places[inside].T)
            np.add.at(total, index, shifts[inside])
            np.add.at(count, index, 1.0)
        mean = total / np.maximum(count, 1.0)[..., None]
        field[number] = mean.reshape(rows, fine, columns, fine, 2).mean(axis=(1, 3))
    return field


def describe(field: Field, patches: Patches = Patches()) -> NDArray[np.float32]:
    """Descriptors of a field: (window, row, column, number), zero rows where nothing moves.

    A last window or patch that the video does not fill is filled up with rest.
    """
    moving = np.linalg.norm(field, axis=-1) >= STILL
    gradients = [np.stack([_slope(field[..., axis], along) for along in (2, 1)], axis=-1) for axis in (0, 1)]
    hof = np.concatenate([_votes(field * moving[..., None], patches.bins), ~moving[..., None]], axis=-1)
    mbh = [_votes(gradient, patches.bins) for gradient in gradients]
    parts = [_pooled(votes, patches) for votes in (hof, *mbh)]
    rooted = [np.sqrt(part / np.maximum(part.sum(axis=-1, keepdims=True), 1.0)) for part in parts]
    any_motion = _pooled(moving[..., None].astype(np.float64), patches).sum(axis=-1, keepdims=True) > 0
    return np.asarray(np.concatenate(rooted, axis=-1) * any_motion, np.float32)


def _blocks(records: NDArray[Any]) -> list[tuple[NDArray[np.int64], Field]]:
    """Per size of block: (places (n, [row, column]) in cells, shifts (n, [x, y])), each block as all of its cells."""
    found = []
    towards = np.sign(records["source"]) / np.maximum(records["motion_scale"], 1)
    shifts = np.stack([records["motion_x"] * towards, records["motion_y"] * towards], axis=-1)
    sizes = np.stack([records["h"], records["w"]], axis=-1).astype(np.int64)
    corners = np.stack([records["dst_y"], records["dst_x"]], axis=-1) - sizes // 2
    for size in np.unique(sizes, axis=0):
        chosen = (sizes == size).all(axis=1)
        inside = np.indices(np.maximum(size // CELL, 1)).reshape(2, -1).T
        places = (corners[chosen] // CELL)[:, None] + inside[None]
        found.append((places.reshape(-1, 2), np.repeat(shifts[chosen], len(inside), axis=0)))
    return found


def _slope(values: Field, axis: int) -> Field:
    """Central differences along an axis; none where there is a single block."""
    return np.asarray(np.gradient(values, axis=axis)) if values.shape[axis] > 1 else np.zeros_like(values)


def _votes(vectors: Field, bins: int) -> Field:
    """(…, [x, y]) → (…, bin): the length, shared by the two directions that lie nearest."""
    length = np.linalg.norm(vectors, axis=-1)
    place = np.arctan2(vectors[..., 1], vectors[..., 0]) / (2 * np.pi) * bins % bins
    low = np.floor(place).astype(np.int64) % bins
    upper = place - np.floor(place)
    votes = np.zeros((*length.shape, bins))
    np.put_along_axis(votes, low[..., None], (length * (1 - upper))[..., None], axis=-1)
    high = ((low + 1) % bins)[..., None]
    more = np.take_along_axis(votes, high, axis=-1) + (length * upper)[..., None]
    np.put_along_axis(votes, high, more, axis=-1)
    return votes


def _pooled(votes: Field, patches: Patches) -> Field:
    """(frame, row, column, bin) → (window, row, column, 2·bin): sums over a patch, both halves side by side."""
    half, edge = patches.frames // 2, patches.size // BLOCK
    frames, rows, columns, bins = votes.shape
    windows, high, wide = (-(-n // size) for n, size in ((frames, patches.frames), (rows, edge), (columns, edge)))
    missing = [(0, windows * patches.frames - frames), (0, high * edge - rows), (0, wide * edge - columns), (0, 0)]
    full = np.pad(votes, missing).reshape(windows, 2, half, high, edge, wide, edge, bins).sum(axis=(2, 4, 6))
    return np.asarray(full.transpose(0, 2, 3, 1, 4).reshape(windows, high, wide, 2 * bins))
