"""Operators of the standard that have neither a rule nor a lowering, each with its reason."""

from __future__ import annotations

from onnxlrp.lowering.fused import not_lowered

not_lowered(
    "it updates weights while training, and predicts nothing",
    *("Adagrad", "Adam", "Gradient", "Momentum"),
    domain="ai.onnx.preview.training",
)
