"""Sizes that follow from values are not what one run on made-up numbers happened to give."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxlrp
from onnxlrp.checks import verify

X = np.array([[3.0, 1.0, 2.0, 5.0], [2.0, 4.0, -1.0, 0.5], [3.0, 1.0, 2.0, 5.0]], np.float32)

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "as many as k": (
        "(float[3, 4] x, int64[1] k) => (float[3, 3] y, int64[3, 3] i) { y, i = TopK (x, k) }",
        {"k": np.array([3])},
    ),
    "as many as are true": (
        "(float[3, 4] x, bool[3] c) => (float[2, 4] y) { y = Compress <axis = 0> (x, c) }",
        {"c": np.array([False, True, True])},
    ),
    "as many as differ": (
        "(float[3, 4] x) => (float[2, 4] y) { y, i, j, n = Unique <axis = 0> (x) }",
        {},
    ),
    "as often as asked": (
        "(float[3, 4] x, int64[2] r) => (float[3, 8] y) { y = Tile (x, r) }",
        {"r": np.array([1, 2])},
    ),
}


def net(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 16]> g {text}')


@pytest.mark.parametrize("name", NETS)
def test_the_size_of_an_output_may_follow_from_values(name: str) -> None:
    text, feeds = NETS[name]
    verdict = verify(net(text), {"x": X, **feeds})
    assert verdict.holds, str(verdict)


def test_the_positions_of_winners_and_their_names_grow_with_the_batch() -> None:
    """Whether it may grow is tried by running two samples at once, and texts are compared as texts."""
    text = """(float[1, 4] x) => (float[1, 4] y, string[1] s) {
        y = Softmax (x)
        i = ArgMax <axis = 1, keepdims = 0> (y)
        s = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1, 2, 3], values_strings = ["a", "b", "c", "d"]> (i)
    }"""
    proto = net(text)
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 2))
    found = onnxlrp.Explainer(proto).explain(X)
    assert found.outputs["s"].tolist() == ["d", "b", "d"]
