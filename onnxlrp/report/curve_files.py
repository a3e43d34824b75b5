"""Curves → files: a figure as in figure 2 of the paper, tables for spreadsheets, one document with everything."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from onnxlrp.errors import ChoiceError
from onnxlrp.figure import save_figure
from onnxlrp.files import atomic_write, write_json
from onnxlrp.perturbation.statistics import FORMULAS, SCORES, Band, Curves, Series
from onnxlrp.report.summary import as_json
from onnxlrp.version import VERSION

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#5b3a8e", "#7f9a00", "#a0153e")
BASELINE = "0.45"
DASHES = {"morf": "-", "lerf": "--", "random": ":"}


def write_curves(curves: Curves, folder: Path, score: str, title: str = "", suffix: str = "png") -> list[str]:
    """Write curve.csv, areas.csv, samples.csv, curve.json and the figure; returns their names.

    score : the one that the figure shows; the tables hold every score that was measured
    """
    if suffix not in ("png", "svg"):
        raise ChoiceError(f"There is no format '{suffix}'; there are png and svg.")
    write_table(folder / "curve.csv", ("score", "method", "order", "step", "mean", "low", "high"), _curve_rows(curves))
    heading = (
        "score",
        "method",
        "order",
        "aopc",
        "low",
        "high",
        "minus_random",
        "minus_random_low",
        "minus_random_high",
    )
    write_table(folder / "areas.csv", heading, _area_rows(curves))
    write_table(
        folder / "samples.csv",
        ("sample", "digest", "target", "label", "method", "order", *curves.scores),
        _sample_rows(curves),
    )
    write_json(folder / "curve.json", document_of(curves, score))
    save_figure(folder / f"curve.{suffix}", draw_curves(curves, score, title))
    return ["curve.csv", "areas.csv", "samples.csv", "curve.json", f"curve.{suffix}"]


def draw_curves(curves: Curves, score: str, title: str = "", order: Sequence[Series] | None = None) -> Figure:
    """Decrease of a score against the number of replaced regions: one line per method with its confidence band."""
    drawing = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(drawing)
    axis = drawing.add_subplot()
    methods = list(dict.fromkeys(series.method for series in curves.series if series.order != "random"))
    for series in order or curves.series:
        colour = BASELINE if series.order == "random" else COLOURS[methods.index(series.method) % len(COLOURS)]
        band = curves.band(series, score)
        steps = np.arange(len(band.mean))
        axis.fill_between(steps, band.low, band.high, color=colour, alpha=0.13, linewidth=0)
        axis.plot(steps, band.mean, DASHES[series.order], color=colour, linewidth=1.8, label=_legend(series, curves))
    axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axis.set_xlim(0, curves.steps)
    axis.set_xlabel("regions replaced")
    axis.set_ylabel(f"{SCORES[score]}\n{FORMULAS[score]}", fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title(title or f"{len(curves.records)} samples", fontsize=10, parse_math=False)
    axis.legend(fontsize=8, frameon=False)
    for edge in ("top", "right"):
        axis.spines[edge].set_visible(False)
    return drawing


def document_of(curves: Curves, score: str) -> dict[str, Any]:
    """Everything of a run as JSON can say it."""
    return as_json(  # type: ignore[no-any-return]
        {
            "onnxlrp": VERSION,
            "score": score,
            "decrease": f"{SCORES[score]}: {FORMULAS[score]}",
            "probability": curves.head,
            "settings": dict(curves.settings),
            "samples": len(curves.records),
            "skipped": [{"name": one.name, "reason": one.reason} for one in curves.skipped],
            "curves": [
                {"method": s.method, "order": s.order, **_as_dict(curves.band(s, score))} for s in curves.series
            ],
            "areas": {name: _areas(curves, name) for name in curves.scores},
            "between_orders": {
                name: {method: _as_dict(band) for method, band in curves.between(name).items()}
                for name in curves.scores
            },
            "seconds": {name: round(seconds, 3) for name, seconds in curves.seconds.items()},
            "runs": curves.runs,
        }
    )


def write_table(path: Path, heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file, whole or not at all."""
    with atomic_write(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)


def _legend(series: Series, curves: Curves) -> str:
    """Orders are named where there is more than one."""
    return str(series) if len({s.order for s in curves.series} - {"random"}) > 1 else series.method


def _curve_rows(curves: Curves) -> Iterable[Sequence[Any]]:
    for score in curves.scores:
        for series in curves.series:
            band = curves.band(series, score)
            for step in range(curves.steps + 1):
                numbers = (f"{float(end[step]):.7g}" for end in (band.mean, band.low, band.high))
                yield (score, series.method, series.order, step, *numbers)


def _area_rows(curves: Curves) -> Iterable[Sequence[Any]]:
    for score in curves.scores:
        for area in curves.areas(score):
            gap = _cells(area.minus_random) if area.minus_random is not None else ("", "", "")
            yield (score, area.series.method, area.series.order, *_cells(area.aopc), *gap)


def _sample_rows(curves: Curves) -> Iterable[Sequence[Any]]:
    """AOPC of each sample under each score, mean over repeats."""
    found = {
        (series, score): curves.decrease(series, score).mean(axis=(1, 2))
        for series in curves.series
        for score in curves.scores
    }
    for number, record in enumerate(curves.records):
        for series in curves.series:
            numbers = (f"{float(found[series, score][number]):.7g}" for score in curves.scores)
            yield (record.name, record.digest, record.target, record.label, series.method, series.order, *numbers)


def _areas(curves: Curves, score: str) -> list[dict[str, Any]]:
    return [
        {
            "method": area.series.method,
            "order": area.series.order,
            "aopc": _as_dict(area.aopc),
            "minus_random": None if area.minus_random is None else _as_dict(area.minus_random),
        }
        for area in curves.areas(score)
    ]


def _as_dict(band: Band) -> dict[str, Any]:
    return {end: np.asarray(getattr(band, end)).tolist() for end in ("mean", "low", "high")}


def _cells(band: Band) -> tuple[str, str, str]:
    return f"{band.mean:.7g}", f"{band.low:.7g}", f"{band.high:.7g}"
