"""Methods that only run the model forward: occlusion, finite differences, and the random baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from onnxlrp.errors import ChoiceError
from onnxlrp.methods.path import Arrays, _baseline

Score = Callable[[Arrays], np.ndarray[Any, Any]]
"""{tensor: values (sample, …)} → the explained score per sample."""

Progress = Callable[[int], None] | None
Cells = tuple[slice, ...]


@dataclass(frozen=True)
class Occlusion:
    """How much the score falls when a window is replaced: (f(x) − f(x without the window)), averaged over the windows
    that cover a cell.

    window, stride : per axis but the batch; a number or None chooses for all axes
    baseline       : what stands in the window
    Windows lie at multiples of the stride and are cut at the border.  Source: Zeiler and Fergus 2014.
    """

    window: int | Sequence[int] | None = None
    stride: int | Sequence[int] | None = None
    baseline: Any = 0.0

    def windows(self, shape: Sequence[int]) -> list[Cells]:
        """shape : of one sample."""
        size = _per_axis(self.window, shape, "window", _default_window(shape))
        step = _per_axis(self.stride, shape, "stride", [max(1, w // 2) if self.window is None else w for w in size])
        if any(s > w for s, w in zip(step, size, strict=True)):
            raise ChoiceError(f"occlusion: the stride {step} exceeds the window {size}, so cells would be left out.")
        starts = [
            range(0, max(1, -(-max(n - w, 0) // s) * s + 1), s) for n, w, s in zip(shape, size, step, strict=True)
        ]
        return [tuple(slice(b, b + w) for b, w in zip(begin, size, strict=True)) for begin in product(*starts)]

    def count(self, x: Arrays) -> int:
        return sum(len(self.windows(array.shape[1:])) for array in x.values())

    def run(self, x: Arrays, score: Score, batch_size: int, progress: Progress = None) -> Arrays:
        before = score(x)
        found: Arrays = {}
        for name, array in x.items():
            filler = _baseline(self.baseline, name, array).astype(array.dtype)
            total, covered = np.zeros(array.shape, np.float64), np.zeros(array.shape[1:], np.float64)
            for cells, after in _scores(x, name, self.windows(array.shape[1:]), filler, score, batch_size, progress):
                drop = (before - after).reshape(-1, *[1] * (array.ndim - 1))
                total[(slice(None), *cells)] += drop
                covered[cells] += 1
            found[name] = (total / np.maximum(covered, 1)).astype(np.float32)
        return found


@dataclass(frozen=True)
class FiniteDifference:
    """Central differences (f(x + h·e) − f(x − h·e)) / 2h per element, or per patch of elements moved together.

    step  : h; None = a thousandth of the sample's range, at least 1e-3
    patch : elements per axis (but the batch) that move together; each gets the patch's difference divided by its cells
    """

    step: float | None = None
    patch: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.step is not None and self.step <= 0:
            raise ChoiceError(f"finite-difference: step={self.step}; a positive step is needed.")

    def windows(self, shape: Sequence[int]) -> list[Cells]:
        size = _per_axis(self.patch, shape, "patch", [1] * len(shape))
        starts = [range(0, n, w) for n, w in zip(shape, size, strict=True)]
        return [tuple(slice(b, b + w) for b, w in zip(begin, size, strict=True)) for begin in product(*starts)]

    def count(self, x: Arrays) -> int:
        return 2 * sum(len(self.windows(array.shape[1:])) for array in x.values())

    def run(self, x: Arrays, score: Score, batch_size: int, progress: Progress = None) -> Arrays:
        found: Arrays = {}
        for name, array in x.items():
            h = self.step if self.step is not None else max(1e-3 * float(np.ptp(array)), 1e-3)
            windows = self.windows(array.shape[1:])
            result = np.zeros(array.shape, np.float64)
            up = _scores(x, name, windows, (array + h).astype(array.dtype), score, batch_size, progress)
            down = _scores(x, name, windows, (array - h).astype(array.dtype), score, batch_size, progress)
            for (cells, above), (_, below) in zip(up, down, strict=True):
                size = np.prod([len(range(*c.indices(n))) for c, n in zip(cells, array.shape[1:], strict=True)])
                slope = (above.astype(np.float64) - below) / (2 * h) / size
                result[(slice(None), *cells)] = slope.reshape(-1, *[1] * (array.ndim - 1))
            found[name] = result.astype(np.float32)
        return found


@dataclass(frozen=True)
class Random:
    """Uniform noise: the baseline that every method has to beat.  seed : of the noise"""

    seed: int = 0

    def run(self, x: Arrays) -> Arrays:
        random = np.random.default_rng(self.seed)
        return {name: np.asarray(random.random(array.shape, dtype=np.float32)) for name, array in x.items()}


def _scores(
    x: Arrays,
    name: str,
    windows: Sequence[Cells],
    replacement: np.ndarray[Any, Any],
    score: Score,
    batch_size: int,
    progress: Progress,
) -> Iterator[tuple[Cells, np.ndarray[Any, Any]]]:
    """The score of each sample with one window replaced, window by window; run in full batches, copies made lazily."""
    samples = len(x[name])
    at_once = max(1, batch_size // samples)
    for start in range(0, len(windows), at_once):
        group = windows[start : start + at_once]
        copies = np.concatenate([_replaced(x[name], cells, replacement) for cells in group])
        feeds = {n: copies if n == name else np.concatenate([a] * len(group)) for n, a in x.items()}
        yield from zip(group, score(feeds).reshape(len(group), samples), strict=True)
        if progress is not None:
            progress(len(group))


def _replaced(array: np.ndarray[Any, Any], cells: Cells, replacement: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    copy = array.copy()
    copy[(slice(None), *cells)] = replacement[(slice(None), *cells)]
    return copy


def _default_window(shape: Sequence[int]) -> list[int]:
    """An eighth of each long axis; short axes (channels) whole."""
    return [n if n <= 4 else max(1, -(-n // 8)) for n in shape]


def _per_axis(given: int | Sequence[int] | None, shape: Sequence[int], what: str, default: Sequence[int]) -> list[int]:
    if given is None:
        return list(default)
    sizes = [given] * len(shape) if isinstance(given, int) else [int(g) for g in given]
    if len(sizes) != len(shape) or any(s < 1 for s in sizes):
        raise ChoiceError(
            f"{what}={given}: one sample has {len(shape)} axes {list(shape)}; give one positive number each."
        )
    return [min(s, n) for s, n in zip(sizes, shape, strict=True)]
