"""Perturbed copies of samples: made one at a time, run in full batches, gathered as records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.sample import Sample
from onnxlrp.perturbation.ground import Packing
from onnxlrp.perturbation.predictor import Predictor, Scores
from onnxlrp.perturbation.protocol import FILL, ORDER, RANDOM, TIES, Protocol, random_of
from onnxlrp.perturbation.regions import Regions, ranked
from onnxlrp.perturbation.replacements import Array, Removal, Replacement
from onnxlrp.perturbation.statistics import Series
from onnxlrp.perturbation.store import Record
from onnxlrp.session import Arrays

Place = tuple[int, int, int, int]
"""(sample, series, repeat, step)"""


@dataclass(frozen=True)
class Prepared:
    """One sample, ready to be perturbed.

    x    : its perturbed tensors, packed        rest : the other inputs, a batch of one each
    sums : Σ R per region, by method            weights : of the target over the output
    """

    sample: Sample
    digest: str
    x: Array
    rest: Arrays
    packing: Packing
    regions: Regions
    replacement: Replacement
    sums: dict[str, NDArray[np.float64]]
    weights: Array
    label: int

    def random(self, seed: int, repeat: int, purpose: int) -> np.random.Generator:
        return random_of(seed, self.digest, repeat, purpose)


class Copies:
    """Runs the copies of prepared samples through one model."""

    def __init__(self, predictor: Predictor, protocol: Protocol, series: Sequence[Series]) -> None:
        self.predictor, self.protocol, self.series = predictor, protocol, list(series)

    @property
    def rows(self) -> int:
        """Copies of one sample."""
        return len(self.series) * self.protocol.repeats * self.protocol.steps

    def records(self, prepared: Sequence[Prepared]) -> list[Record]:
        """One per sample; all of one shape."""
        shape = (len(prepared), len(self.series), self.protocol.repeats, self.protocol.steps + 1)
        value, logs = np.zeros(shape), np.zeros(shape)
        best = np.zeros(shape, np.int64)
        for places, scores in self._scored(prepared):
            value[places], logs[places], best[places] = scores.value, scores.log_probability, scores.best
        for number, one in enumerate(prepared):
            steps = min(self.protocol.steps, one.regions.count)
            for array in (value, logs, best):
                array[number, ..., 0] = array[number, 0, 0, 0]
                array[number, ..., steps + 1 :] = array[number, ..., steps : steps + 1]
        return [
            Record(
                one.sample.name,
                one.digest,
                one.regions.count,
                int(one.weights.argmax()) if self.predictor.has_classes else -1,
                one.label,
                value[number],
                logs[number],
                best[number],
            )
            for number, one in enumerate(prepared)
        ]

    def _scored(self, prepared: Sequence[Prepared]) -> Iterator[tuple[tuple[Array, ...], Scores]]:
        """(places, scores) per full batch; one buffer holds the copies."""
        size = self.predictor.batch_size
        buffer = np.empty((size, *prepared[0].x.shape), prepared[0].x.dtype)
        places: list[Place] = []
        for place, row in self._copies(prepared):
            buffer[len(places)] = row
            places.append(place)
            if len(places) == size:
                yield self._batch(buffer, places, prepared)
                places = []
        if places:
            yield self._batch(buffer[: len(places)], places, prepared)

    def _batch(
        self, rows: Array, places: list[Place], prepared: Sequence[Prepared]
    ) -> tuple[tuple[Array, ...], Scores]:
        index = tuple(np.array(places).T)
        owners = [prepared[number] for number in index[0]]
        rest = {name: np.concatenate([one.rest[name] for one in owners]) for name in owners[0].rest}
        y = self.predictor(owners[0].packing.unpack(rows), rest)
        return index, self.predictor.scores(y, np.stack([one.weights for one in owners]))

    def _copies(self, prepared: Sequence[Prepared]) -> Iterator[tuple[Place, Array]]:
        """The next overwrites the last, so whoever wants one copies it."""
        for number, one in enumerate(prepared):
            yield (number, 0, 0, 0), one.x
            for repeat in range(self.protocol.repeats):
                filled = one.replacement.fill(one.x, one.regions, one.random(self.protocol.seed, repeat, FILL))
                for series, entry in enumerate(self.series):
                    order = self._order(one, entry, repeat)[: self.protocol.steps]
                    for step, row in enumerate(_walk(one, order, filled), start=1):
                        yield (number, series, repeat, step), row

    def _order(self, one: Prepared, series: Series, repeat: int) -> NDArray[np.int64]:
        if series.order == RANDOM:
            return one.random(self.protocol.seed, repeat, ORDER).permutation(one.regions.count)
        chance = one.random(self.protocol.seed, 0, TIES)
        return ranked(one.sums[series.method], chance, least_first=series.order == "lerf")


def _walk(one: Prepared, order: NDArray[np.int64], filled: Array) -> Iterator[Array]:
    """One copy, with one more region replaced each time."""
    if isinstance(one.replacement, Removal):
        yield from _removed(one, order, one.replacement)
        return
    current = one.x.copy()
    for region in order:
        one.replacement.replace(current, one.regions, int(region), filled)
        yield current


def _removed(one: Prepared, order: NDArray[np.int64], removal: Removal) -> Iterator[Array]:
    tokens = one.regions.labels.reshape(len(one.x), -1)[:, 0]
    gone = np.zeros(len(one.x), np.bool_)
    for region in order:
        gone |= tokens == region
        yield removal.compact(one.x, gone)
