"""Decision trees: each split on the path of a sample gets the change it makes to the expected output.

    f(x) = base + Σ over trees, over splits on the path (value of the child − value of the node)

so what the features get adds up to the score exactly, but for the base: the expected output before any split, which
belongs to no feature, as a bias does. Source: Saabas 2014, "Interpreting random forests"; the base value as in Lundberg
et al. 2020. The output is constant between thresholds, so its gradient is 0 almost everywhere.

The path is found inside the graph: the same trees with numbers of leaves for weights say which leaf a sample reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.rules.crossing import report_stabiliser
from onnxlrp.rules.ensemble import Ensemble, leaf_finder, read_ensemble
from onnxlrp.rules.registry import Contribution, Family, Operator, nothing_flows, register
from onnxlrp.rules.step import Step

ML = "ai.onnx.ml"

TINY = 1e-12
"""Stabiliser of f: the parts add up to it already, so nothing is to be damped."""


def path_decomposition(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_i = Σ_c s_c · Σ over splits on feature i, with s = R / stabilise(f).

    relevance : (batch, target)        returns: (batch, feature)
    The base's share s·base stays (bias "absorb"), is left out of the denominator ("drop"), or goes to all
    features alike ("distribute").
    """
    emit, op_type = step.emit, step.unit.op_type
    attributes = _attributes(step)
    ensemble = read_ensemble(op_type, attributes)
    base = ensemble.base.astype(np.float32)[None]
    y = step.y()
    z = y - base if step.bias == "drop" else y
    s = emit.quotient(relevance, z, TINY)
    if step.account is not None and step.bias == "absorb":
        step.account("bias", s * base)
    report_stabiliser(step, s, z, TINY)
    nodes = _nodes_on_path(step, ensemble, leaf_finder(op_type, attributes, ensemble))
    weights = emit.Unsqueeze(s, [1])
    change = emit.Gather(ensemble.change.astype(np.float32), nodes)
    parts = emit.sum(emit.Mul(change, weights), [2], keepdims=False)
    x = step.x()
    places = emit.Gather(emit.constant(ensemble.split), nodes)
    found = emit.ScatterElements(emit.zeros_like(x), places, parts, axis=1, reduction="add")
    if step.bias == "distribute":
        share = emit.sum(s * base, [1])
        found = found + share / emit.Cast(emit.dim(x, 1), to=ir.DataType.FLOAT)
    return [found]


def _nodes_on_path(step: Step, ensemble: Ensemble, finder: Mapping[str, Any]) -> ir.Value:
    """(batch, tree · depth) the nodes that each sample passed."""
    emit = step.emit
    first = np.zeros(len(ensemble.root), np.int64)
    by_tree = np.argsort(ensemble.tree[ensemble.leaf], kind="stable")
    counts = np.bincount(ensemble.tree[ensemble.leaf], minlength=len(ensemble.root))
    first[1:] = np.cumsum(counts)[:-1]
    op_type = "TreeEnsemble" if step.unit.op_type == "TreeEnsemble" else "TreeEnsembleRegressor"
    written = {name: ir.tensor(value) if isinstance(value, np.ndarray) else value for name, value in finder.items()}
    places = emit.node(op_type, step.raw(0), domain=ML, **written)
    rounded = emit.Cast(emit.Round(places), to=ir.DataType.INT64)
    paths = ensemble.paths()[by_tree]
    visited = emit.Gather(emit.constant(paths), rounded + emit.constant(first[None]))
    return emit.Reshape(visited, [0, -1])


def _attributes(step: Step) -> dict[str, Any]:
    """The node's attributes, tensors as arrays."""
    return {name: value.numpy() if hasattr(value, "numpy") else value for name, value in step.given_attributes.items()}


for _op_type in ("TreeEnsembleRegressor", "TreeEnsemble"):
    register(
        Operator(
            _op_type,
            Family.STEPS,
            nothing_flows,
            domain=ML,
            relevance=path_decomposition,
            conserves="up to bias",
            source="Saabas 2014: each split gets the change of the expected output",
        )
    )
