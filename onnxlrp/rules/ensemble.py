"""Tree ensembles as arrays: every node's parent, the feature it came about by, and its expected value.

One table for all spellings of ai.onnx.ml: TreeEnsembleRegressor (versions 1 and 3) and TreeEnsemble (version 5).
Values of inner nodes are not stored in the file. They are the mean of the leaves below, weighted by how many training
samples reached them where the file holds such counts (`nodes_hitrates`), else all leaves alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import Unsupported

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Attributes = Mapping[str, Any]

COUNTS_AGREE = 1e-3
"""Relative difference up to which a node's hit count is the sum of its children's."""


@dataclass(frozen=True)
class Ensemble:
    """Trees as one forest of nodes.

    parent  : (node,) index of the parent; a root's own index        split : (node,) feature its parent splits on
    value   : (node, target) expected output, of a leaf its weight    hits : (node,) training samples; NaN where unknown
    root    : (tree,)        tree : (node,) number of the tree         leaf : (leaf,) indices of the leaves
    offset  : (target,) what is added to the sum of the trees         average : whether it is divided by their count
    """

    parent: Ints
    split: Ints
    value: Floats
    hits: Floats
    root: Ints
    tree: Ints
    leaf: Ints
    offset: Floats
    average: bool

    @property
    def counted(self) -> bool:
        """Whether hit counts are known and add up."""
        child = self.parent != np.arange(len(self.parent))
        sums = np.zeros(len(self.parent))
        np.add.at(sums, self.parent[child], self.hits[child])
        inner = np.setdiff1d(np.arange(len(self.parent)), self.leaf)
        whole = self.hits[inner]
        return bool(len(inner)) and bool((np.abs(sums[inner] - whole) <= COUNTS_AGREE * np.abs(whole)).all())

    @property
    def base(self) -> Floats:
        """(target,) expected output before any split: what belongs to no feature."""
        roots = self.value[self.root].sum(axis=0)
        return np.asarray(self.offset + (roots / len(self.root) if self.average else roots))

    @property
    def change(self) -> Floats:
        """(node, target) what each split adds to the expected output; 0 at roots."""
        change = self.value - self.value[self.parent]
        return np.asarray(change / len(self.root) if self.average else change)

    def paths(self) -> Ints:
        """(leaf, depth) the nodes on the way to each leaf, filled up with its root."""
        current, columns = self.leaf, []
        while (current != self.parent[current]).any():
            columns.append(current)
            current = self.parent[current]
        return np.stack(columns, axis=1) if columns else self.leaf[:, None]

    def with_expected_values(self) -> Ensemble:
        """Inner nodes get the mean of the leaves below them."""
        leaf = np.zeros(len(self.parent), bool)
        leaf[self.leaf] = True
        positive = self.counted and bool((self.hits[self.leaf] > 0).all())
        weight = np.where(leaf, self.hits if positive else 1.0, 0.0)
        total = np.where(leaf[:, None], self.value * weight[:, None], 0.0)
        for level in self._levels()[::-1]:
            np.add.at(total, self.parent[level], total[level])
            np.add.at(weight, self.parent[level], weight[level])
        return replace(self, value=total / np.maximum(weight, np.finfo(np.float64).tiny)[:, None])

    def _levels(self) -> list[Ints]:
        """Nodes by depth, without the roots."""
        order = np.argsort(self.parent, kind="stable")
        starts = np.searchsorted(self.parent[order], np.arange(len(self.parent) + 1))
        levels: list[Ints] = []
        level = self.root
        while True:
            below = [order[starts[node] : starts[node + 1]] for node in level.tolist()]
            level = np.concatenate(below) if below else np.empty(0, np.int64)
            level = level[self.parent[level] != level]
            if not len(level):
                return levels
            levels.append(level)


def read_ensemble(op_type: str, attributes: Attributes) -> Ensemble:
    """The trees of a node.  Errors: Unsupported for trees that do not hang together, or that take an extreme."""
    aggregate = _text(attributes.get("aggregate_function", "SUM"))
    named = {"0": "AVERAGE", "1": "SUM", "2": "MIN", "3": "MAX"}.get(aggregate, aggregate)
    if named not in ("SUM", "AVERAGE"):
        raise Unsupported(
            f"The ensemble takes the {named} of its trees; a path decomposition needs their SUM or AVERAGE."
        )
    reader: Callable[[Attributes], Ensemble] = _joined if op_type == "TreeEnsemble" else _by_tree_and_node
    found = replace(reader(attributes), average=named == "AVERAGE")
    return found.with_expected_values()


def leaf_finder(op_type: str, attributes: Attributes, ensemble: Ensemble) -> dict[str, Any]:
    """Attributes of the same trees with numbers for weights: (sample, tree) place of the leaf in its tree."""
    place = places_in_tree(ensemble)
    kept = {
        name: value for name, value in attributes.items() if name.startswith(("nodes_", "membership", "tree_roots"))
    }
    trees = len(ensemble.root)
    if op_type == "TreeEnsemble":
        leaf = len(attributes["leaf_targetids"])
        numbers = np.zeros(leaf, attributes["leaf_weights"].dtype)
        targets = np.zeros(leaf, np.int64)
        numbers[ensemble.leaf - (len(ensemble.parent) - leaf)] = place
        targets[ensemble.leaf - (len(ensemble.parent) - leaf)] = ensemble.tree[ensemble.leaf]
        return kept | {"n_targets": trees, "leaf_targetids": targets.tolist(), "leaf_weights": numbers}
    tree_ids, node_ids = (np.asarray(attributes[name])[ensemble.leaf] for name in ("nodes_treeids", "nodes_nodeids"))
    double = "nodes_values_as_tensor" in attributes
    weights = {"target_weights_as_tensor": place} if double else {"target_weights": place.astype(np.float32).tolist()}
    return kept | {
        "n_targets": trees,
        "target_treeids": tree_ids.tolist(),
        "target_nodeids": node_ids.tolist(),
        "target_ids": ensemble.tree[ensemble.leaf].tolist(),
        **weights,
    }


def places_in_tree(ensemble: Ensemble) -> Floats:
    """(leaf,) number of each leaf among those of its tree."""
    seen = np.zeros(len(ensemble.root))
    places = np.zeros(len(ensemble.leaf))
    for position, tree in enumerate(ensemble.tree[ensemble.leaf].tolist()):
        places[position] = seen[tree]
        seen[tree] += 1
    return places


# --- spellings -------------------------------------------------------------------------------------------------------


def _by_tree_and_node(attributes: Attributes) -> Ensemble:
    """TreeEnsembleRegressor: nodes are known by the number of their tree and their own."""
    trees, nodes = (np.asarray(attributes[f"nodes_{name}"], np.int64) for name in ("treeids", "nodeids"))
    features = np.asarray(attributes["nodes_featureids"], np.int64)
    span = int(nodes.max()) + 1
    keys = trees * span + nodes
    order = np.argsort(keys, kind="stable")
    leaves = np.array([_text(mode) == "LEAF" for mode in attributes["nodes_modes"]])

    def rows(tree: Ints, node: Ints) -> Ints:
        wanted = tree * span + node
        place = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
        if (keys[order][place] != wanted).any():
            missing = int(np.flatnonzero(keys[order][place] != wanted)[0])
            raise Unsupported(f"Node {int(node[missing])} of tree {int(tree[missing])} is named and not there.")
        return order[place]

    parent, split = np.arange(len(keys)), np.zeros(len(keys), np.int64)
    inner = np.flatnonzero(~leaves)
    for name in ("truenodeids", "falsenodeids"):
        child = rows(trees[inner], np.asarray(attributes[f"nodes_{name}"], np.int64)[inner])
        parent[child], split[child] = inner, features[inner]
    ids = np.asarray(attributes["target_ids"], np.int64)
    targets = int(attributes.get("n_targets", int(ids.max(initial=0)) + 1))
    value = np.zeros((len(keys), targets))
    at = rows(*(np.asarray(attributes[f"target_{name}"], np.int64) for name in ("treeids", "nodeids")))
    np.add.at(value, (at, ids), _numbers(attributes, "target_weights"))
    hits = _numbers(attributes, "nodes_hitrates")
    root = np.flatnonzero(parent == np.arange(len(keys)))
    numbers = np.unique(trees, return_inverse=True)[1]
    return Ensemble(
        parent,
        split,
        value,
        hits if len(hits) == len(keys) else np.full(len(keys), np.nan),
        root,
        numbers,
        np.flatnonzero(leaves),
        _offset(attributes, targets),
        False,
    )


def _joined(attributes: Attributes) -> Ensemble:
    """TreeEnsemble: inner nodes first, then leaves; a child is a leaf where `nodes_trueleafs` says so."""
    features = np.asarray(attributes["nodes_featureids"], np.int64)
    weights = np.asarray(attributes["leaf_weights"], np.float64)
    ids = np.asarray(attributes["leaf_targetids"], np.int64)
    inner, count = len(features), len(features) + len(weights)
    parent, split = np.arange(count), np.zeros(count, np.int64)
    for side in ("true", "false"):
        leaf = np.asarray(attributes[f"nodes_{side}leafs"], np.int64) != 0
        child = np.asarray(attributes[f"nodes_{side}nodeids"], np.int64) + inner * leaf
        if len(np.unique(child)) < inner or ((parent[child] != child) & (parent[child] != np.arange(inner))).any():
            raise Unsupported("Two splits of the ensemble lead to one and the same node; trees do not share nodes.")
        parent[child], split[child] = np.arange(inner), features
    targets = int(attributes.get("n_targets", int(ids.max(initial=0)) + 1))
    value = np.zeros((count, targets))
    value[inner + np.arange(len(weights)), ids] = weights
    root = np.asarray(attributes["tree_roots"], np.int64)
    tree = _trees_of(parent, root)
    hits = np.full(count, np.nan)
    return Ensemble(parent, split, value, hits, root, tree, np.arange(inner, count), np.zeros(targets), False)


def _trees_of(parent: Ints, root: Ints) -> Ints:
    """(node,) number of the tree that a node belongs to."""
    top = parent
    while (parent[top] != top).any():
        top = parent[top]
    number = np.zeros(len(parent), np.int64)
    number[root] = np.arange(len(root))
    return number[top]


def _offset(attributes: Attributes, targets: int) -> Floats:
    base = _numbers(attributes, "base_values")
    return base if len(base) == targets else np.zeros(targets)


def _numbers(attributes: Attributes, name: str) -> Floats:
    """A list of floats, or the same as a tensor of doubles."""
    found = attributes.get(f"{name}_as_tensor", attributes.get(name, ()))
    return np.asarray(found, np.float64).reshape(-1)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
