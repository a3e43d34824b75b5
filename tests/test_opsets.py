"""A model means the same in whatever opset it is written, and so does its explanation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from opset_nets import HIGHEST, NETS

import onnxlrp
from onnxlrp.checks import verify

X = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("name", NETS)
def test_a_model_is_explained_alike_at_every_opset(name: str) -> None:
    """Its own outputs as onnxruntime gives them, and the relevance of the newest form."""
    net = NETS[name]
    newest = onnxlrp.Explainer(net.at(HIGHEST), providers="cpu").explain(X)
    scale = float(np.abs(newest.relevance["x"]).max())
    for opset in net.opsets()[:-1]:
        proto = net.at(opset)
        (theirs,) = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": X})
        found = onnxlrp.Explainer(proto, providers="cpu").explain(X)
        np.testing.assert_allclose(found.outputs["y"], theirs, rtol=1e-4, atol=1e-6, err_msg=f"opset {opset}")
        off = np.abs(found.relevance["x"] - newest.relevance["x"]).max() / scale
        assert off < 1e-4, f"{name}, opset {opset}: relevance is {off:.2g} off"


@pytest.mark.parametrize("name", NETS)
def test_the_oldest_form_of_a_model_passes_verify_and_its_saved_explainer_the_checker(
    name: str, tmp_path: Path
) -> None:
    proto = NETS[name].at(NETS[name].since)
    verdict = verify(proto, X)
    assert verdict.holds, str(verdict)
    onnxlrp.Explainer(proto).save(tmp_path / "explainer.onnx")
    onnx.checker.check_model(tmp_path / "explainer.onnx", full_check=True)
