"""A Fisher vector classifier in one graph: the forward pass, and relevance step by step against the formulas.

The twin below follows docs/video.md and shares nothing with the package, in float64.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxlrp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sample_models"))
from _fisher import TINY, Fisher, fisher_graph

Array = NDArray[Any]

COMPONENTS, LENGTH, CLASSES = 3, 6, 4
SHAPE = (2, 3, 2)
"""Windows, rows and columns of one clip."""

STEPS = ("normed", "powered", "fisher", "motion")
"""Tensors of the graph: after the SVM, below the norm, below the root, and per descriptor."""

EPS = {
    "normed": "after the SVM",
    "powered": "before the norm",
    "fisher": "before the root",
    "motion": "per descriptor",
}
EPS = 1e-6


def fitted(seed: int = 0) -> Fisher:
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(COMPONENTS, 5.0))
    return Fisher(
        weights,
        random.uniform(0, 1, (COMPONENTS, LENGTH)),
        random.uniform(0.3, 0.8, (COMPONENTS, LENGTH)),
        random.standard_normal((CLASSES, 2 * COMPONENTS * LENGTH)),
        0.2 * random.standard_normal(CLASSES),
    )


def clips(seed: int, count: int = 3, rest: float = 0.3) -> Array:
    """Descriptors of clips (clip, window, row, column, number); of some patches nothing is said."""
    random = np.random.default_rng(seed)
    x = random.uniform(0, 1, (count, *SHAPE, LENGTH))
    return (x * (random.uniform(size=(count, *SHAPE, 1)) > rest)).astype(np.float32)


@dataclass(frozen=True)
class Twin:
    """One clip's way through the classifier, and relevance back, in dense float64.

    psi : (row, 2·component·number), what each row adds to each entry of the Fisher vector
    """

    psi: Array
    fisher: Array
    powered: Array
    normed: Array
    scores: Array
    relevance: dict[str, Array]

    @classmethod
    def of(cls, clip: Array, f: Fisher, target: int | None = None, *, distribute: bool = False) -> Twin:
        x = clip.reshape(-1, LENGTH).astype(np.float64)
        psi = np.stack([_row(row, f) if row.any() else np.zeros(2 * f.means.size) for row in x]) / len(x)
        fisher = psi.sum(axis=0)
        powered = fisher / np.sqrt(np.abs(fisher) + TINY)
        normed = powered / np.linalg.norm(powered)
        scores = f.normals @ normed + f.offsets
        target = int(scores.argmax()) if target is None else target
        score = scores[target]
        share = score / (score + EPS * np.copysign(1, score))
        of_entries = normed * f.normals[target] * share
        if distribute:
            of_entries = of_entries + share * f.offsets[target] / normed.size
        # the stabiliser stands beside the mean of γu, before 1/√π
        root = np.repeat(1 / np.sqrt(f.weights), LENGTH)
        stabilised = fisher + EPS * np.concatenate([root, root / np.sqrt(2)]) * np.copysign(1, fisher)
        of_rows = (psi / stabilised * of_entries).sum(axis=1)
        steps = {"normed": of_entries, "powered": of_entries, "fisher": of_entries, "motion": of_rows}
        return cls(psi, fisher, powered, normed, scores, steps)


def _row(x: Array, f: Fisher) -> Array:
    """What one descriptor adds, the mean over rows and the posterior included."""
    u = (x - f.means) / f.deviations
    log_joint = np.log(f.weights) - np.log(f.deviations).sum(axis=1) - 0.5 * (u**2).sum(axis=1)
    gamma = np.exp(log_joint - np.logaddexp.reduce(log_joint))[:, None]
    root = np.sqrt(f.weights)[:, None]
    return np.stack([gamma * u / root, gamma * (u**2 - 1) / (np.sqrt(2) * root)]).ravel()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(fisher_graph(fitted()), tmp_path / "fisher.onnx")
    return tmp_path / "fisher.onnx"


def explain(model: Path, x: Array, step: str = "motion", **choices: Any) -> onnxlrp.Explanation:
    return onnxlrp.Explainer(model, preset="fisher-vector", inputs=[step], **choices).explain({"motion": x})


def test_the_graph_computes_the_fisher_vector_and_its_norms(model: Path) -> None:
    x = clips(1)
    scores = explain(model, x).outputs["scores"]
    np.testing.assert_allclose(scores, [Twin.of(one, fitted()).scores for one in x], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_relevance_at_each_step_is_that_of_the_formula(model: Path, step: str, seed: int) -> None:
    x = clips(seed)
    found = explain(model, x, step).relevance[step]
    for one, relevance in zip(x, found, strict=True):
        twin = Twin.of(one, fitted()).relevance[step]
        relevance = relevance.sum(axis=-1).ravel() if step == "motion" else relevance
        np.testing.assert_allclose(relevance, twin, rtol=2e-4, atol=2e-4 * np.abs(twin).max())


@pytest.mark.parametrize("step", STEPS)
def test_relevance_is_conserved_at_each_step(model: Path, step: str) -> None:
    """All of the score where the bias is handed on; without the bias where it keeps its share."""
    x = clips(4)
    whole = explain(model, x, step, bias="distribute")
    np.testing.assert_allclose(whole.relevance[step].reshape(len(x), -1).sum(axis=1), whole.score, rtol=2e-4)
    kept = explain(model, x, step)
    offsets = fitted().offsets[kept.outputs["scores"].argmax(axis=1)]
    np.testing.assert_allclose(kept.relevance[step].reshape(len(x), -1).sum(axis=1), kept.score - offsets, rtol=2e-4)


def test_the_bias_in_equal_parts_is_that_of_the_formula(model: Path) -> None:
    x = clips(5)
    found = explain(model, x, bias="distribute").relevance["motion"].sum(axis=-1).reshape(len(x), -1)
    twin = [Twin.of(one, fitted(), distribute=True).relevance["motion"] for one in x]
    np.testing.assert_allclose(found, twin, rtol=2e-4, atol=2e-4 * np.abs(twin).max())


def test_patches_without_motion_get_nothing_and_change_nothing(model: Path) -> None:
    x = clips(6, count=1)
    longer = np.concatenate([x, np.zeros_like(x)], axis=1)
    short, long = explain(model, x), explain(model, longer)
    np.testing.assert_allclose(long.outputs["scores"], short.outputs["scores"], rtol=1e-5, atol=1e-6)
    assert not long.relevance["motion"][(longer == 0).all(axis=-1)].any()
    np.testing.assert_allclose(long.relevance["motion"][:, : SHAPE[0]], short.relevance["motion"], rtol=1e-3, atol=1e-5)


def test_every_class_can_be_asked_for(model: Path) -> None:
    x = clips(7, count=1)
    for target in range(CLASSES):
        found = explain(model, x, target=target).relevance["motion"].sum(axis=-1).ravel()
        twin = Twin.of(x[0], fitted(), target).relevance["motion"]
        np.testing.assert_allclose(found, twin, rtol=5e-4, atol=5e-4 * np.abs(twin).max())


def test_the_gradient_is_finite_and_agrees_with_finite_differences(model: Path) -> None:
    x = clips(8, count=1)
    gradient = onnxlrp.Explainer(model, "gradient", target=1).explain(x).relevance["motion"][0]
    place = np.argwhere(np.abs(x[0]).sum(axis=-1) > 0)[0]
    for number in range(LENGTH):
        index = (*place, number)
        scores = []
        for shift in (1e-5, -1e-5):
            moved = x[0].astype(np.float64)
            moved[index] += shift
            scores.append(Twin.of(moved, fitted()).scores[1])
        np.testing.assert_allclose(gradient[index], (scores[0] - scores[1]) / 2e-5, rtol=2e-3, atol=1e-4)
    assert np.isfinite(onnxlrp.Explainer(model, "gradient").explain(np.zeros_like(x)).relevance["motion"]).all()


def test_the_sidecar_names_the_preset_and_the_caller_overrides_it(model: Path) -> None:
    model.with_suffix(".toml").write_text('preset = "fisher-vector"\n')
    assert onnxlrp.Explainer(model).preset == "fisher-vector"
    assert onnxlrp.Explainer(model, preset="epsilon").preset == "epsilon"
    assert onnxlrp.Explainer(model, "gradient").preset is None
    model.with_suffix(".toml").write_text('preset = "fisher"\n')
    with pytest.raises(onnxlrp.errors.ChoiceError, match=r"'fisher'.*fisher-vector"):
        onnxlrp.Explainer(model)
