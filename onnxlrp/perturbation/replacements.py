"""Replacements: what takes the place of a region.

Each fills a whole sample once, so that every order and every method meets the same values (common random numbers).

    fill(x, regions, random) → what stands in each region when it is replaced, shaped like the sample x
    replace(copy, regions, number, filled) → puts it there

Two replacements look at what lies around a region: in the copy as it is then, where neighbours may have been replaced
before. From the untouched sample they would bring back what was taken away; only their noise is drawn beforehand.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import ChoiceError, InputError, missing_package
from onnxlrp.perturbation.regions import Regions

Array = NDArray[Any]


class Replacement(Protocol):
    """x : one sample, no batch axis; `fill` returns the same shape."""

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array: ...

    def replace(self, copy: Array, regions: Regions, number: int, filled: Array) -> None:
        """Change one region of a copy, in place."""
        cells = regions.cells[number]
        copy.reshape(-1)[cells] = filled.reshape(-1)[cells]


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
class Uniform(Replacement):
    """Independent samples of a uniform distribution over the box: knows nothing of the model (Samek et al. 2017)."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        if x.dtype.kind in "iu":
            return random.integers(*_bounds(x, self.around), x.shape, endpoint=True).astype(x.dtype)
        low, high = _bounds(x, self.around)
        return np.asarray(low + (high - low) * random.random(x.shape, np.float32), x.dtype)


@dataclass(frozen=True)
class Constant(Replacement):
    """One value; for tokens the unknown or padding token, for embeddings 0."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        return np.full_like(x, self.around.value)


@dataclass(frozen=True)
class Mean(Replacement):
    """The background's mean per element; without a background the sample's own mean per channel."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        if self.around.background is not None:
            return np.asarray(_checked(self.around.background, x).mean(axis=0), x.dtype)
        if not self.around.spatial:
            raise ChoiceError("replace='mean': without height, width or time the mean needs a background of samples.")
        return np.broadcast_to(x.mean(axis=self.around.spatial, keepdims=True), x.shape).astype(x.dtype)


@dataclass(frozen=True)
class Blur(Replacement):
    """The sample under a Gaussian of width sigma along its spatial axes, mirrored at the border."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        _need_space("blur", self.around)
        blurred = x.astype(np.float64)
        for axis in self.around.spatial:
            blurred = _blurred(blurred, axis, self.around.sigma)
        return blurred.astype(x.dtype)


@dataclass(frozen=True)
class FromAround(Replacement):
    """Draws a region from what lies around it in the copy, within the region's own size."""

    around: Surroundings
    name: ClassVar[str]

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        """The noise alone."""
        _need_space(self.name, self.around)
        return random.standard_normal(x.shape)

    def replace(self, copy: Array, regions: Regions, number: int, filled: Array) -> None:
        window = _window(regions, number, self.around.spatial)
        inside = np.asarray(regions.labels[window] == number)
        drawn = self.draw(copy[window].astype(np.float64), inside, filled[window])
        low, high = (np.broadcast_to(bound, copy.shape)[window][inside] for bound in _bounds(copy, self.around))
        copy[window][inside] = np.clip(drawn[inside], low, high)

    def draw(self, piece: Array, inside: NDArray[np.bool_], noise: Array) -> Array:
        """A window of the copy with the region drawn anew; all three of one shape."""
        raise NotImplementedError


@dataclass(frozen=True)
class Neighbourhood(FromAround):
    """Normal noise with mean and standard deviation of what lies around the region, per channel, cut to the box."""

    name: ClassVar[str] = "neighbourhood"

    def draw(self, piece: Array, inside: NDArray[np.bool_], noise: Array) -> Array:
        near = np.ma.masked_array(piece, inside)
        axes = self.around.spatial
        mean = near.mean(axis=axes, keepdims=True).filled(float(piece.mean()))
        spread = near.std(axis=axes, keepdims=True).filled(float(piece.std()))
        return np.asarray(mean + spread * noise)


@dataclass(frozen=True)
class Inpainting(FromAround):
    """The region continued smoothly (biharmonic) from what lies around it, per channel, cut to the box."""

    name: ClassVar[str] = "inpainting"

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        _need_space(self.name, self.around)
        _inpaint_biharmonic()
        return np.zeros_like(x)

    def draw(self, piece: Array, inside: NDArray[np.bool_], noise: Array) -> Array:
        inpaint = _inpaint_biharmonic()
        channels = [axis for axis in range(piece.ndim) if axis not in self.around.spatial]
        hole = np.asarray(inside.any(axis=tuple(channels)))
        front = np.moveaxis(piece, channels, range(len(channels)))
        drawn = np.stack([inpaint(layer, hole) for layer in front.reshape(-1, *hole.shape)]).reshape(front.shape)
        return np.moveaxis(drawn, range(len(channels)), channels)


@dataclass(frozen=True)
class Permutation(Replacement):
    """The same place in another sample, drawn anew from the background for each region."""

    around: Surroundings

    def fill(self, x: Array, regions: Regions, random: np.random.Generator) -> Array:
        if self.around.background is None:
            raise ChoiceError("replace='permutation' draws from other samples: give a background.")
        others = _checked(self.around.background, x)
        donors = random.integers(0, len(others), regions.count + 1)[regions.labels]
        return np.asarray(np.take_along_axis(others, donors[None], axis=0)[0], x.dtype)


@dataclass(frozen=True)
class Removal(Replacement):
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
        others = "choose blur, neighbourhood or uniform"
        raise missing_package("replace='inpainting' needs", "scikit-image", "inpainting", others) from error
    return lambda layer, hole: np.asarray(restoration.inpaint_biharmonic(layer, hole))
