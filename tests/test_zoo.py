"""Real files from fourteen exporters: each returns its own output, finite relevance, and passes `verify`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from exporters_matrix import PAGE, ZOO, entries, page, row_of, rows_on_page
from nets import must
from shared import needs

from onnxlrp.checks import verify
from onnxlrp.errors import Unsupported
from onnxlrp.findings import Verdict
from onnxlrp.reading.exporters import exporter_of

ENTRIES = entries()


def verdict_of(entry: Mapping[str, str]) -> Verdict:
    folder = ZOO / entry["id"]
    return verify(folder / "model.onnx", dict(np.load(folder / "input.npz", allow_pickle=False)))


def every_entry() -> list[object]:
    return [pytest.param(e, id=e["id"][:48]) for e in ENTRIES] or [pytest.param({}, marks=needs("zoo"))]


@needs("zoo")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("entry", every_entry())
def test_a_real_model_passes_verify(entry: Mapping[str, str]) -> None:
    """And the page on exporters says of it what was seen."""
    verdict = verdict_of(entry)
    assert verdict.holds, str(verdict)
    found = row_of(entry, verdict)
    must(
        found in rows_on_page(), f"docs/exporters.md is stale: python tests/test_zoo.py --write {entry['id']}\n{found}"
    )


@needs("zoo")
def test_the_page_on_exporters_names_the_zoo_and_adds_it_up() -> None:
    rows = rows_on_page()
    assert [row.name for row in rows] == [entry["id"] for entry in ENTRIES]
    assert page(rows) == PAGE.read_text(encoding="utf-8")


SAID = {
    "PyTorch TorchScript": "PyTorch (TorchScript exporter)",
    "PyTorch dynamo": "PyTorch (dynamo exporter)",
    "tf2onnx (TF/Keras)": "TensorFlow/Keras (tf2onnx)",
    "keras2onnx": "Keras (keras2onnx)",
    "onnxmltools (Keras)": "onnxmltools",
    "sklearn-onnx": "scikit-learn (skl2onnx)",
    "jax2onnx": "JAX (jax2onnx)",
    "ORT-quantized": "onnxruntime quantiser",
    "ORT-optimised": "onnxruntime transformers optimiser",
}
"""The index's words for an exporter → ours, where they differ."""


@needs("zoo")
@pytest.mark.parametrize("entry", every_entry())
def test_the_exporter_is_named(entry: Mapping[str, str]) -> None:
    named = exporter_of(onnx.load(ZOO / entry["id"] / "model.onnx", load_external_data=False))
    index = entry["exporter"].split(" [")[0].split(" + ")[0].removesuffix(" (float twin)")
    expected = entry["producer"] if index == "other" else SAID.get(index, index)
    assert named.startswith(expected)
    must(("[QDQ]" not in entry["exporter"] or "QDQ" in named) or "float twin" in entry["exporter"], named)


def write(words: Sequence[str]) -> None:
    """Measure the files whose names hold one of the words, all without any, and write the page."""
    known = {row.name: row for row in (rows_on_page() if words else [])}
    for entry in ENTRIES:
        if not words or any(word in entry["id"] for word in words):
            try:
                verdict = verdict_of(entry)
            except Unsupported:
                verdict = None
            known[entry["id"]] = row_of(entry, verdict)
            print(known[entry["id"]], flush=True)
    PAGE.write_text(page(known[entry["id"]] for entry in ENTRIES), encoding="utf-8")


if __name__ == "__main__" and "--write" in sys.argv:
    write(sys.argv[sys.argv.index("--write") + 1 :])
