"""How a curve is measured: regions, order, replacement, repeats, and where random numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxlrp.data.sample import Sample
from onnxlrp.errors import ChoiceError
from onnxlrp.perturbation.regions import Size
from onnxlrp.perturbation.replacements import Array, Surroundings, replacement
from onnxlrp.perturbation.store import digest_of

ORDERS = ("morf", "lerf")
RANDOM = "random"
SPATIAL = "HWLTD"

FILL, ORDER, TIES = 0, 1, 2
"""What a random number is for: each purpose has its own stream."""


@dataclass(frozen=True)
class Protocol:
    """How a curve is measured.

    steps   : regions that are replaced, one after another        orders : "morf", "lerf" or both
    region  : see `regions_for`; or `labels`, which gives a sample's label map (words, superpixels), under `labels_name`
    replace : see `REPLACEMENTS`        around : what the replacement needs to know
    repeats : replacements drawn per sample        baseline : whether random order is measured as well
    picture : (height, width) of a flattened picture
    """

    steps: int = 50
    region: Size = 9
    replace: str = "uniform"
    orders: tuple[str, ...] = ("morf",)
    repeats: int = 1
    seed: int = 0
    baseline: bool = True
    around: Surroundings = field(default_factory=Surroundings)
    layout: str | None = None
    picture: tuple[int, int] | None = None
    labels: Callable[[Sample], Any] | None = None
    labels_name: str = "grid"

    def __post_init__(self) -> None:
        for name in ("steps", "repeats"):
            if getattr(self, name) < 1:
                raise ChoiceError(f"{name}={getattr(self, name)}; at least 1 is needed.")
        unknown = [order for order in self.orders if order not in ORDERS]
        if unknown:
            raise ChoiceError(f"There is no order '{unknown[0]}'; there are {', '.join(ORDERS)}, and random.")
        replacement(self.replace, self.around)

    def as_dict(self) -> dict[str, Any]:
        """What the numbers depend on."""
        around = self.around
        background = None if around.background is None else digest_of({"background": around.background})
        bounds = [None if b is None else np.asarray(b, np.float64).ravel().tolist() for b in (around.low, around.high)]
        return {
            "steps": self.steps,
            "region": dict(self.region) if isinstance(self.region, Mapping) else self.region,
            "regions": self.labels_name if self.labels is not None else "grid",
            "replace": self.replace,
            "box": bounds,
            "value": around.value,
            "sigma": around.sigma,
            "background": background,
            "orders": list(self.orders),
            "repeats": self.repeats,
            "seed": self.seed,
            "baseline": self.baseline,
            "layout": self.layout,
        }


def random_of(seed: int, digest: str, repeat: int, purpose: int) -> np.random.Generator:
    """Random numbers from (seed, sample, repeat), never from the order of calls."""
    return np.random.default_rng([seed, int(digest, 16), repeat, purpose])


def surroundings(
    layout: str | None,
    rank: int,
    box: tuple[Any, Any] | None = None,
    background: Array | None = None,
    value: float = 0.0,
    sigma: float = 10.0,
) -> Surroundings:
    """What is known of an input, for replacements.  layout : batch axis included or not        rank : of one sample"""
    letters = (layout or "").replace("N", "")
    spatial = tuple(i for i, letter in enumerate(letters) if letter in SPATIAL) if len(letters) == rank else ()
    low, high = (_of_sample(bound, rank) for bound in box) if box is not None else (None, None)
    return Surroundings(low, high, spatial, background, value, sigma)


def _of_sample(bound: Any, rank: int) -> Array:
    """A bound that broadcasts over batches as one that broadcasts over one sample."""
    array = np.asarray(bound, np.float32)
    if array.size == 1:
        return array.reshape(())
    return array[0] if array.ndim == rank + 1 else array
