"""Bags of words: words get what their n-grams got, against a count by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlrp import Explainer
from onnxlrp.checks import verify

GRAMS = [(3,), (5,), (7,), (3, 5), (5, 7), (7, 3, 5)]
"""Of lengths 1, 2 and 3; the column of each is its place, turned round."""


def model(weights: np.ndarray, skip: int, texts: bool, longest: int = 3) -> bytes:
    pool = [token for gram in GRAMS for token in gram]
    given: dict[str, Any] = {"pool_strings": [f"w{t}" for t in pool]} if texts else {"pool_int64s": pool}
    nodes = [
        helper.make_node(
            "TfIdfVectorizer",
            ["x"],
            ["bag"],
            name="bag",
            mode="TF",
            min_gram_length=1,
            max_gram_length=longest,
            max_skip_count=skip,
            ngram_counts=[0, 3, 7],
            ngram_indexes=list(range(len(GRAMS)))[::-1],
            **given,
        ),
        helper.make_node("MatMul", ["bag", "w"], ["y"], name="dense"),
    ]
    kind = TensorProto.STRING if texts else TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "bag of words",
        [helper.make_tensor_value_info("x", kind, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(weights[:, None].astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def by_hand(row: np.ndarray, weights: np.ndarray, skip: int, longest: int) -> np.ndarray:
    """Each occurrence of an n-gram carries its weight, in equal parts to its words."""
    found = np.zeros(len(row))
    for number, gram in enumerate(GRAMS):
        n = len(gram)
        for stride in range(1, (1 if n == 1 else skip + 1) + 1):
            for start in range(len(row) - (n - 1) * stride):
                places = [start + k * stride for k in range(n)]
                if n <= longest and tuple(row[places]) == gram:
                    found[places] += weights[len(GRAMS) - 1 - number] / n
    return found


@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
@pytest.mark.parametrize(("skip", "longest"), [(0, 3), (1, 3), (0, 1), (2, 2)])
def test_words_get_what_their_ngrams_got(texts: bool, skip: int, longest: int) -> None:
    random = np.random.default_rng(skip)
    weights = random.normal(size=len(GRAMS)) + 0.1
    tokens = random.choice([3, 5, 7, 9], size=(4, 11))
    feeds = np.array([[f"w{t}" for t in row] for row in tokens], object) if texts else tokens
    data = model(weights, skip, texts, longest)
    result = Explainer(data).explain(feeds)
    expected = np.stack([by_hand(row, weights, skip, longest) for row in tokens])
    np.testing.assert_allclose(result.relevance["x"], expected, rtol=1e-4, atol=1e-4)
    verdict = verify(data, feeds)
    assert verdict.holds, str(verdict)


def test_unknown_words_and_empty_rows_get_nothing() -> None:
    data = model(np.ones(len(GRAMS)), 0, False)
    result = Explainer(data).explain(np.array([[1, 2, -5, 1 << 40], [1, 3, 4, 0]]))
    assert not result.relevance["x"][0].any()
    np.testing.assert_allclose(result.relevance["x"][1], [0, 1, 0, 0], rtol=1e-4)
