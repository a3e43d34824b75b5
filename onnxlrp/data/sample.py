"""One sample, ready to be fed, and the registry of loaders: one per kind of input.

A new kind is one file with one function:

    @loader("audio", suffixes=(".wav", ".flac"))
    def load_audio(path, sidecar, inputs): ... return Sample(...)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.sidecar import KINDS, Sidecar
from onnxlrp.errors import InputError

Dimension = int | str | None


class Input(Protocol):
    """What a loader needs to know of a model's input."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[Dimension, ...]: ...


@dataclass(frozen=True)
class Sample:
    """One file, as the model is fed it.

    arrays  : {input name: array} with the model's types and ranks
    picture : uint8 (height, width, 3), what the model sees, to lie under a heatmap; None where nothing can be shown
    original: what people see or hear of it, in the form that its kind's view draws: the `Words` of a text; None where
              the arrays and the picture say it all
    columns : names of a table's columns or of a series' channels, where the file has a heading
    warnings: what to tell whoever reads the results, such as words that were not known
    """

    name: str
    arrays: dict[str, NDArray[Any]]
    picture: NDArray[np.uint8] | None = None
    original: Any = None
    columns: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()


Loader = Callable[[Path, Sidecar, Sequence[Input]], Sample]


@dataclass(frozen=True)
class Registered:
    """A loader and the file suffixes it reads."""

    load: Loader
    suffixes: tuple[str, ...]


LOADERS: dict[str, Registered] = {}


def loader(kind: str, suffixes: tuple[str, ...]) -> Callable[[Loader], Loader]:
    """Register the loader of one sidecar kind; sidecars may name it from then on."""

    def register(function: Loader) -> Loader:
        LOADERS[kind] = Registered(function, suffixes)
        KINDS.extend({kind}.difference(KINDS))
        return function

    return register


def only_input(inputs: Sequence[Input], path: Path) -> Input:
    """The model input that a single file feeds. Several inputs need an .npz file."""
    if len(inputs) == 1:
        return inputs[0]
    names = ", ".join(f"'{entry.name}'" for entry in inputs)
    raise InputError(
        f"{path}: one file cannot feed {len(inputs)} inputs ({names}). Give an .npz file with one array per input name."
    )


def fit(array: NDArray[Any], entry: Input, sidecar: Sidecar, path: Path) -> NDArray[Any]:
    """Check an array against a model input and give it that input's type.

    Every fixed dimension must be met but the batch's: a fixed batch is the explainer's business. Axis 0 of two or more
    counts as the batch unless the sidecar's layout says otherwise. Raises InputError with expected and met shape.
    """
    if _misses(array.shape, entry.shape, sidecar.layout):
        raise InputError(
            f"{path}: input '{entry.name}' expects shape {_written(entry.shape)}, met {_written(array.shape)}. "
            f"{_remedy(array.shape, entry.shape)}"
        )
    letters = sidecar.layout if sidecar.layout and len(sidecar.layout) == array.ndim else "N"
    if "N" in letters and array.ndim > 1 and not array.shape[letters.index("N")]:
        raise InputError(f"{path}: holds no samples: '{entry.name}' met {_written(array.shape)}. Give one or more.")
    return _cast(array, entry, path)


def _misses(met: tuple[int, ...], expected: tuple[Dimension, ...], layout: str | None) -> bool:
    if len(met) != len(expected):
        return True
    described = layout if layout and len(layout) == len(expected) else "N" * (len(expected) > 1)
    fixed = [isinstance(dimension, int) and dimension >= 0 for dimension in expected]
    batch = described.find("N")
    return any(
        is_fixed and axis != batch and size != dimension
        for axis, (is_fixed, size, dimension) in enumerate(zip(fixed, met, expected, strict=True))
    )


def _remedy(met: tuple[int, ...], expected: tuple[Dimension, ...]) -> str:
    if len(met) + 1 == len(expected) and not _misses((1, *met), expected, None):
        return "Add the batch axis: array[None]."
    return "Give an array of that shape."


def _written(shape: Sequence[Dimension]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ("," * (len(shape) == 1)) + ")"


def _cast(array: NDArray[Any], entry: Input, path: Path) -> NDArray[Any]:
    """Change the type where the values survive: any number to float, whole numbers to whole numbers in their range."""
    wanted, met = np.dtype(entry.dtype), array.dtype
    if wanted == met:
        return array
    if wanted.kind in "OUST" and met.kind in "OUST":
        return array.astype(object)
    if wanted.kind == "f" and met.kind in "biuf":
        return _narrow(array, wanted, entry, path)
    if wanted.kind in "iu" and met.kind in "biu" and _in_range(array, np.iinfo(wanted)):
        return array.astype(wanted)
    raise InputError(
        f"{path}: input '{entry.name}' expects {wanted} values, met {met}{_value_range(array)}. "
        f"Convert the array to {wanted}."
    )


def _narrow(array: NDArray[Any], wanted: np.dtype[Any], entry: Input, path: Path) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        narrowed = array.astype(wanted)
    if np.isinf(narrowed).any() and not np.isinf(array).any():
        raise InputError(
            f"{path}: input '{entry.name}' expects {wanted} values, met {array.dtype}{_value_range(array)}: "
            f"too large for {wanted}. Scale the array."
        )
    return narrowed


def _in_range(array: NDArray[Any], limits: Any) -> bool:
    return array.size == 0 or bool(array.min() >= limits.min and array.max() <= limits.max)


def _value_range(array: NDArray[Any]) -> str:
    return f" from {array.min()} to {array.max()}" if array.size and array.dtype.kind in "iuf" else ""
