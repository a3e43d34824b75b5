"""Figures with titles, names and colour bars: several methods side by side, batches in a grid, bars for columns.

Built on matplotlib's objects alone: no pyplot, no state that outlives a call.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from onnxlrp.colours import TABLES, paint
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.files import atomic_write
from onnxlrp.heatmap import Map, Picture, check_kind, limit_of, overlay, render

COLOURMAPS = {kind: ListedColormap(table / 255.0, name=f"onnxlrp-{kind}") for kind, table in TABLES.items()}
CELL = 2.6


@dataclass(frozen=True)
class Panel:
    """One map with its title: `map` is (height, width), `kind` is "signed" or "positive"."""

    title: str
    map: Map
    kind: str = "signed"


def figure(
    columns: Sequence[Panel],
    picture: Picture | None = None,
    title: str = "",
    *,
    scale: str = "image",
    percentile: float | None = None,
    on_picture: bool = False,
    resample: str = "nearest",
) -> Figure:
    """Several maps of one picture side by side, the picture first, a colour bar for each scale.

    scale : "image", each map by its own largest magnitude; "shared", maps of one kind by one, so that they compare
    on_picture : lay the maps over the gray picture; percentile, resample: as in `onnxlrp.heatmap.render`
    """
    panels = _checked(columns)
    limits = _limits(panels, scale, percentile)
    first = 0 if picture is None else 1
    drawing, cells = _laid_out(len(panels) + first, panels[0].map if picture is None else picture, title)
    if picture is not None:
        _show(drawing.add_subplot(cells[0, 0]), picture, "input")
    for column, (panel, limit) in enumerate(zip(panels, limits, strict=True), start=first):
        if picture is not None and on_picture:
            drawn = overlay(panel.map, picture, panel.kind, limit=limit, resample=resample)
        else:
            drawn = render(panel.map, panel.kind, limit=limit)
        _show(drawing.add_subplot(cells[0, column]), drawn, panel.title)
    for run in _runs(panels, limits, scale):
        bar_axis = drawing.add_subplot(cells[1, run[0] + first : run[-1] + first + 1])
        colour_bar(drawing, panels[run[0]].kind, limits[run[0]], cax=bar_axis)
    return drawing


def grid(
    panels: Sequence[Panel],
    title: str = "",
    *,
    columns: int = 4,
    scale: str = "image",
    percentile: float | None = None,
) -> Figure:
    """A batch of maps in rows of `columns`; with scale "shared" one colour bar holds for all of a kind."""
    panels = _checked(panels)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    limits = _limits(panels, scale, percentile)
    bar_rows = rows if scale == "image" else 1
    drawing = new_figure(CELL * columns, (_proportion(panels[0].map) * CELL + 0.25) * rows + 0.35 * bar_rows, title)
    axes = list(drawing.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, panel, limit in zip(axes, panels, limits, strict=False):
        _show(axis, render(panel.map, panel.kind, limit=limit), panel.title)
    for group in _groups(panels, scale):
        owners = [axes[number] for number in group]
        aspect = 25 * len({number % columns for number in group})
        colour_bar(drawing, panels[group[0]].kind, limits[group[0]], ax=owners, aspect=aspect, pad=0.02)
    return drawing


def bars(
    values: Map,
    names: Sequence[str] | None = None,
    title: str = "",
    *,
    kind: str = "signed",
    most: int = 20,
) -> Figure:
    """A bar per value, for columns of a table and for series.

    With names: the `most` largest magnitudes, largest on top, and what the others add up to.
    Without: every value at its position, as in a series.
    """
    numbers = check_kind(values, kind).ravel()
    if names is None:
        return _bars_by_position(numbers, title, kind)
    if len(names) != numbers.size:
        raise InputError(f"bars: {len(names)} names for {numbers.size} values. Give one name per value.")
    return _bars_by_size(numbers, list(names), title, kind, most)


def save_figure(path: str | os.PathLike[str], drawing: Figure, dpi: int = 150) -> None:
    """Write a figure as .png, .svg or .pdf, whole or not at all."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg", ".pdf"):
        raise ChoiceError(f'{path}: suffix "{path.suffix}" does not exist for figures. Choose .png, .svg or .pdf.')
    # No date in vector files: the same result is the same file.
    metadata = {".png": None, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[suffix]
    with atomic_write(path) as draft:
        drawing.savefig(draft, dpi=dpi, metadata=metadata)


def _checked(panels: Sequence[Panel]) -> list[Panel]:
    if not panels:
        raise InputError("figure: no panels. Give at least one Panel(title, map, kind).")
    for panel in panels:
        if check_kind(panel.map, panel.kind).ndim != 2:
            raise InputError(
                f"figure: panel '{panel.title}' expects (height, width), met {np.shape(panel.map)}. "
                "Reduce channels and take one sample; for one axis take bars()."
            )
    return list(panels)


def _limits(panels: Sequence[Panel], scale: str, percentile: float | None) -> list[float]:
    if scale == "image":
        return [limit_of(panel.map, percentile) for panel in panels]
    if scale != "shared":
        raise ChoiceError(f'scale = "{scale}" does not exist. Choose image or shared.')
    pooled = {
        kind: limit_of(np.concatenate([np.ravel(panel.map) for panel in panels if panel.kind == kind]), percentile)
        for kind in {panel.kind for panel in panels}
    }
    return [pooled[panel.kind] for panel in panels]


def _groups(panels: Sequence[Panel], scale: str) -> list[list[int]]:
    """Numbers of the panels that share one colour bar."""
    if scale == "image":
        return [[number] for number in range(len(panels))]
    kinds = dict.fromkeys(panel.kind for panel in panels)
    return [[number for number, panel in enumerate(panels) if panel.kind == kind] for kind in kinds]


def _runs(panels: Sequence[Panel], limits: Sequence[float], scale: str) -> list[list[int]]:
    """Like `_groups`, for panels in a row: a group with another kind in between gets its bar twice."""
    if scale == "image":
        return _groups(panels, scale)
    keys = [(panel.kind, limit) for panel, limit in zip(panels, limits, strict=True)]
    return [list(run) for _, run in groupby(range(len(keys)), key=keys.__getitem__)]


def _proportion(drawn: Map | Picture) -> float:
    """Height per width, within what still fits a page."""
    return float(np.clip(drawn.shape[0] / max(1, drawn.shape[1]), 0.25, 2.5))


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of so many inches, and what its title needs on top of them."""
    lines = [line for part in title.splitlines() for line in textwrap.wrap(part, max(20, int(12 * width)))]
    packing = ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.05, hspace=0.0, wspace=0.02)
    drawing = Figure(figsize=(width, height + 0.3 * len(lines)), layout=packing)
    FigureCanvasAgg(drawing)
    if lines:
        drawing.suptitle("\n".join(lines), fontsize=11, parse_math=False)
    return drawing


def _laid_out(columns: int, drawn: Map | Picture, title: str) -> tuple[Figure, Any]:
    """A row of cells with a low row for colour bars below it."""
    height = CELL * _proportion(drawn)
    drawing = new_figure(CELL * columns, height + 0.45, title)
    return drawing, drawing.add_gridspec(2, columns, height_ratios=[height, 0.09])


def _show(axis: Any, picture: Picture, title: str) -> None:
    axis.imshow(picture, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
    axis.set_title("\n".join(textwrap.fill(line, 32) for line in title.splitlines()), fontsize=10, parse_math=False)
    axis.set_xticks([])
    axis.set_yticks([])
    for edge in axis.spines.values():
        edge.set_color("0.75")


def colour_bar(drawing: Figure, kind: str, limit: float, **place: Any) -> None:
    """A bar for values up to `limit`.  place : `ax` or `cax` and what else matplotlib takes"""
    span = limit or 1.0
    ends = (-span, span) if kind == "signed" else (0.0, span)
    bar = drawing.colorbar(ScalarMappable(Normalize(*ends), COLOURMAPS[kind]), orientation="horizontal", **place)
    ticks = dict.fromkeys((ends[0], 0.0, ends[1]))
    # A map of zeros has no largest value: only the zero of its bar means something.
    bar.set_ticks(list(ticks), labels=[_number(tick) if limit or not tick else "" for tick in ticks])
    bar.ax.tick_params(labelsize=8, length=2)
    labels = bar.ax.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")
    bar.outline.set_edgecolor("0.75")


def _number(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def _bars_by_position(numbers: Map, title: str, kind: str) -> Figure:
    drawing = new_figure(7, 2.4, title)
    axis = drawing.subplots()
    axis.bar(np.arange(numbers.size), numbers, width=1.0, color=_bar_colours(numbers, kind))
    axis.set_xlabel("position", fontsize=9)
    axis.axhline(0, color="0.4", linewidth=0.8)
    return _finished_bars(drawing, axis)


def _bars_by_size(numbers: Map, names: list[str], title: str, kind: str, most: int) -> Figure:
    order = np.argsort(-np.abs(numbers), kind="stable")
    shown, others = order[:most], order[most:]
    lengths = list(numbers[shown]) + ([float(numbers[others].sum())] if len(others) else [])
    labels = [names[number] for number in shown] + ([f"{len(others)} others"] if len(others) else [])
    colours = _bar_colours(np.asarray(lengths), kind)
    drawing = new_figure(6, 0.6 + 0.27 * max(3, len(lengths)), title)
    axis = drawing.subplots()
    drawn = axis.barh(np.arange(len(lengths)), lengths, color=colours, height=0.75)
    axis.bar_label(drawn, fmt=_number, padding=3, fontsize=8)
    axis.set_yticks(np.arange(len(lengths)), labels, fontsize=9, parse_math=False)
    axis.invert_yaxis()
    axis.margins(x=0.16)
    axis.axvline(0, color="0.4", linewidth=0.8)
    return _finished_bars(drawing, axis)


def _bar_colours(numbers: Map, kind: str) -> list[tuple[float, ...]]:
    shades = np.where(numbers < 0, -0.75, 0.75) if kind == "signed" else np.full(numbers.shape, 0.6)
    return [tuple(float(level) / 255 for level in colour) for colour in paint(shades, kind)]


def _finished_bars(drawing: Figure, axis: Any) -> Figure:
    for edge in ("top", "right"):
        axis.spines[edge].set_visible(False)
    axis.tick_params(labelsize=9)
    return drawing
