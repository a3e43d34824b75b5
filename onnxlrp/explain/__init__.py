"""Explain: `Explainer` joins the stages, read → prepare → plan → reverse → run."""

from onnxlrp.explain.choices import BIASES
from onnxlrp.explain.explainer import Explainer, explain

__all__ = ["BIASES", "Explainer", "explain"]
