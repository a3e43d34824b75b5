"""Tree ensembles: what the graph computes is what walking the trees by hand gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxlrp import Explainer
from onnxlrp.checks import verify
from onnxlrp.errors import Unsupported
from onnxlrp.model import read

ML = "ai.onnx.ml"
FEATURES, ROWS = 5, 7
MODES = {
    "BRANCH_LEQ": np.less_equal,
    "BRANCH_LT": np.less,
    "BRANCH_GTE": np.greater_equal,
    "BRANCH_GT": np.greater,
    "BRANCH_EQ": np.equal,
    "BRANCH_NEQ": np.not_equal,
}


@dataclass
class Node:
    """A leaf has `weights` {target: weight}; an inner node all the rest."""

    weights: dict[int, float] | None = None
    feature: int = 0
    threshold: float = 0.0
    mode: str = "BRANCH_LEQ"
    missing_true: bool = False
    yes: Node | None = None
    no: Node | None = None
    hits: float = 1.0

    def leaves(self) -> list[Node]:
        return [self] if self.weights is not None else self.yes.leaves() + self.no.leaves()

    def expected(self, targets: int, counted: bool) -> np.ndarray:
        """Mean over the leaves below."""
        leaves = self.leaves()
        shares = np.array([leaf.hits if counted else 1.0 for leaf in leaves])
        values = np.array([[leaf.weights.get(t, 0.0) for t in range(targets)] for leaf in leaves])
        return shares @ values / shares.sum()

    def child(self, row: np.ndarray) -> Node:
        value = row[self.feature]
        goes = MODES[self.mode](value, self.threshold) or (bool(np.isnan(value)) and self.missing_true)
        return self.yes if goes else self.no


def grown(random: np.random.Generator, depth: int, targets: int) -> Node:
    if depth == 0 or random.random() < 0.15:
        chosen = random.choice(targets, size=random.integers(1, targets + 1), replace=False)
        weights = {int(t): float(np.float32(random.normal())) for t in chosen}
        return Node(weights, hits=float(random.integers(1, 20)))
    yes, no = grown(random, depth - 1, targets), grown(random, depth - 1, targets)
    return Node(
        None,
        int(random.integers(FEATURES)),
        float(np.float32(random.normal() * 0.7)),
        str(random.choice(["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"])),
        bool(random.integers(2)),
        yes,
        no,
        yes.hits + no.hits,
    )


def walked(trees: list[Node], x: np.ndarray, targets: int, counted: bool) -> tuple[np.ndarray, np.ndarray]:
    """(row, feature, target) contributions, and (target,) base, by walking every tree."""
    found, base = np.zeros((len(x), FEATURES, targets)), np.zeros(targets)
    for tree in trees:
        base += tree.expected(targets, counted)
        for number, row in enumerate(x):
            node = tree
            while node.weights is None:
                below = node.child(row)
                found[number, node.feature] += below.expected(targets, counted) - node.expected(targets, counted)
                node = below
    return found, base


def attributes_of(trees: list[Node], counted: bool) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """nodes_… of all, and treeids, nodeids, ids, weights of the leaves."""
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids", "hitrates")
    nodes: dict[str, list[Any]] = {name: [] for name in (*names, "missing_value_tracks_true")}
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, tree in enumerate(trees):
        order: list[Node] = []
        waiting = [tree]
        while waiting:
            node = waiting.pop(0)
            order.append(node)
            waiting += [] if node.weights is not None else [node.yes, node.no]
        place = {id(node): index for index, node in enumerate(order)}
        for node in order:
            leaf = node.weights is not None
            nodes["treeids"].append(number)
            nodes["nodeids"].append(place[id(node)])
            nodes["featureids"].append(node.feature)
            nodes["values"].append(node.threshold)
            nodes["modes"].append("LEAF" if leaf else node.mode)
            nodes["truenodeids"].append(0 if leaf else place[id(node.yes)])
            nodes["falsenodeids"].append(0 if leaf else place[id(node.no)])
            nodes["hitrates"].append(node.hits if counted else 1.0)
            nodes["missing_value_tracks_true"].append(int(node.missing_true))
            for target, weight in (node.weights or {}).items():
                leaves["treeids"].append(number)
                leaves["nodeids"].append(place[id(node)])
                leaves["ids"].append(target)
                leaves["weights"].append(weight)
    return {f"nodes_{name}": value for name, value in nodes.items()}, leaves


def model_of(op_type: str, outputs: list[tuple[str, int]], dtype: int = TensorProto.FLOAT, **attributes: Any) -> bytes:
    node = helper.make_node(op_type, ["x"], [name for name, _ in outputs], name="trees", domain=ML, **attributes)
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("x", dtype, ["batch", FEATURES])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 5 if op_type == "TreeEnsemble" else 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def regressor(trees: list[Node], targets: int, counted: bool, **more: Any) -> bytes:
    nodes, leaves = attributes_of(trees, counted)
    named = {f"target_{name}": value for name, value in leaves.items()}
    return model_of("TreeEnsembleRegressor", [("y", TensorProto.FLOAT)], n_targets=targets, **nodes, **named, **more)


def forest(seed: int, targets: int, count: int = 4) -> tuple[list[Node], np.ndarray]:
    random = np.random.default_rng(seed)
    trees = [grown(random, 4, targets) for _ in range(count)]
    return trees, random.normal(size=(ROWS, FEATURES)).astype(np.float32)


@pytest.mark.parametrize("counted", [True, False], ids=["by samples", "by leaves"])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_path_decomposition_is_that_of_a_walk(seed: int, targets: int, counted: bool) -> None:
    trees, x = forest(seed, targets)
    found, base = walked(trees, x, targets, counted)
    explainer = Explainer(regressor(trees, targets, counted, base_values=[0.25] * targets))
    for target in range(targets):
        result = explainer.explain(x, target=target)
        np.testing.assert_allclose(result.relevance["x"], found[:, :, target], rtol=1e-5, atol=5e-6)
        np.testing.assert_allclose(
            result.relevance["x"].sum(axis=1) + base[target] + 0.25, result.score, rtol=1e-5, atol=5e-6
        )


def test_missing_values_take_their_side_of_the_split() -> None:
    trees, x = forest(9, 1, 6)
    x[::2, 1] = np.nan
    found, _ = walked(trees, x, 1, True)
    result = Explainer(regressor(trees, 1, True)).explain(x)
    np.testing.assert_allclose(result.relevance["x"], found[:, :, 0], rtol=1e-5, atol=5e-6)


def test_average_of_trees_and_bias_handling() -> None:
    trees, x = forest(3, 1)
    found, base = walked(trees, x, 1, False)
    data = regressor(trees, 1, False, aggregate_function="AVERAGE")
    absorbed = Explainer(data).explain(x)
    np.testing.assert_allclose(absorbed.relevance["x"], found[:, :, 0] / len(trees), rtol=1e-5, atol=5e-6)
    spread = Explainer(data, bias="distribute").explain(x)
    np.testing.assert_allclose(
        spread.relevance["x"], found[:, :, 0] / len(trees) + base / len(trees) / FEATURES, atol=2e-5
    )
    dropped = Explainer(data, bias="drop").explain(x)
    np.testing.assert_allclose(dropped.relevance["x"].sum(axis=1), dropped.score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_classifier_explains_scores_before_the_transform(transform: str) -> None:
    trees, x = forest(5, 3)
    nodes, leaves = attributes_of(trees, False)
    named = {f"class_{name}": value for name, value in leaves.items()}
    data = model_of(
        "TreeEnsembleClassifier",
        [("label", TensorProto.INT64), ("scores", TensorProto.FLOAT)],
        classlabels_int64s=[10, 20, 30],
        post_transform=transform,
        **nodes,
        **named,
    )
    found, base = walked(trees, x, 3, False)
    for target in range(3):
        result = Explainer(data).explain(x, target=target)
        if transform != "SOFTMAX_ZERO":
            np.testing.assert_allclose(result.relevance["x"], found[:, :, target], rtol=1e-5, atol=5e-6)
            np.testing.assert_allclose(
                result.score, found[:, :, target].sum(axis=1) + base[target], rtol=1e-5, atol=5e-6
            )
        assert np.isfinite(result.relevance["x"]).all()
    verdict = verify(data, x)
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("positive", [True, False])
def test_binary_classifier_with_one_score_has_two_columns(transform: str, positive: bool) -> None:
    trees, x = forest(6, 1, 2)
    for tree in trees:
        for leaf in tree.leaves():
            leaf.weights = {0: abs(leaf.weights[0]) % 0.4 + 0.05 if positive else leaf.weights[0]}
    nodes, leaves = attributes_of(trees, False)
    named = {f"class_{name}": value for name, value in leaves.items()}
    data = model_of(
        "TreeEnsembleClassifier",
        [("label", TensorProto.INT64), ("scores", TensorProto.FLOAT)],
        classlabels_int64s=[0, 1],
        post_transform=transform,
        **nodes,
        **named,
    )
    found, _ = walked(trees, x, 1, False)
    for target, sign in ((1, 1.0), (0, -1.0)):
        result = Explainer(data).explain(x, target=target)
        np.testing.assert_allclose(result.relevance["x"], sign * found[:, :, 0], atol=5e-5)
    verdict = verify(data, x)
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tree_ensemble_of_version_5(dtype: type) -> None:
    trees, x = forest(11, 2)
    modes = {name: number for number, name in enumerate(MODES)}
    table: dict[str, list[Any]] = {name: [] for name in ("features", "splits", "modes", "true", "false", "missing")}
    weights: list[float] = []
    targets: list[int] = []

    def place(node: Node) -> tuple[int, int]:
        if node.weights is not None:
            target, weight = next(iter(node.weights.items()))
            node.weights = {target: weight}
            weights.append(weight)
            targets.append(target)
            return len(weights) - 1, 1
        index = len(table["features"])
        for name, value in zip(table, (node.feature, node.threshold, modes[node.mode], 0, 0, 0), strict=True):
            table[name].append(value)
        table["missing"][index] = int(node.missing_true)
        table["true"][index], table["false"][index] = place(node.yes), place(node.no)
        return index, 0

    trees = [tree for tree in trees if tree.weights is None]
    roots = [place(tree)[0] for tree in trees]
    kind = TensorProto.FLOAT if dtype is np.float32 else TensorProto.DOUBLE
    data = model_of(
        "TreeEnsemble",
        [("y", kind)],
        kind,
        n_targets=2,
        aggregate_function=1,
        post_transform=0,
        tree_roots=roots,
        nodes_featureids=table["features"],
        nodes_modes=helper.make_tensor("modes", TensorProto.UINT8, [len(table["modes"])], table["modes"]),
        nodes_splits=helper.make_tensor("splits", kind, [len(table["splits"])], table["splits"]),
        nodes_truenodeids=[child for child, _ in table["true"]],
        nodes_trueleafs=[leaf for _, leaf in table["true"]],
        nodes_falsenodeids=[child for child, _ in table["false"]],
        nodes_falseleafs=[leaf for _, leaf in table["false"]],
        nodes_missing_value_tracks_true=table["missing"],
        leaf_targetids=targets,
        leaf_weights=helper.make_tensor("weights", kind, [len(weights)], weights),
    )
    found, _ = walked(trees, x, 2, False)
    for target in range(2):
        result = Explainer(data).explain(x.astype(dtype), target=target)
        np.testing.assert_allclose(result.relevance["x"], found[:, :, target], rtol=1e-5, atol=5e-6)


def test_gradients_say_that_trees_have_none() -> None:
    trees, x = forest(1, 1)
    result = Explainer(regressor(trees, 1, False), method="sensitivity").explain(x)
    assert not result.relevance["x"].any()
    assert any("constant almost everywhere" in text for text in result.warnings)
    verdict = verify(regressor(trees, 1, False), x)
    assert verdict.holds
    assert any("not applicable: TreeEnsembleRegressor" in finding.detail for finding in verdict.findings)


def test_ledger_gives_the_base_value_to_nobody() -> None:
    trees, x = forest(2, 1)
    _, base = walked(trees, x, 1, False)
    (row,) = [row for row in verify(regressor(trees, 1, False), x).ledger if row.operator == "TreeEnsembleRegressor"]
    assert row.taken["bias"] == pytest.approx(ROWS * float(base[0]), rel=1e-4)


def test_the_largest_of_all_trees_is_refused() -> None:
    trees, x = forest(2, 1)
    with pytest.raises(Unsupported, match="MAX of its trees"):
        Explainer(regressor(trees, 1, False, aggregate_function="MAX")).explain(x)


def test_a_child_that_is_not_there_is_named() -> None:
    trees, x = forest(2, 1, 1)
    model = onnx.load_from_string(regressor(trees, 1, False))
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "nodes_truenodeids":
            attribute.ints[0] = 999
    with pytest.raises(Unsupported, match="Node 999 of tree 0"):
        Explainer(read(model)).explain(x)
