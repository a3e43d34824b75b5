"""The two forms that need no kind: a map of colours, over its picture where there is one, and bars for columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data import Sample, Sidecar
from onnxlrp.figure import Panel, bars, save_figure
from onnxlrp.heatmap import Map, Picture, limit_of, save_heatmap
from onnxlrp.report.sheet import Drawing, Shown, Span, Style

MOST_COLUMNS = 12
"""Columns without names that get a bar by number; more of them are drawn as a series."""


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
    """A bar per column; without names, one per position.  values : (column,)"""

    title: str
    values: Map
    kind: str
    names: Sequence[str] | None = None
    limit: float | None = None
    legend: str = ""
    panel: None = None

    def write(self, folder: Path, stem: str, suffix: str) -> list[str]:
        file = f"{stem}-bars.{suffix}"
        save_figure(folder / file, bars(self.values, self.names, self.title, kind=self.kind))
        return [file]


def plain_view(drawing: Drawing, sample: Sample, sidecar: Sidecar, style: Style) -> Shown:
    """A map where the drawing has height and width, else bars."""
    found = drawing.found
    if found.is_map:
        return HeatMap(drawing.title, found.values, found.kind, sample.picture, style.percentile, inside=drawing.inside)
    return Bars(drawing.title, found.values, found.kind, _column_names(found.values.size, sidecar))


def _column_names(count: int, sidecar: Sidecar) -> Sequence[str] | None:
    """Of a table's columns; numbers where there are few of them, None for a series."""
    features = sidecar.features
    if features is not None and len(features) == count:
        return features
    return [str(number) for number in range(count)] if count <= MOST_COLUMNS else None
