"""Lowerings: fused operators written out as the primitive ones that have rules, one short entry per operator."""

from onnxlrp.lowering import activations, attention, linear, normalisation, products, types  # noqa: F401 - importing registers
from onnxlrp.lowering.fused import Fused, find_lowering, lowered, lowerings, not_lowered, refusal, refusals

__all__ = ["Fused", "find_lowering", "lowered", "lowerings", "not_lowered", "refusal", "refusals"]
