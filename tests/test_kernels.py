"""Support vector machines: gradients, Taylor relevance and sums against float64 twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxlrp import Explainer
from onnxlrp.checks import verify

ML = "ai.onnx.ml"
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(5, 4)).astype(np.float32)
VECTORS = RANDOM.normal(size=(9, 4)).astype(np.float32)
GAMMA, OFFSET, DEGREE = 0.3, 0.5, 3.0
KERNELS = ("LINEAR", "RBF", "POLY", "SIGMOID")


def machine(op_type: str, outputs: list[tuple[str, int]], **attributes: Any) -> bytes:
    node = helper.make_node(op_type, ["x"], [name for name, _ in outputs], name="svm", domain=ML, **attributes)
    graph = helper.make_graph(
        [node],
        "svm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def regressor(kernel: str, coefficients: np.ndarray, **more: Any) -> bytes:
    return machine(
        "SVMRegressor",
        [("y", TensorProto.FLOAT)],
        kernel_type=kernel,
        kernel_params=[GAMMA, OFFSET, DEGREE],
        coefficients=coefficients.tolist(),
        support_vectors=VECTORS.reshape(-1).tolist(),
        n_supports=len(VECTORS),
        rho=[0.25],
        **more,
    )


def kernel_of(name: str, x: np.ndarray) -> np.ndarray:
    """(row, vector), in float64."""
    x, s = x.astype(np.float64), VECTORS.astype(np.float64)
    if name == "RBF":
        return np.exp(-GAMMA * ((x[:, None] - s) ** 2).sum(-1))
    inner = x @ s.T
    return {"LINEAR": inner, "POLY": (GAMMA * inner + OFFSET) ** DEGREE, "SIGMOID": np.tanh(GAMMA * inner + OFFSET)}[
        name
    ]


def slope_of(name: str, x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """(row, column) by central differences in float64."""
    h = 1e-6
    steps = np.eye(4) * h
    moved = [(kernel_of(name, x + step) - kernel_of(name, x - step)) @ coefficients / (2 * h) for step in steps]
    return np.stack(moved, axis=1)


COEFFICIENTS = RANDOM.normal(size=9).astype(np.float32)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_is_that_of_a_float64_twin(kernel: str) -> None:
    found = Explainer(regressor(kernel, COEFFICIENTS), method="gradient").explain(X).relevance["x"]
    np.testing.assert_allclose(found, slope_of(kernel, X, COEFFICIENTS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_relevance_is_a_taylor_expansion_at_the_nearest_root(kernel: str) -> None:
    result = Explainer(regressor(kernel, COEFFICIENTS)).explain(X)
    f = kernel_of(kernel, X) @ COEFFICIENTS + 0.25
    squares = slope_of(kernel, X, COEFFICIENTS) ** 2
    expected = f[:, None] * squares / squares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.relevance["x"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.relevance["x"].sum(axis=1), result.score, rtol=1e-4)
    verdict = verify(regressor(kernel, COEFFICIENTS), X)
    assert verdict.holds, str(verdict)


def test_linear_kernel_is_a_dense_layer() -> None:
    data = regressor("LINEAR", COEFFICIENTS)
    weights = COEFFICIENTS.astype(np.float64) @ VECTORS
    np.testing.assert_allclose(Explainer(data).explain(X).relevance["x"], X * weights, rtol=1e-3, atol=1e-4)
    flat = Explainer(data, rules={"svm": "flat"}).explain(X)
    np.testing.assert_allclose(flat.relevance["x"], np.repeat(flat.score[:, None] / 4, 4, axis=1), rtol=1e-4)


def test_one_class_machine_explains_its_decision_value() -> None:
    data = regressor("RBF", COEFFICIENTS, one_class=1)
    result = Explainer(data).explain(X)
    assert set(np.unique(result.outputs["y"])) <= {-1.0, 1.0}
    np.testing.assert_allclose(result.relevance["x"].sum(axis=1), result.score, rtol=1e-4)


COUNTS = [4, 3, 2]


def classifier(kernel: str, counts: list[int], **more: Any) -> tuple[bytes, np.ndarray]:
    """The file, and (row, pair) decision values in float64."""
    classes = len(counts)
    table = np.random.default_rng(5).normal(size=(classes - 1, 9)).astype(np.float32)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    rho = [0.1 * (number + 1) for number in range(len(pairs))]
    data = machine(
        "SVMClassifier",
        [("label", TensorProto.INT64), ("scores", TensorProto.FLOAT)],
        kernel_type=kernel,
        kernel_params=[GAMMA, OFFSET, DEGREE],
        coefficients=table.reshape(-1).tolist(),
        support_vectors=VECTORS.reshape(-1).tolist(),
        vectors_per_class=counts,
        classlabels_ints=list(range(classes)),
        rho=rho,
        **more,
    )
    starts, kernels = np.cumsum([0, *counts]), kernel_of(kernel, X)
    values = []
    for number, (i, j) in enumerate(pairs):
        first, second = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        values.append(kernels[:, first] @ table[j - 1, first] + kernels[:, second] @ table[i, second] + rho[number])
    return data, np.stack(values, axis=1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("counts", [COUNTS, [5, 4]], ids=["three classes", "two classes"])
def test_decision_values_of_every_pair(kernel: str, counts: list[int]) -> None:
    data, values = classifier(kernel, counts)
    expected = values if len(counts) > 2 else np.concatenate([-values, values], axis=1)
    for target in range(expected.shape[1]):
        result = Explainer(data).explain(X, target=target)
        np.testing.assert_allclose(result.score, expected[:, target], rtol=1e-3, atol=1e-4)
        if kernel != "LINEAR":
            np.testing.assert_allclose(result.relevance["x"].sum(axis=1), result.score, rtol=1e-3, atol=1e-4)
    verdict = verify(data, X)
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize("counts", [COUNTS, [5, 4]], ids=["three classes", "two classes"])
def test_probabilities_are_explained_by_the_log_odds_of_pairs(counts: list[int]) -> None:
    pairs = len(counts) * (len(counts) - 1) // 2
    data, values = classifier("RBF", counts, prob_a=[-1.5] * pairs, prob_b=[0.2] * pairs)
    odds = 1.5 * values - 0.2
    if len(counts) == 2:
        evidence = np.concatenate([odds / 2, -odds / 2], axis=1)
    else:
        evidence = np.stack([odds[:, 0] + odds[:, 1], -odds[:, 0] + odds[:, 2], -odds[:, 1] - odds[:, 2]], axis=1) / 3
    for target in range(len(counts)):
        result = Explainer(data).explain(X, target=target)
        np.testing.assert_allclose(result.score, evidence[:, target], rtol=1e-3, atol=1e-4)
        assert np.isfinite(result.relevance["x"]).all()
    powers = np.exp(evidence)
    near = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.outputs["scores"], near, atol=0.05)
    verdict = verify(data, X)
    assert verdict.holds, str(verdict)
