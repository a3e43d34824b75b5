"""Tables: a signed bar per column with its name and value, the largest on top; several inputs in one chart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.colours import paint
from onnxlrp.data import Sample, Sidecar
from onnxlrp.data.meaning import ModelInput
from onnxlrp.data.tabular import columns_of
from onnxlrp.figure import bars, save_figure
from onnxlrp.report.sheet import Drawing, Span, Style

MOST_LINES, WIDTH = 12, 30
"""Of the terminal's chart."""


@dataclass(frozen=True)
class ColumnBars:
    """values : (column,)        names, cells : of the columns"""

    title: str
    values: NDArray[Any]
    kind: str
    names: tuple[str, ...]
    cells: tuple[str, ...]
    limit: float | None = None
    panel: None = None

    @property
    def legend(self) -> str:
        total = f"sum over all columns {float(self.values.sum()):.4g}"
        return f"red: for, blue: against; {total}" if self.kind == "signed" else f"dark: strong; {total}"

    @property
    def labels(self) -> list[str]:
        """`name = value`, cut where the value is long."""
        shown = (cell if len(cell) <= 24 else f"{cell[:23]}…" for cell in self.cells)
        return [f"{name} = {cell}" if cell else name for name, cell in zip(self.names, shown, strict=True)]

    def write(self, folder: Path, stem: str, suffix: str) -> list[str]:
        file = f"{stem}-bars.{suffix}"
        save_figure(folder / file, bars(self.values, self.labels, self.title, kind=self.kind))
        return [file]

    def spans(self) -> Iterator[Span]:
        """A line per column: its label, its number, and a bar of that length."""
        order = np.argsort(-np.abs(self.values), kind="stable")[:MOST_LINES]
        labels = self.labels
        widest = max((len(labels[index]) for index in order), default=0)
        largest = self.limit or float(np.abs(self.values).max(initial=0.0)) or 1.0
        for index in order:
            value = float(self.values[index])
            yield f"{labels[index].ljust(widest)}  {value:>+10.4g}  ", None
            red, green, blue = paint(np.array([np.clip(value / largest, -1, 1)]), self.kind)[0]
            length = max(round(min(abs(value) / largest, 1.0) * WIDTH), int(value != 0))
            yield " " * length, (int(red), int(green), int(blue))
            yield "\n", None
        if more := len(self.values) - len(order):
            yield f"and {more} more column{'s' if more > 1 else ''}\n", None

    def notes(self) -> dict[str, Any]:
        columns = zip(self.names, self.cells, self.values.tolist(), strict=True)
        return {"columns": [{"name": name, "value": cell, "relevance": number} for name, cell, number in columns]}


def column_view(drawing: Drawing, sample: Sample, sidecar: Sidecar, style: Style) -> ColumnBars | None:
    """One bar per column of everything that the drawing holds; None where the drawing is not of the model's columns."""
    arrays = (
        sample.arrays if len(drawing.tensors) > 1 else {n: a for n, a in sample.arrays.items() if n == drawing.tensor}
    )
    inputs = [ModelInput(name, array.dtype, array.shape) for name, array in arrays.items()]
    values, cells = drawing.relevance.reshape(-1), [cell for a in arrays.values() for cell in a.reshape(-1).tolist()]
    if len(cells) != len(values):
        return None
    count = len(values)
    known = next((names for names in (sidecar.features, sample.columns) if names and len(names) == count), None)
    found = known or [str(number) for number in range(count)]
    names = [name for group in columns_of(inputs, sidecar, found) for name in group]
    if len(names) != count:
        return None
    title = f"{drawing.heading}\n{drawing.title}"
    return ColumnBars(title, values, drawing.found.kind, tuple(names), tuple(map(_written, cells)))


def _written(cell: Any) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
