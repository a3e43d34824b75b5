"""Zeros that a layer fills in come from nowhere: what arrives there is told to the ledger, and nothing else is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from nets import Net

from onnxlrp.checks import verify

FEEDS = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)


def triangle(net: Net, x: str) -> str:
    return net.Trilu(x, upper=0)


def frame(net: Net, x: str) -> str:
    return net.CenterCropPad(x, net.weight(np.array([6, 2])), axes=[2, 3])


def unpooled(net: Net, x: str) -> str:
    pooled, places = net.add("MaxPool", [x], outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    return net.MaxUnpool(pooled, places, kernel_shape=[2, 2], strides=[2, 2])


@pytest.mark.parametrize("fill", [triangle, frame, unpooled])
def test_what_arrives_at_filled_zeros_is_accounted_for(fill: Callable[[Net, str], str]) -> None:
    """Exp is 1 where the filled zeros are, so that relevance does arrive there."""
    net = Net(opset=18)
    x = net.input("x", [2, 3, 4, 4])
    verdict = verify(net.model(net.Exp(net.Tanh(fill(net, x)))).SerializeToString(), FEEDS)
    assert verdict.holds, str(verdict)
