"""What a model file gives away about its input: a first sidecar, with the reason for each guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxlrp.data.sidecar import Sidecar

Dimension = int | str | None

_TENSORFLOW = ("tf", "tensorflow", "keras", "tflite")
_TOKEN_WORDS = ("ids", "token", "mask", "segment", "word", "text", "sentence", "bytes")
_AUDIO_WORDS = ("audio", "wav", "speech", "mel", "mfcc", "spectro", "sound", "pcm")
_PICTURE_LAYOUTS = (("image", "NCHW"), ("image", "NHWC"), ("video", "NCTHW"), ("video", "NTCHW"), ("video", "NTHWC"))
_SMALL = 64


@dataclass(frozen=True)
class Guess:
    """A sidecar that nobody confirmed, and why it says what it says."""

    sidecar: Sidecar
    reasons: tuple[str, ...]


def guess(
    *,
    shape: Sequence[Dimension],
    name: str = "",
    dtype: Any = np.float32,
    output_shape: Sequence[Dimension] = (),
    exporter: str = "",
) -> Guess:
    """Guess kind, layout, size, channels and preprocessing.

    shape, name, dtype : of the explained input; dimensions that are not fixed are names or None
    output_shape       : of the explained output; 1000 or 1001 classes hint at ImageNet
    exporter           : the file's producer, such as "pytorch 2.1" or "onnx-caffe2"
    """
    kind, layout, reason = _kind(tuple(shape), name.lower(), np.dtype(dtype))
    reasons = [f"kind {kind}: {reason}"]
    values: dict[str, Any] = {"kind": kind} | ({"layout": layout} if layout else {})
    if kind in ("image", "video"):
        axes = dict(zip(layout, shape, strict=True))
        values |= _geometry(axes)
        classes = output_shape[-1] if output_shape else None
        values["preprocessing"], reason = _preprocessing(axes, np.dtype(dtype), classes, exporter.lower())
        reasons.append(f"preprocessing {values['preprocessing']}: {reason}")
        values |= {"channels": "GRAY"} if axes.get("C", 1) == 1 else {}
    return Guess(Sidecar().replace(**values), tuple(reasons))


def _kind(shape: tuple[Dimension, ...], name: str, dtype: np.dtype[Any]) -> tuple[str, str, str]:
    rank = len(shape)
    if dtype.kind in "OUS":
        text = any(word in name for word in _TOKEN_WORDS)
        return ("text", "", f"input '{name}' takes strings") if text else ("tabular", "", "the input takes strings")
    if any(word in name for word in _AUDIO_WORDS):
        return "audio", "", f"input '{name}' is called after sound"
    if rank == 2 and ((dtype.kind in "iu" and dtype.itemsize > 1) or name.endswith("_ids")):
        return "text", "NL", f"input '{name}' takes whole numbers in rows, as tokens are"
    if rank in (3, 4, 5):
        return _by_axes(shape)
    return ("tabular", "NF", "rows of numbers") if rank == 2 else ("tensor", "", f"rank {rank} gives nothing away")


def _by_axes(shape: tuple[Dimension, ...]) -> tuple[str, str, str]:
    for kind, layout in _PICTURE_LAYOUTS:
        axes = dict(zip(layout, shape, strict=False))
        if len(layout) == len(shape) and axes["C"] in (1, 3) and _spatial(axes["H"]) and _spatial(axes["W"]):
            return kind, layout, f"{axes['C']} channel(s) on axis {layout.index('C')} of {list(shape)}"
    if len(shape) == 3:
        return _rank_three(shape)
    return "tensor", "", f"no axis of {list(shape)} looks like colour channels"


def _rank_three(shape: tuple[Dimension, ...]) -> tuple[str, str, str]:
    _, second, third = shape
    if second == third and isinstance(second, int) and _spatial(second):
        return "image", "NHW", f"{list(shape)} is square, without channels"
    channels_first = isinstance(second, int) and (not isinstance(third, int) or second < third)
    return "series", "NCL" if channels_first else "NLC", f"rank 3, steps on the longer or open axis of {list(shape)}"


def _spatial(dimension: Dimension) -> bool:
    return not isinstance(dimension, int) or dimension >= 8


def _geometry(axes: dict[str, Dimension]) -> dict[str, Any]:
    height, width = axes["H"], axes["W"]
    if not isinstance(height, int) or not isinstance(width, int):
        return {}
    return {"size": (height, width)} | ({"resize": "stretch"} if min(height, width) < _SMALL else {})


def _preprocessing(
    axes: dict[str, Dimension], dtype: np.dtype[Any], classes: Dimension, exporter: str
) -> tuple[str, str]:
    small = isinstance(axes["H"], int) and axes["H"] < _SMALL
    if dtype.kind in "iu":
        return "0-255", f"the input takes {dtype} as pixels are"
    if "caffe" in exporter:
        return "caffe-bgr", f"exported by '{exporter}'; Caffe's networks take BGR less the ImageNet mean"
    if "cntk" in exporter:
        return "0-255", f"exported by '{exporter}'; CNTK's samples scale inside the network"
    if axes.get("C", 1) == 1:
        return "0-1", "one channel, as MNIST"
    if any(word in exporter for word in _TENSORFLOW) or list(axes)[-1] == "C":
        return ("0-1", "TensorFlow, small pictures") if small else ("-1-1", "TensorFlow; Keras' MobileNets take −1…1")
    if small:
        return "-1-1", "small colour pictures, as in PyTorch's CIFAR tutorial"
    if classes in (1000, 1001):
        return "imagenet", f"{classes} classes, as ImageNet"
    return "imagenet", "channels first and large pictures, as torchvision's networks"
