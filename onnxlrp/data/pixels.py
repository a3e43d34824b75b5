"""From pixels to a model's numbers and back: x = (pixel · scale − mean) / std, per channel, pixels in 0…255."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.fields import Levels

CHANNEL_ORDERS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0), "GRAY": (0,)}


@dataclass(frozen=True)
class Pixels:
    """A preprocessing. scale, mean and std hold one number for all channels or one per channel, in `channels` order."""

    channels: str | None = None
    scale: Levels = 1.0
    mean: Levels = 0.0
    std: Levels = 1.0

    def forward(self, pixels: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """What the model is fed. pixels: (…, channel), 0…255, in `channels` order; returns the same shape."""
        scale, mean, std = self._arrays()
        return np.asarray((pixels * scale - mean) / std, np.float32)

    def backward(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The pixels behind a model's input, in 0…255 but for rounding; the inverse of `forward`."""
        scale, mean, std = self._arrays()
        return np.asarray((values * std + mean) / scale, np.float64)

    def _arrays(self) -> tuple[NDArray[np.float64], ...]:
        return tuple(np.asarray(levels, np.float64) for levels in (self.scale, self.mean, self.std))


NAMED = {
    "imagenet": Pixels("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe-bgr": Pixels("BGR", 1.0, (103.939, 116.779, 123.68)),
    "0-1": Pixels(scale=1 / 255),
    "-1-1": Pixels(scale=1 / 127.5, mean=1.0),
    "0-255": Pixels(),
}
