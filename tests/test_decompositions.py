"""Every decomposition on every linear operator equals its formula on dense float64 matrices."""

from __future__ import annotations

import numpy as np
import pytest
from nets import must, signed
from twins import BIASED_RULES, LAYERS, RULES, Layer, Rule, fits, twin, written

import onnxlrp

ROUNDINGS = 6
"""Float32 roundings between the formula and its graph, in units of Twin.scale. Measured over this table: at most 2; the
rest is for processors that sum in another order."""


def check_layer(layer: Layer, rule: Rule, bias: str = "absorb", given: onnxlrp.rules.Rule | None = None) -> None:
    """Complains when the compiled rule and the dense formula disagree anywhere."""
    x = layer.input()
    z = layer.run(x)
    wanted = signed(layer.random("relevance"), *z.shape)
    seed = np.divide(wanted, z, out=np.ones_like(z), where=z != 0)
    explainer = onnxlrp.Explainer(layer.model, rules={layer.node: given or written(rule)}, bias=bias, providers="cpu")
    must(len(explainer.plan) == 1, f"{layer} is one layer, and the plan has {len(explainer.plan)}:\n{explainer.plan}")
    ours = explainer.explain(x, target=seed).relevance["x"]
    expected = twin(rule, layer, x, seed.astype(np.float64) * z, bias)
    off = expected.roundings(ours)
    must(off <= ROUNDINGS, f"{explainer.plan.rule_of(layer.node)} on {layer}, bias {bias}: off by {off:.3g} roundings")


def test_per_channel_box_equals_its_dense_twin() -> None:
    layer = next(layer for layer in LAYERS if layer.name == "conv-2d-pads")
    low, high = np.array([-2.0, -1.75, -3.0], np.float32), np.array([1.75, 2.5, 1.5], np.float32)
    shape = (1, 3, 1, 1)
    box = [np.broadcast_to(bound.reshape(shape), layer.shape).reshape(-1).astype(np.float64) for bound in (low, high)]
    check_layer(layer, ("z-box", *box), given=onnxlrp.rules.ZBox(low.reshape(shape), high.reshape(shape)))


def _name(part: Layer | Rule) -> str:
    return written(part) if isinstance(part, tuple) else str(part)


PAIRS = [(layer, rule) for layer in LAYERS for rule in RULES]


@pytest.mark.parametrize(("layer", "rule"), [pair for pair in PAIRS if fits(*pair)], ids=_name)
def test_rule_equals_its_dense_twin(layer: Layer, rule: Rule) -> None:
    check_layer(layer, rule)


MIXED = [layer for layer in LAYERS if layer.name in ("conv-2d-no-bias", "conv-2d-valid", "conv-3d", "conv+bn")]
"""Layers each of whose outputs has inputs and weights of both signs, so that no bracket of a rule is empty."""


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != ("epsilon", 0.25)], ids=written)
@pytest.mark.parametrize("layer", MIXED, ids=str)
def test_twins_conserve_what_they_are_given(layer: Layer, rule: Rule) -> None:
    """The yardstick itself: with biases handed on, Σ R_x = Σ R_z up to the stabiliser."""
    x = layer.input()
    relevance = signed(layer.random("relevance"), *layer.run(x).shape)
    found = twin(rule, layer, x, relevance, bias="distribute")
    assert abs(found.relevance.sum() - relevance.sum()) < 2e-6 * found.scale.sum()


def test_rules_refuse_signed_weights_that_no_tensor_holds() -> None:
    refused = [pair for pair in PAIRS if not fits(*pair)]
    assert {layer.name for layer, _ in refused} == {"resize-cubic"}
    for layer, rule in refused:
        with pytest.raises(onnxlrp.Unsupported, match="the sign of each weight"):
            check_layer(layer, rule)


@pytest.mark.parametrize("bias", ["drop", "distribute"])
@pytest.mark.parametrize("rule", BIASED_RULES, ids=written)
@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.has_bias], ids=str)
def test_bias_choice_equals_its_dense_twin(layer: Layer, rule: Rule, bias: str) -> None:
    check_layer(layer, rule, bias)
