"""How an `Explanation` shows itself: as a figure, and as a cell of a notebook."""

from __future__ import annotations

import base64
import html
import io

from matplotlib.figure import Figure

from onnxlrp.explanation import Explanation
from onnxlrp.figure import Panel, bars, figure
from onnxlrp.report.maps import ROBUST, axes_of, drawable, gray_picture, one_sample, primary

MOST_SHOWN = 4
"""Samples of a batch that a notebook cell draws."""


def plot_explanation(explanation: Explanation, sample: int = 0, name: str | None = None) -> Figure:
    """A figure of one sample: the input in gray with its heatmap beside it, or bars for columns.

    name : of the explained tensor; None = the one that looks most like a picture
    Errors: ChoiceError for a name that was not explained.
    """
    everything = isinstance(explanation.target, str) and explanation.target == "all"
    found = drawable(explanation, sample, name, index=0 if everything else None)
    title = explanation.title(sample) if not everything else f"{explanation.method}: index 0 of all"
    if not found.is_map:
        return bars(found.values, title=title, kind=found.kind)
    name = name or primary(explanation)
    picture = None
    if name in explanation.inputs:
        array = explanation.inputs[name]
        picture = gray_picture(*one_sample(array, axes_of(array.shape, explanation.layout), sample))
    return figure([Panel("", found.values, found.kind)], picture, title, percentile=ROBUST)


def explanation_as_html(explanation: Explanation) -> str:
    """What a notebook shows: a drawing per sample (the first four), conservation and warnings."""
    rows = len(explanation) if explanation.score.ndim == 1 else explanation.score.shape[1]
    drawings = "".join(_image(explanation, sample) for sample in range(min(rows, MOST_SHOWN)))
    lines = [f"{rows} samples, {MOST_SHOWN} shown"] if rows > MOST_SHOWN else []
    if explanation.conservation is not None and explanation.score.ndim == 1:
        lines.append(f"conservation: {explanation.conservation}")
    if explanation.seconds:
        lines.append(f"{explanation.seconds:.2g} s on {', '.join(explanation.providers[:1])}")
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    warnings = "".join(f'<li style="color:#a60">{html.escape(text)}</li>' for text in explanation.warnings)
    return f'<div class="onnxlrp">{drawings}<ul style="font-size:90%">{notes}{warnings}</ul></div>'


def as_data_uri(drawing: Figure, dpi: int = 100) -> str:
    """A figure as an inline PNG."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _image(explanation: Explanation, sample: int) -> str:
    described = html.escape(
        explanation.title(sample) if explanation.score.ndim == 1 else explanation.method, quote=True
    )
    return f'<img alt="{described}" src="{as_data_uri(plot_explanation(explanation, sample))}">'
