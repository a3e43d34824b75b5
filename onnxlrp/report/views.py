"""Which picture and which terminal view a kind of input has: one entry per kind.

The loader of a kind stands in `onnxlrp.data` under the same name; what it puts into `Sample.original` is what its view
finds there. A kind without an entry, and a drawing that its view leaves out, gets the plain view: a map or bars.
"""

from __future__ import annotations

from onnxlrp.data import Sample, Sidecar
from onnxlrp.report.columns import column_view
from onnxlrp.report.film import film_view
from onnxlrp.report.plain import plain_view
from onnxlrp.report.sheet import Drawing, Shown, Style, View
from onnxlrp.report.sounds import sound_view
from onnxlrp.report.traces import trace_view
from onnxlrp.report.words import word_view

VIEWS: dict[str, View] = {
    "audio": sound_view,
    "series": trace_view,
    "tabular": column_view,
    "text": word_view,
    "video": film_view,
}


def shown(drawing: Drawing, sample: Sample, sidecar: Sidecar, style: Style) -> Shown:
    """One drawing in the form of its sidecar's kind."""
    view = VIEWS.get(sidecar.kind or "", plain_view)
    found = view(drawing, sample, sidecar, style)
    return plain_view(drawing, sample, sidecar, style) if found is None else found
