"""Lowerings: fused operators written out as the primitive ones that have rules, one short entry per operator."""

from onnxlrp.lowering import (  # noqa: F401 - importing registers
    activations,
    attention,
    blocked,
    classical,
    experts,
    group_query,
    linear,
    normalisation,
    others,
    packed,
    products,
    quantised,
    refused,
    rotary,
    standard,
    types,
)
from onnxlrp.lowering.fused import Fused, find_lowering, has_view, lowered, lowerings, not_lowered, refusal, refusals

__all__ = ["Fused", "find_lowering", "has_view", "lowered", "lowerings", "not_lowered", "refusal", "refusals"]
