"""Time series and waveforms: a line per channel, one below the other, on the colours of its relevance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from onnxlrp.colours import paint
from onnxlrp.data import Sample, Sidecar, Sound
from onnxlrp.data.series import STEPS, axis_of, series_layout
from onnxlrp.figure import colour_bar, new_figure, save_figure
from onnxlrp.heatmap import limit_of, render
from onnxlrp.report.sheet import Drawing, Span, Style

Values = NDArray[np.float64]

MOST_ROWS, MOST_LINES = 12, 8
"""Channels that a figure shows, and the terminal: those with the largest Σ|R|, in their order."""

COLUMNS, CELLS, WINDOWS = 400, 72, 20
"""Steps that a figure, the terminal and `explain.json` tell apart at most: longer series are summed in equal parts."""

MOST_WINDOWS, FEWEST = 5, 8
"""Windows that are listed; steps that an axis needs to pass for time where no layout says so, as in states."""

BLOCKS = "▁▂▃▄▅▆▇█"
INK = "0.12"


@dataclass(frozen=True)
class Trace:
    """A signal and its relevance.

    signal, relevance : (channel, step)        names : of the channels        rate : steps per second
    """

    title: str
    signal: Values
    relevance: Values
    kind: str
    names: Sequence[str]
    rate: float | None = None
    percentile: float | None = None
    limit: float | None = None
    panel: None = None

    @property
    def values(self) -> Values:
        """(channel, column): what the figure colours."""
        return summed(self.relevance, COLUMNS)

    @property
    def legend(self) -> str:
        said = "red: for, blue: against" if self.kind == "signed" else "dark: strong"
        return f"{said}; {self._unit(1)} per cell; sum over all steps {float(self.relevance.sum()):.4g}"

    def write(self, folder: Path, stem: str, suffix: str) -> list[str]:
        file = f"{stem}-trace.{suffix}"
        save_figure(folder / file, draw_trace(self))
        return [file]

    def spans(self) -> Iterator[Span]:
        """A line of blocks per channel: its height is the signal, its colour the relevance."""
        cells = summed(self.relevance, CELLS)
        limit = limit_of(cells, None)
        shown = self.strongest(MOST_LINES)
        width = max(len(self.names[row]) for row in shown)
        for row in shown:
            yield f"{self.names[row]:>{width}} ", None
            levels = self._levels(row)
            low, span = float(levels.min()), float(np.ptp(levels)) or 1.0
            for level, (r, g, b) in zip(levels, paint(cells[row] / (limit or 1.0), self.kind), strict=True):
                yield BLOCKS[int((level - low) / span * (len(BLOCKS) - 1))], (int(r), int(g), int(b))
            yield "\n" if row != shown[-1] else "", None

    def notes(self) -> dict[str, Any]:
        """The windows with the largest magnitudes, in seconds where the rate is known."""
        windows = summed(self.relevance, WINDOWS)
        edges = parts(self.signal.shape[1], WINDOWS) / (self.rate or 1)
        strongest = np.argsort(-np.abs(windows), axis=None, kind="stable")[:MOST_WINDOWS]
        places = [np.unravel_index(place, windows.shape) for place in strongest]
        return {
            "windows": [
                {
                    "channel": self.names[row],
                    "from": float(edges[column]),
                    "to": float(edges[column + 1]),
                    "relevance": float(windows[row, column]),
                }
                for row, column in places
            ]
        }

    def strongest(self, most: int) -> list[int]:
        """Channels by Σ|R|, as many as are shown, in their own order."""
        order = np.argsort(-np.abs(self.relevance).sum(axis=1), kind="stable")[:most]
        return sorted(map(int, order))

    def _levels(self, row: int) -> Values:
        """The mean of each cell; the largest magnitude where a cell holds a piece of a waveform."""
        edges = parts(self.signal.shape[1], CELLS)
        if self.signal.shape[1] > 4 * COLUMNS:
            return np.maximum.reduceat(np.abs(self.signal[row]), edges[:-1])
        return np.asarray(np.add.reduceat(self.signal[row], edges[:-1]) / np.diff(edges))

    def _unit(self, cells: int) -> str:
        steps = cells * self.signal.shape[1] / (len(parts(self.signal.shape[1], CELLS)) - 1)
        return f"{steps / self.rate:.3g} s" if self.rate else f"{steps:.3g} steps"


def trace_view(drawing: Drawing, sample: Sample, sidecar: Sidecar, style: Style) -> Trace | None:
    """A signal on the colours of its relevance; None for tensors inside the model, and for states."""
    array = sample.arrays.get(drawing.tensor)
    if array is None or array.dtype.kind not in "fiu" or array.size != drawing.relevance.size:
        return None
    said = (sidecar.layout or "").replace("N", "")
    is_said = len(said) == drawing.relevance.ndim and bool(set(said) & set(STEPS))
    letters = said if is_said else series_layout(None, drawing.relevance.ndim + 1)[1:]
    relevance = _channels_first(drawing.relevance, letters)
    if relevance.shape[1] < (2 if is_said else FEWEST):
        return None
    signal = _in_own_units(_channels_first(array.reshape(drawing.relevance.shape), letters), sidecar)
    if not drawing.signed:
        relevance = np.abs(relevance)
    names = _names(len(signal), sidecar, sample)
    return Trace(
        drawing.heading + "\n" + drawing.title,
        signal,
        relevance,
        drawing.found.kind,
        names,
        _rate(sidecar, sample),
        style.percentile,
    )


def draw_trace(trace: Trace) -> Figure:
    """One row per channel under a common scale, a colour bar on the right."""
    shown = trace.strongest(MOST_ROWS)
    limit = limit_of(trace.values, trace.percentile) if trace.limit is None else trace.limit
    height = 1.9 if len(shown) == 1 else max(0.85, 3.2 / len(shown))
    drawing = new_figure(8, 0.75 + height * len(shown), trace.title)
    axes = drawing.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, row in zip(axes, shown, strict=True):
        draw_channel(axis, trace, row, limit)
    hidden = len(trace.signal) - len(shown)
    unit = "time in seconds" if trace.rate else "step"
    axes[-1].set_xlabel(unit + (f"; {hidden} channels of less relevance are not shown" if hidden else ""), fontsize=9)
    colour_bar(drawing, trace.kind, limit, ax=list(axes), aspect=45, pad=0.02, shrink=0.6)
    return drawing


def draw_channel(axis: Any, trace: Trace, row: int, limit: float) -> None:
    """The line, or the band between lowest and highest value where there are more steps than columns."""
    signal, steps = trace.signal[row], trace.signal.shape[1]
    end = steps / (trace.rate or 1)
    low, high = float(signal.min()), float(signal.max())
    room = 0.08 * (high - low) or 1.0
    box = (0.0, end, low - room, high + room)
    axis.imshow(render(trace.values[row : row + 1], trace.kind, limit=limit), extent=box, aspect="auto")
    halo = [withStroke(linewidth=2.6, foreground="white")]
    if steps > 4 * COLUMNS:
        edges = parts(steps, 2 * COLUMNS)
        lows, highs = np.minimum.reduceat(signal, edges[:-1]), np.maximum.reduceat(signal, edges[:-1])
        middle = (edges[:-1] + edges[1:]) / 2 * end / steps
        axis.fill_between(middle, lows, highs, color=INK, linewidth=0.4, path_effects=halo)
    else:
        axis.plot((np.arange(steps) + 0.5) * end / steps, signal, color=INK, linewidth=1.1, path_effects=halo)
    axis.set_ylabel(trace.names[row], fontsize=9, rotation=0, ha="right", va="center", parse_math=False)
    axis.tick_params(labelsize=8, length=2)
    axis.set_xlim(0, end)
    axis.set_ylim(*box[2:])
    for edge in axis.spines.values():
        edge.set_color("0.75")


def summed(relevance: Values, most: int) -> Values:
    """(channel, column): Σ over equal parts of the steps, as many as `most` at most; the total stays."""
    edges = parts(relevance.shape[1], most)
    return np.asarray(np.add.reduceat(relevance, edges[:-1], axis=1))


def parts(steps: int, most: int) -> NDArray[np.intp]:
    """Edges of equal parts."""
    return np.linspace(0, steps, min(steps, most) + 1).astype(np.intp)


def _channels_first(array: NDArray[Any], letters: str) -> Values:
    axis = axis_of(letters, STEPS) or 0
    values = np.moveaxis(np.asarray(array, np.float64), axis, -1)
    return values.reshape(-1, values.shape[-1])


def _in_own_units(signal: Values, sidecar: Sidecar) -> Values:
    """What was measured, before the sidecar's scale, mean and std."""
    said = [
        np.asarray(default if v is None else v)
        for v, default in ((sidecar.scale, 1.0), (sidecar.mean, 0.0), (sidecar.std, 1.0))
    ]
    if any(one.size not in (1, len(signal)) for one in said):
        return signal
    scale, mean, std = (one.reshape(-1, 1) for one in said)
    return np.asarray((signal * std + mean) / scale)


def _names(count: int, sidecar: Sidecar, sample: Sample) -> Sequence[str]:
    for names in (sidecar.features, sample.columns):
        if names is not None and len(names) == count:
            return names
    if count == 1:
        return ["waveform" if isinstance(sample.original, Sound) or sidecar.kind == "audio" else "value"]
    return [f"channel {number}" for number in range(count)]


def _rate(sidecar: Sidecar, sample: Sample) -> float | None:
    return sidecar.rate or (sample.original.rate if isinstance(sample.original, Sound) else None)
