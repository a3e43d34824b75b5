"""Time series: tables of channels and steps, as CSV or JSON, brought to the axes that the model wants.

time;left;right            a heading is optional; `features` in the sidecar names the channels (columns), in order
0.00;0.1;0.7               a row per step

{"left": [0.1, …], "right": [0.7, …]}      or a list of steps, or of steps with a list of channels
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.sample import Input, Sample, fit, loader, only_input
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.errors import InputError

Values = NDArray[np.float64]

STEPS, CHANNELS = "LTW", "CFHD"
"""Letters of the axis along which time runs, and of the one that holds channels: the first that a layout has."""


@loader("series", suffixes=(".csv", ".tsv", ".json"))
def load_series(path: Path, sidecar: Sidecar, inputs: Sequence[Input]) -> Sample:
    """One recording of one file: (value · scale − mean) / std per channel, in the sidecar's layout.

    Errors: InputError for what is no table of numbers, with its line, and for channels or steps that do not fit.
    """
    entry = only_input(inputs, path)
    names, values = _read_json(path) if path.suffix.lower() == ".json" else _read_table(path)
    values = _chosen(values, names, sidecar.features, path)
    columns = sidecar.features or (tuple(names) if names is not None else None)
    _check_channels(values, columns, sidecar.layout, entry, path)
    scaled = normalised(values, sidecar)
    array = laid_out(scaled, sidecar.layout, [*entry.shape], path)
    return Sample(path.stem, {entry.name: fit(array.astype(np.float32), entry, sidecar, path)}, columns=columns)


def _check_channels(
    values: Values, columns: Sequence[str] | None, layout: str | None, entry: Input, path: Path
) -> None:
    """Errors: InputError for another number of channels than the model's, before their axes are in the way."""
    letters = series_layout(layout, len(entry.shape))
    steps, channels = axis_of(letters, STEPS), axis_of(letters, CHANNELS)
    wanted = entry.shape[channels] if channels is not None else None
    met = values.shape[1]
    if channels is None or not isinstance(wanted, int) or wanted == met:
        return
    length = entry.shape[steps] if steps is not None else None
    named = f" ({', '.join(columns)})" if columns is not None and len(columns) == met else ""
    turned = len(values) == wanted and length in (None, met)
    other = "".join({steps: letters[channels], channels: "L"}.get(axis, a) for axis, a in enumerate(letters))
    advice = (
        "Its rows are as many: give a step per row and a channel per column."
        if turned
        else f"Say layout {other} if axis {channels} of the input counts steps."
        if steps is not None and length == met
        else "Give one column per channel, or name those that are meant with `features` in the sidecar."
    )
    raise InputError(
        f"{path}: holds {met} channels{named}, and input '{entry.name}' of shape {list(entry.shape)} takes {wanted} "
        f"(axis {channels}, layout {letters}). {advice}"
    )


def series_layout(layout: str | None, rank: int) -> str:
    """The axes of a series' input: what the sidecar says where it fits, else the usual ones of that rank."""
    if layout is not None and len(layout) == rank and set(layout) & set(STEPS):
        return layout
    return {1: "L", 2: "NL", 3: "NLC", 4: "NDLC"}.get(rank, "N" + "D" * (rank - 2) + "L")


def axis_of(letters: str, wanted: str) -> int | None:
    """Where the first of the wanted letters stands; None where there is none."""
    return next((letters.index(letter) for letter in wanted if letter in letters), None)


def laid_out(values: Values, layout: str | None, shape: Sequence[Any], path: Path) -> Values:
    """(step, channel) → the model's axes, all others of length 1.  Errors: InputError for channels without an axis."""
    letters = series_layout(layout, len(shape))
    steps, channels = axis_of(letters, STEPS), axis_of(letters, CHANNELS)
    if channels is None and values.shape[1] > 1:
        raise InputError(
            f"{path}: holds {values.shape[1]} channels, and the model's input of shape {list(shape)} takes one. "
            "Name the one that is meant with `features` in the sidecar, or say a layout with C."
        )
    sizes = [1] * len(letters)
    sizes[steps or 0] = len(values)
    if channels is None:
        return values.reshape(sizes)
    sizes[channels] = values.shape[1]
    ordered = values if (steps or 0) < channels else values.T
    return ordered.reshape(sizes)


def normalised(values: Values, sidecar: Sidecar) -> Values:
    """(value · scale − mean) / std.

    values : (step, channel)        Errors: InputError for another number of channels
    """
    for key in ("scale", "mean", "std"):
        said = getattr(sidecar, key)
        if isinstance(said, tuple) and len(said) not in (1, values.shape[1]):
            raise InputError(
                f"{sidecar.where}: {key} holds {len(said)} numbers, and the series {values.shape[1]} channels. "
                "Give one number for all channels, or one per channel."
            )
    scale, mean, std = (
        np.asarray(default if said is None else said, np.float64)
        for said, default in ((sidecar.scale, 1.0), (sidecar.mean, 0.0), (sidecar.std, 1.0))
    )
    return np.asarray((values * scale - mean) / std)


def _chosen(values: Values, names: Sequence[str] | None, features: Sequence[str] | None, path: Path) -> Values:
    """The channels that the sidecar names, in its order; all of them where either side has no names."""
    if names is None or features is None:
        return values
    missing = [name for name in features if name not in names]
    if not missing:
        return values[:, [list(names).index(name) for name in features]]
    if len(names) == len(features):
        return values
    raise InputError(
        f"{path}: has no column '{missing[0]}', which `features` of the sidecar names. It has {', '.join(names)}."
    )


def _read_table(path: Path) -> tuple[list[str] | None, Values]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}). Give a CSV file in UTF-8.") from error
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)
    rows = [(n, row) for n, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1) if any(row)]
    if not rows:
        raise InputError(f"{path}: the table is empty.")
    names = None if all(map(_is_number, rows[0][1])) else [cell.strip() for cell in rows.pop(0)[1]]
    if not rows:
        raise InputError(f"{path}: the table has a heading and no rows.")
    width = len(names or rows[0][1])
    return names, np.array([_numbers(row, width, f"{path}, line {number}") for number, row in rows], np.float64)


def _numbers(row: Sequence[str], width: int, where: str) -> list[float]:
    if len(row) != width:
        raise InputError(f"{where}: holds {len(row)} cells, and the lines above {width}.")
    for column, cell in enumerate(row, start=1):
        if not _is_number(cell):
            raise InputError(f"{where}, column {column}: '{cell}' is no number. Fill the gap or leave the line out.")
    return [float(cell) for cell in row]


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _read_json(path: Path) -> tuple[list[str] | None, Values]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = list(content) if isinstance(content, dict) else None
        values = np.array([content[name] for name in names] if names is not None else content, np.float64)
    except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise InputError(
            f'{path}: not a series as JSON ({error}). Give {{"channel": [numbers], …}}, or a list of steps.'
        ) from error
    values = values.T if names is not None else values
    if values.ndim not in (1, 2) or not values.size or not np.isfinite(values).all():
        raise InputError(
            f"{path}: a series has (step, channel) finite numbers; met an array of shape {list(values.shape)}."
        )
    return names, values.reshape(len(values), -1)
