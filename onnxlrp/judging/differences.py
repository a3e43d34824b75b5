"""Finite differences of the score against the compiled gradient: the witness that knows nothing of the rules.

Along a few directions the change of the score over a step is held against ⟨gradient, step⟩. Steps of many sizes are
tried, for large ones cross kinks and small ones drown in float32's rounding; a slope counts where the next larger step
confirms it, and where none does, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from onnxlrp.deployed import is_quantised
from onnxlrp.errors import InputError, Unsupported
from onnxlrp.explain import Explainer
from onnxlrp.explanation import Arrays
from onnxlrp.findings import Finding
from onnxlrp.judging.straight import straightened
from onnxlrp.judging.unrounded import without_casts_to_half, without_rounding

NAME = "finite differences agree with the compiled gradient"

TOLERANCE = 2e-2
"""Relative error of a directional derivative; float32 differences of a deep net are no better."""

ROUNDING = {"float16": 1e-3, "bfloat16": 8e-3}
"""Relative rounding of a score of that type; of float32 and above 1e-6."""

DIRECTIONS = 4
STEPS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Relative to the size of the input; adjacent ones check each other."""

STABLE = 2e-2
"""How far the slopes of two adjacent steps may differ if they are to count as the derivative."""

SMALLEST = 3
"""Stable slopes that are looked at, from the smallest step on: curvature at a large one may hide a wrong factor."""

MEASURABLE = 100.0
"""Times the rounding of the score that a change needs to stand out."""


def gradient_agrees(gradient: Explainer, feeds: Arrays, seed: int) -> Finding:
    """Directional differences of the score against ⟨gradient, direction⟩, at a point next to the input.

    Next to it, because an image's flat background ties in max pooling, and there is no derivative at a tie. Half of
    each direction is the gradient itself, so that the difference stands out of float32's rounding.
    """
    random = np.random.default_rng(seed)
    moved = {n: nearby(feeds[n], random) for n in gradient.explained if n in feeds and feeds[n].dtype.kind == "f"}
    sizes = sizes_among(gradient, feeds, moved)
    floats = [n for n in moved if n not in sizes and moved[n].size]
    if not floats:
        return Finding(NAME, True, None, None, "", "not applicable: no floating-point input is explained")
    point = feeds | {n: moved[n] for n in floats}
    try:
        forward, detail = _differentiable(gradient, point)
    except Unsupported as error:
        return Finding(NAME, True, None, None, "", f"not applicable: it rounds inside, and {error}")
    probe = _Probe(forward, point, frozen_seed(gradient, point))
    if not np.isfinite(probe.here):
        return Finding(NAME, True, None, None, "", "not applicable: the model's own output is not finite here")
    found = {n: gradient.explain(point, target=probe.seed).relevance[n].astype(np.float64) for n in floats}
    directions = [{n: _direction(found[n], random) for n in floats} for _ in range(DIRECTIONS)]
    if not any(array.any() for array in found.values()) and probe.is_flat(directions):
        where = str(gradient.plan.steps[0]) if gradient.plan.steps else "the model"
        return Finding(NAME, True, None, None, "", f"not applicable: {where} is constant almost everywhere")
    errors = [error for error in (probe.best_error(along, found) for along in directions) if error is not None]
    if not errors:
        return Finding(NAME, True, None, None, "", "not applicable: every difference drowns in float32's rounding")
    worst = max(errors)
    return Finding(NAME, worst.excess <= TOLERANCE, worst.off, TOLERANCE + worst.room, "relative", detail)


def sizes_among(gradient: Explainer, feeds: Arrays, moved: Arrays) -> list[str]:
    """Inputs that say how large something is (the scales of a Resize, a depth): there is no slope along them."""

    def keep_the_size(names: Iterable[str]) -> bool:
        try:
            return bool(gradient.forward_value(feeds | {n: moved[n] for n in names}).shape == size)
        except InputError:
            return False

    if len(moved) < 2:
        return []
    size = gradient.forward_value(feeds).shape
    return [] if keep_the_size(moved) else [name for name in moved if not keep_the_size([name])]


def _differentiable(gradient: Explainer, point: Arrays) -> tuple[Explainer, str]:
    """What differences are taken of: the model, or, where it rounds, the model without its rounding."""
    model = without_casts_to_half(gradient.model)
    if is_quantised(model.graph):
        straight = straightened(model, point, is_quantised, gradient.providers)
        model = without_rounding(straight, point, gradient.providers)
    if model is gradient.model:
        return gradient, ""
    smooth = gradient.over(model, "finite-difference", batch_size=max(map(len, map(np.atleast_1d, point.values()))))
    return smooth, "of the model without its rounding; a step function has no finite differences"


def frozen_seed(explainer: Explainer, feeds: Arrays) -> np.ndarray[Any, Any]:
    """One at the largest element per sample, as a seed, so that a step cannot change what is explained."""
    y = explainer.forward_value(feeds)
    flat = y.reshape(len(y) if explainer.output.batched and y.ndim else 1, -1)
    seed = np.zeros(flat.shape, np.float32)
    seed[np.arange(len(flat)), flat.argmax(axis=1)] = 1.0
    return np.asarray(seed.reshape(y.shape))


def nearby(array: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """The array with noise of 1 % of its range."""
    scale = 0.01 * float(np.ptp(array)) or 0.01 if array.size else 0.0
    return np.asarray(array + scale * random.standard_normal(array.shape), array.dtype)


def _direction(gradient: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    noise = random.standard_normal(gradient.shape)
    length = float(np.linalg.norm(gradient))
    along = gradient / length if length > 0 else np.zeros(gradient.shape)
    return np.asarray(along + 0.5 * noise / (float(np.linalg.norm(noise)) or 1.0))


@dataclass(frozen=True, order=True)
class _Error:
    """How far a slope is from the gradient's, relative to the larger of both.

    excess : what is left of `off` beyond `room`        room : what the measurement itself leaves open
    """

    excess: float
    off: float
    room: float


@dataclass(frozen=True)
class _Slope:
    """One difference of the score over the step that was made, and what the gradient says of it.

    rounding : of the score        amount : of the step
    """

    measured: float
    expected: float
    rounding: float
    amount: float

    @property
    def stands_out(self) -> bool:
        return abs(self.measured) > MEASURABLE * self.rounding

    def doubt(self, next_one: _Slope) -> float:
        """By how much the measured slope of the next larger step differs, as a change over this one."""
        return abs(self.measured - next_one.measured * self.amount / next_one.amount)

    def error(self, doubt: float) -> _Error:
        size = max(abs(self.measured), abs(self.expected))
        off, room = abs(self.measured - self.expected), max(doubt, self.rounding)
        return _Error(max(off - room, 0.0) / size, off / size, room / size)


class _Probe:
    """The score around one point, for one frozen seed."""

    def __init__(self, explainer: Explainer, point: Arrays, seed: np.ndarray[Any, Any]) -> None:
        self.explainer, self.point, self.seed = explainer, point, seed
        self.rounding = ROUNDING.get(str(explainer.forward_value(point).dtype), 1e-6)
        self.here = self._score(point)

    def best_error(self, direction: Arrays, gradient: Arrays) -> _Error | None:
        """The smallest error over the stable slopes; None where no change stands out of the rounding."""
        size = max(float(np.abs(self.point[n]).mean()) for n in direction) or 1.0
        length = max(float(np.linalg.norm(self.point[n].astype(np.float64))) for n in direction) or 1.0
        unit = max(size, 0.1 * length)
        rows = [self._slopes(direction, gradient, step * unit) for step in STEPS]
        rows = [row for row in rows if all(np.isfinite(slope.measured) for slope in row)]
        stable = []
        for row, larger in pairwise(rows):
            doubts = [(slope, slope.doubt(other)) for slope, other in zip(row, larger, strict=True) if slope.stands_out]
            errors = [slope.error(doubt) for slope, doubt in doubts if doubt <= STABLE * abs(slope.measured)]
            stable += [min(errors)] if errors else []
        return min(stable[:SMALLEST]) if stable else self._silence(rows)

    @staticmethod
    def _silence(rows: list[list[_Slope]]) -> _Error | None:
        """Where nothing can be measured, the gradient must not promise what would have been.

        The smallest step that is promised to stand out decides: behind larger ones the score may be saturated.
        """
        promised = (slope for row in rows for slope in row if abs(slope.expected) > MEASURABLE * slope.rounding)
        first = next(promised, None)
        if first is None or abs(first.expected) <= MEASURABLE * max(abs(first.measured), first.rounding):
            return None
        return _Error(1.0, 1.0, 0.0)

    def _slopes(self, direction: Arrays, gradient: Arrays, amount: float) -> list[_Slope]:
        """Central, forward and backward difference."""
        above, below = (self._moved(direction, sign * amount) for sign in (1.0, -1.0))
        over, here, under = self._score(above), self.here, self._score(below)
        rounding = self.rounding * max(abs(over), abs(here), abs(under))
        return [
            _Slope(measured, self._expected(direction, gradient, to, start), rounding, amount)
            for measured, to, start in (
                (over - under, above, below),
                (over - here, above, self.point),
                (here - under, self.point, below),
            )
        ]

    def is_flat(self, directions: Sequence[Arrays]) -> bool:
        """Whether small steps change nothing: the model jumps elsewhere, and has no slope here."""
        size = max(float(np.abs(self.point[n]).mean()) for along in directions for n in along) or 1.0
        steps = [sign * 1e-4 * size for sign in (1.0, -1.0)]
        return all(self._score(self._moved(along, step)) == self.here for along in directions for step in steps)

    @staticmethod
    def _expected(direction: Arrays, gradient: Arrays, to: Arrays, start: Arrays) -> float:
        return sum(float((gradient[n] * (to[n].astype(np.float64) - start[n])).sum()) for n in direction)

    def _moved(self, direction: Arrays, amount: float) -> Arrays:
        return self.point | {n: (self.point[n] + amount * d).astype(self.point[n].dtype) for n, d in direction.items()}

    def _score(self, feeds: Arrays) -> float:
        """NaN where another size is given than at the point."""
        y = self.explainer.forward_value(feeds)
        return float((y.astype(np.float64) * self.seed).sum()) if y.shape == self.seed.shape else np.nan
