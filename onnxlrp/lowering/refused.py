"""Operators of the standard that have neither a rule nor a lowering, each with its reason."""

from __future__ import annotations

from onnxlrp.lowering.fused import not_lowered

not_lowered(
    "it updates weights while training, and predicts nothing",
    *("Adagrad", "Adam", "Gradient", "Momentum"),
    domain="ai.onnx.preview.training",
)
not_lowered(
    "it reads a dictionary, and an explainer takes tensors: export the columns as a tensor",
    *("CastMap", "DictVectorizer"),
    domain="ai.onnx.ml",
)
not_lowered("it writes into a cache at fed positions: export without a cache", "TensorScatter", domain="")
