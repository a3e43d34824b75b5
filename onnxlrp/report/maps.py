"""From the relevance of one sample to what can be drawn: a map (height, width), or one number per column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.image import unflatten
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.errors import ChoiceError
from onnxlrp.explanation import Explanation
from onnxlrp.heatmap import Map, reduce_channels

Array = NDArray[Any]

ROBUST = 99.5
"""Percentile that gets the full colour: in a photo's 50,000 pixels the largest one leaves all others white."""


@dataclass(frozen=True)
class Drawable:
    """What of one sample can be drawn.

    values : (height, width), or (columns,) where the input has no picture's axes
    kind   : "signed" or "positive", as heatmaps call it
    """

    values: Map
    kind: str

    @property
    def is_map(self) -> bool:
        return self.values.ndim == 2


def drawable(
    explanation: Explanation,
    sample: int = 0,
    name: str | None = None,
    *,
    how: str | None = None,
    sidecar: Sidecar | None = None,
    index: int | None = None,
) -> Drawable:
    """The relevance of one sample with channels reduced.

    name  : of the explained tensor; None = the one that looks most like a picture
    how   : a reduction of `onnxlrp.heatmap`; None = "sum" for signed relevance, "abs-sum" for magnitudes
    index : of the class, where the target is "all"
    Errors: ChoiceError for a name that was not explained.
    """
    relevance = explanation.relevance[primary(explanation) if name is None else _known(name, explanation)]
    if index is not None:
        relevance = relevance[index]
    reduction = how or ("sum" if explanation.signed else "abs-sum")
    kind = "signed" if explanation.signed and reduction == "sum" else "positive"
    sidecar = sidecar or Sidecar()
    if sidecar.kind == "image" and relevance.ndim == 2:
        relevance = unflatten(relevance, sidecar)
    letters = axes_of(relevance.shape, sidecar.layout or explanation.layout)
    return Drawable(_reduced(*one_sample(relevance, letters, sample), reduction), kind)


def primary(explanation: Explanation) -> str:
    """The explained tensor that looks most like a picture: the first of the highest rank."""
    return max(explanation.relevance, key=lambda name: explanation.relevance[name].ndim)


def axes_of(shape: tuple[int, ...], layout: str | None) -> str:
    """A letter per axis: the layout where it fits, else the usual ones of that rank."""
    if layout is not None and len(layout) == len(shape):
        return layout
    if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        return "NHWC"
    usual = {0: "", 1: "F", 2: "NF", 3: "NHW", 4: "NCHW", 5: "NCDHW"}
    return usual.get(len(shape), "N" + "?" * (len(shape) - 1))


def one_sample(array: Array, letters: str, sample: int) -> tuple[Array, str]:
    """One sample without its batch axis, and the letters of what is left; a tensor without such an axis is whole."""
    axis = letters.find("N")
    if axis < 0 or array.shape[axis] <= sample:
        return array, letters
    return array.take(sample, axis=axis), letters.replace("N", "")


def gray_picture(array: Array, letters: str) -> NDArray[np.uint8] | None:
    """The input itself in gray, from its darkest to its lightest value; None where it is no picture."""
    if not {"H", "W"} <= set(letters) or array.dtype.kind not in "fiu" or not set(letters) <= set("CHW"):
        return None
    values = np.asarray(array, np.float64)
    if "C" in letters:
        values, letters = values.mean(axis=letters.index("C")), letters.replace("C", "")
    values = values if letters == "HW" else values.T
    span = np.ptp(values)
    return np.asarray(np.rint((values - values.min()) / (span or 1.0) * 255), np.uint8)


def _reduced(array: Array, letters: str, how: str) -> Map:
    """Channels reduced, other axes but the last two summed: (height, width) or (columns,)."""
    values = reduce_channels(array, letters, how)
    left = letters.replace("C", "")
    if {"H", "W"} <= set(left):
        order = [left.index(letter) for letter in left if letter not in "HW"] + [left.index("H"), left.index("W")]
        values = values.transpose(order)
    if values.ndim > 2:
        values = values.sum(axis=tuple(range(values.ndim - 2)))
    return values if values.ndim == 2 and min(values.shape) > 1 else values.reshape(-1)


def _known(name: str, explanation: Explanation) -> str:
    if name not in explanation.relevance:
        raise ChoiceError(f"'{name}' was not explained; there is relevance of: {', '.join(explanation.relevance)}.")
    return name
