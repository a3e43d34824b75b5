"""Replacements: what takes the place of a region.

Each fills a whole sample once, so that every order and every method meets the same values (common random numbers).

    fill(x, regions, random) → what stands in each region when it is replaced, shaped like the sample x
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.perturbation.regions import Regions

Array = NDArray[Any]


class Replacement(Protocol):
    """x : one sample, no batch axis; returns the same shape and type."""

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array: ...


@dataclass(frozen=True)
class Surroundings:
    """What a replacement may need to know of the input.

    low, high  : box of the input, broadcastable to one sample; None = each sample's own range
    spatial    : axes of one sample along which neighbours lie
    background : other samples (sample, …), for `mean` and `permutation`
    value      : of `constant`; unknown or padding token        sigma : of `blur`, in elements
    """

    low: Any = None
    high: Any = None
    spatial: tuple[int, ...] = ()
    background: Array | None = field(default=None, compare=False)
    value: float = 0.0
    sigma: float = 10.0


@dataclass(frozen=True)
class Uniform:
    """Independent samples of a uniform distribution over the box: knows nothing of the model (Samek et al. 2017)."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        if x.dtype.kind in "iu":
            return random.integers(*_bounds(x, self.around), x.shape, endpoint=True).astype(x.dtype)
        low, high = _bounds(x, self.around)
        return np.asarray(low + (high - low) * random.random(x.shape, np.float32), x.dtype)


@dataclass(frozen=True)
class Constant:
    """One value; for tokens the unknown or padding token, for embeddings 0."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        return np.full_like(x, self.around.value)


@dataclass(frozen=True)
class Mean:
    """The background's mean per element; without a background the sample's own mean per channel."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        if self.around.background is not None:
            return np.asarray(_checked(self.around.background, x).mean(axis=0), x.dtype)
        if not self.around.spatial:
            raise ChoiceError("replace='mean': without height, width or time the mean needs a background of samples.")
        return np.broadcast_to(x.mean(axis=self.around.spatial, keepdims=True), x.shape).astype(x.dtype)


@dataclass(frozen=True)
class Blur:
    """The sample under a Gaussian of width sigma along its spatial axes, mirrored at the border."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        _need_space("blur", self.around)
        blurred = x.astype(np.float64)
        for axis in self.around.spatial:
            blurred = _blurred(blurred, axis, self.around.sigma)
        return blurred.astype(x.dtype)


@dataclass(frozen=True)
class Neighbourhood:
    """Normal noise with mean and standard deviation of what lies around the region, per channel, cut to the box."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        _need_space("neighbourhood", self.around)
        noise, filled = random.standard_normal(x.shape), x.astype(np.float64)
        for number in range(regions.count):
            window = _window(regions, number, self.around.spatial)
            inside = regions.labels[window] == number
            near = np.ma.masked_array(x[window].astype(np.float64), inside)
            mean = near.mean(axis=self.around.spatial, keepdims=True).filled(float(x.mean()))
            spread = near.std(axis=self.around.spatial, keepdims=True).filled(float(x.std()))
            filled[window][inside] = (mean + spread * noise[window])[inside]
        low, high = _bounds(x, self.around)
        return np.clip(filled, low, high).astype(x.dtype)


@dataclass(frozen=True)
class Inpainting:
    """Each region continued smoothly (biharmonic) from the untouched sample around it, per channel."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        _need_space("inpainting", self.around)
        inpaint = _inpaint_biharmonic()
        channels = [axis for axis in range(x.ndim) if axis not in self.around.spatial]
        filled = x.astype(np.float64)
        for number in range(regions.count):
            window = _window(regions, number, self.around.spatial)
            hole = (regions.labels[window] == number).any(axis=tuple(channels))
            piece = np.moveaxis(x[window].astype(np.float64), channels, range(len(channels)))
            flat = piece.reshape(-1, *hole.shape)
            drawn = np.stack([inpaint(layer, hole) for layer in flat]).reshape(piece.shape)
            inside = regions.labels[window] == number
            filled[window][inside] = np.moveaxis(drawn, range(len(channels)), channels)[inside]
        low, high = _bounds(x, self.around)
        return np.clip(filled, low, high).astype(x.dtype)


@dataclass(frozen=True)
class Permutation:
    """The same place in another sample, drawn anew from the background for each region."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        if self.around.background is None:
            raise ChoiceError("replace='permutation' draws from other samples: give a background.")
        others = _checked(self.around.background, x)
        donors = random.integers(0, len(others), regions.count + 1)[regions.labels]
        return np.asarray(np.take_along_axis(others, donors[None], axis=0)[0], x.dtype)


@dataclass(frozen=True)
class Removal:
    """Tokens taken out: the rest moves up, the end is filled with the padding token. `compact` does it per copy."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        return np.full_like(x, self.around.value)

    def compact(self, x: Array, removed: NDArray[np.bool_]) -> Array:
        """x : one sample, tokens along axis 0        removed : (tokens,)"""
        kept = x[~removed]
        return np.concatenate([kept, np.full((len(x) - len(kept), *x.shape[1:]), self.around.value, x.dtype)])


REPLACEMENTS: dict[str, Callable[[Surroundings], Replacement]] = {
    "uniform": Uniform,
    "constant": Constant,
    "mean": Mean,
    "blur": Blur,
    "neighbourhood": Neighbourhood,
    "inpainting": Inpainting,
    "permutation": Permutation,
    "zero-embedding": Constant,
    "token": Constant,
    "removal": Removal,
}


def replacement(name: str, around: Surroundings) -> Replacement:
    """A replacement by name.  Errors: ChoiceError for an unknown name."""
    if name not in REPLACEMENTS:
        close = difflib.get_close_matches(name, REPLACEMENTS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ChoiceError(f"There is no replacement '{name}'.{hint} There are {', '.join(REPLACEMENTS)}.")
    return REPLACEMENTS[name](around)


def _bounds(x: Array, around: Surroundings) -> tuple[Array, Array]:
    low = x.min() if around.low is None else around.low
    high = x.max() if around.high is None else around.high
    return np.asarray(low), np.asarray(high)


def _checked(background: Array, x: Array) -> Array:
    if background.shape[1:] != x.shape:
        raise InputError(f"The background holds samples of shape {list(background.shape[1:])}, met {list(x.shape)}.")
    return background


def _need_space(name: str, around: Surroundings) -> None:
    if not around.spatial:
        raise ChoiceError(f"replace='{name}' needs neighbours: the layout has neither height, width, length nor time.")


def _blurred(x: NDArray[np.float64], axis: int, sigma: float) -> NDArray[np.float64]:
    reach = max(1, int(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(x, [(reach, reach) if i == axis else (0, 0) for i in range(x.ndim)], mode="symmetric")
    length = x.shape[axis]
    total = np.zeros_like(x)
    for shift, weight in enumerate(weights):
        total += weight * padded.take(range(shift, shift + length), axis=axis)
    return total


def _window(regions: Regions, number: int, spatial: Sequence[int]) -> tuple[slice, ...]:
    """The region's bounding box, grown by its own size along spatial axes."""
    places = np.unravel_index(regions.cells[number], regions.labels.shape)
    window = []
    for axis, place in enumerate(places):
        low, high = int(place.min()), int(place.max()) + 1
        grow = high - low if axis in spatial else 0
        window.append(slice(max(0, low - grow), high + grow))
    return tuple(window)


def _inpaint_biharmonic() -> Callable[[Array, Array], Array]:
    try:
        restoration = importlib.import_module("skimage.restoration")
    except ImportError as error:
        raise ChoiceError(
            "replace='inpainting' needs scikit-image, which is not installed: pip install onnxlrp[inpainting], "
            "or choose blur, neighbourhood or uniform."
        ) from error
    return lambda layer, hole: np.asarray(restoration.inpaint_biharmonic(layer, hole))
