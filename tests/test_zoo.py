"""Real files from fourteen exporters: each returns its own output, finite relevance, and passes `verify`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from shared import SHARED, needs

from onnxlrp.checks import verify
from onnxlrp.errors import Unsupported

ZOO = SHARED / "zoo"

LATER = {
    "dianna--coffee": "TreeEnsembleClassifier",
    "sklearn-onnx--pipeline_titanic": "ai.onnx.ml Imputer, Scaler, OneHotEncoder, LinearClassifier",
}
"""Models that need operators of a later milestone, and which."""


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
    reason = next((why for name, why in LATER.items() if folder.name.startswith(name[:80])), "")
    feeds = dict(np.load(folder / "input.npz", allow_pickle=False))
    if reason:
        try:
            verdict = verify(folder / "model.onnx", feeds)
        except Unsupported as error:
            pytest.skip(f"{reason}: {str(error).splitlines()[0]}")
        if not verdict.holds:
            pytest.skip(reason)
        pytest.fail(f"{folder.name} passes now: take it out of LATER")
    verdict = verify(folder / "model.onnx", feeds)
    assert verdict.holds, str(verdict)
