"""Tables: a row per sample, its columns by name, as CSV or JSON, brought to the inputs that the model has.

age;sex;fare               the heading names the columns; an empty cell is a missing number
22;male;7.25               a row per sample

{"age": 22, "sex": "male", "fare": 7.25}        or a list of such rows
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.sample import Input, Sample, fit, loader
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.errors import InputError

Row = Mapping[str, Any]


@loader("tabular", suffixes=(".csv", ".tsv", ".json"))
def load_table(path: Path, sidecar: Sidecar, inputs: Sequence[Input]) -> Sample:
    """All rows of one file, as a batch.

    A model with an input per column takes them by their names; one input takes the columns that `features` of the
    sidecar names, in that order, or all of the file's.
    Errors: InputError for what is no table, for a column that is missing, and for a cell of the wrong type.
    """
    rows = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
    if not rows:
        raise InputError(f"{path}: the table has no rows.")
    arrays, columns = {}, columns_of(inputs, sidecar, list(rows[0]))
    for entry, names in zip(inputs, columns, strict=True):
        _require_width(entry, names, path)
        cells = [[_cell(row, name, entry, number, path) for name in names] for number, row in enumerate(rows, 1)]
        array: NDArray[Any] = np.array(cells, object if np.dtype(entry.dtype).kind in "OUS" else entry.dtype)
        arrays[entry.name] = fit(array if len(entry.shape) > 1 else array[:, 0], entry, sidecar, path)
    return Sample(path.stem, arrays, columns=tuple(name for names in columns for name in names))


def columns_of(inputs: Sequence[Input], sidecar: Sidecar, found: Sequence[str]) -> list[list[str]]:
    """The names of the columns that each input takes.

    found : the columns that there are
    """
    widths = [_width(entry) for entry in inputs]
    if sidecar.features is not None and None not in widths and sum(w or 0 for w in widths) == len(sidecar.features):
        starts = np.cumsum([0, *(width or 0 for width in widths)]).tolist()
        return [list(sidecar.features[start:end]) for start, end in pairwise(starts)]
    if len(inputs) == 1:
        return [list(sidecar.features or found)]
    return [[entry.name] for entry in inputs]


def _require_width(entry: Input, names: Sequence[str], path: Path) -> None:
    width = _width(entry)
    if width is not None and len(names) != width:
        listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise InputError(
            f"{path}: input '{entry.name}' takes {width} columns, and there are {len(names)}: {listed}. "
            "Name those that are meant, in the model's order, with `features` in the sidecar."
        )


def _width(entry: Input) -> int | None:
    """How many columns an input takes; None where any number."""
    if len(entry.shape) < 2:
        return 1
    return entry.shape[-1] if isinstance(entry.shape[-1], int) else None


def _cell(row: Row, name: str, entry: Input, number: int, path: Path) -> Any:
    """One value in the input's type; what is missing is NaN in floats and the empty text in texts."""
    if name not in row:
        raise InputError(f"{path}, row {number}: has no column '{name}'. Its columns: {', '.join(row)}.")
    value, kind = row[name], np.dtype(entry.dtype).kind
    if kind in "OUS":
        return "" if value is None else str(value)
    missing = value is None or (isinstance(value, str) and not value.strip())
    if missing and kind == "f":
        return float("nan")
    try:
        return float(value) if kind == "f" else int(value)
    except (TypeError, ValueError):
        wanted = "a number" if kind == "f" else "a whole number"
        raise InputError(f"{path}, row {number}, column '{name}': {value!r} is not {wanted}.") from None


def _read_csv(path: Path) -> list[Row]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({error}). Give a CSV file in UTF-8, "
            "or say what the model takes: --kind, or `kind` in the sidecar."
        ) from error
    delimiter = max("\t;,", key=text.partition("\n")[0].count)
    lines = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in row)]
    if not lines:
        raise InputError(f"{path}: the table is empty.")
    heading = [cell.strip() for cell in lines[0]]
    if len(set(heading)) < len(heading):
        raise InputError(f"{path}: the heading names a column twice: {', '.join(heading)}.")
    for number, row in enumerate(lines[1:], 1):
        if len(row) != len(heading):
            raise InputError(f"{path}, row {number}: holds {len(row)} cells, and the heading {len(heading)}.")
    return [dict(zip(heading, (cell.strip() for cell in row), strict=True)) for row in lines[1:]]


def _read_json(path: Path) -> list[Row]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not a table as JSON ({error}).") from error
    rows = content if isinstance(content, list) else [content]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{path}: a row is {{"column": value, …}}, and a table a list of rows.')
    return rows
