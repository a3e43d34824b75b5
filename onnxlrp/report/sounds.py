"""Sound: a waveform on the colours of its relevance; for models of features, the spectrogram with its heatmap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from onnxlrp.data import Sample, Sidecar, Sound
from onnxlrp.data.series import STEPS, axis_of
from onnxlrp.figure import Panel, colour_bar, new_figure, save_figure
from onnxlrp.heatmap import limit_of, overlay
from onnxlrp.report.sheet import Drawing, Shown, Span, Style
from onnxlrp.report.traces import INK, Trace, parts, trace_view

Values = NDArray[np.float64]

FEW = 8
"""Bands below which features are drawn as traces, not as a spectrogram."""


@dataclass(frozen=True)
class SoundMap:
    """A spectrogram and its relevance, low bands below.

    spectrum, values : (band, frame)        sound : the recording it was made of; None where features were given
    """

    title: str
    spectrum: Values
    values: Values
    kind: str
    sound: Sound | None = None
    percentile: float | None = None
    limit: float | None = None

    @property
    def legend(self) -> str:
        return self._moments().legend

    @property
    def panel(self) -> Panel:
        return Panel(self.title.split("\n")[-1].replace(": ", "\n", 1), self.values[::-1], self.kind)

    def write(self, folder: Path, stem: str, suffix: str) -> list[str]:
        file = f"{stem}-spectrogram.{suffix}"
        save_figure(folder / file, draw_sound(self))
        return [file]

    def spans(self) -> Iterator[Span]:
        """The relevance of each moment, all bands together, over the loudness."""
        yield from self._moments().spans()

    def notes(self) -> dict[str, Any]:
        return self._moments().notes()

    def _moments(self) -> Trace:
        rate = None if self.sound is None else self.values.shape[1] / self.sound.seconds
        loudness, relevance = self.spectrum.mean(axis=0, keepdims=True), self.values.sum(axis=0, keepdims=True)
        return Trace(self.title, loudness, relevance, self.kind, ["all bands"], rate)


def sound_view(drawing: Drawing, sample: Sample, sidecar: Sidecar, style: Style) -> Shown | None:
    """A trace for one channel along time, a spectrogram for many bands; None for states and inner tensors."""
    array = sample.arrays.get(drawing.tensor)
    if array is None or array.dtype.kind != "f" or array.size != drawing.relevance.size:
        return None
    bands = _bands_first(drawing.relevance, drawing.axes, sidecar)
    if bands is None:
        return trace_view(drawing, sample, sidecar, style)
    spectrum = _bands_first(array.reshape(drawing.relevance.shape), drawing.axes, sidecar)
    assert spectrum is not None
    sound = sample.original if isinstance(sample.original, Sound) else None
    values = bands if drawing.signed else np.abs(bands)
    return SoundMap(
        f"{drawing.heading}\n{drawing.title}", spectrum, values, drawing.found.kind, sound, style.percentile
    )


def draw_sound(shown: SoundMap) -> Figure:
    """The waveform where there is one, and below it the spectrogram in gray under its heatmap."""
    limit = limit_of(shown.values, shown.percentile) if shown.limit is None else shown.limit
    ratios = [1.0, 2.4] if shown.sound is not None else [1.0]
    drawing = new_figure(8, 1.1 * sum(ratios) + 0.9, shown.title)
    axes = drawing.subplots(len(ratios), 1, squeeze=False, gridspec_kw={"height_ratios": ratios}, sharex=True)[:, 0]
    frames = shown.values.shape[1]
    end = float(frames) if shown.sound is None else shown.sound.seconds
    if shown.sound is not None:
        _draw_waveform(axes[0], shown.sound)
    box = (0.0, end, -0.5, len(shown.values) - 0.5)
    laid = overlay(shown.values[::-1], _gray(shown.spectrum[::-1]), shown.kind, limit=limit, resample="nearest")
    axes[-1].imshow(laid, extent=box, aspect="auto", interpolation="nearest")
    axes[-1].set_ylabel("band", fontsize=9)
    axes[-1].set_xlabel("frame" if shown.sound is None else "time in seconds", fontsize=9)
    for axis in axes:
        axis.tick_params(labelsize=8, length=2)
        axis.set_xlim(0, end)
    colour_bar(drawing, shown.kind, limit, ax=list(axes), aspect=45, pad=0.02, shrink=0.6)
    return drawing


def _draw_waveform(axis: Any, sound: Sound) -> None:
    edges = parts(len(sound.waveform), 800)
    middle = (edges[:-1] + edges[1:]) / 2 / (sound.rate or 1.0)
    lows, highs = (f.reduceat(sound.waveform, edges[:-1]) for f in (np.minimum, np.maximum))
    axis.fill_between(middle, lows, highs, color=INK, linewidth=0.4)
    axis.set_ylabel("waveform", fontsize=9)
    for edge in ("top", "right"):
        axis.spines[edge].set_visible(False)


def _gray(spectrum: Values) -> NDArray[np.uint8]:
    """Loud is dark, as in printed spectrograms."""
    span = float(np.ptp(spectrum)) or 1.0
    return np.asarray(np.rint(255 - 225 * (spectrum - spectrum.min()) / span), np.uint8)


def _bands_first(array: NDArray[Any], axes: str, sidecar: Sidecar) -> Values | None:
    """(band, frame) of features with a time axis and many bands; None where there is one channel along time.

    Flattened features have the sidecar's `size`: [frames, bands].
    """
    if sidecar.size is not None and array.size == sidecar.size[0] * sidecar.size[1]:
        return np.asarray(array, np.float64).reshape(sidecar.size).T
    kept = [(letter, size) for letter, size in zip(axes, array.shape, strict=True) if size > 1]
    if len(kept) != 2:
        return None
    values = np.asarray(array, np.float64).reshape([size for _, size in kept])
    letters = "".join(letter for letter, _ in kept)
    # Without a letter for time: features come a frame per row, as most of their makers write them.
    time = axis_of(letters, STEPS) if set(letters) & set("LT") else 0
    bands = values.T if time == 0 else values
    return bands if len(bands) >= FEW else None
