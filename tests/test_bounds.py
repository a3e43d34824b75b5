"""The box of an input holds at the layer that reads it, whatever stands in between."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from nets import Net

from onnxlrp import Explainer

LOW, HIGH = np.array([-1.0, -2.0, 0.0], np.float32), np.array([1.0, 0.5, 3.0], np.float32)
X = np.random.default_rng(0).uniform(LOW, HIGH, (2, 6, 5, 3)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
SCALE, SHIFT = np.array([2.0, -0.5, 0.25], np.float32), np.array([0.5, 1.0, -2.0], np.float32)


def scores(net: Net, x: str, weight: np.ndarray) -> onnx.ModelProto:
    return net.model(net.Flatten(net.GlobalAveragePool(net.Relu(net.Conv(x, net.weight(weight))))))


def relevance(model: onnx.ModelProto, x: np.ndarray, box: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    explainer = Explainer(model, preset="epsilon-gamma-box", box=box, target=1, providers="cpu")
    assert "z-box" in str(explainer.plan)
    return next(iter(explainer.explain(x).relevance.values()))


def channels_first() -> np.ndarray:
    """What all others must be: the convolution reads the input itself."""
    net = Net()
    shape = (1, 3, 1, 1)
    model = scores(net, net.input("x", ["batch", 3, 6, 5]), WEIGHT)
    found = relevance(model, X.transpose(0, 3, 1, 2).copy(), (LOW.reshape(shape), HIGH.reshape(shape)))
    return found.transpose(0, 2, 3, 1)


def test_the_box_of_a_channels_last_input_is_transposed_with_it() -> None:
    net = Net()
    model = scores(net, net.Transpose(net.input("x", ["batch", 6, 5, 3]), perm=[0, 3, 1, 2]), WEIGHT)
    shape = (1, 1, 1, 3)
    found = relevance(model, X, (LOW.reshape(shape), HIGH.reshape(shape)))
    np.testing.assert_allclose(found, channels_first(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shift_first", [False, True])
def test_the_box_is_scaled_and_shifted_as_the_input_is(shift_first: bool) -> None:
    """A model that undoes a scaling of its input, negative scales too, explains like the one without."""
    net, shape = Net(), (1, 1, 1, 3)
    given = X * SCALE + SHIFT if shift_first else (X + SHIFT) * SCALE
    ends = [end * SCALE + SHIFT if shift_first else (end + SHIFT) * SCALE for end in (LOW, HIGH)]
    x = net.input("x", ["batch", 6, 5, 3])
    if shift_first:
        undone = net.Div(net.Sub(x, net.weight(SHIFT)), net.weight(SCALE))
    else:
        undone = net.Sub(net.Div(x, net.weight(SCALE)), net.weight(SHIFT))
    model = scores(net, net.Transpose(undone, perm=[0, 3, 1, 2]), WEIGHT)
    box = (np.minimum(*ends).reshape(shape), np.maximum(*ends).reshape(shape))
    rules_of_scale = {"Sub": "pass", "Div": "pass"}
    explainer = Explainer(model, preset="epsilon-gamma-box", rules=rules_of_scale, box=box, target=1, providers="cpu")
    found = next(iter(explainer.explain(given.astype(np.float32)).relevance.values()))
    np.testing.assert_allclose(found, channels_first(), rtol=1e-3, atol=1e-5)
