"""Classes are called what the model's own file calls them: dictionaries, tables of labels, encoders, classifiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner
from onnxlrp_cli import main

import onnxlrp
from onnxlrp.data.class_names import class_names
from onnxlrp.errors import ChoiceError

X = np.array([[0.2, -1.0, 0.4], [1.0, 0.1, 0.0]], np.float32)


def model(outputs: str, tail: str, weights: str = "") -> onnx.ModelProto:
    """Three scores z of x (N, 3), and what a test puts behind them."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (float[N, 3] x) => ({outputs})
        <float[3, 3] w = {{1, 0, 0, 0, 1, 0, 0, 0, 1}}{weights}> {{
            z = MatMul (x, w)
            {tail}
        }}"""
    )


ARG_MAX = "best = ArgMax <axis = 1, keepdims = 0> (z)"
TABLE = ", int32[3] classes = {3, 5, 8}"
FILES = {
    "dictionaries": model("float[N, 3] z, y", "y = ai.onnx.ml.ZipMap <classlabels_int64s = [3, 5, 8]> (z)"),
    "a table of features": model(
        "int64[N] y, float[N, 3] z",
        f"{ARG_MAX} f = ai.onnx.ml.ArrayFeatureExtractor (classes, best) s = Reshape (f, all) y = Cast <to = 7> (s)",
        f"{TABLE}, int64[1] all = {{-1}}",
    ),
    "a table": model("int64[N] y, float[N, 3] z", f"{ARG_MAX} f = Gather (classes, best) y = Cast <to = 7> (f)", TABLE),
    "an encoder": model(
        "int64[N] y, float[N, 3] z",
        f"{ARG_MAX} y = ai.onnx.ml.LabelEncoder <keys_int64s = [2, 0, 1], values_int64s = [8, 3, 5]> (best)",
    ),
    "a classifier": model(
        "int64[N] y, float[N, 3] p",
        "y, p = ai.onnx.ml.LinearClassifier <classlabels_ints = [3, 5, 8], "
        "intercepts = [0.0, 0.0, 0.0], coefficients = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]> (z)",
    ),
}
FILES["dictionaries"].graph.output[1].type.CopyFrom(
    onnx.helper.make_sequence_type_proto(
        onnx.helper.make_map_type_proto(
            onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
        )
    )
)


@pytest.mark.parametrize("name", FILES)
def test_numbers_that_are_no_indices_are_the_classes_names(name: str) -> None:
    assert class_names(onnxlrp.read(FILES[name])) == ("3", "5", "8")
    explainer = onnxlrp.Explainer(FILES[name], providers="cpu")
    assert explainer.labels == ("3", "5", "8")
    assert [explainer.explain(X).label(sample) for sample in (0, 1)] == ["8", "3"]


def test_a_regressor_that_looks_numbers_up_has_no_classes() -> None:
    lookup = model("float[N] y", f"{ARG_MAX} y = Gather (values, best)", ", float[3] values = {0.5, 1.5, 4.0}")
    assert class_names(onnxlrp.read(lookup)) is None


def test_a_single_column_of_two_classes_speaks_for_the_second() -> None:
    one = model(
        "int64[N] y, float[N, 1] p",
        "y, s = ai.onnx.ml.LinearClassifier <classlabels_ints = [-1, 1], coefficients = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],"
        "intercepts = [0.0, 0.0]> (z) p = ai.onnx.ml.ArrayFeatureExtractor (s, second)",
        ", int64[1] second = {1}",
    )
    assert onnxlrp.Explainer(one, providers="cpu").labels == ("1",)
    assert onnxlrp.Explainer(one, providers="cpu", labels=["no", "yes"]).explain(X).label() == "yes"


def test_a_target_that_is_a_number_is_a_label_where_labels_are_numbers(tmp_path: Path) -> None:
    onnx.save(FILES["a table"], tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", X[:1])
    arguments = ["explain", str(tmp_path / "m.onnx"), str(tmp_path / "x.npy"), "-o", str(tmp_path / "out"), "--target"]
    result = CliRunner().invoke(main, [*arguments, "5", "--json"])
    document: dict[str, Any] = json.loads(result.stdout)
    found = document["inputs"][0]
    assert [one["label"] for one in found["predictions"]] == ["8", "3", "5"]
    assert (found["results"][0]["target"], found["results"][0]["label"]) == (1, "5")
    contrast = json.loads(CliRunner().invoke(main, [*arguments, "5-8", "--json"]).stdout)
    assert contrast["inputs"][0]["results"][0]["label"] == "5 − 8"
    refused = CliRunner().invoke(main, [*arguments, "1"])
    assert refused.exit_code == 2
    assert "There is no label '1'. There are 3: 3, 5, 8." in refused.stderr


def test_from_python_a_whole_number_is_an_index() -> None:
    explainer = onnxlrp.Explainer(FILES["a table"], providers="cpu")
    assert explainer.explain(X, target=1).label() == "5"
    with pytest.raises(ChoiceError, match="out of range"):
        explainer.explain(X, target=5)
