"""The matrix of `docs/exporters.md`: exporter × kind of model × what works, from what the zoo's files do.

Written by `python tests/test_zoo.py --write` (minutes); `tests/test_zoo.py` holds the page against the files it names.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from shared import SHARED

import onnxlrp
from onnxlrp.checks import verify
from onnxlrp.errors import OnnxlrpError, Unsupported
from onnxlrp.findings import Verdict

ZOO = SHARED / "zoo"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "exporters.md"

COLUMNS = ("compiles", "own output", "gradient", "LRP", "conserves")
YES, NO, OPEN = "yes", "no", "–"


@dataclass(frozen=True)
class Row:
    """One file of the zoo.  cells : per column yes, no, or – where it does not apply"""

    exporter: str
    kind: str
    name: str
    cells: tuple[str, ...]


def entries() -> list[dict[str, str]]:
    """The zoo's index, one record per model that is there."""
    if not (ZOO / "INDEX.tsv").exists():
        return []
    with (ZOO / "INDEX.tsv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    return [entry for entry in found if (ZOO / entry["id"] / "model.onnx").exists()]


def measure(entry: Mapping[str, str]) -> Row:
    """Run one file through everything."""
    folder = ZOO / entry["id"]
    model = onnxlrp.read(folder / "model.onnx")
    family = model.exporter.split(",")[0].rsplit(" ", 1)[0] if any(c.isdigit() for c in model.exporter) else model.exporter
    try:
        verdict = verify(folder / "model.onnx", dict(np.load(folder / "input.npz", allow_pickle=False)))
    except Unsupported:
        return Row(family, entry["kind"], entry["id"], (NO, OPEN, OPEN, OPEN, OPEN))
    return Row(family, entry["kind"], entry["id"], (YES, *_judged(verdict)))
