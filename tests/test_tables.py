"""Models of tables (ai.onnx.ml): linear models against their coefficients, codes against the column they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxlrp import Explainer
from onnxlrp.checks import verify
from onnxlrp.errors import ChoiceError, InputError

ML = "ai.onnx.ml"
FLOAT, INT, TEXT = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
B = np.array([0.5, -0.25, 0.125], np.float32)


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = ML, **attributes: Any) -> Any:
    return helper.make_node(op_type, list(inputs), list(outputs), name=op_type, domain=domain, **attributes)


def model(
    nodes: Sequence[Any], inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, int], *weights: Any
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "table",
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def table(*nodes: Any, outputs: dict[str, int] | None = None, columns: int = 4, kind: int = FLOAT) -> bytes:
    """A model of one input `x` and, if not said otherwise, one float output `y`."""
    return model(nodes, {"x": (kind, ["batch", columns])}, outputs or {"y": FLOAT})


def linear_classifier(transform: str, **labels: Any) -> bytes:
    labels = labels or {"classlabels_ints": [0, 1, 2]}
    kind = TEXT if "classlabels_strings" in labels else INT
    return table(
        node(
            "LinearClassifier",
            ["x"],
            ["label", "y"],
            coefficients=W.reshape(-1).tolist(),
            intercepts=B.tolist(),
            post_transform=transform,
            **labels,
        ),
        outputs={"label": kind, "y": FLOAT},
    )


# --- linear ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
@pytest.mark.parametrize("labels", [{}, {"classlabels_strings": ["a", "b", "c"]}], ids=["numbers", "texts"])
def test_linear_classifier_gives_each_column_its_term(transform: str, labels: dict[str, Any]) -> None:
    """R_i = x_i·w_ci of the score before the transform; the intercept keeps its own."""
    data = linear_classifier(transform, **labels)
    for target in range(3):
        result = Explainer(data).explain(X, target=target)
        np.testing.assert_allclose(result.relevance["x"], X * W[target], rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(result.score, X @ W[target] + B[target], rtol=1e-5, atol=1e-5)
        gradient = Explainer(data, method="gradient").explain(X, target=target)
        np.testing.assert_allclose(gradient.relevance["x"], np.broadcast_to(W[target], X.shape), rtol=1e-6)
    verdict = verify(data, X)
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize("transform", ["SOFTMAX_ZERO", "PROBIT"])
def test_rare_transforms_are_onnxruntimes(transform: str) -> None:
    data = table(
        node(
            "LinearRegressor",
            ["x"],
            ["y"],
            coefficients=(np.abs(W) * 0.1).reshape(-1).tolist(),
            intercepts=[0.1, 0.1, 0.1],
            targets=3,
            post_transform=transform,
        )
    )
    verdict = verify(data, np.abs(X))
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_binary_linear_classifier_with_one_score(transform: str) -> None:
    data = table(
        node(
            "LinearClassifier",
            ["x"],
            ["label", "y"],
            coefficients=W[0].tolist(),
            intercepts=[0.5],
            classlabels_ints=[0, 1],
            post_transform=transform,
        ),
        outputs={"label": INT, "y": FLOAT},
    )
    result = Explainer(data).explain(X, target=1)
    np.testing.assert_allclose(result.relevance["x"], X * W[0], rtol=2e-4, atol=1e-5)
    verdict = verify(data, X)
    assert verdict.holds, str(verdict)


def test_alpha_beta_of_a_linear_regressor_is_the_dense_rule() -> None:
    data = table(
        node("LinearRegressor", ["x"], ["y"], coefficients=W[0].tolist(), intercepts=[0.5], post_transform="NONE")
    )
    result = Explainer(data, preset="alpha2-beta1").explain(X)
    z = X.astype(np.float64) * W[0]
    y = X.astype(np.float64) @ W[0] + 0.5
    for_it, against = np.maximum(z, 0), np.minimum(z, 0)
    expected = y[:, None] * (
        2 * for_it / (for_it.sum(axis=1, keepdims=True) + 0.5) - against / against.sum(axis=1, keepdims=True)
    )
    np.testing.assert_allclose(result.relevance["x"], expected, rtol=1e-4, atol=1e-4)


def test_label_as_the_only_output_is_explained_by_its_scores() -> None:
    data = table(
        node("LinearClassifier", ["x"], ["label", "s"], coefficients=W.reshape(-1).tolist(), intercepts=B.tolist(),
             classlabels_ints=[4, 5, 6]),
        outputs={"label": INT},
    )  # fmt: skip
    result = Explainer(data).explain(X)
    best = (X @ W.T + B).argmax(axis=1)
    np.testing.assert_allclose(result.relevance["x"], X * W[best], rtol=2e-4, atol=1e-5)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_scaler_passes_what_its_column_got() -> None:
    scaled = node("Scaler", ["x"], ["s"], offset=[1.0, 2.0, 3.0, 4.0], scale=[0.5, 2.0, 1.0, 3.0])
    data = table(scaled, node("LinearRegressor", ["s"], ["y"], coefficients=W[0].tolist(), intercepts=[0.0]))
    s = (X - [1, 2, 3, 4]) * [0.5, 2, 1, 3]
    np.testing.assert_allclose(Explainer(data).explain(X).relevance["x"], s * W[0], rtol=1e-4, atol=1e-5)
    gradient = Explainer(data, method="gradient").explain(X).relevance["x"]
    np.testing.assert_allclose(gradient, np.broadcast_to(W[0] * [0.5, 2, 1, 3], X.shape), rtol=1e-5)


@pytest.mark.parametrize("norm", ["L1", "L2", "MAX"])
def test_normalizer_has_its_gradient_and_holds_the_norm(norm: str) -> None:
    data = table(
        node("Normalizer", ["x"], ["n"], norm=norm),
        node("LinearRegressor", ["n"], ["y"], coefficients=W[0].tolist(), intercepts=[0.0]),
    )
    verdict = verify(data, X)
    assert verdict.holds, str(verdict)
    n = {"L1": np.abs(X).sum(1), "L2": np.sqrt((X**2).sum(1)), "MAX": X.max(1)}[norm][:, None]
    np.testing.assert_allclose(Explainer(data).explain(X).relevance["x"], X / n * W[0], rtol=1e-4, atol=1e-5)


def test_missing_value_gets_the_relevance_of_its_stand_in() -> None:
    x = X.copy()
    x[1, 2] = np.nan
    data = table(
        node("Imputer", ["x"], ["i"], imputed_value_floats=[1.0, 2.0, 3.0, 4.0], replaced_value_float=float("nan")),
        node("LinearRegressor", ["i"], ["y"], coefficients=W[0].tolist(), intercepts=[0.0]),
    )
    result = Explainer(data).explain(x)
    assert result.relevance["x"][1, 2] == pytest.approx(3.0 * W[0, 2], rel=1e-4)
    assert Explainer(data, method="gradient").explain(x).relevance["x"][1, 2] == 0


# --- categories ------------------------------------------------------------------------------------------------------


def test_columns_of_texts_get_what_their_codes_got() -> None:
    """Two columns of texts and one of numbers, side by side."""
    colour, size = ["red", "green", "blue"], ["s", "l"]
    nodes = [
        helper.make_node("OneHotEncoder", ["colour"], ["c"], name="colour code", domain=ML, cats_strings=colour),
        helper.make_node("OneHotEncoder", ["size"], ["z"], name="size code", domain=ML, cats_strings=size),
        node("Reshape", ["c", "flat3"], ["c2"], ""),
        helper.make_node("Reshape", ["z", "flat2"], ["z2"], name="r2"),
        node("Concat", ["c2", "z2", "weight"], ["all"], "", axis=1),
        node("LinearRegressor", ["all"], ["y"], coefficients=[1.0, 2.0, 3.0, -4.0, 5.0, 0.5], intercepts=[0.25]),
    ]
    data = model(
        nodes,
        {"colour": (TEXT, [None, 1]), "size": (TEXT, [None, 1]), "weight": (FLOAT, [None, 1])},
        {"y": FLOAT},
        ("flat3", np.array([-1, 3])),
        ("flat2", np.array([-1, 2])),
    )
    feeds = {
        "colour": np.array([["red"], ["blue"]]),
        "size": np.array([["s"], ["l"]], object),
        "weight": np.array([[2.0], [4.0]], np.float32),
    }
    result = Explainer(data).explain(feeds)
    np.testing.assert_allclose(result.relevance["colour"], [[1.0], [3.0]], rtol=1e-4)
    np.testing.assert_allclose(result.relevance["size"], [[-4.0], [5.0]], rtol=1e-4)
    np.testing.assert_allclose(result.relevance["weight"], [[1.0], [2.0]], rtol=1e-4)
    assert not Explainer(data, method="gradient").explain(feeds).relevance["colour"].any()
    times_input = Explainer(data, method="gradient-x-input").explain(feeds)
    np.testing.assert_allclose(times_input.relevance["weight"], [[1.0], [2.0]], rtol=1e-4)
    with pytest.raises(ChoiceError, match="'colour' holds string"):
        Explainer(data, method="deeplift")
    verdict = verify(data, feeds)
    assert verdict.holds, str(verdict)
    with pytest.raises(InputError, match="'colour' takes texts, and got 1"):
        Explainer(data).explain(feeds | {"colour": np.array([["red"], [1]], object)})


def test_label_encoder_and_binarizer_pass() -> None:
    nodes = [
        node("LabelEncoder", ["x"], ["e"], keys_int64s=[0, 1, 2], values_floats=[1.5, -2.0, 4.0]),
        node("Binarizer", ["e"], ["b"], threshold=0.0),
        node("Concat", ["e", "b"], ["all"], "", axis=1),
        node("LinearRegressor", ["all"], ["y"], coefficients=[1.0, 2.0, 3.0, 4.0], intercepts=[0.0]),
    ]
    data = table(*nodes, columns=2, kind=INT)
    result = Explainer(data).explain(np.array([[0, 1], [2, 2]]))
    np.testing.assert_allclose(result.relevance["x"], [[1.5 + 3.0, -4.0], [4.0 + 3.0, 8.0 + 4.0]], rtol=1e-4)


def test_category_mapper_of_both_directions() -> None:
    nodes = [
        node("CategoryMapper", ["x"], ["k"], cats_strings=["a", "b"], cats_int64s=[0, 1], default_int64=-1),
        node("OneHotEncoder", ["k"], ["o"], cats_int64s=[0, 1]),
        node("Reshape", ["o", "flat"], ["f"], ""),
        node("LinearRegressor", ["f"], ["y"], coefficients=[1.0, 2.0], intercepts=[0.0]),
    ]
    data = model(nodes, {"x": (TEXT, [None, 1])}, {"y": FLOAT}, ("flat", np.array([-1, 2])))
    result = Explainer(data).explain(np.array([["a"], ["b"], ["?"]]))
    np.testing.assert_allclose(result.relevance["x"], [[1.0], [2.0], [0.0]], rtol=1e-4, atol=1e-5)


def test_columns_picked_and_put_together() -> None:
    nodes = [
        node("ArrayFeatureExtractor", ["x", "which"], ["p"]),
        node("FeatureVectorizer", ["p", "x"], ["v"], inputdimensions=[3, 4]),
        node("LinearRegressor", ["v"], ["y"], coefficients=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], intercepts=[0.0]),
    ]
    data = model(nodes, {"x": (FLOAT, ["batch", 4])}, {"y": FLOAT}, ("which", np.array([[2, 0, 2]])))
    weights = np.array([4.0 + 2.0, 5.0, 6.0 + 1.0 + 3.0, 7.0])
    np.testing.assert_allclose(Explainer(data).explain(X).relevance["x"], X * weights, rtol=1e-4, atol=1e-5)
    verdict = verify(data, X)
    assert verdict.holds, str(verdict)


def test_dictionaries_are_read_as_the_tensor_of_their_scores() -> None:
    nodes = [
        node("LinearClassifier", ["x"], ["label", "s"], coefficients=W.reshape(-1).tolist(), intercepts=B.tolist(),
             classlabels_ints=[0, 1, 2], post_transform="SOFTMAX"),
        node("ZipMap", ["s"], ["y"], classlabels_int64s=[0, 1, 2]),
    ]  # fmt: skip
    data = table(*nodes, outputs={"label": INT})
    proto = onnx.load_from_string(data)
    kind = helper.make_map_type_proto(INT, helper.make_tensor_type_proto(FLOAT, []))
    proto.graph.output.append(helper.make_value_info("y", helper.make_sequence_type_proto(kind)))
    result = Explainer(proto).explain(X, target=2)
    np.testing.assert_allclose(result.relevance["x"], X * W[2], rtol=2e-4, atol=1e-5)


def test_name_of_the_models_own_tensor_is_left_alone() -> None:
    """A tensor called `score`, as skl2onnx writes it, is not ours."""
    data = table(
        node("LinearRegressor", ["x"], ["score"], coefficients=W[0].tolist(), intercepts=[0.0]),
        node("Sigmoid", ["score"], ["y"], ""),
    )
    np.testing.assert_allclose(Explainer(data).explain(X).relevance["x"], X * W[0], rtol=1e-4, atol=1e-5)
