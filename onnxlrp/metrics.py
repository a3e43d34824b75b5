"""The field's measures of an explanation, from arrays and a prediction function, so they serve any model and method.

    predict : rows (row, …) → the explained score per row (row,)
    explain : rows (row, …) → relevance (row, …)
    x, relevance : one sample, no batch axis, of one shape

Definitions agree with Quantus 0.6 where both have them (`tests/test_metrics.py` holds its numbers); `docs/curves.md`
lists where they differ and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import InputError
from onnxlrp.perturbation.regions import Regions, ranked

Array = NDArray[Any]
Predict = Callable[[Array], Array]
Explain = Callable[[Array], Array]

BATCH = 32

# --- faithfulness ----------------------------------------------------------------------------------------------------


def faithfulness_correlation(
    predict: Predict,
    x: Array,
    relevance: Array,
    *,
    subset: int = 224,
    runs: int = 100,
    baseline: Any = 0.0,
    seed: int = 0,
) -> float:
    """Pearson correlation, over random subsets S of elements, of Σ_{i∈S} R_i with f(x) − f(x with S at the baseline).

    subset : elements per draw        returns: −1 … 1, NaN where either side is constant
    Source: Bhatt et al. 2020, arXiv 2005.00631.
    """
    _same_shape(x, relevance)
    if not 0 < subset <= x.size:
        raise InputError(f"faithfulness_correlation: subset={subset}, and the sample has {x.size} elements.")
    random = np.random.default_rng(seed)
    draws = [random.choice(x.size, subset, replace=False) for _ in range(runs)]
    sums = [float(relevance.ravel()[draw].sum(dtype=np.float64)) for draw in draws]
    drops = _drops(predict, x, (_with(x, draw, baseline) for draw in draws))
    return pearson(np.asarray(sums), drops)


def infidelity(predict: Predict, x: Array, slope: Array, perturbed: Iterable[Array]) -> float:
    """Mean over perturbed copies x̃ of ((x − x̃)ᵀ Φ − (f(x) − f(x̃)))².

    slope     : Φ, an explanation per unit of input (a gradient, or relevance / x), not relevance itself
    perturbed : copies of x, as from `noisy_copies` or `patch_copies`
    Source: Yeh et al. 2019, arXiv 1901.09392, definition 2.1.
    """
    _same_shape(x, slope)
    copies = list(perturbed)
    promised = [float(((x - copy).astype(np.float64) * slope).sum()) for copy in copies]
    return float(np.mean((np.asarray(promised) - _drops(predict, x, copies)) ** 2))


def noisy_copies(x: Array, sigma: float, runs: int = 100, seed: int = 0) -> Iterator[Array]:
    """x under Gaussian noise."""
    random = np.random.default_rng(seed)
    for _ in range(runs):
        yield (x + sigma * random.standard_normal(x.shape)).astype(x.dtype)


def patch_copies(x: Array, regions: Regions, baseline: Any = 0.0, *, cumulative: bool = False) -> Iterator[Array]:
    """x with one region after another at the baseline; `cumulative` leaves them so, as Quantus does."""
    current = x.copy()
    for cells in regions.cells:
        current = _with(current if cumulative else x, cells, baseline)
        yield current


def removal_curve(
    predict: Predict,
    x: Array,
    relevance: Array,
    regions: Regions,
    filled: Array,
    *,
    stages: int | None = None,
    seed: int = 0,
) -> Array:
    """f(x_0) … f(x_L): the score while regions of x are replaced by those of `filled`, most relevant first.

    stages : points of the curve, in which about as many regions are replaced each; None = one region each
    returns: (stages + 1,)
    """
    _same_shape(x, relevance)
    order = ranked(regions.sums(relevance), np.random.default_rng(seed))
    stages = min(stages or regions.count, regions.count)

    def copies() -> Iterator[Array]:
        current, source = x.copy(), filled.ravel()
        yield current.copy()
        for stage in np.array_split(order, stages):
            for region in stage:
                current.reshape(-1)[regions.cells[region]] = source[regions.cells[region]]
            yield current.copy()

    return _scores(predict, copies())


def deletion_auc(
    predict: Predict, x: Array, relevance: Array, regions: Regions, filled: Array, **choices: Any
) -> float:
    """Area under the score while the most relevant regions are replaced; low is good. The share replaced runs over 0…1.

    Source: Petsiuk et al. 2018, arXiv 1806.07421.
    """
    return area_under(removal_curve(predict, x, relevance, regions, filled, **choices))


def insertion_auc(
    predict: Predict, x: Array, relevance: Array, regions: Regions, filled: Array, **choices: Any
) -> float:
    """Area under the score while the most relevant regions of x are laid onto `filled`; high is good.

    Source: Petsiuk et al. 2018, arXiv 1806.07421.
    """
    return area_under(removal_curve(predict, filled, relevance, regions, x, **choices))


def sufficiency(
    predict: Predict, x: Array, relevance: Array, regions: Regions, filled: Array, *, share: float = 0.2, seed: int = 0
) -> float:
    """f(x) − f(only the most relevant share of regions, the rest replaced); low is good.

    Source: DeYoung et al. 2020, arXiv 1911.03429, equation 2.
    """
    order = ranked(regions.sums(relevance), np.random.default_rng(seed))
    kept, source = filled.copy(), x.ravel()
    for region in order[: max(1, round(share * regions.count))]:
        kept.reshape(-1)[regions.cells[region]] = source[regions.cells[region]]
    before, after = _scores(predict, [x, kept])
    return float(before - after)


def area_under(curve: Array) -> float:
    """Trapezoids over an axis from 0 to 1."""
    return float((curve[1:] + curve[:-1]).mean() / 2) if len(curve) > 1 else float(curve[0])


def completeness_gap(relevance: Array, score: float, baseline_score: float = 0.0) -> float:
    """|Σ R − (f(x) − f(x₀))| / |f(x) − f(x₀)|; 0 is complete.

    baseline_score : f(x₀), of methods that compare with a reference; 0 for LRP, where Σ R = f(x)
    Source: Bach et al. 2015; Sundararajan et al. 2017, proposition 1.
    """
    wanted = float(score) - float(baseline_score)
    gap = abs(float(relevance.sum(dtype=np.float64)) - wanted)
    return gap / abs(wanted) if wanted else float("nan") if gap else 0.0


# --- robustness ------------------------------------------------------------------------------------------------------


def max_sensitivity(
    explain: Explain, x: Array, relevance: Array, *, radius: float = 0.2, samples: int = 10, seed: int = 0
) -> float:
    """max_δ ‖R(x + δ) − R(x)‖ / ‖R(x)‖ over δ drawn uniformly from [−radius, radius] per element; low is stable.

    Source: Yeh et al. 2019, definition 3.1, divided by the explanation's own norm.
    """
    random = np.random.default_rng(seed)
    noise = random.uniform(-radius, radius, (samples, *x.shape))
    worst = 0.0
    for start in range(0, samples, BATCH):
        found = explain((x + noise[start : start + BATCH]).astype(x.dtype))
        changes = (found.astype(np.float64) - relevance).reshape(len(found), -1)
        worst = max(worst, float(np.linalg.norm(changes, axis=1).max()))
    size = float(np.linalg.norm(relevance.astype(np.float64)))
    return worst / size if size else float("nan")


# --- complexity ------------------------------------------------------------------------------------------------------


def entropy(relevance: Array) -> float:
    """−Σ p log p with p = |R| / Σ|R|, in nats: 0 for one element, log n for all alike.  Source: Bhatt et al. 2020."""
    shares = _shares(relevance)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum()) if shares.size else float("nan")


def gini(relevance: Array) -> float:
    """Gini index of |R|: 0 for all alike, 1 − 1/n for one element.  Source: Chalasani et al. 2020, arXiv 1810.06583."""
    shares = np.sort(_shares(relevance))
    n = shares.size
    return float(((2 * np.arange(1, n + 1) - n - 1) * shares).sum() / n) if shares.any() else float("nan")


def effective_complexity(relevance: Array, least: float = 1e-5) -> int:
    """Elements with |R| above `least` times the largest.  Source: Nguyen and Martínez 2020, arXiv 2007.07584."""
    magnitude = np.abs(relevance.astype(np.float64))
    return int((magnitude > least * magnitude.max(initial=0)).sum())


# --- localisation ----------------------------------------------------------------------------------------------------


def pointing_game(heatmap: Array, mask: Array) -> bool:
    """Whether the largest element lies inside the mask (one of the largest, at ties).

    heatmap : (height, width), or any shape        mask : of truth values, the same shape
    Source: Zhang et al. 2018.
    """
    inside = _mask(heatmap, mask)
    return bool(inside[heatmap == heatmap.max()].any())


def relevance_mass(heatmap: Array, mask: Array) -> float:
    """Σ_{inside} R / Σ R. Of signed maps take one sign or the magnitude first: sums of both signs may exceed 1.

    Source: Arras, Osman, Samek 2021, arXiv 2003.07258.
    """
    inside, total = _mask(heatmap, mask), float(heatmap.sum(dtype=np.float64))
    return float(heatmap[inside].sum(dtype=np.float64)) / total if total else float("nan")


def relevance_rank(heatmap: Array, mask: Array) -> float:
    """The share of the K largest elements that lie inside a mask of K.  Source: Arras, Osman, Samek 2021."""
    inside = _mask(heatmap, mask).ravel()
    largest = np.argsort(-heatmap.ravel(), kind="stable")[: int(inside.sum())]
    return float(inside[largest].mean())


def box_mask(shape: Sequence[int], box: Sequence[int]) -> NDArray[np.bool_]:
    """A mask of a box (top, left, bottom, right), the last two beyond it; cut at the border."""
    top, left, bottom, right = (max(0, int(edge)) for edge in box)
    mask = np.zeros(shape, np.bool_)
    mask[..., top:bottom, left:right] = True
    if not mask.any():
        raise InputError(f"The box {tuple(box)} (top, left, bottom, right) holds nothing of {list(shape)}.")
    return mask


# --- shared ----------------------------------------------------------------------------------------------------------


def pearson(a: Array, b: Array) -> float:
    """Correlation of two vectors; NaN where one is constant."""
    a, b = (np.asarray(v, np.float64) - np.mean(v) for v in (a, b))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else float("nan")


def spearman(a: Array, b: Array) -> float:
    """Rank correlation of all elements; ties share their mean rank."""
    return pearson(_ranks(a.ravel()), _ranks(b.ravel()))


def _ranks(values: Array) -> NDArray[np.float64]:
    _, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[positions.ravel()], np.float64)


def _drops(predict: Predict, x: Array, copies: Iterable[Array]) -> NDArray[np.float64]:
    """f(x) − f(copy), copies made as they are run."""
    return np.asarray(_scores(predict, [x])[0] - _scores(predict, copies))


def _scores(predict: Predict, rows: Iterable[Array]) -> NDArray[np.float64]:
    waiting, found = iter(rows), []
    while batch := list(islice(waiting, BATCH)):
        found.append(np.asarray(predict(np.stack(batch)), np.float64).reshape(len(batch)))
    return np.concatenate(found)


def _with(x: Array, cells: Array, baseline: Any) -> Array:
    copy = x.copy()
    copy.reshape(-1)[cells] = np.broadcast_to(np.asarray(baseline, x.dtype), x.shape).reshape(-1)[cells]
    return copy


def _shares(relevance: Array) -> NDArray[np.float64]:
    magnitude = np.abs(relevance.astype(np.float64)).ravel()
    total = magnitude.sum()
    return magnitude / total if total else magnitude


def _mask(heatmap: Array, mask: Array) -> NDArray[np.bool_]:
    inside = np.asarray(mask).astype(np.bool_)
    if inside.shape != heatmap.shape:
        raise InputError(
            f"The mask has shape {list(inside.shape)}, the heatmap {list(heatmap.shape)}: they must agree."
        )
    if not inside.any():
        raise InputError("The mask is empty: nothing can lie inside.")
    return inside


def _same_shape(x: Array, relevance: Array) -> None:
    if x.shape != relevance.shape:
        raise InputError(
            f"The relevance has shape {list(relevance.shape)}, the sample {list(x.shape)}: they must agree."
        )
