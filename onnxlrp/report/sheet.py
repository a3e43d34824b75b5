"""What is drawn of one sample, and what a kind of input makes of it: the vocabulary between `gallery` and `views`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data import Sample, Sidecar
from onnxlrp.explanation import Explanation
from onnxlrp.figure import Panel
from onnxlrp.report.maps import ROBUST, Array, Drawable, axes_of, drawable, one_sample

Colour = tuple[int, int, int]
Span = tuple[str, Colour | None]
"""Characters for the terminal, and the colour behind them; None = the terminal's own."""


@dataclass(frozen=True)
class Style:
    """How maps are drawn; see `onnxlrp.heatmap`.

    how        : reduction of channels, None = by method
    percentile : of all magnitudes, the one that gets the full colour; None = the largest
    scale      : "image", or "shared" by all files of a method
    figure     : whether a titled figure with colour bars is drawn for each file
    """

    how: str | None = None
    percentile: float | None = ROBUST
    scale: str = "image"
    format: str = "png"
    figure: bool = True


@dataclass(frozen=True)
class Drawing:
    """One method's relevance of one tensor in one sample.

    relevance : of the sample, batch axis gone        axes : a letter per axis of it
    found     : the same as a plain map (height, width) or as columns, channels reduced
    title     : method, target and score        heading : file and prediction
    tensors   : those that are drawn side by side, where it is several
    inside    : cells (height, width) of the output's map that are explained, where the target is such a place
    """

    method: str
    tensor: str
    relevance: Array
    axes: str
    found: Drawable
    title: str
    heading: str
    inside: NDArray[np.bool_] | None = None
    tensors: tuple[str, ...] = ()

    @classmethod
    def gathered(cls, explanation: Explanation, position: int, heading: str) -> Drawing:
        """All explained tensors of one sample side by side, as the columns of a table."""
        rows = explanation.relevance.values()
        letters = [axes_of(array.shape, explanation.layout) for array in rows]
        parts = [one_sample(a, axes, position)[0].reshape(-1) for a, axes in zip(rows, letters, strict=True)]
        values = np.concatenate(parts)
        found = Drawable(np.asarray(values, np.float64), "signed" if explanation.signed else "positive")
        tensors = tuple(explanation.relevance)
        return cls(
            explanation.method, "columns", values, "F", found, explanation.title(position), heading, None, tensors
        )

    @classmethod
    def of(
        cls, explanation: Explanation, tensor: str, position: int, heading: str, sidecar: Sidecar, how: str | None
    ) -> Drawing:
        """position : of the sample in its batch        how : reduction of channels"""
        whole = explanation.relevance[tensor]
        letters = axes_of(whole.shape, sidecar.layout or explanation.layout)
        title = explanation.title(position) + (f", {tensor}" if len(explanation.relevance) > 1 else "")
        return cls(
            explanation.method,
            tensor,
            *one_sample(whole, letters, position),
            drawable(explanation, position, tensor, how=how, sidecar=sidecar),
            title,
            heading,
            explanation.inside,
        )

    @property
    def signed(self) -> bool:
        return self.found.kind == "signed"


class Shown(Protocol):
    """A drawing in the form of its kind: a frozen dataclass with a field `limit`.

    values : what the colours stand for        limit : the magnitude that gets the full colour; None = by `percentile`
    panel  : for the figure that compares methods; None = it has no place there
    legend : one line below it in the terminal
    """

    @property
    def title(self) -> str: ...
    @property
    def legend(self) -> str: ...
    @property
    def values(self) -> NDArray[Any]: ...
    @property
    def panel(self) -> Panel | None: ...

    def write(self, folder: Path, stem: str, suffix: str) -> list[str]:
        """Write its files, each called after `stem`; returns their names.  suffix : of pictures, png or svg"""
        ...

    def spans(self) -> Iterator[Span]:
        """For the terminal; nothing where the terminal cannot show it."""
        ...

    def notes(self) -> dict[str, Any]:
        """For `explain.json`."""
        ...


class View(Protocol):
    """From a drawing to what its kind shows; None where this one does not suit, and the plain view is taken."""

    def __call__(self, drawing: Drawing, sample: Sample, sidecar: Sidecar, style: Style) -> Shown | None: ...
