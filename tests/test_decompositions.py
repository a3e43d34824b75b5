"""Every decomposition on every linear operator equals its formula on dense float64 matrices."""

from __future__ import annotations

import numpy as np
import pytest
from nets import must, signed
from twins import BIASED_RULES, LAYERS, RULES, Layer, Rule, twin, written

import onnxlrp

ROUNDINGS = 24
"""Float32 roundings between the formula and its graph, in units of Twin.scale: sums of up to 60 products grow like their
square root, and the quotient, the two scalings and the seed add a handful. Measured: at most 10."""


def check_layer(layer: Layer, rule: Rule, bias: str = "absorb") -> None:
    """Complains when the compiled rule and the dense formula disagree anywhere."""
    x = layer.input()
    z = layer.run(x)
    wanted = signed(layer.random("relevance"), *z.shape)
    seed = np.divide(wanted, z, out=np.ones_like(z), where=z != 0)
    explainer = onnxlrp.Explainer(layer.model, rules={layer.node: written(rule)}, bias=bias, providers="cpu")
    must(len(explainer.plan) == 1, f"{layer} is one layer, and the plan has {len(explainer.plan)}:\n{explainer.plan}")
    ours = explainer.explain(x, target=seed).relevance["x"]
    expected = twin(rule, layer, x, seed.astype(np.float64) * z, bias)
    off = expected.roundings(ours)
    must(off <= ROUNDINGS, f"{written(rule)} on {layer}, bias {bias}: off by {off:.3g} roundings")


@pytest.mark.parametrize("rule", RULES, ids=written)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_rule_equals_its_dense_twin(layer: Layer, rule: Rule) -> None:
    check_layer(layer, rule)


@pytest.mark.parametrize("bias", ["drop", "distribute"])
@pytest.mark.parametrize("rule", BIASED_RULES, ids=written)
@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.has_bias], ids=str)
def test_bias_choice_equals_its_dense_twin(layer: Layer, rule: Rule, bias: str) -> None:
    check_layer(layer, rule, bias)
