"""Methods that average gradients: along a path (integrated gradients) or under noise (SmoothGrad)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxlrp.errors import ChoiceError, InputError

Arrays = dict[str, np.ndarray[Any, Any]]
Gradients = Callable[[Arrays], Arrays]
"""{tensor: values} → {tensor: gradient}."""


@dataclass(frozen=True)
class IntegratedGradients:
    """(x − x₀) ⊙ ∫₀¹ ∂f/∂x(x₀ + a(x − x₀)) da.

    steps      : gradients per sample
    quadrature : "gauss-legendre", "trapezoid" or "right" (a = 1/n … 1)
    baseline   : x₀, a number or an array that broadcasts to the input
    Source: Sundararajan et al. 2017.
    """

    steps: int = 50
    quadrature: str = "gauss-legendre"
    baseline: Any = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ChoiceError(f"integrated-gradients: steps={self.steps}; at least 1 is needed.")
        if self.quadrature not in QUADRATURES:
            raise ChoiceError(
                f"integrated-gradients: there is no quadrature '{self.quadrature}'; there are {', '.join(QUADRATURES)}."
            )

    def run(self, x: Arrays, gradients: Gradients, progress: Callable[[int], None] | None = None) -> Arrays:
        positions, weights = QUADRATURES[self.quadrature](self.steps)
        start = {name: _baseline(self.baseline, name, array) for name, array in x.items()}
        total = {name: np.zeros(array.shape, np.float64) for name, array in x.items()}
        for position, weight in zip(positions, weights, strict=True):
            point = {n: (start[n] + position * (a - start[n])).astype(a.dtype) for n, a in x.items()}
            for name, gradient in gradients(point).items():
                total[name] += weight * gradient
            if progress is not None:
                progress(1)
        return {n: ((a - start[n]) * total[n]).astype(np.float32) for n, a in x.items()}

    @property
    def passes(self) -> int:
        return self.steps


@dataclass(frozen=True)
class SmoothGrad:
    """The mean gradient over copies of the input with Gaussian noise.

    samples : copies        noise : standard deviation, as a share of each sample's max − min        seed : of the noise
    Source: Smilkov et al. 2017.
    """

    samples: int = 25
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.noise < 0:
            raise ChoiceError(f"smoothgrad: samples={self.samples}, noise={self.noise}; samples ≥ 1 and noise ≥ 0.")

    def run(self, x: Arrays, gradients: Gradients, progress: Callable[[int], None] | None = None) -> Arrays:
        total = {name: np.zeros(array.shape, np.float64) for name, array in x.items()}
        for copy in self._noisy(x):
            for name, gradient in gradients(copy).items():
                total[name] += gradient / self.samples
            if progress is not None:
                progress(1)
        return {name: array.astype(np.float32) for name, array in total.items()}

    def _noisy(self, x: Arrays) -> Iterator[Arrays]:
        random = np.random.default_rng(self.seed)
        spread = {n: _range_per_sample(a) * self.noise for n, a in x.items()}
        for _ in range(self.samples):
            yield {n: (a + random.standard_normal(a.shape) * spread[n]).astype(a.dtype) for n, a in x.items()}

    @property
    def passes(self) -> int:
        return self.samples


def _range_per_sample(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    axes = tuple(range(1, array.ndim)) or None
    return np.asarray(np.ptp(array.astype(np.float64), axis=axes, keepdims=True))


def _baseline(given: Any, name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    value = given.get(name, 0.0) if isinstance(given, dict) else given
    try:
        return np.broadcast_to(np.asarray(value, np.float64), array.shape)
    except ValueError:
        shape = list(np.shape(value))
        raise InputError(
            f"The baseline has shape {shape}, and '{name}' {list(array.shape)}: it has to broadcast."
        ) from None


def _gauss_legendre(steps: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def _trapezoid(steps: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Equal intervals, ends halved; the weights sum to 1."""
    if steps == 1:
        return np.array([0.5]), np.array([1.0])
    weights = np.full(steps, 1.0 / (steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps), weights


def _right(steps: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.arange(1, steps + 1) / steps, np.full(steps, 1.0 / steps)


QUADRATURES = {"gauss-legendre": _gauss_legendre, "trapezoid": _trapezoid, "right": _right}
