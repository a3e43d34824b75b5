"""Classical models (ai.onnx.ml): scores as plain linear maps, kernels and trees; labels as what was chosen by them.

The transform of the scores (SOFTMAX, LOGISTIC, PROBIT) becomes a node of its own, so that the scores before it are
what is explained. Binary classifiers that hold a single score get their second column as onnxruntime gives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.graph import READ_AS
from onnxlrp.lowering.fused import Fused, lowered

ML = "ai.onnx.ml"

TRANSFORMS = {0: "NONE", 1: "SOFTMAX", 2: "LOGISTIC", 3: "SOFTMAX_ZERO", 4: "PROBIT"}
"""TreeEnsemble writes numbers where all others write words."""

ZERO = 1e-7
"""Scores of smaller magnitude count as zero for SOFTMAX_ZERO, in onnxruntime."""

WINITZKI = 0.147
"""The constant of the approximation of the inverse error function that onnxruntime uses for PROBIT."""


def as_floats(node: Fused) -> ir.Value:
    """Operand 0 in float32."""
    x = node.x()
    return x if x.dtype == ir.DataType.FLOAT else node.emit.Cast(x, to=ir.DataType.FLOAT)


def transformed(node: Fused, scores: ir.Value, columns: int) -> ir.Value:
    """The post transform; a single column is only ever changed by PROBIT."""
    emit, name = node.emit, _transform_of(node)
    if name == "PROBIT":
        return _probit(node, scores)
    if columns < 2 or name == "NONE":
        return scores
    if name == "LOGISTIC":
        return emit.Sigmoid(scores)
    if name == "SOFTMAX":
        return emit.Softmax(scores, axis=-1)
    if name == "SOFTMAX_ZERO":
        return _softmax_of_the_others(node, scores)
    raise Unsupported(f"its post transform '{name}' is none of {', '.join(TRANSFORMS.values())}")


def _transform_of(node: Fused) -> str:
    given = node.attribute("post_transform", "NONE")
    return TRANSFORMS.get(given, str(given)) if isinstance(given, int) else str(given)


def _softmax_of_the_others(node: Fused, scores: ir.Value) -> ir.Value:
    """Softmax over the scores that are not 0; those stay 0."""
    emit = node.emit
    powers = emit.Exp(scores - emit.reduce("ReduceMax", scores, [-1]))
    shares = emit.Where(emit.Greater(emit.Abs(scores), ZERO), powers, 0.0)
    return emit.Div(shares, emit.sum(shares, [-1]))


def _probit(node: Fused, p: ir.Value) -> ir.Value:
    """√2 · erf⁻¹(2p − 1) by Winitzki's approximation."""
    emit = node.emit
    v = p * 2.0 - 1.0
    logarithm = emit.Log((1.0 - v) * (1.0 + v))
    a = logarithm * 0.5 + 2.0 / (math.pi * WINITZKI)
    size = emit.Sqrt(emit.Sqrt(a * a - logarithm * (1.0 / WINITZKI)) - a)
    return emit.Mul(emit.Sign(v) * size, math.sqrt(2.0))


def two_columns(node: Fused, score: ir.Value, *, probability: bool) -> ir.Value:
    """The second column of a binary classifier with one score s: [1 − s, s], or [−s, s]."""
    other = 1.0 - score if probability and _transform_of(node) != "LOGISTIC" else -score
    both = node.emit.Concat(other, score, axis=1)
    return node.emit.Sigmoid(both) if _transform_of(node) == "LOGISTIC" else both


def labels_of(node: Fused) -> np.ndarray[Any, Any]:
    """The classes, whole numbers or texts."""
    for name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
        found = node.attribute(name)
        if found is not None and len(found):
            return np.asarray([v.decode() if isinstance(v, bytes) else v for v in found])
    raise Unsupported("it names no class labels")


def chosen(node: Fused, scores: ir.Value) -> ir.Value | None:
    """The label as the model computes it; the relevance of a number goes to the winner's score, of a text nowhere."""
    if not node.wants(0):
        return None
    emit, labels = node.emit, labels_of(node)
    if labels.dtype.kind == "U":
        return node.kept()[0]
    winner = emit.ArgMax(scores, axis=1, keepdims=0)
    return node.through(node.kept()[0], emit.Gather(emit.constant(labels.astype(np.int64)), winner, axis=0))


def _shaped(scores: ir.Value, x: ir.Value, columns: int) -> None:
    """(batch, column) of float32: what the standard's inference does not know of these operators."""
    scores.type = ir.TensorType(ir.DataType.FLOAT)
    scores.shape = ir.Shape([x.shape[0] if x.shape is not None and len(x.shape) else None, columns])


# --- linear ----------------------------------------------------------------------------------------------------------


def _linear(node: Fused, rows: int) -> ir.Value:
    """x · Wᵀ + b."""
    numbers = np.asarray(node.attribute("coefficients"), np.float32)
    shape = node.x().shape
    columns = shape[-1] if shape else None
    if numbers.size % rows or (isinstance(columns, int) and numbers.size != rows * columns):
        raise Unsupported(f"its {numbers.size} coefficients do not fit {rows} scores of {columns} columns")
    weights = numbers.reshape(rows, -1)
    bias = np.asarray(node.attribute("intercepts") or [0.0] * rows, np.float32)
    scores = node.emit.Gemm(as_floats(node), weights, bias, transB=1)
    _shaped(scores, node.x(), rows)
    return scores


@lowered("LinearRegressor", domain=ML)
def linear_regressor(node: Fused) -> ir.Value:
    """y = transform(x · Wᵀ + b)."""
    targets = int(node.attribute("targets", 1))
    return transformed(node, _linear(node, targets), targets)


@lowered("LinearClassifier", domain=ML)
def linear_classifier(node: Fused) -> list[ir.Value | None]:
    """Scores = transform(x · Wᵀ + b); the label is the largest score's."""
    classes = len(labels_of(node))
    rows = len(node.attribute("intercepts") or [0.0] * classes)
    scores = _linear(node, rows)
    if rows == 1 and classes == 2:
        scores = two_columns(node, scores, probability=True)
    else:
        scores = transformed(node, scores, rows)
    return [chosen(node, scores), scores]


# --- trees -----------------------------------------------------------------------------------------------------------

_WEIGHTS = ("treeids", "nodeids", "ids", "weights", "weights_as_tensor")


@lowered("TreeEnsembleClassifier", domain=ML)
def tree_ensemble_classifier(node: Fused) -> list[ir.Value | None]:
    """Scores by a TreeEnsembleRegressor with the classes for targets; the label is the largest score's."""
    classes = len(labels_of(node))
    leaves = {name: node.attribute(f"class_{name}") for name in _WEIGHTS}
    kept = {n: a.value for n, a in node.node.attributes.items() if n.startswith(("nodes_", "base_values"))}
    single = classes == 2 and set(leaves["ids"]) == {0}
    numbers = leaves["weights"] if leaves["weights"] is not None else leaves["weights_as_tensor"].numpy()
    shares = single and bool((np.asarray(numbers) >= 0).all()) and _transform_of(node) != "LOGISTIC"
    if shares:
        leaves, kept = _of_both(leaves, kept)
    targets = 1 if single and not shares else max(classes, 1)
    x = node.x() if node.x().dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE) else as_floats(node)
    scores = node.emit.node(
        "TreeEnsembleRegressor",
        x,
        domain=ML,
        n_targets=targets,
        **kept,
        **{f"target_{name}": value for name, value in leaves.items() if value is not None},
    )
    _shaped(scores, x, targets)
    if single and not shares:
        scores = two_columns(node, scores, probability=False)
    elif not shares:
        scores = transformed(node, scores, targets)
    return [chosen(node, scores), scores]


def _of_both(leaves: Mapping[str, Any], kept: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trees of one share p, written for [1 − p, p]: behind a lone 1 − p nothing would arrive where p = 0."""
    doubled: dict[str, Any] = {name: [*leaves[name], *leaves[name]] for name in ("treeids", "nodeids")}
    doubled["ids"] = [0] * len(leaves["ids"]) + [1] * len(leaves["ids"])
    base = next((np.asarray(_plain(value)) for name, value in kept.items() if name.startswith("base_values")), None)
    first = float(base.reshape(-1)[0]) if base is not None and base.size else 0.0
    rest = {name: value for name, value in kept.items() if not name.startswith("base_values")}
    if leaves["weights_as_tensor"] is not None:
        weights = leaves["weights_as_tensor"].numpy()
        doubled["weights_as_tensor"] = ir.tensor(np.concatenate([-weights, weights]))
        return doubled, rest | {"base_values_as_tensor": ir.tensor(np.array([1.0 - first, first], weights.dtype))}
    doubled["weights"] = [*(-weight for weight in leaves["weights"]), *leaves["weights"]]
    return doubled, rest | {"base_values": [1.0 - first, first]}


def _plain(value: Any) -> Any:
    return value.numpy() if hasattr(value, "numpy") else value


# --- support vector machines -----------------------------------------------------------------------------------------


def _machine(node: Fused, coefficients: np.ndarray[Any, Any], vectors: np.ndarray[Any, Any], rho: float) -> ir.Value:
    """Σ c_i k(s_i, x) + ρ, (batch, 1); linear kernels as the dense layer that they are."""
    kernel = node.attribute("kernel_type", "LINEAR")
    if kernel == "LINEAR":
        weights = (coefficients @ vectors).astype(np.float32)[None]
        return node.emit.Gemm(as_floats(node), weights, np.array([rho], np.float32), transB=1)
    used = coefficients != 0
    value = node.emit.fresh(
        "SVMRegressor",
        as_floats(node),
        domain=ML,
        kernel_type=kernel,
        kernel_params=[float(number) for number in node.attribute("kernel_params") or (0.0, 0.0, 3.0)],
        coefficients=coefficients[used].tolist(),
        support_vectors=vectors[used].reshape(-1).tolist(),
        n_supports=int(used.sum()),
        rho=[rho],
    )
    _shaped(value, node.x(), 1)
    producer = value.producer()
    assert producer is not None
    producer.metadata_props[READ_AS] = "KernelMachine"
    return value


@lowered("SVMRegressor", domain=ML)
def svm_regressor(node: Fused) -> ir.Value:
    """f(x) = Σ c_i k(s_i, x) + ρ; a one-class machine gives the sign, and its relevance is that of f."""
    coefficients = np.asarray(node.attribute("coefficients"), np.float64)
    rho = float(np.asarray(node.attribute("rho") or [0.0])[0])
    count = int(node.attribute("n_supports", 0))
    if count == 0:
        return node.emit.Gemm(
            as_floats(node), coefficients.astype(np.float32)[None], np.array([rho], np.float32), transB=1
        )
    vectors = np.asarray(node.attribute("support_vectors"), np.float64).reshape(count, -1)
    score = transformed(node, _machine(node, coefficients, vectors, rho), 1)
    return node.through(node.kept()[0], score) if node.attribute("one_class", 0) else score


@lowered("SVMClassifier", domain=ML)
def svm_classifier(node: Fused) -> list[ir.Value | None]:
    """One decision value per pair of classes; probabilities are explained by the log odds of the pairs.

    With l_cj = log p_c/p_j of the pair (c, j) and consistent pairs, log p_c is Σ_j l_cj / C but for a constant.
    """
    emit, counts = node.emit, [int(count) for count in node.attribute("vectors_per_class") or ()]
    classes = len(labels_of(node))
    if not counts:
        return _linear_svm(node, classes)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    values = [_pair(node, counts, index, i, j) for index, (i, j) in enumerate(pairs)]
    decisions = values[0] if len(values) == 1 else emit.Concat(*values, axis=1)
    odds = node.attribute("prob_a")
    if odds is not None and len(odds):
        slopes, shifts = (np.asarray(node.attribute(name), np.float64) for name in ("prob_a", "prob_b"))
        evidence = _evidence(node, decisions, pairs, -slopes, -shifts)
        return [chosen(node, evidence), node.through(node.kept()[1], emit.Softmax(evidence, axis=-1))]
    ones = np.ones(len(pairs))
    label = chosen(node, _evidence(node, decisions, pairs, ones, 0.0 * ones)) if node.wants(0) else None
    if len(values) == 1:
        return [label, transformed(node, emit.Concat(-values[0], values[0], axis=1), 2)]
    return [label, transformed(node, decisions, len(values))]


def _evidence(
    node: Fused,
    decisions: ir.Value,
    pairs: list[tuple[int, int]],
    slopes: np.ndarray[Any, Any],
    shifts: np.ndarray[Any, Any],
) -> ir.Value:
    """(batch, class) the mean of slope · decision + shift over the pairs of a class, against it where it is second."""
    classes = len(labels_of(node))
    mixing = np.zeros((classes, len(pairs)))
    for index, (i, j) in enumerate(pairs):
        mixing[i, index], mixing[j, index] = 1.0 / classes, -1.0 / classes
    weights, bias = (mixing * slopes).astype(np.float32), (mixing @ shifts).astype(np.float32)
    return node.emit.Gemm(decisions, weights, bias, transB=1)


def _pair(node: Fused, counts: list[int], index: int, i: int, j: int) -> ir.Value:
    """The decision value of one pair, positive for class i: rows of the coefficients are shared as in libsvm."""
    starts = np.cumsum([0, *counts])
    table = np.asarray(node.attribute("coefficients"), np.float64).reshape(len(counts) - 1, -1)
    vectors = np.asarray(node.attribute("support_vectors"), np.float64).reshape(int(starts[-1]), -1)
    first, second = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
    coefficients = np.concatenate([table[j - 1, first], table[i, second]])
    rho = float(node.attribute("rho")[index])
    return _machine(node, coefficients, np.concatenate([vectors[first], vectors[second]]), rho)


def _linear_svm(node: Fused, classes: int) -> list[ir.Value | None]:
    """Without support vectors the coefficients are a weight per class and column."""
    weights = np.asarray(node.attribute("coefficients"), np.float32).reshape(classes, -1)
    bias = np.full(classes, np.float32((node.attribute("rho") or [0.0])[0]))
    scores = node.emit.Gemm(as_floats(node), weights, bias, transB=1)
    return [chosen(node, scores), transformed(node, scores, classes)]
