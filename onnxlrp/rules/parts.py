"""Parts: what a bracket of a decomposition is made of.

x⁺ = max(x, 0), x⁻ = min(x, 0), and the same of weights and biases. A part that is known to be all zero is None, and its
term is never written: behind a ReLU half of the alpha-beta terms vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxlrp.emit import Emit
from onnxlrp.rules.registry import Contribution, LinearMap
from onnxlrp.rules.step import Step


@dataclass(frozen=True)
class Term:
    """factor · forward(part(x), weighted(w)), one product in a bracket; `part` gives None for what is all zero."""

    part: Callable[[Step, LinearMap], Contribution]
    weighted: Callable[[Emit, Contribution], Contribution]
    factor: float = 1.0


@dataclass(frozen=True)
class Bracket:
    """coefficient · Σ part ⊙ adjoint(R / stabilise(Σ forward + bias part)).

    where : "z > 0" or "z < 0": only outputs whose unmodified z has that sign take part
    sign  : +1 or −1 where the bracket's own z is known never to have the other sign
    """

    terms: tuple[Term, ...]
    bias: Callable[[Emit, Contribution], Contribution]
    coefficient: float = 1.0
    where: str = ""
    unmodified: bool = False


# --- of inputs, weights and biases -----------------------------------------------------------------------------------


def whole(step: Step, linear: LinearMap) -> Contribution:
    return linear.x


def positive(step: Step, linear: LinearMap) -> Contribution:
    return linear.x if _never_negative(step, linear) else step.emit.positive(linear.x)


def negative(step: Step, linear: LinearMap) -> Contribution:
    return None if _never_negative(step, linear) else step.emit.negative(linear.x)


def _never_negative(step: Step, linear: LinearMap) -> bool:
    return step.nonnegative(step.raw(linear.operand))


def ones(step: Step, linear: LinearMap) -> Contribution:
    return step.emit.ones_like(linear.x)


def filled_with(bound: float | np.ndarray[Any, Any]) -> Callable[[Step, LinearMap], Contribution]:
    def filled(step: Step, linear: LinearMap) -> Contribution:
        return step.emit.Expand(np.asarray(bound, np.float32), step.emit.Shape(linear.x))

    return filled


def same(emit: Emit, w: Contribution) -> Contribution:
    return w


def none(emit: Emit, w: Contribution) -> Contribution:
    return None


def plus(emit: Emit, w: Contribution) -> Contribution:
    return None if w is None else emit.positive(w)


def minus(emit: Emit, w: Contribution) -> Contribution:
    return None if w is None else emit.negative(w)


def squared(emit: Emit, w: Contribution) -> Contribution:
    return None if w is None else w * w


def all_one(emit: Emit, w: Contribution) -> Contribution:
    return None if w is None else emit.ones_like(w)


def favour_positive(gamma: float) -> Callable[[Emit, Contribution], Contribution]:
    """w + γ·max(w, 0)."""
    return lambda emit, w: None if w is None else w + emit.positive(w) * float(gamma)


def favour_negative(gamma: float) -> Callable[[Emit, Contribution], Contribution]:
    """w + γ·min(w, 0)."""
    return lambda emit, w: None if w is None else w + emit.negative(w) * float(gamma)
