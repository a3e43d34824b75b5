"""Sizes that follow from values are not what one run on made-up numbers happened to give."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxlrp
from onnxlrp.checks import verify
from onnxlrp.errors import InputError, Unsupported

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


NETS |= {
    "as large as scales": (
        '(float[1, 1, 3, 4] x, float[4] s) => (float[1, 1, 6, 8] y) { y = Resize <mode = "linear"> (x, , s) }',
        {"x": X[None, None], "s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "as deep as asked": (
        "(float[3] x, float[1] d, float[2] v) => (float[3, 6] y) { y = OneHot (x, d, v) }",
        {"x": X[0, :3], "d": np.array([6], np.float32), "v": np.array([0.5, 2], np.float32)},
    ),
    "nothing": (
        "(float[1, 1, 3, 4] x, float[0] r) => (float[1, 1, 6, 8] y)"
        ' { s = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> () y = Resize <mode = "linear"> (x, r, s) }',
        {"x": X[None, None], "r": np.zeros(0, np.float32)},
    ),
    "a list that begins with nothing": (
        "(float[3, 4] x) => (float[N, 4] y) { l = SequenceEmpty () m = SequenceInsert (l, x) n = SequenceInsert (m, x)"
        " y = ConcatFromSequence <axis = 0> (n) }",
        {},
    ),
    "factors written by position": (
        "(float[3, 4] x, float[2, 4] u) => (float[3, 4] y)"
        ' { i = Constant <value = int64[2, 1] {0, 2}> () y = ScatterND <reduction = "mul"> (x, i, u) }',
        {"u": X[:2]},
    ),
    "no past": (
        "(float[B, T, 4] x, float[B, P, 4] p) => (float[B, 4] y)"
        " { a = Concat <axis = 1> (p, x) n = Constant <value_ints = [1]> () y = ReduceSum <keepdims = 0> (a, n) }",
        {"x": X[:2, None], "p": np.zeros((2, 0, 4), np.float32)},
    ),
}


def net(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 16]> g {text}')


@pytest.mark.parametrize("name", NETS)
def test_the_size_of_an_output_may_follow_from_values(name: str) -> None:
    text, feeds = NETS[name]
    verdict = verify(net(text), {"x": X} | feeds)
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize("sizes", ["(x)", "(x, n)"])
def test_a_list_that_is_the_only_output_is_refused(sizes: str) -> None:
    text = f"(float[3, 4] x) => (seq(float[3, 1]) y) {{ n = Constant <value_int = 2> () y = SplitToSequence {sizes} }}"
    with pytest.raises(Unsupported, match="'y' is a list"):
        onnxlrp.Explainer(net(text))


def test_an_empty_batch_is_refused() -> None:
    text, feeds = NETS["no past"]
    with pytest.raises(InputError, match="'x' is empty"):
        onnxlrp.Explainer(net(text)).explain(feeds | {"x": np.zeros((0, 1, 4), np.float32)})


def test_a_batch_is_not_cut_where_it_is_declared_and_others_inputs_have_another() -> None:
    many = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    proto = net("(float[20, 4] x, int64[1] k) => (float[20, 2] y, int64[20, 2] i) { y, i = TopK (x, k) }")
    assert onnxlrp.Explainer(proto).explain({"x": many, "k": np.array([2])}).relevance["x"].shape == (20, 4)


def test_there_is_no_slope_where_a_root_has_an_infinite_one() -> None:
    """As of Sqrt: a norm of nothing must not fill a heatmap with NaN."""
    proto = net("(float[1, 2] x) => (float[1, 2] y) { p = Constant <value_float = 0.5> () y = Pow (x, p) }")
    found = onnxlrp.Explainer(proto, method="gradient", target="all").explain(np.array([[0, 4]], np.float32))
    np.testing.assert_allclose(found.relevance["x"].sum(axis=0), [[0, 0.25]], rtol=1e-6)


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
