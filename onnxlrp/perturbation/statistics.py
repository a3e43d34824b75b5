"""From what was measured to numbers: decrease of a score, its band, the areas under and between curves.

    d_k = f(x_0) − f(x_k)                      decrease after k regions, in the unit of the score
    AOPC = 1/(L+1) Σ_{k=0..L} d_k              area over the perturbation curve, averaged over samples and repeats
    ABPC = 1/(L+1) Σ_{k=0..L} (f_LeRF(x_k) − f_MoRF(x_k))     area between the two orders

Bands are percentile bootstraps over samples, and within each over its repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import ChoiceError
from onnxlrp.perturbation.samples import Skipped
from onnxlrp.perturbation.store import Record

Values = NDArray[np.float64]

SCORES = {
    "logit": "decrease of the explained value",
    "probability": "decrease of the class's probability",
    "log-probability": "decrease of the class's log-probability, in nats",
    "relative": "relative decrease of the class's probability",
    "bounded": "bounded relative decrease of the class's probability",
    "accuracy": "decrease of accuracy",
}
FORMULAS = {
    "logit": "f(x₀) − f(xₖ)",
    "probability": "p₀ − pₖ",
    "log-probability": "log p₀ − log pₖ",
    "relative": "(p₀ − pₖ) / p₀",
    "bounded": "(p₀ − pₖ) / max(p₀, pₖ)",
    "accuracy": "a₀ − aₖ",
}
BOOTSTRAPS, CONFIDENCE, BOOTSTRAP_SEED = 1000, 0.95, 0
AT_ONCE = 4_000_000
"""Numbers that one slice of the bootstrap holds."""


@dataclass(frozen=True)
class Series:
    """One curve: a method and an order, or ("random", "random")."""

    method: str
    order: str

    def __str__(self) -> str:
        return self.method if self.order == "random" else f"{self.method}, {self.order}"


@dataclass(frozen=True)
class Band:
    """Per step, step 0 included, or one number: mean, and the ends of its confidence interval."""

    mean: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Area:
    """A number per method, with its interval; `minus_random` is paired by sample, None without a baseline."""

    series: Series
    aopc: Band
    minus_random: Band | None


@dataclass(frozen=True)
class Curves:
    """What a run has measured.

    series   : the curves, in the order in which methods were given, random last
    records  : one per sample        skipped : samples that could not be measured
    settings : what the numbers depend on        head : how logits become probabilities; None without classes
    seconds  : total, forward (perturbed copies), heatmaps, and onnxruntime (of all, what was spent inside it)
    runs     : rows that were run        warnings : what the first explanations of each method had to say
    """

    series: tuple[Series, ...]
    records: tuple[Record, ...]
    skipped: tuple[Skipped, ...]
    settings: Mapping[str, Any]
    head: str | None
    seconds: Mapping[str, float]
    runs: int
    warnings: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Regions replaced: what was asked for, or all that the largest sample has."""
        return min(int(self.settings["steps"]), max(record.regions for record in self.records))

    @property
    def scores(self) -> list[str]:
        """The scores that these records have."""
        known = ["logit"] if self.head is None else [name for name in SCORES if name != "accuracy"]
        return known + (["accuracy"] if self.head and all(record.label >= 0 for record in self.records) else [])

    def decrease(self, series: Series, score: str) -> Values:
        """(sample, repeat, step): d_k of every sample.  Errors: ChoiceError for a score that these records lack."""
        if score not in self.scores:
            self._refuse(score)
        index = self.series.index(series)
        steps = self.steps + 1
        if score == "logit":
            value = self._values[:, index, :, :steps]
            return np.asarray(value[..., :1] - value)
        if score == "accuracy":
            hits = np.stack([r.best[index, :, :steps] == r.label for r in self.records]).astype(np.float64)
            return np.asarray(hits[..., :1] - hits)
        logs = self._logs[:, index, :, :steps]
        return _of_logs(logs, score)

    def band(self, series: Series, score: str) -> Band:
        """The mean decrease per step, with its confidence band."""
        return bootstrap(self.decrease(series, score))

    def areas(self, score: str) -> list[Area]:
        """AOPC of every curve, and how far it lies above random order."""
        baseline = next((s for s in self.series if s.order == "random"), None)
        reference = None if baseline is None else self._aopc(baseline, score)
        return [self._area(series, score, reference) for series in self.series]

    def between(self, score: str) -> dict[str, Band]:
        """ABPC per method that was measured in both orders."""
        found = {}
        for series in self.series:
            opposite = Series(series.method, "lerf")
            if series.order == "morf" and opposite in self.series:
                gap = self._aopc(series, score) - self._aopc(opposite, score)
                found[series.method] = bootstrap(gap[..., None], scalar=True)
        return found

    def minus(self, first: Series, second: Series, score: str) -> Band:
        """AOPC of one curve minus that of another, paired by sample."""
        return bootstrap((self._aopc(first, score) - self._aopc(second, score))[..., None], scalar=True)

    def _area(self, series: Series, score: str, reference: Values | None) -> Area:
        aopc = self._aopc(series, score)
        gap = None
        if reference is not None and series.order != "random":
            gap = bootstrap((aopc - reference)[..., None], scalar=True)
        return Area(series, bootstrap(aopc[..., None], scalar=True), gap)

    def _aopc(self, series: Series, score: str) -> Values:
        """(sample, repeat)"""
        return np.asarray(self.decrease(series, score).mean(axis=-1))

    def _refuse(self, score: str) -> None:
        if score == "accuracy" and self.head:
            raise ChoiceError("The score 'accuracy' needs the true class of every sample: give --labels-file.")
        raise ChoiceError(f"There is no score '{score}' for this model; there are {', '.join(self.scores)}.")

    @cached_property
    def _values(self) -> Values:
        return np.stack([record.value for record in self.records])

    @cached_property
    def _logs(self) -> Values:
        return np.stack([record.log_probability for record in self.records])


def _of_logs(logs: Values, score: str) -> Values:
    first = logs[..., :1]
    if score == "log-probability":
        return np.asarray(first - logs)
    if score == "probability":
        return np.asarray(np.exp(first) - np.exp(logs))
    if score == "relative":
        return np.asarray(-np.expm1(logs - first))
    return np.asarray((np.exp(first) - np.exp(logs)) / np.exp(np.maximum(first, logs)))


def bootstrap(values: Values, *, scalar: bool = False) -> Band:
    """Mean over samples and repeats, with the percentile interval of resampled samples and repeats.

    values : (sample, repeat, step)        scalar : whether the last axis holds one number
    """
    samples, repeats, steps = values.shape
    random = np.random.default_rng(BOOTSTRAP_SEED)
    flat = values.reshape(samples * repeats, steps)
    means = np.empty((BOOTSTRAPS, steps))
    slice_size = max(1, AT_ONCE // (samples * repeats))
    for start in range(0, BOOTSTRAPS, slice_size):
        count = min(slice_size, BOOTSTRAPS - start)
        means[start : start + count] = _counts(random, count, samples, repeats) @ flat / (samples * repeats)
    ends = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    mean = flat.mean(axis=0)
    return Band(float(mean[0]), float(ends[0, 0]), float(ends[1, 0])) if scalar else Band(mean, ends[0], ends[1])


def _counts(random: np.random.Generator, count: int, samples: int, repeats: int) -> Values:
    """How often each (sample, repeat) is drawn: samples with replacement, and for each draw as many of its repeats."""
    chosen = random.integers(0, samples, (count, samples))[..., None] * repeats
    chosen = chosen + random.integers(0, repeats, (count, samples, repeats))
    rows = np.repeat(np.arange(count), samples * repeats)
    places = rows * (samples * repeats) + chosen.reshape(-1)
    counts = np.bincount(places, minlength=count * samples * repeats)
    return counts.reshape(count, samples * repeats).astype(np.float64)
