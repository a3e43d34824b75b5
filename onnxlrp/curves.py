"""Perturbation curves: how fast a prediction falls when regions are replaced in the order of their relevance.

    x_0 = x,   x_k = x_{k−1} with region r_k replaced,   r_1, r_2, … by falling Σ R (most relevant first, "morf"),
    by rising Σ R (least relevant first, "lerf"), or drawn by chance ("random")

Heatmaps are computed once per batch. Perturbed copies are made one at a time and run in full batches. What stands in a
region comes from (seed, sample, repeat) alone: every method and order meets the same noise on one sample, and a run
that was killed goes on with the same numbers.  Source: Samek et al., arXiv 1509.06321 and 1708.08296, section 4.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxlrp.data.sample import Sample
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.explain import Explainer
from onnxlrp.perturbation.copies import Copies, Prepared
from onnxlrp.perturbation.ground import Packing, ground_of
from onnxlrp.perturbation.predictor import Predictor
from onnxlrp.perturbation.protocol import RANDOM, Protocol, surroundings
from onnxlrp.perturbation.regions import Regions
from onnxlrp.perturbation.replacements import Array, Replacement
from onnxlrp.perturbation.samples import Skipped
from onnxlrp.perturbation.statistics import Curves, Series
from onnxlrp.perturbation.store import Record, Store, digest_of
from onnxlrp.session import Arrays, Session
from onnxlrp.target import Target
from onnxlrp.version import VERSION

MANY = 4
"""Batches that one sample has to fill by itself, so that what its last batch lacks costs little."""

Label = Callable[[Sample], int]


def measure_curves(
    explainers: Mapping[str, Explainer],
    samples: Iterable[Sample | Skipped],
    protocol: Protocol | None = None,
    *,
    target: Target = None,
    label: Label | None = None,
    store: Path | None = None,
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Curves:
    """Measure the curves of several methods over samples.

    explainers : {name: explainer}, all of one model and one explained tensor; empty measures random order alone
    samples    : read one batch at a time; a `Skipped` among them is counted
    target     : of every sample; None = the class that is largest before anything is replaced
    label      : the true class of a sample, for the score "accuracy"
    store      : an append-only file of results per sample        resume : go on with what it holds
    progress   : told the number of samples done
    Errors: ChoiceError for explainers or a store that do not fit; InputError where no sample could be measured.
    """
    protocol = protocol or Protocol()
    measuring = _Measuring(explainers, protocol, target, label, Path(store) if store is not None else None, resume)
    return measuring.over(samples, progress)


class _Measuring:
    """One run over samples."""

    def __init__(
        self,
        explainers: Mapping[str, Explainer],
        protocol: Protocol,
        target: Target,
        label: Label | None,
        path: Path | None,
        resume: bool,
    ) -> None:
        if not explainers:
            raise ChoiceError("At least one explainer is needed: it says which model is run, and where.")
        self.explainers, self.protocol, self.target, self.label = dict(explainers), protocol, target, label
        self.first = next(iter(self.explainers.values()))
        self.predictor = Predictor(self.first)
        self.series = _series(self.explainers, protocol)
        self.copies = Copies(self.predictor, protocol, self.series)
        self.settings = self._settings()
        self.store = Store(path, self.settings, resume=resume)
        self.records: list[Record] = []
        self.skipped: list[Skipped] = []
        self.heatmap_seconds = 0.0
        self.warnings: dict[str, list[str]] = {}
        self._grounds: dict[Packing, tuple[Regions, Replacement]] = {}

    def over(self, samples: Iterable[Sample | Skipped], progress: Callable[[int], None] | None) -> Curves:
        started, inside = time.perf_counter(), Session.seconds
        for group in self._groups(samples):
            self._group(group)
            if progress is not None:
                progress(len(self.records) + len(self.skipped))
        if not self.records:
            reasons = "\n".join(one.reason for one in self.skipped) or "There were none."
            raise InputError(f"No sample could be measured.\n{reasons}")
        seconds = {
            "total": time.perf_counter() - started,
            "forward": self.predictor.seconds,
            "heatmaps": self.heatmap_seconds,
            "onnxruntime": Session.seconds - inside,
        }
        return Curves(
            tuple(self.series),
            tuple(self.records),
            tuple(self.skipped),
            self.settings,
            self.predictor.head if self.predictor.has_classes else None,
            seconds,
            self.predictor.runs,
            tuple(f"{name}: {text}" for name, texts in self.warnings.items() for text in texts),
        )

    def _settings(self) -> dict[str, Any]:
        tensors = set(self.predictor.tensors)
        described = {name: _described(explainer) for name, explainer in self.explainers.items()}
        for explainer in self.explainers.values():
            if _subject(explainer) != _subject(self.first) or not tensors <= set(explainer.explained):
                raise ChoiceError(
                    "The explainers differ in model, output or explained tensor: curves would not compare."
                )
        return {
            "onnxlrp": VERSION,
            "model": self.first.model.sha256,
            "output": self.first.output.tensor.name,
            "tensor": ", ".join(self.predictor.tensors),
            "target": self.target if isinstance(self.target, int | str | None) else repr(self.target),
            "methods": described,
            "batch_size": self.predictor.batch_size,
            **self.protocol.as_dict(),
        }

    # --- samples -----------------------------------------------------------------------------------------------------

    def _groups(self, samples: Iterable[Sample | Skipped]) -> Iterator[list[Sample]]:
        """Neighbours of one shape, a batch at most: nothing else is held in memory."""
        size = self.predictor.batch_size
        group: list[Sample] = []
        for sample in samples:
            if isinstance(sample, Skipped):
                self.skipped.append(sample)
                continue
            if group and (len(group) == size or _shapes(group[0]) != _shapes(sample)):
                yield group
                group = []
            group.append(sample)
        if group:
            yield group

    def _group(self, group: Sequence[Sample]) -> None:
        """Measure a batch; where it does not fit, one by one, so that the others are still done."""
        digests = [digest_of(sample.arrays) for sample in group]
        known = [self.store.find(sample.name, digest) for sample, digest in zip(group, digests, strict=True)]
        if all(record is not None for record in known):
            self.records += [record for record in known if record is not None]
            return
        try:
            prepared = self._prepared(group, digests)
        except InputError as error:
            if len(group) == 1:
                self.skipped.append(Skipped(group[0].name, str(error)))
                return
            for sample in group:
                self._group([sample])
            return
        done = {position: record for position, record in enumerate(known) if record is not None}
        self._measure([(i, one) for i, one in enumerate(prepared) if i not in done], done)
        self.records += [done[position] for position in range(len(group))]

    def _prepared(self, group: Sequence[Sample], digests: Sequence[str]) -> list[Prepared]:
        """Values, targets and orders of a batch; heatmaps once per method."""
        feeds = _joined(group)
        values, y = self.predictor.first(feeds)
        packing = Packing.of(values)
        rows, weights = packing.pack(values), self.predictor.weights(self.target, y)
        maps = {name: packing.pack(found) for name, found in self._heatmaps(feeds, weights).items()}
        prepared = []
        for position, (sample, digest) in enumerate(zip(group, digests, strict=True)):
            regions, replacing = self._ground(sample, packing)
            sums = {name: regions.sums(relevance[position]) for name, relevance in maps.items()}
            rest = {
                name: array[position : position + 1] if self.first.output.batched else array[None]
                for name, array in feeds.items()
                if name not in self.predictor.tensors
            }
            label = -1 if self.label is None else int(self.label(sample))
            x, target = rows[position], weights[position]
            prepared.append(Prepared(sample, digest, x, rest, packing, regions, replacing, sums, target, label))
        return prepared

    def _heatmaps(self, feeds: Arrays, weights: Array) -> dict[str, Arrays]:
        """Per method the relevance of the perturbed tensors, (sample, …) each."""
        started = time.perf_counter()
        batched = self.first.output.batched
        # The frozen target, so that every method explains what the curve measures, also at a tie.
        target = self.target
        if self.target is None and self.predictor.has_classes and batched:
            target = [int(index) for index in weights.argmax(axis=1)]
        maps = {}
        for name, explainer in self.explainers.items():
            explanation = explainer.explain(feeds, target=target)
            if explanation.warnings:
                self.warnings.setdefault(name, list(explanation.warnings))
            found = {tensor: explanation.relevance[tensor] for tensor in self.predictor.tensors}
            if not all(np.isfinite(array).all() for array in found.values()):
                raise InputError(f"The relevance by '{name}' holds NaN or infinity: it orders nothing.")
            maps[name] = found if batched else {tensor: array[None] for tensor, array in found.items()}
        self.heatmap_seconds += time.perf_counter() - started
        return maps

    def _ground(self, sample: Sample, packing: Packing) -> tuple[Regions, Replacement]:
        layout = self.protocol.layout or self.first.layout
        if self.protocol.labels is not None:
            return ground_of(packing, self.protocol, layout, self.protocol.labels(sample))
        if packing not in self._grounds:
            self._grounds[packing] = ground_of(packing, self.protocol, layout)
        return self._grounds[packing]

    def _measure(self, prepared: Sequence[tuple[int, Prepared]], done: dict[int, Record]) -> None:
        """Run the copies of each sample; several samples share batches where one does not fill them."""
        together = 1 if self.copies.rows >= MANY * self.predictor.batch_size else len(prepared)
        for start in range(0, len(prepared), max(together, 1)):
            chunk = prepared[start : start + together]
            measured = self.copies.records([one for _, one in chunk])
            for (position, _), record in zip(chunk, measured, strict=True):
                self.store.add(record)
                done[position] = record


def _series(explainers: Mapping[str, Explainer], protocol: Protocol) -> list[Series]:
    by_method = [Series(name, order) for name in explainers for order in protocol.orders]
    return by_method + ([Series(RANDOM, RANDOM)] if protocol.baseline else [])


def _shapes(sample: Sample) -> list[tuple[Any, ...]]:
    return [(name, array.shape[1:]) for name, array in sample.arrays.items()]


def _joined(group: Sequence[Sample]) -> Arrays:
    first = group[0].arrays
    return dict(first) if len(group) == 1 else {n: np.concatenate([s.arrays[n] for s in group]) for n in first}


def _subject(explainer: Explainer) -> tuple[str, str | None]:
    return explainer.model.sha256, explainer.output.tensor.name


def _described(explainer: Explainer) -> dict[str, Any]:
    """What decides on a heatmap."""
    box = None if explainer.box is None else [np.asarray(b, np.float64).ravel().tolist() for b in explainer.box]
    return {
        "method": explainer.method.name,
        "runner": repr(getattr(explainer.method, "runner", None)),
        "preset": explainer.preset,
        "rules": {key: str(rule) for key, rule in explainer.rules.items()},
        "bias": explainer.bias,
        "compat": explainer.compat.name if explainer.compat is not None else None,
        "box": box,
        "options": {key: repr(value) for key, value in explainer._options.items()},
    }


__all__ = ["Label", "Protocol", "measure_curves", "surroundings"]
