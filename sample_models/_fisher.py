"""A Fisher vector classifier as one ONNX graph: descriptors → Gaussian mixture → Fisher vector → norms → linear SVM.

For descriptors x_l, posteriors γ_k(l) of a mixture with weights π, means μ and standard deviations σ (diagonal):

    u_k(l) = (x_l − μ_k) / σ_k
    G_μk   = 1/√π_k     · mean_l γ_k(l) u_k(l)
    G_σk   = 1/√(2 π_k) · mean_l γ_k(l) (u_k(l)² − 1)
    g = G / √(|G| + tiny), entry by entry       φ = g / ‖g‖       score = W φ + b

Rows of zeros are no descriptors: they add nothing, so clips of different lengths fit into one batch. The mean may run
over all rows, since a factor common to all of G is lost in ‖g‖.

Source: Sánchez et al., Image Classification with the Fisher Vector, IJCV 2013, eq. 17 and 18, sections 2.3 and 2.4.
Needs: pip install numpy onnx
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

TINY = 1e-12
"""Below the root: keeps its slope finite where a part of G is exactly zero."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Fisher:
    """What was fitted.

    weights : (component,)        means, deviations : (component, number)
    normals : (class, 2·component·number) of the SVM        offsets : (class,)
    """

    weights: Array
    means: Array
    deviations: Array
    normals: Array
    offsets: Array


def fisher_vectors(x: Array, mixture: Any) -> Array:
    """(row, number) → (2·component·number,) in float64, by scikit-learn's mixture; the graph's twin for training."""
    x = np.asarray(x, np.float64)[np.abs(x).max(axis=-1) > 0]
    gamma, deviations = mixture.predict_proba(x)[..., None], np.sqrt(mixture.covariances_)
    u = (x[:, None] - mixture.means_) / deviations
    root = np.sqrt(mixture.weights_)[:, None]
    parts = (gamma * u).mean(axis=0) / root, (gamma * (u * u - 1)).mean(axis=0) / (np.sqrt(2) * root)
    g = np.concatenate(parts).ravel()
    g = g / np.sqrt(np.abs(g) + TINY)
    return g / np.linalg.norm(g)


def fisher_graph(fitted: Fisher) -> onnx.ModelProto:
    """The classifier: input 'motion' (clip, window, row, column, number), output 'scores' (clip, class)."""
    count, length = fitted.means.shape
    rooted = np.sqrt(fitted.weights)[:, None]
    log_prior = np.log(fitted.weights) - np.log(fitted.deviations).sum(axis=1)
    constants = {
        "rows": np.array([0, -1, 1, length]),
        "mean": fitted.means,
        "deviation": fitted.deviations,
        "log_prior": log_prior,
        "half": np.array(0.5),
        "one": np.array(1.0),
        "zero": np.array(0.0),
        "tiny": np.array(TINY),
        "first_scale": 1 / rooted,
        "second_scale": 1 / (np.sqrt(2) * rooted),
        "numbers": np.array([3]),
        "flat": np.array([0, 2 * count * length]),
        "normals": fitted.normals,
        "offsets": fitted.offsets,
    }
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Reshape", ["motion", "rows"], ["x"], "rows"),
            node("Sub", ["x", "mean"], ["centred"], "centre"),
            node("Div", ["centred", "deviation"], ["u"], "scale"),
            node("Mul", ["u", "u"], ["square"], "square"),
            # posteriors
            node("ReduceSum", ["square", "numbers"], ["distance"], "distance", keepdims=0),
            node("Mul", ["distance", "half"], ["half_distance"], "half"),
            node("Sub", ["log_prior", "half_distance"], ["log_joint"], "log_joint"),
            node("Softmax", ["log_joint"], ["posterior"], "posterior", axis=2),
            node("Unsqueeze", ["posterior", "numbers"], ["gamma"], "gamma"),
            # rows that are descriptors
            node("Abs", ["x"], ["size"], "size"),
            node("ReduceMax", ["size"], ["largest"], "largest", axes=[3], keepdims=1),
            node("Greater", ["largest", "zero"], ["present"], "present"),
            # the mixture's gradients
            node("Where", ["present", "u", "zero"], ["first_kept"], "first_kept"),
            node("Mul", ["gamma", "first_kept"], ["first_share"], "first_share"),
            node("ReduceMean", ["first_share"], ["first_mean"], "first_mean", axes=[1], keepdims=0),
            node("Mul", ["first_mean", "first_scale"], ["first"], "first"),
            node("Sub", ["square", "one"], ["excess"], "excess"),
            node("Where", ["present", "excess", "zero"], ["second_kept"], "second_kept"),
            node("Mul", ["gamma", "second_kept"], ["second_share"], "second_share"),
            node("ReduceMean", ["second_share"], ["second_mean"], "second_mean", axes=[1], keepdims=0),
            node("Mul", ["second_mean", "second_scale"], ["second"], "second"),
            node("Concat", ["first", "second"], ["pair"], "pair", axis=1),
            node("Reshape", ["pair", "flat"], ["fisher"], "fisher"),
            # norms
            node("Abs", ["fisher"], ["magnitude"], "magnitude"),
            node("Add", ["magnitude", "tiny"], ["off_zero"], "off_zero"),
            node("Sqrt", ["off_zero"], ["root"], "root"),
            node("Div", ["fisher", "root"], ["powered"], "power"),
            node("LpNormalization", ["powered"], ["normed"], "norm", axis=1, p=2),
            node("Gemm", ["normed", "normals", "offsets"], ["scores"], "svm", transB=1),
        ],
        "fisher_vector_svm",
        [helper.make_tensor_value_info("motion", TensorProto.FLOAT, ["clip", "window", "row", "column", length])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["clip", len(fitted.offsets)])],
        [numpy_helper.from_array(_typed(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="onnxlrp")
    onnx.checker.check_model(model, full_check=True)
    return model


def _typed(value: Array) -> Array:
    return value.astype(np.int64 if value.dtype.kind == "i" else np.float32)
