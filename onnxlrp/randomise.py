"""Model-parameter randomisation: an explanation that survives a model without its weights does not explain the model.

Weights are redrawn layer by layer from the output down and stay redrawn (cascading); after each layer the heatmap is
compared with that of the trained model.  Source: Adebayo et al. 2018, arXiv 1810.03292, section 3.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlrp.errors import InputError
from onnxlrp.graph import FLOATS
from onnxlrp.metrics import spearman
from onnxlrp.model import Model

Heatmaps = Callable[[Model], NDArray[Any]]
"""A model → relevance (sample, …), of the same samples and targets each time."""


@dataclass(frozen=True)
class Randomised:
    """After one more layer.

    layer     : name of its node        redrawn : layers redrawn so far
    signed    : Spearman correlation with the trained model's relevance, mean over samples
    magnitude : likewise of |R|        magnitudes : per sample
    """

    layer: str
    redrawn: int
    signed: float
    magnitude: float
    magnitudes: tuple[float, ...] = ()


def randomisation(
    model: Model, heatmaps: Heatmaps, *, seed: int = 0, layers: int | None = None, stops: int | None = None
) -> Iterator[Randomised]:
    """Redraw one layer after another, from the output down.

    heatmaps : such as `lambda m: Explainer(m, preset="epsilon-plus").explain(x, target=classes).relevance["input"]`
    layers   : how many, at most        stops : look at so many depths only, evenly spread, the first and last included
    Errors: InputError for a model without float weights.
    """
    names = weighted_layers(model)
    if not names:
        raise InputError(f"{model.name} has no float weights to redraw (quantised models keep theirs as integers).")
    trained = heatmaps(model)
    depths: Sequence[int] = range(1, len(names[:layers]) + 1)
    if stops is not None and stops < len(depths):
        depths = sorted({int(depth) for depth in np.rint(np.linspace(1, len(depths), stops))})
    for count in depths:
        found = heatmaps(redrawn(model, names[:count], seed))
        pairs = list(zip(trained, found, strict=True))
        signed = float(np.mean([spearman(a, b) for a, b in pairs]))
        magnitudes = tuple(spearman(np.abs(a), np.abs(b)) for a, b in pairs)
        yield Randomised(names[count - 1], count, signed, float(np.mean(magnitudes)), magnitudes)


def weighted_layers(model: Model) -> list[str]:
    """Nodes with a float weight of two axes or more, those nearest to the output first."""
    nodes = [node for node in model.graph.all_nodes() if any(len(w.shape or ()) > 1 for w in _weights(node))]
    return [node.name or "" for node in reversed(nodes)]


def redrawn(model: Model, layers: list[str], seed: int = 0) -> Model:
    """The model with weights and biases of these nodes drawn from a normal distribution of their own mean and spread.

    A layer's numbers come from (seed, name), so cascades share them.
    """
    clone = model.copy()
    wanted = set(layers)
    for node in clone.graph.all_nodes():
        if node.name in wanted:
            for weight in _weights(node):
                weight.const_value = _drawn(weight, seed)
    return replace(model, proto=clone, sha256=f"{model.sha256}, {len(layers)} layers redrawn")


def _weights(node: ir.Node) -> list[ir.Value]:
    """Float initialisers that a node reads."""
    return [
        value
        for value in node.inputs
        if value is not None and value.is_initializer() and value.const_value is not None and value.dtype in FLOATS
    ]


def _drawn(weight: ir.Value, seed: int) -> ir.TensorProtocol:
    assert weight.const_value is not None
    trained = weight.const_value.numpy()
    name = int.from_bytes(hashlib.sha256((weight.name or "").encode()).digest()[:8], "big")
    random = np.random.default_rng([seed, name])
    numbers = random.normal(float(trained.mean()), float(trained.std()), trained.shape)
    return ir.tensor(np.asarray(numbers, trained.dtype), name=weight.name)
