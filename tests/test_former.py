"""Operators that newer opsets do not have: what we read them as gives what onnxruntime makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import onnxlrp
from onnxlrp.reading.former import RESTATED
from onnxlrp.session import Session

X = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)

CASES: list[tuple[str, dict[str, Any]]] = [
    ("Affine", {"alpha": 2.0, "beta": -1.0}),
    ("Scale", {"scale": 0.5}),
    ("ImageScaler", {"scale": 2.0, "bias": [0.1, 0.2, -3.0]}),
    ("ScaledTanh", {"alpha": 1.5, "beta": 0.7}),
    ("ParametricSoftplus", {"alpha": 1.5, "beta": 0.7}),
    ("ThresholdedRelu", {}),
    ("ThresholdedRelu", {"alpha": 0.2}),
    ("Crop", {"border": [1, 2, 0, 1]}),
    ("Crop", {"border": [1, 2, 0, 1], "scale": [2, 3]}),
    ("MeanVarianceNormalization", {}),
    ("MeanVarianceNormalization", {"across_channels": 1}),
    ("MeanVarianceNormalization", {"normalize_variance": 0}),
]


def model_of(op_type: str, attributes: dict[str, Any], opset: int = 8) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x"], ["y"], name="old", **attributes)],
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    imports = [helper.make_opsetid("", opset)]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=4).SerializeToString()
    return data


@pytest.mark.parametrize(("op_type", "attributes"), CASES)
def test_the_restated_model_computes_the_same(op_type: str, attributes: dict[str, Any]) -> None:
    model = model_of(op_type, attributes)
    theirs = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
    explainer = onnxlrp.Explainer(model, method="gradient", output="y", providers="cpu")
    np.testing.assert_allclose(explainer.predict(X)["y"], theirs, rtol=1e-5, atol=1e-6)
    seed = np.random.default_rng(1).normal(size=theirs.shape).astype(np.float32)
    found = explainer.explain(X, target=seed).relevance["x"]
    direction = np.random.default_rng(2).normal(size=X.shape).astype(np.float32)
    ends = [explainer.predict(X + sign * 1e-3 * direction)["y"].astype(float) for sign in (1, -1)]
    assert np.sum(found * direction) == pytest.approx(np.sum(seed * (ends[0] - ends[1])) / 2e-3, rel=5e-3, abs=1e-2)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_hardmax_chooses_once_per_matrix(axis: int) -> None:
    model = onnxlrp.read(model_of("Hardmax", {"axis": axis}, opset=11))
    theirs = ort.InferenceSession(model_of("Hardmax", {"axis": axis}, opset=11)).run(None, {"x": X})[0]
    np.testing.assert_array_equal(Session(model.copy(), "cpu").run({"x": X})["y"], theirs)


def test_every_entry_has_a_case() -> None:
    assert {op_type for op_type, _ in CASES} | {"Hardmax"} == set(RESTATED)
