"""Draws what was found of one sample: each drawing in the form of its kind, and a figure that compares the methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxlrp.data import Sample, Sidecar
from onnxlrp.data.text import is_content
from onnxlrp.explanation import Explanation
from onnxlrp.figure import Panel, figure, grid, save_figure
from onnxlrp.heatmap import Map, limit_of, outlined
from onnxlrp.report.maps import drawable
from onnxlrp.report.sheet import Drawing, Shown, Style
from onnxlrp.report.views import shown

MOST_CLASSES = 12
"""Classes that the grid of target "all" draws: those with the largest scores."""

FIGURE_DPI = 110

Limits = dict[tuple[str, str], float]
"""(method, explained tensor) → the magnitude that gets the full colour."""


@dataclass(frozen=True)
class Sheet:
    """Everything that is drawn of one sample."""

    title: str
    sample: Sample
    drawings: tuple[Drawing, ...]
    shown: tuple[Shown, ...]

    @property
    def name(self) -> str:
        return self.sample.name

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(method, explained tensor) of each drawing."""
        return [(drawing.method, drawing.tensor) for drawing in self.drawings]


class Painter:
    """Draws sheets into a folder; each call returns the names of the files it wrote.

    Errors: ChoiceError for a percentile that does not fit, now and not when the first picture is drawn.
    """

    def __init__(self, folder: Path, style: Style, sidecar: Sidecar) -> None:
        limit_of(np.ones(1), style.percentile)
        self.folder = folder
        self.style = style
        self.sidecar = sidecar

    def sheet(self, sample: Sample, title: str, results: Sequence[Explanation], position: int) -> Sheet:
        """One drawing per method and explained tensor, of tables per method; none of targets that explain every class.

        position : of the sample in its batch
        """
        if self._is_one_table(sample) and all(len(one.relevance) > 1 for one in results):
            side_by_side = [Drawing.gathered(one, position, title) for one in results if not _is_everything(one)]
            return self._sheet(sample, title, tuple(side_by_side))
        drawings = tuple(
            Drawing.of(explanation, tensor, position, title, self.sidecar, self.style.how)
            for explanation in results
            if not _is_everything(explanation)
            for tensor in content_of(explanation)
        )
        return self._sheet(sample, title, drawings)

    def _is_one_table(self, sample: Sample) -> bool:
        """Whether several inputs are the columns of one table: each a column, or all of them with names."""
        named = self.sidecar.features is not None or sample.columns is not None
        return self.sidecar.kind == "tabular" and (named or all(array.size == 1 for array in sample.arrays.values()))

    def _sheet(self, sample: Sample, title: str, drawings: tuple[Drawing, ...]) -> Sheet:
        return Sheet(title, sample, drawings, tuple(shown(one, sample, self.sidecar, self.style) for one in drawings))

    def shared_limits(self, sheets: Sequence[Sheet]) -> Limits:
        """One scale per method and tensor, over all sheets."""
        pooled: dict[tuple[str, str], list[Map]] = {}
        for sheet in sheets:
            for key, one in zip(sheet.keys, sheet.shown, strict=True):
                pooled.setdefault(key, []).append(np.ravel(one.values))
        return {key: limit_of(np.concatenate(values), self.style.percentile) for key, values in pooled.items()}

    def draw(self, sheet: Sheet, limits: Limits | None = None) -> list[str]:
        """limits : where a scale is shared; None = each drawing its own"""
        several = len({tensor for _, tensor in sheet.keys}) > 1
        files: list[str] = []
        for (method, tensor), one in zip(sheet.keys, sheet.shown, strict=True):
            stem = f"{sheet.name}-{method}" + (f"-{as_file_name(tensor)}" if several else "")
            files += _limited(one, (limits or {}).get((method, tensor))).write(self.folder, stem, self.style.format)
        panels = [one.panel for one in sheet.shown if one.panel is not None]
        return files + (self._draw_figure(sheet, panels) if self.style.figure and panels else [])

    def draw_classes(self, name: str, explanation: Explanation, position: int) -> list[str]:
        """For target "all": a grid of the classes with the largest scores, under one scale."""
        if not _is_everything(explanation):
            return []
        scores = explanation.score[:, position]
        labels = explanation.labels or ()
        panels = []
        for index in map(int, np.argsort(-scores, kind="stable")[:MOST_CLASSES]):
            found = drawable(explanation, position, how=self.style.how, sidecar=self.sidecar, index=index)
            if not found.is_map:
                return []
            label = labels[index] if index < len(labels) else str(index)
            panels.append(Panel(f"{label}, score {scores[index]:.3g}", found.values, found.kind))
        file = f"{name}-{explanation.method}-all.{self.style.format}"
        drawing = grid(panels, f"{name}: {explanation.method}", scale="shared", percentile=self.style.percentile)
        save_figure(self.folder / file, drawing, dpi=FIGURE_DPI)
        return [file]

    def _draw_figure(self, sheet: Sheet, panels: Sequence[Panel]) -> list[str]:
        """The input and every method beside it, with titles and colour bars."""
        file = f"{sheet.name}-figure.{self.style.format}"
        picture, inside = sheet.sample.picture, sheet.drawings[0].inside
        framed = outlined(picture, inside) if picture is not None and inside is not None else picture
        drawn = figure(panels, framed, sheet.title, percentile=self.style.percentile)
        save_figure(self.folder / file, drawn, dpi=FIGURE_DPI)
        return [file]


def content_of(explanation: Explanation) -> list[str]:
    """The explained tensors that hold something to look at: masks, segments and positions do not, beside others."""
    kept = [name for name in explanation.relevance if not _is_frame(name, explanation)]
    return kept or list(explanation.relevance)


def framing_of(explanation: Explanation) -> list[str]:
    """The explained tensors that `content_of` leaves out."""
    return [name for name in explanation.relevance if name not in content_of(explanation)]


def _is_frame(name: str, explanation: Explanation) -> bool:
    """Whole numbers that only say which tokens are read, and where."""
    array = explanation.inputs.get(name)
    return array is not None and array.dtype.kind in "iub" and not is_content(name)


def as_file_name(tensor: str) -> str:
    """A tensor's name without what file systems give a meaning to."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in tensor)


def _is_everything(explanation: Explanation) -> bool:
    return isinstance(explanation.target, str) and explanation.target == "all"


def _limited(one: Any, limit: float | None) -> Shown:
    return one if limit is None else dataclasses.replace(one, limit=limit)  # type: ignore[no-any-return]
