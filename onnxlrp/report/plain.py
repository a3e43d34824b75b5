"""The two forms that need no kind: a map of colours, over its picture where there is one, and bars for columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.colours import paint
from onnxlrp.data import Sample, Sidecar
from onnxlrp.figure import Panel, bars, save_figure
from onnxlrp.heatmap import Map, Picture, limit_of, save_heatmap
from onnxlrp.report.sheet import Drawing, Shown, Span, Style

MOST_COLUMNS = 12
"""Columns without names that get a bar by number; more of them are drawn as a series."""

MOST_NAMED_TOKENS, MOST_TOKENS = 40, 8
"""Tokens that each get a bar with their number; tokens that the terminal names by their relevance."""


class _PictureAlone:
    """Nothing for the terminal, and nothing for `explain.json`."""

    def spans(self) -> Iterator[Span]:
        yield from ()

    def notes(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class HeatMap(_PictureAlone):
    """A map, and the picture it lies over.

    values : (height, width)        kind : "signed" or "positive"
    inside : the place of the output that is explained; its border is drawn on the picture
    """

    title: str
    values: Map
    kind: str
    picture: Picture | None = None
    percentile: float | None = None
    limit: float | None = None
    inside: NDArray[np.bool_] | None = None
    legend: str = ""

    @property
    def panel(self) -> Panel:
        return Panel(self.title.replace(": ", "\n", 1), self.values, self.kind)

    def write(self, folder: Path, stem: str, suffix: str) -> list[str]:
        limit = limit_of(self.values, self.percentile) if self.limit is None else self.limit
        heatmap, overlay = f"{stem}-heatmap.{suffix}", f"{stem}-overlay.{suffix}"
        save_heatmap(folder / heatmap, self.values, self.kind, limit=limit)
        if self.picture is None:
            return [heatmap]
        save_heatmap(
            folder / overlay,
            self.values,
            self.kind,
            limit=limit,
            picture=self.picture,
            resample="bilinear",
            inside=self.inside,
        )
        return [heatmap, overlay]


@dataclass(frozen=True)
class Bars(_PictureAlone):
    """A bar per column; without names, one per position.

    values : (column,)        tokens : the number that was fed at each position, where these are tokens
    """

    title: str
    values: Map
    kind: str
    names: Sequence[str] | None = None
    limit: float | None = None
    tokens: Sequence[int] | None = None
    panel: None = None

    @property
    def legend(self) -> str:
        """What colours mean, and the strongest tokens, for terminals without colours."""
        if self.tokens is None:
            return ""
        order = np.argsort(-np.abs(self.values), kind="stable")[:MOST_TOKENS]
        strongest = ", ".join(f"{self.tokens[i]} (at {i}) {self.values[i]:+.3g}" for i in order)
        means = "red: for, blue: against" if self.kind == "signed" else "dark: strong"
        return f"token numbers; {means}; strongest: {strongest}"

    def write(self, folder: Path, stem: str, suffix: str) -> list[str]:
        file = f"{stem}-bars.{suffix}"
        save_figure(folder / file, bars(self.values, self.names, self.title, kind=self.kind))
        return [file]

    def spans(self) -> Iterator[Span]:
        if self.tokens is None:
            return
        largest = self.limit if self.limit is not None else float(np.abs(self.values).max(initial=0.0))
        for token, (red, green, blue) in zip(
            self.tokens, paint(self.values / (largest or 1.0), self.kind), strict=True
        ):
            yield str(token), (int(red), int(green), int(blue))
            yield " ", None


def plain_view(drawing: Drawing, sample: Sample, sidecar: Sidecar, style: Style) -> Shown:
    """A map where the drawing has height and width, else bars."""
    found = drawing.found
    if found.is_map:
        return HeatMap(drawing.title, found.values, found.kind, sample.picture, style.percentile, inside=drawing.inside)
    tokens = _tokens(drawing, sample)
    names = _column_names(found.values.size, sidecar)
    if tokens is not None and len(tokens) <= MOST_NAMED_TOKENS:
        names = [f"{token} (at {position})" for position, token in enumerate(tokens)]
    return Bars(drawing.title, found.values, found.kind, names, tokens=tokens)


def _tokens(drawing: Drawing, sample: Sample) -> list[int] | None:
    """The whole numbers that were fed where the drawing has its numbers; None where none were."""
    array = sample.arrays.get(drawing.tensor)
    if array is None or array.dtype.kind not in "iu" or array.size != drawing.found.values.size or array.size < 2:
        return None
    return [int(token) for token in array.reshape(-1)]


def _column_names(count: int, sidecar: Sidecar) -> Sequence[str] | None:
    """Of a table's columns; numbers where there are few of them, None for a series."""
    features = sidecar.features
    if features is not None and len(features) == count:
        return features
    return [str(number) for number in range(count)] if count <= MOST_COLUMNS else None
