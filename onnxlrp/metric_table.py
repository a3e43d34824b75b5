"""The metrics of several methods on the same samples, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from onnxlrp import metrics
from onnxlrp.data.sample import Sample
from onnxlrp.errors import InputError
from onnxlrp.explain import Explainer
from onnxlrp.model import Model
from onnxlrp.perturbation.ground import Packing, ground_of
from onnxlrp.perturbation.objects import Objects
from onnxlrp.perturbation.predictor import Predictor
from onnxlrp.perturbation.protocol import FILL, Protocol, random_of
from onnxlrp.perturbation.regions import Regions, spatial_axes
from onnxlrp.perturbation.replacements import Array
from onnxlrp.perturbation.samples import Skipped
from onnxlrp.perturbation.store import digest_of
from onnxlrp.randomise import randomisation, weighted_layers
from onnxlrp.session import Arrays
from onnxlrp.target import Target

SLOPES = frozenset({"gradient", "sensitivity", "smoothgrad", "guided-backprop", "deconvnet", "finite-difference"})
"""Methods whose result is per unit of input; the others' is a share of the score, whose slope is R / x."""

STAGES, PATCHES, RADIUS, STOPS = 25, 64, 0.02, 4
"""Points of an insertion curve; regions for infidelity; noise of max-sensitivity as a share of the sample's range; how
many depths weights are redrawn to."""


def measure_metrics(
    explainers: Mapping[str, Explainer],
    samples: Iterable[Sample | Skipped],
    protocol: Protocol | None = None,
    target: Target = None,
    objects: Objects | None = None,
    on_skip: Callable[[Skipped], None] | None = None,
) -> list[dict[str, Any]]:
    """One row per method and metric: {"method", "metric", "mean", "low", "high" (5th and 95th percentile), "samples"}.

    Deletion and insertion watch the probability where the output has classes; everything else the explained value.
    objects : where each sample's object is, for the pointing game and the relevance inside
    on_skip : told each sample that could not be measured
    Errors: InputError where no sample could be measured, with the reasons.
    """
    protocol = protocol or Protocol()
    predictor = Predictor(next(iter(explainers.values())))
    found: dict[tuple[str, str], list[float]] = {}
    judged: list[_Judged] = []
    skipped: list[Skipped] = []
    for sample in samples:
        if isinstance(sample, Skipped):
            skipped.append(sample)
            continue
        try:
            one = _Judged(sample, predictor, protocol, target, objects)
            rows = [(name, one.of(explainer)) for name, explainer in explainers.items()]
        except InputError as error:
            skipped.append(Skipped(sample.name, str(error)))
            continue
        judged.append(one)
        for name, numbers in rows:
            for metric, number in numbers.items():
                found.setdefault((name, metric), []).append(number)
    if not judged:
        raise InputError("\n".join(["No sample could be measured.", *(one.reason for one in skipped)]))
    if on_skip is not None:
        for missing in skipped:
            on_skip(missing)
    for name, explainer in explainers.items():
        found |= {(name, metric): numbers for metric, numbers in _without_weights(explainer, judged, protocol.seed)}
    return [_row(name, metric, np.asarray(numbers)) for (name, metric), numbers in found.items()]


def _without_weights(explainer: Explainer, judged: Sequence[_Judged], seed: int) -> Iterator[tuple[str, list[float]]]:
    """How much of a heatmap survives when layers lose their training; nothing where weights are no floats."""
    layers = len(weighted_layers(explainer.model))
    if not layers or explainer.method.name == "random":
        return

    def heatmaps(model: Model) -> Array:
        there = explainer.on(model)
        return np.stack([one.relevance(there) for one in judged])

    for step in randomisation(explainer.model, heatmaps, seed=seed, stops=STOPS):
        yield f"rank correlation, {step.redrawn} of {layers} layers redrawn", list(step.magnitudes)


def _row(name: str, metric: str, numbers: Array) -> dict[str, Any]:
    known = numbers[np.isfinite(numbers)]
    low, high = np.percentile(known, [5, 95]) if known.size else (np.nan, np.nan)
    mean = known.mean() if known.size else np.nan
    numbers_of = {"mean": float(mean), "low": float(low), "high": float(high)}
    return {"method": name, "metric": metric, **numbers_of, "samples": int(known.size)}


class _Judged:
    """One sample under one model, for any number of methods."""

    def __init__(
        self, sample: Sample, predictor: Predictor, protocol: Protocol, target: Target, objects: Objects | None
    ) -> None:
        self.predictor, self.protocol, self.target = predictor, protocol, target
        self.feeds = dict(sample.arrays)
        values, y = predictor.first(self.feeds)
        self.packing = Packing.of(values)
        self.x, self.weights = self.packing.pack(values)[0], predictor.weights(target, y)[:1]
        layout = protocol.layout or predictor.explainer.layout
        labels = None if protocol.labels is None else protocol.labels(sample)
        self.regions, replacing = ground_of(self.packing, protocol, layout, labels)
        self.random: Callable[[int], np.random.Generator] = lambda purpose: random_of(
            protocol.seed, digest_of(sample.arrays), 0, purpose
        )
        self.inside = None
        if objects is not None:
            self.spatial = spatial_axes(layout, self.x.shape)
            self.inside = objects(sample, [self.x.shape[axis] for axis in self.spatial])
        filled = replacing.fill(self.x, self.regions, self.random(FILL))
        # Metrics replace whole shares of a sample: what is drawn from around a region is drawn in the untouched one.
        self.filled = self.x.copy()
        for number in range(self.regions.count):
            region = self.x.copy()
            replacing.replace(region, self.regions, number, filled)
            self.filled.reshape(-1)[self.regions.cells[number]] = region.reshape(-1)[self.regions.cells[number]]

    def of(self, explainer: Explainer) -> dict[str, float]:
        """Every metric of one method."""
        x, seed = self.x, self.protocol.seed
        relevance = self.relevance(explainer)
        value = float(self.value(x[None])[0])
        is_slope = explainer.method.name in SLOPES
        subset = min(224, max(1, x.size // 4))
        laid = (relevance, self.regions, self.filled)
        found = {
            "faithfulness correlation": metrics.faithfulness_correlation(
                self.value, x, relevance, subset=subset, seed=seed
            ),
            "deletion AUC": metrics.deletion_auc(self.probability, x, *laid, stages=STAGES, seed=seed),
            "insertion AUC": metrics.insertion_auc(self.probability, x, *laid, stages=STAGES, seed=seed),
            "sufficiency": metrics.sufficiency(self.probability, x, *laid, seed=seed),
            "infidelity": metrics.infidelity(
                self.value, x, relevance if is_slope else _slope(relevance, x), self._patches()
            ),
            "entropy": metrics.entropy(relevance),
            "Gini index": metrics.gini(relevance),
        }
        if not is_slope and explainer.method.name != "occlusion":
            reference = 0.0 if explainer.method.name == "lrp" else float(self.value(np.zeros_like(x)[None])[0])
            found["completeness gap"] = metrics.completeness_gap(relevance, value, reference)
        # An inner tensor cannot be moved through the model's inputs, and a token not by a little.
        if set(self.predictor.tensors) <= set(self.feeds) and x.dtype.kind == "f":
            radius = RADIUS * float(np.ptp(x))
            moved: metrics.Explain = lambda rows: self.explain(explainer, rows)  # noqa: E731
            found["max-sensitivity"] = metrics.max_sensitivity(moved, x, relevance, radius=radius, seed=seed)
        return found | self._located(relevance)

    def relevance(self, explainer: Explainer) -> Array:
        """Of the sample's perturbed tensors, packed."""
        found: Array = self._packed(explainer, explainer.explain(self.feeds, target=self.frozen).relevance)[0]
        return found

    def _located(self, relevance: Array) -> dict[str, float]:
        """Whether what speaks for the target lies on the object, channels summed; nothing where no object is known."""
        if self.inside is None:
            return {}
        others = tuple(axis for axis in range(relevance.ndim) if axis not in self.spatial)
        heatmap = relevance.sum(axis=others) if self.spatial == sorted(self.spatial) else relevance.sum(axis=others).T
        return {
            "pointing game": float(metrics.pointing_game(heatmap, self.inside)),
            "relevance mass inside": metrics.relevance_mass(np.maximum(heatmap, 0), self.inside),
            "relevance rank inside": metrics.relevance_rank(heatmap, self.inside),
            "share of the sample inside": float(self.inside.mean()),
        }

    @property
    def frozen(self) -> Target:
        """What is explained, also after the input has been moved."""
        is_open = self.target is None and self.predictor.has_classes
        return int(self.weights.argmax()) if is_open else self.target

    def value(self, rows: Array) -> Array:
        y = self.predictor(self.packing.unpack(rows), self._rest(len(rows)))
        return self.predictor.scores(y, np.repeat(self.weights, len(rows), axis=0)).value

    def probability(self, rows: Array) -> Array:
        """Of the class; the explained value where there are no classes."""
        y = self.predictor(self.packing.unpack(rows), self._rest(len(rows)))
        scores = self.predictor.scores(y, np.repeat(self.weights, len(rows), axis=0))
        return np.exp(scores.log_probability) if self.predictor.has_classes else scores.value

    def explain(self, explainer: Explainer, rows: Array) -> Array:
        """Relevance of rows, all for the class of the sample itself."""
        moved = self.packing.unpack(rows)
        if not explainer.takes_batches:
            singles = [{name: array[i] for name, array in moved.items()} for i in range(len(rows))]
            found = [explainer.explain(self.feeds | one, target=self.frozen).relevance for one in singles]
            return np.concatenate([self._packed(explainer, one) for one in found])
        feeds = {name: np.repeat(array, len(rows), axis=0) for name, array in self.feeds.items()}
        return self._packed(explainer, explainer.explain(feeds | moved, target=self.frozen).relevance)

    def _packed(self, explainer: Explainer, relevance: Arrays) -> Array:
        """(row, …) of the perturbed tensors."""
        own = {name: relevance[name] for name in self.predictor.tensors}
        return self.packing.pack(own if explainer.takes_batches else {name: array[None] for name, array in own.items()})

    def _rest(self, rows: int) -> Arrays:
        others = {name: array for name, array in self.feeds.items() if name not in self.predictor.tensors}
        batched = self.predictor.output.batched
        return {name: np.repeat(array if batched else array[None], rows, axis=0) for name, array in others.items()}

    def _patches(self) -> list[Array]:
        """Copies with one region at zero each, of regions drawn by chance."""
        labels, count = self.regions.labels, self.regions.count
        chosen = self.random(FILL + 100).permutation(count)[:PATCHES]
        kept = np.where(np.isin(labels, chosen), labels, -1)
        return list(islice(metrics.patch_copies(self.x, Regions.of(kept, self.x.shape)), PATCHES))


def _slope(relevance: Array, x: Array) -> Array:
    """R / x, 0 where x is."""
    return np.divide(relevance, x, out=np.zeros(x.shape, np.float64), where=x != 0)
