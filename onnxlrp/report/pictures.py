"""The pictures of one explained sample: heatmap, overlay and bars per method, and a figure with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxlrp.data import Sidecar, Words
from onnxlrp.explanation import Explanation
from onnxlrp.figure import Panel, bars, figure, grid, save_figure
from onnxlrp.heatmap import Map, Picture, limit_of, save_heatmap
from onnxlrp.report.maps import ROBUST, Drawable, drawable
from onnxlrp.report.words import WordMap, write_words

MOST_CLASSES = 12
"""Classes that the grid of target "all" draws: those with the largest scores."""

FIGURE_DPI = 110

Limits = dict[tuple[str, str], float]
"""(method, explained tensor) → the magnitude that gets the full colour."""


@dataclass(frozen=True)
class Style:
    """How maps are drawn; see `onnxlrp.heatmap`.

    how        : reduction of channels, None = by method
    percentile : of all magnitudes, the one that gets the full colour
    scale      : "image", or "shared" by all files of a method
    figure     : whether a titled figure with colour bars is drawn for each file
    """

    how: str | None = None
    percentile: float | None = ROBUST
    scale: str = "image"
    format: str = "png"
    figure: bool = True

    def __post_init__(self) -> None:
        """Errors: ChoiceError now, not when the first picture is drawn."""
        limit_of(np.ones(1), self.percentile)


@dataclass(frozen=True)
class Drawing:
    """One method's relevance of one tensor, ready to be drawn."""

    method: str
    tensor: str
    found: Drawable
    title: str

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.tensor


@dataclass(frozen=True)
class Sheet:
    """Everything that is drawn of one sample.

    picture : what the model sees; None where nothing can be shown        words : of a text; None for anything else
    """

    name: str
    title: str
    picture: Picture | None
    drawings: tuple[Drawing, ...]
    words: Words | None = None

    def word_map(self, drawing: Drawing) -> WordMap | None:
        """The text on the colours of one drawing; None where the drawing is not of its tokens."""
        values = drawing.found.values
        if self.words is None or len(values) != len(self.words.of_token):
            return None
        return WordMap(f"{self.title}\n{drawing.title}", self.words, self.words.per_word(values), drawing.found.kind)

    @property
    def word_maps(self) -> list[WordMap]:
        return [shown for shown in map(self.word_map, self.drawings) if shown is not None]


class Painter:
    """Draws sheets into a folder; each call returns the names of the files it wrote."""

    def __init__(self, folder: Path, style: Style, sidecar: Sidecar) -> None:
        self.folder = folder
        self.style = style
        self.sidecar = sidecar

    def drawings(self, explanation: Explanation, sample: int) -> list[Drawing]:
        """One per explained tensor."""
        several = len(explanation.relevance) > 1
        return [
            Drawing(
                explanation.method,
                tensor,
                drawable(explanation, sample, tensor, how=self.style.how, sidecar=self.sidecar),
                explanation.title(sample) + (f", {tensor}" if several else ""),
            )
            for tensor in explanation.relevance
        ]

    def shared_limits(self, sheets: Sequence[Sheet]) -> Limits:
        """One scale per method and tensor, over all sheets."""
        pooled: dict[tuple[str, str], list[Map]] = {}
        for drawing in (drawing for sheet in sheets for drawing in sheet.drawings):
            pooled.setdefault(drawing.key, []).append(drawing.found.values.ravel())
        return {key: limit_of(np.concatenate(values), self.style.percentile) for key, values in pooled.items()}

    def draw(self, sheet: Sheet, limits: Limits | None = None) -> list[str]:
        """limits : where a scale is shared; None = each map its own"""
        several = len({drawing.tensor for drawing in sheet.drawings}) > 1
        files: list[str] = []
        for drawing in sheet.drawings:
            stem = f"{sheet.name}-{drawing.method}" + (f"-{as_file_name(drawing.tensor)}" if several else "")
            limit, text = (limits or {}).get(drawing.key), sheet.word_map(drawing)
            if text is not None:
                files += write_words(self.folder, stem, replace(text, limit=limit))
            else:
                files += self._draw_one(stem, drawing, sheet.picture, limit)
        maps = [drawing for drawing in sheet.drawings if drawing.found.is_map and sheet.word_map(drawing) is None]
        return files + (self._draw_figure(sheet, maps) if self.style.figure and maps else [])

    def draw_classes(self, name: str, explanation: Explanation, sample: int) -> list[str]:
        """For target "all": a grid of the classes with the largest scores, under one scale."""
        scores = explanation.score[:, sample]
        labels = explanation.labels or ()
        panels = []
        for index in map(int, np.argsort(-scores, kind="stable")[:MOST_CLASSES]):
            found = drawable(explanation, sample, how=self.style.how, sidecar=self.sidecar, index=index)
            if not found.is_map:
                return []
            label = labels[index] if index < len(labels) else str(index)
            panels.append(Panel(f"{label}, score {scores[index]:.3g}", found.values, found.kind))
        file = f"{name}-{explanation.method}-all.{self.style.format}"
        drawing = grid(panels, f"{name}: {explanation.method}", scale="shared", percentile=self.style.percentile)
        save_figure(self.folder / file, drawing, dpi=FIGURE_DPI)
        return [file]

    def _draw_one(self, stem: str, drawing: Drawing, picture: Picture | None, limit: float | None) -> list[str]:
        values, kind = drawing.found.values, drawing.found.kind
        if not drawing.found.is_map:
            file = f"{stem}-bars.{self.style.format}"
            save_figure(self.folder / file, bars(values, self._column_names(values.size), drawing.title, kind=kind))
            return [file]
        limit = limit_of(values, self.style.percentile) if limit is None else limit
        heatmap, overlay = f"{stem}-heatmap.{self.style.format}", f"{stem}-overlay.{self.style.format}"
        save_heatmap(self.folder / heatmap, values, kind, limit=limit)
        if picture is None:
            return [heatmap]
        save_heatmap(self.folder / overlay, values, kind, limit=limit, picture=picture, resample="bilinear")
        return [heatmap, overlay]

    def _draw_figure(self, sheet: Sheet, maps: Sequence[Drawing]) -> list[str]:
        """The input and every method beside it, with titles and colour bars."""
        panels = [
            Panel(drawing.title.replace(": ", "\n", 1), drawing.found.values, drawing.found.kind) for drawing in maps
        ]
        file = f"{sheet.name}-figure.{self.style.format}"
        drawn = figure(panels, sheet.picture, sheet.title, percentile=self.style.percentile)
        save_figure(self.folder / file, drawn, dpi=FIGURE_DPI)
        return [file]

    def _column_names(self, count: int) -> Sequence[str] | None:
        """Of a table's columns; numbers where there are few of them, None for a series."""
        features = self.sidecar.features
        if features is not None and len(features) == count:
            return features
        return [str(number) for number in range(count)] if count <= MOST_CLASSES else None


def as_file_name(tensor: str) -> str:
    """A tensor's name without what file systems give a meaning to."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in tensor)
