"""Words of a text as regions: each with its whole embedding, all pieces of a word together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data import Sample, Words
from onnxlrp.model import Model

_AS_THEY_ARE = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def embedding_of(model: Model) -> str | None:
    """The tensor behind the look-up of a model's tokens: of its first whole-number input that looks something up."""
    for value in model.graph.inputs:
        waiting = [value] if value.dtype is not None and value.dtype.is_integer() else []
        while waiting:
            for use in waiting.pop(0).uses():
                if use.node.op_type == "Gather" and use.idx == 1:
                    return use.node.outputs[0].name
                waiting += use.node.outputs if use.node.op_type in _AS_THEY_ARE else []
    return None


def word_regions(sample: Sample, rank: int) -> NDArray[np.intp]:
    """A label map (token, 1, …) of so many axes; a token without a text is a word of its own."""
    if isinstance(sample.original, Words):
        of_token = sample.original.of_token
    else:
        tokens: NDArray[Any] = next(iter(sample.arrays.values()))
        of_token = np.arange(tokens.shape[-1], dtype=np.intp)
    return of_token.reshape([-1] + [1] * (rank - 1))
