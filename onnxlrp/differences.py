"""Finite differences of the score against the compiled gradient: the witness that knows nothing of the rules.

Along a few directions the change of the score over a step is held against ⟨gradient, step⟩. Steps of many sizes are
tried, for large ones cross kinks and small ones drown in float32's rounding; how much the score trembles is measured,
not assumed, and where every change is smaller than that, nothing is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxlrp.deployed import is_quantised
from onnxlrp.explain import Explainer
from onnxlrp.explanation import Arrays
from onnxlrp.findings import Finding
from onnxlrp.unrounded import without_rounding

NAME = "finite differences agree with the compiled gradient"

TOLERANCE = 2e-2
"""Relative error of a directional derivative; float32 differences of a deep net are no better."""

ROUNDING = 1e-6
"""Relative rounding of one float32 score."""

DIRECTIONS = 4
STEPS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TREMBLE = (1e-4, 3e-5, 1e-5, 1e-6)
"""Steps so small that second differences show rounding, if anything."""

SMALLEST = 3
"""Measurable steps that are looked at, from the smallest on: curvature at a large one may hide a wrong factor."""

MEASURABLE = 20.0
"""Times the tremble that a change needs to have for its size to say something to 2 %."""


def gradient_agrees(gradient: Explainer, feeds: Arrays, seed: int) -> Finding:
    """Directional differences of the score against ⟨gradient, direction⟩, at a point next to the input.

    Next to it, because an image's flat background ties in max pooling, and there is no derivative at a tie. Half of
    each direction is the gradient itself, so that the difference stands out of float32's rounding.
    """
    floats = [n for n in gradient.explained if n in feeds and feeds[n].dtype.kind == "f"]
    if not floats:
        return Finding(NAME, True, None, None, "", "not applicable: no floating-point input is explained")
    random = np.random.default_rng(seed)
    point = feeds | {n: _nearby(feeds[n], random) for n in floats}
    forward, detail = _differentiable(gradient, point)
    probe = _Probe(forward, point, frozen_seed(gradient, point))
    if not np.isfinite(probe.here):
        return Finding(NAME, True, None, None, "", "not applicable: the model's own output is not finite here")
    found = {n: gradient.explain(point, target=probe.seed).relevance[n].astype(np.float64) for n in floats}
    directions = [{n: _direction(found[n], random) for n in floats} for _ in range(DIRECTIONS)]
    errors = [error for error in (probe.best_error(along, found) for along in directions) if error is not None]
    if not errors:
        return Finding(NAME, True, None, None, "", "not applicable: every difference drowns in float32's rounding")
    return Finding(NAME, max(errors) <= TOLERANCE, max(errors), TOLERANCE, "relative", detail)


def _differentiable(gradient: Explainer, point: Arrays) -> tuple[Explainer, str]:
    """What differences are taken of: the model, or, where it rounds to integers, the model without its rounding."""
    if not is_quantised(gradient.model.graph):
        return gradient, ""
    smooth = gradient.over(without_rounding(gradient.model, point, gradient.providers), "finite-difference")
    return smooth, "of the model without its rounding; a step function has no finite differences"


def frozen_seed(explainer: Explainer, feeds: Arrays) -> np.ndarray[Any, Any]:
    """One at the largest element per sample, as a seed, so that a step cannot change what is explained."""
    y = explainer.forward_value(feeds)
    flat = y.reshape(len(y) if explainer.output.batched and y.ndim else 1, -1)
    seed = np.zeros(flat.shape, np.float32)
    seed[np.arange(len(flat)), flat.argmax(axis=1)] = 1.0
    return np.asarray(seed.reshape(y.shape))


def _nearby(array: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """The array with noise of 1 % of its range."""
    scale = 0.01 * float(np.ptp(array)) or 0.01
    return np.asarray(array + scale * random.standard_normal(array.shape), array.dtype)


def _direction(gradient: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    noise = random.standard_normal(gradient.shape)
    length = float(np.linalg.norm(gradient))
    along = gradient / length if length > 0 else np.zeros(gradient.shape)
    return np.asarray(along + 0.5 * noise / (float(np.linalg.norm(noise)) or 1.0))


@dataclass(frozen=True)
class _Change:
    """How the score moved between two points, what the gradient says, and what rounding may have added."""

    measured: float
    expected: float
    rounding: float

    @property
    def size(self) -> float:
        return max(abs(self.measured), abs(self.expected))

    def error(self, tremble: float) -> float:
        off = abs(self.measured - self.expected) - max(self.rounding, tremble)
        return max(off, 0.0) / self.size


class _Probe:
    """The score around one point, for one frozen seed."""

    def __init__(self, explainer: Explainer, point: Arrays, seed: np.ndarray[Any, Any]) -> None:
        self.explainer, self.point, self.seed = explainer, point, seed
        self.here = self._score(point)

    def best_error(self, direction: Arrays, gradient: Arrays) -> float | None:
        """The smallest relative error over the steps; None where no change stands out of the rounding."""
        size = max(float(np.abs(self.point[n]).mean()) for n in direction) or 1.0
        length = max(float(np.linalg.norm(self.point[n].astype(np.float64))) for n in direction) or 1.0
        unit = max(size, 0.1 * length)
        tremble = max(self._tremble(direction, step * unit) for step in TREMBLE)
        loud = []
        for step in STEPS:
            changes = self._changes(direction, gradient, step * unit)
            errors = [c.error(tremble) for c in changes if c.size > MEASURABLE * max(tremble, c.rounding)]
            loud += [min(errors)] if errors else []
            if len(loud) == SMALLEST:
                break
        return min(loud) if loud else None

    def _tremble(self, direction: Arrays, amount: float) -> float:
        """|f(x + h) − 2·f(x) + f(x − h)|: no slope in it, hardly a curvature, so mostly rounding."""
        over, under = (self._score(self._moved(direction, sign * amount)) for sign in (1.0, -1.0))
        second = abs(over - 2.0 * self.here + under)
        return second if np.isfinite(second) else 0.0

    def _changes(self, direction: Arrays, gradient: Arrays, amount: float) -> list[_Change]:
        """Central, forward and backward difference; none where the score is not finite."""
        above, below = (self._moved(direction, sign * amount) for sign in (1.0, -1.0))
        over, here, under = self._score(above), self.here, self._score(below)
        if not np.isfinite([over, under]).all():
            return []
        rounding = ROUNDING * max(abs(over), abs(here), abs(under))
        return [
            _Change(measured, self._expected(direction, gradient, to, start), rounding)
            for measured, to, start in (
                (over - under, above, below),
                (over - here, above, self.point),
                (here - under, self.point, below),
            )
        ]

    @staticmethod
    def _expected(direction: Arrays, gradient: Arrays, to: Arrays, start: Arrays) -> float:
        return sum(float((gradient[n] * (to[n].astype(np.float64) - start[n])).sum()) for n in direction)

    def _moved(self, direction: Arrays, amount: float) -> Arrays:
        return self.point | {n: (self.point[n] + amount * d).astype(self.point[n].dtype) for n, d in direction.items()}

    def _score(self, feeds: Arrays) -> float:
        return float((self.explainer.forward_value(feeds).astype(np.float64) * self.seed).sum())
