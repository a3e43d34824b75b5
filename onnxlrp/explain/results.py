"""Results: what becomes of a run's numbers, the class per sample, what arrived, and one axis for all classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxlrp.explain.running import Found
from onnxlrp.explanation import Conservation, Explanation
from onnxlrp.output import Output
from onnxlrp.target import EVERYTHING, LARGEST, Resolved, as_samples


def arrived(found: Found) -> Conservation:
    """Σ R and Σ |R| over all explained tensors beside the score, per sample."""
    samples = len(found.score)
    sums = sum(_sum_per_sample(array, samples) for array in found.relevance.values())
    sizes = sum(_sum_per_sample(np.abs(array), samples) for array in found.relevance.values())
    return Conservation(found.score, np.asarray(sums), np.asarray(sizes))


def _sum_per_sample(array: np.ndarray[Any, Any], samples: int) -> np.ndarray[Any, Any]:
    if array.ndim and len(array) == samples:
        return np.asarray(array.astype(np.float64).reshape(samples, -1).sum(axis=1))
    return np.full(samples, array.astype(np.float64).sum())


def target_found(resolved: Resolved, found: Found, output: Output) -> Any:
    """The class per sample where one is explained, else the words for it."""
    first = int(resolved.target[0])
    if first == EVERYTHING:
        return list(resolved.each) if len(resolved.each) == len(found.score) else resolved.shown
    if first != LARGEST:
        targets = [int(target) for target in resolved.target]
        return targets * len(found.score) if len(targets) == 1 else targets
    if found.asked is None:
        return resolved.shown
    y = as_samples(found.asked, output)
    best = y.reshape(len(y), -1).argmax(axis=1)
    if int(np.prod(y.shape[2:], dtype=np.int64)) == 1:
        return [int(index) for index in best]
    return [tuple(int(i) for i in np.unravel_index(index, y.shape[1:])) for index in best]


def stacked(classes: Sequence[Explanation], seconds: float) -> Explanation:
    """One explanation of all classes: a class axis in front of every relevance, score and sum."""
    first = classes[0]
    relevance = {name: np.stack([one.relevance[name] for one in classes]) for name in first.relevance}
    scores = np.stack([one.score for one in classes])
    kept = [one.conservation for one in classes if one.conservation is not None]
    sums, sizes = [one.arrived for one in kept], [one.magnitude for one in kept]
    conservation = Conservation(scores, np.stack(sums), np.stack(sizes)) if kept else None
    return replace(first, relevance=relevance, score=scores, conservation=conservation, target="all", seconds=seconds)
