"""The page `docs/exporters.md`: exporter × kind of model × what works, from what the files of the zoo do.

Written by `python tests/test_zoo.py --write` (minutes), or for files whose names hold a word by `--write WORD…`;
`tests/test_zoo.py` holds every row against its file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from shared import SHARED

from onnxlrp.findings import Finding, Verdict
from onnxlrp.reading.exporters import name_of

ZOO = SHARED / "zoo"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "exporters.md"

COLUMNS = {"own output": "forward", "gradient": "finite differences", "LRP": "is finite", "conservation": "promise"}
"""Column → a word of the check of `verify` that decides it."""

YES, NO, OPEN = "yes", "no", "–"

HEAD = """# Exporters

What onnxlrp does with files as they are found in public repositories, by who wrote them and what they are for. Each
file is read as it is, explained by default arguments and checked by `onnxlrp verify`:

* **compiles**: every operator between input and output has a rule.
* **own output**: the explainer returns the original file's outputs, as onnxruntime computes them.
* **gradient**: finite differences of the model agree with the compiled gradient; – where no input holds floats, or
  nothing can be measured.
* **LRP**: relevance is finite.
* **conservation**: every layer hands on what arrived, up to what its bias, its stabiliser or its declared rule takes.

This page is written by `python tests/test_zoo.py --write`, or of some files alone by `--write WORD…`.

Beside these files, exports were made in a sweep and not kept: scikit-learn's estimators and transformers by skl2onnx
1.20 (its options, labels as texts and numbers, float, double and whole numbers, opsets 9 to 22), LightGBM, XGBoost and
CatBoost. Of 1,223 that onnxruntime runs, 1,212 passed `verify`. Of the others five were mended since, four are refused
with the reason, one gives more rows than it gets samples, and one is a saturated kernel whose differences float32 does
not resolve. In 59 of those that pass, neighbours are chosen by position, so that no relevance arrives, and the
explanation says so. `tests/test_sklearn.py` holds a part of them.

Small models were exported in the same way by PyTorch 2.13's two exporters (105 by TorchScript, 120 by `torch.export`,
with `torch.cond`, `while_loop` and `scan`), tf2onnx 1.17 from Keras 3.15 and TensorFlow functions (45), Keras's own
`export` (25) and jax2onnx (8): layers, recurrent nets, attention, resizing, sampling, indexing, detection, branches,
loops. All that onnxruntime runs passed `verify`, some after the mending that they gave rise to, but one: a ResNet50V2
with random weights, whose own scores move by as much when onnxruntime does not optimise it. The same twelve models in
the form of every opset from 7 on are explained alike (`tests/test_opsets.py`). Refused with the reason: Scan of opset 8
with a length per sample, Col2Im whose blocks are fed, TensorScatter, Dropout in training mode, and lists as the only
output.
"""


@dataclass(frozen=True)
class Row:
    """One file.  cells : compiles and `COLUMNS`, each yes, no, or – where it does not apply"""

    exporter: str
    kind: str
    name: str
    cells: tuple[str, ...]

    def __str__(self) -> str:
        return _line([self.name, self.exporter, self.kind, *self.cells])


def entries() -> list[dict[str, str]]:
    """The zoo's index, one record per model that is there, by name."""
    if not (ZOO / "INDEX.tsv").exists():
        return []
    with (ZOO / "INDEX.tsv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    return sorted((e for e in found if (ZOO / e["id"] / "model.onnx").exists()), key=lambda entry: entry["id"])


def row_of(entry: Mapping[str, str], verdict: Verdict | None) -> Row:
    """What a verdict says of one file; None = it did not compile."""
    proto = onnx.load(ZOO / entry["id"] / "model.onnx", load_external_data=False)
    cells = (NO, *[OPEN] * len(COLUMNS)) if verdict is None else (YES, *(_cell(verdict, w) for w in COLUMNS.values()))
    return Row(name_of(proto), entry["task"], entry["id"], cells)


def _cell(verdict: Verdict, word: str) -> str:
    found: Finding = next(finding for finding in verdict.findings if word in finding.check)
    return NO if not found.holds else OPEN if found.measured is None else YES


def page(rows: Iterable[Row]) -> str:
    rows = list(rows)
    titles = ["compiles", *COLUMNS]
    matrix = [_line(["exporter", "kind of model", "files", *titles]), _line(["---"] * (3 + len(titles)))]
    for exporter, kind in sorted({(row.exporter, row.kind) for row in rows}, key=lambda key: (key[0].lower(), key[1])):
        group = [row for row in rows if (row.exporter, row.kind) == (exporter, kind)]
        shares = (_share([row.cells[i] for row in group]) for i in range(len(titles)))
        matrix.append(_line([exporter, kind, str(len(group)), *shares]))
    files = [_line(["file", "exporter", "kind of model", *titles]), _line(["---"] * (3 + len(titles))), *map(str, rows)]
    return "\n".join([HEAD, *matrix, "\n## The files\n", *files, ""])


def rows_on_page() -> list[Row]:
    """The rows of the table of files, as the page has them."""
    lines = PAGE.read_text(encoding="utf-8").partition("## The files")[2].splitlines()
    found = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("| ")][2:]
    return [Row(exporter, kind, name, tuple(cells)) for name, exporter, kind, *cells in found]


def _share(cells: list[str]) -> str:
    counted = [cell for cell in cells if cell != OPEN]
    if not counted:
        return OPEN
    passed = counted.count(YES)
    return YES if passed == len(counted) else NO if not passed else f"{passed} of {len(counted)}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
