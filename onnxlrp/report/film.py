"""Relevance of a video: over its frames as a sheet and as a film, and per frame as a curve.

The curve is that of figure 2 (C) of Samek et al. 2017: what speaks for the target in red, against it in blue, frame by
frame, so that one sees when the action happens; the overlays say where.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from onnxlrp.colours import paint
from onnxlrp.data import Footage, Sample, Sidecar
from onnxlrp.data.video import write_video
from onnxlrp.errors import Unsupported
from onnxlrp.figure import Panel, new_figure, save_figure
from onnxlrp.files import atomic_write
from onnxlrp.heatmap import Picture, enlarge, limit_of, overlay
from onnxlrp.report.sheet import Drawing, Span, Style

KEY_FRAMES = 10
"""Frames of the sheet: from each tenth of the video the one with the largest relevance."""

LEAST, STRIP = 288, 60
"""Pixels: the shorter side of the film's picture, and the height of the curve below it."""

BLOCKS = " ▁▂▃▄▅▆▇█"
COLUMNS = 72
"""Of the terminal's curve, at most."""

PICTURES_PER_ROW, INCHES, DPI = 5, 2.1, 110
"""Of the sheet; INCHES is the width of one picture."""


@dataclass(frozen=True)
class FilmStrip:
    """A video and the relevance of each of its pieces.

    values : (T, H, W) of the model's input        footage : the frames, and what part of them each value stands for
    """

    title: str
    values: NDArray[np.float64]
    kind: str
    footage: Footage
    percentile: float | None = None
    limit: float | None = None

    @property
    def panel(self) -> Panel:
        """Where, summed over time."""
        return Panel(self.title.split("\n")[-1].replace(": ", "\n", 1), self.values.sum(axis=0), self.kind)

    @property
    def legend(self) -> str:
        per_frame = self.per_frame
        peak = int(np.abs(per_frame).argmax())
        at = f"{float(peak / self.footage.rate):.2f} s"
        return f"relevance over {len(per_frame)} frames; most at frame {peak} ({at}); sum {float(per_frame.sum()):.4g}"

    @property
    def per_frame(self) -> NDArray[np.float64]:
        """(frame,) of relevance, which adds up to all of it."""
        return self.footage.per_frame(self.values)

    @property
    def key_frames(self) -> list[int]:
        """In order, each the strongest of its part of the video."""
        strength = self.footage.per_frame(np.abs(self.values))
        parts = np.array_split(np.arange(len(strength)), min(KEY_FRAMES, len(strength)))
        strongest = [part[strength[part] == strength[part].max()] for part in parts]
        return [int(equals[len(equals) // 2]) for equals in strongest]

    def frame(self, number: int) -> Picture:
        """One frame under its relevance; small ones are enlarged."""
        picture = enlarge(self.footage.frames[number], LEAST)
        values = self.footage.painted(self.values, number)
        factor = len(picture) // len(values)
        return overlay(
            values.repeat(factor, axis=0).repeat(factor, axis=1), picture, self.kind, limit=self._full_colour
        )

    def write(self, folder: Path, stem: str, suffix: str) -> list[str]:
        """The sheet of key frames above the curve, and the film; without PyAV, only the sheet."""
        sheet, film = f"{stem}-frames.{suffix}", f"{stem}-film.mp4"
        pictures = [(number, self.frame(number)) for number in self.key_frames]
        drawn = sheet_of(pictures, *self._gains_and_losses(), self.kind, float(self.footage.rate), self.title)
        save_figure(folder / sheet, drawn, dpi=DPI)
        try:
            with atomic_write(folder / film) as draft:
                write_video(draft, self.film(), self.footage.rate)
        except Unsupported:
            return [sheet]
        return [sheet, film]

    def film(self) -> Iterator[Picture]:
        """Every frame under its relevance, above the curve with a line at the time."""
        strip = curve_strip(*self._gains_and_losses(), kind=self.kind)
        for number in range(len(self.footage.frames)):
            picture = self.frame(number)
            places = np.arange(picture.shape[1]) * strip.shape[1] // picture.shape[1]
            below = strip[:, places].copy()
            below[:, places == number] = (below[:, places == number] * 0.6).astype(np.uint8)
            yield np.concatenate([picture, below])

    @cached_property
    def _full_colour(self) -> float:
        return limit_of(self.values, self.percentile) if self.limit is None else self.limit

    def _gains_and_losses(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(frame,) of what speaks for the target, and against it."""
        per_frame = self.footage.per_frame
        return per_frame(np.maximum(self.values, 0.0)), per_frame(np.minimum(self.values, 0.0))

    def spans(self) -> Iterator[Span]:
        """A column per frame, or per few of them: as high as the relevance, in its colour."""
        groups = np.array_split(self.per_frame, min(COLUMNS, len(self.footage.frames)))
        heights = np.array([group.mean() for group in groups])
        shares = heights / (np.abs(heights).max() or 1.0)
        for share, colour in zip(shares, paint(shares, self.kind), strict=True):
            red, green, blue = (int(level) for level in colour)
            yield BLOCKS[round(abs(float(share)) * (len(BLOCKS) - 1))], (red, green, blue)

    def notes(self) -> dict[str, Any]:
        return {"relevance_per_frame": [round(float(value), 6) for value in self.per_frame]}


def film_view(drawing: Drawing, sample: Sample, sidecar: Sidecar, style: Style) -> FilmStrip | None:
    """The frames under their relevance; None where the drawing has no time, height and width."""
    del sidecar
    if not set("THW") <= set(drawing.axes):
        return None
    order = [drawing.axes.index(letter) for letter in "THW"]
    others = tuple(axis for axis in range(drawing.relevance.ndim) if axis not in order)
    relevance = drawing.relevance if drawing.signed else np.abs(drawing.relevance)
    values = np.asarray(relevance.transpose(*order, *others).sum(axis=tuple(range(3, relevance.ndim))), np.float64)
    footage = sample.original if isinstance(sample.original, Footage) else _blank(values)
    return FilmStrip(f"{drawing.heading}\n{drawing.title}", values, drawing.found.kind, footage, style.percentile)


def sheet_of(
    pictures: Sequence[tuple[int, Picture]],
    gains: NDArray[np.float64],
    losses: NDArray[np.float64],
    kind: str,
    rate: float,
    title: str,
) -> Figure:
    """Frames in rows, and below them the relevance per frame: for, against, and as a line their sum.

    pictures : (number of the frame, what is shown of it)        gains, losses : (frame,)        rate : per second
    """
    columns = min(PICTURES_PER_ROW, len(pictures))
    rows = -(-len(pictures) // columns)
    height = INCHES * float(np.clip(pictures[0][1].shape[0] / pictures[0][1].shape[1], 0.25, 2.5)) + 0.25
    drawing = new_figure(INCHES * columns, height * rows + 1.9, title)
    cells = drawing.add_gridspec(rows + 1, columns, height_ratios=[height] * rows + [1.8])
    for place, (number, picture) in enumerate(pictures):
        axis = drawing.add_subplot(cells[place // columns, place % columns])
        axis.imshow(picture)
        axis.set_title(f"frame {number}, {number / rate:.2f} s", fontsize=10)
        axis.set_axis_off()
    axis = drawing.add_subplot(cells[rows, :])
    draw_curve(axis, gains, losses, kind)
    axis.plot([number for number, _ in pictures], np.zeros(len(pictures)), "^", color="0.15", markersize=4)
    axis.set_xlabel("frame (triangles: those shown above)", fontsize=9)
    return drawing


def draw_curve(axis: Any, gains: NDArray[np.float64], losses: NDArray[np.float64], kind: str) -> None:
    """Relevance per frame as bars, upwards for the target and downwards against it, and the line of their sum."""
    places = np.arange(len(gains))
    for part, level, table in ((gains, 0.75, kind), (losses, -0.75, "signed")):
        axis.bar(places, part, width=1.0, color=paint(np.array(level), table) / 255)
    if kind == "signed":
        axis.plot(places, gains + losses, color="0.15", linewidth=1.2, drawstyle="steps-mid", label="sum")
        axis.legend(fontsize=8, frameon=False, loc="upper right")
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.set_xlim(-0.5, len(gains) - 0.5)
    axis.set_ylabel("relevance", fontsize=9)
    axis.tick_params(labelsize=9)
    for edge in ("top", "right"):
        axis.spines[edge].set_visible(False)


def curve_strip(gains: NDArray[np.float64], losses: NDArray[np.float64], kind: str) -> Picture:
    """The curve as a picture (height, frame, 3): a bar per frame, upwards for the target, downwards against it."""
    top = max(float(gains.max(initial=0.0)), float(-losses.min(initial=0.0))) or 1.0
    signed = kind == "signed"
    zero = STRIP // 2 if signed else STRIP - 1
    level = zero - np.arange(STRIP)[:, None]
    strip = np.full((STRIP, len(gains), 3), 250, np.uint8)
    strip[(level > 0) & (level <= gains / top * zero)] = paint(np.array(0.75), kind)
    strip[(level < 0) & (level >= losses / top * zero)] = paint(np.array(-0.75), "signed")
    strip[zero] = 150
    return strip


def _blank(values: NDArray[np.float64]) -> Footage:
    """For arrays without a video: white frames, one pixel per value."""
    return Footage(np.full((*values.shape, 3), 255, np.uint8), Fraction(8))
