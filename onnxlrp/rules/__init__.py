"""Rules: per operator its gradient and how relevance crosses it; decompositions that every linear operator shares."""

from onnxlrp.rules import (  # noqa: F401 - importing registers
    arithmetic,
    control,
    deformable,
    einsum,
    encoders,
    indexing,
    kernels,
    linear,
    lists,
    movement,
    ngrams,
    no_signal,
    normalisation,
    norms,
    pointwise,
    pooling,
    quantised,
    recurrent,
    reduction,
    regions,
    resize,
    roi_align,
    sampling,
    softmax,
    spectral,
    trees,
)
from onnxlrp.rules.decompositions import AlphaBeta, Decomposition, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, ZPlus
from onnxlrp.rules.named import RULES, parse_rule
from onnxlrp.rules.simple import Gate, Gradient, Pass, Route, Stop, WinnerTakesAll

__all__ = [
    "RULES",
    "AlphaBeta",
    "Decomposition",
    "Epsilon",
    "Flat",
    "Gamma",
    "Gate",
    "Gradient",
    "Pass",
    "Route",
    "Rule",
    "Stop",
    "WSquare",
    "WinnerTakesAll",
    "ZBox",
    "ZPlus",
    "parse_rule",
]
