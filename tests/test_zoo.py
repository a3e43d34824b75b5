"""Real files from fourteen exporters: each returns its own output, finite relevance, and passes `verify`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from shared import SHARED, needs

from onnxlrp.checks import verify

ZOO = SHARED / "zoo"


def models() -> list[Path]:
    if not (ZOO / "INDEX.tsv").exists():
        return []
    with (ZOO / "INDEX.tsv").open(encoding="utf-8") as file:
        listed = [row["id"] for row in csv.DictReader(file, delimiter="\t")]
    return [ZOO / name for name in sorted(listed) if (ZOO / name / "model.onnx").exists()]


def folders() -> list[object]:
    return [pytest.param(path, id=path.name[:48]) for path in models()] or [pytest.param(ZOO, marks=needs("zoo"))]


@needs("zoo")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("folder", folders())
def test_a_real_model_passes_verify(folder: Path) -> None:
    feeds = dict(np.load(folder / "input.npz", allow_pickle=False))
    verdict = verify(folder / "model.onnx", feeds)
    assert verdict.holds, str(verdict)
