"""What comes out: an `Explanation`, with relevance, outputs, score, and where the relevance went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


MOST_TOLD = 8
"""Samples of a batch that `str` speaks of."""

SMALL, NEAR = 0.1, 2.0
"""A score below this share of Σ |R| is small; of such a score a share beyond this factor is no measure of loss."""


@dataclass(frozen=True)
class Conservation:
    """How much of the seeded relevance arrived, per sample.

    seeded    : Σ R at the output        arrived : Σ R over all explained tensors
    magnitude : Σ |R| over all explained tensors
    """

    seeded: np.ndarray[Any, Any]
    arrived: np.ndarray[Any, Any]
    magnitude: np.ndarray[Any, Any]

    @property
    def ratio(self) -> np.ndarray[Any, Any]:
        """arrived / seeded; NaN where nothing was seeded."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(self.seeded == 0, np.nan, self.arrived / self.seeded))

    @property
    def absorbed(self) -> np.ndarray[Any, Any]:
        """What biases, stabilisers and rules that do not conserve kept: seeded − arrived."""
        return np.asarray(self.seeded - self.arrived)

    @property
    def cancels(self) -> np.ndarray[Any, Any]:
        """Where the score is a small rest of large parts for and against it, so that its share misleads."""
        small = np.abs(self.seeded) < SMALL * self.magnitude
        with np.errstate(invalid="ignore"):
            near = (self.ratio >= 1 / NEAR) & (self.ratio <= NEAR)
        return np.asarray(small & ~near)

    def __str__(self) -> str:
        def one(seeded: float, arrived: float, ratio: float, cancels: bool, magnitude: float) -> str:
            share = f"the parts for and against nearly cancel, Σ|R| {magnitude:.3g}" if cancels else f"{ratio:.1%}"
            return f"{arrived:.4g} of {seeded:.4g} arrived ({share})"

        columns = (self.seeded, self.arrived, self.ratio, self.cancels, self.magnitude)
        shown = [one(*row) for row in zip(*columns, strict=True)]
        return "; ".join(shown[:4]) + (f"; … ({len(shown)} samples)" if len(shown) > 4 else "")


@dataclass(frozen=True)
class Explanation:
    """The result of one call.

    relevance    : per explained tensor, float32, shaped like it (with target "all": a class axis in front)
    outputs      : the model's own, under their names
    target       : index per sample where a class is explained, else what was asked for
    score        : the explained value per sample (logit, or Σ seed ⊙ y)
    conservation : None for methods that conserve nothing
    warnings     : what a reader should know, one sentence each
    inside       : cells (height, width) of the output's map, where a box or a mask of it is explained
    """

    method: str
    preset: str | None
    relevance: Arrays
    outputs: Arrays
    target: Any
    score: np.ndarray[Any, Any]
    conservation: Conservation | None
    inputs: Arrays
    signed: bool = True
    seconds: float = 0.0
    providers: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    layout: str | None = None
    warnings: tuple[str, ...] = field(default=())
    inside: np.ndarray[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self.score)

    def label(self, sample: int = 0) -> str:
        """The target of a sample in words."""
        target = self.target[sample] if isinstance(self.target, list) else self.target
        if isinstance(target, int) and self.labels is not None and target < len(self.labels):
            return self.labels[target]
        return str(target)

    def title(self, sample: int = 0) -> str:
        preset = f" {self.preset}" if self.preset else ""
        return f"{self.method}{preset}: {self.label(sample)}, score {float(self.score[sample]):.3g}"

    def __str__(self) -> str:
        if self.score.ndim > 1:
            classes, samples = self.score.shape
            lines = [f"{self.method}: {classes} classes of {samples} samples, scores of shape {list(self.score.shape)}"]
        else:
            lines = [self.title(i) for i in range(min(len(self), MOST_TOLD))]
            lines += [f"… ({len(self)} samples)"] if len(self) > MOST_TOLD else []
        lines += [f"relevance of '{name}': {list(array.shape)}" for name, array in self.relevance.items()]
        if self.conservation is not None and self.score.ndim == 1:
            lines.append(str(self.conservation))
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])

    def __repr__(self) -> str:
        return str(self)

    def plot(self, sample: int = 0, name: str | None = None) -> Any:
        """A matplotlib figure of one sample: a heatmap for pictures, bars for columns."""
        from onnxlrp.report.show import plot_explanation

        return plot_explanation(self, sample, name)

    def _repr_html_(self) -> str:
        from onnxlrp.report.show import explanation_as_html

        return explanation_as_html(self)
