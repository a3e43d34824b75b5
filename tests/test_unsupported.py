"""Models with operators that nobody has a rule for: all of them are named at once, with what would work instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner
from onnxlrp_cli.application import main

import onnxlrp
from onnxlrp.errors import NoRule, Unsupported

X = np.random.default_rng(0).standard_normal((2, 3, 3)).astype(np.float32)


def unknown() -> onnx.ModelProto:
    """Inverse of onnxruntime's own domain, which it runs and nobody has a rule for."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N, 3, 3] x) => (float[N, 3] y) {
            s = Add (x, offset)
            a = com.microsoft.Inverse (s)
            b = com.microsoft.Inverse (a)
            c = Add (a, b)
            d = com.microsoft.Inverse (c)
            y = ReduceSum <keepdims = 0> (d, axis)
        }"""
    )
    for index, node in enumerate(proto.graph.node):
        node.name = f"node_{index}"
    offset = 5 * np.eye(3, dtype=np.float32)
    weights = {"axis": np.array([2]), "offset": offset}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def without_kernels() -> onnx.ModelProto:
    """Two operators of a domain that only its owner can run."""
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]> g (float[N, 4] x) => (float[N, 4] y) {
            a = com.example.Swirl (x)
            b = com.example.Twist (a)
            c = com.example.Swirl (b)
            y = Relu (c)
        }"""
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(unknown(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "model.onnx"


def test_every_operator_without_a_rule_is_named_at_once() -> None:
    with pytest.raises(NoRule) as found:
        onnxlrp.Explainer(without_kernels())
    assert found.value.missing == {"Swirl": ["Swirl_1", "Swirl_2"], "Twist": ["Twist_1"]}
    assert found.value.exit_code == 3
    for word in ("Swirl_1, Swirl_2", "Twist_1", "com.example", "--rule", "--method occlusion"):
        assert word in str(found.value)


def test_inspect_lists_them_and_explain_exits_3_with_the_same_list(file: Path) -> None:
    inspected = CliRunner().invoke(main, ["inspect", str(file)])
    assert inspected.exit_code == 0
    assert "node_1, node_2, node_4" in inspected.output
    assert CliRunner().invoke(main, ["inspect", str(file), "--strict"]).exit_code == 3
    explained = CliRunner().invoke(
        main, ["explain", str(file), str(file.with_name("x.npy")), "-o", str(file.parent / "o")]
    )
    assert explained.exit_code == 3
    assert "node_1, node_2, node_4" in explained.output
    assert "--rule Inverse=pass" in explained.output or "--rule OP=pass" in explained.output
    assert "--method occlusion" in explained.output
    assert not (file.parent / "o").exists()


def test_what_the_message_names_works(file: Path) -> None:
    for choice in (["--rule", "Inverse=pass"], ["--method", "occlusion"], ["--method", "finite-difference"]):
        out = file.parent / choice[1]
        arguments = ["explain", str(file), str(file.with_name("x.npy")), "-o", str(out), *choice]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert (out / "explain.json").exists()


@pytest.mark.parametrize("method", ["occlusion", "finite-difference", "random"])
def test_methods_that_only_run_the_model_take_it_as_it_is(method: str) -> None:
    result = onnxlrp.Explainer(unknown(), method=method).explain(X)
    assert result.relevance["x"].shape == X.shape
    assert np.isfinite(result.relevance["x"]).all()


def test_finite_differences_of_an_unknown_operator_are_its_slopes() -> None:
    """y = Σ over a row of x⁻¹; ∂x⁻¹ = −x⁻¹ dx x⁻¹."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N, 3, 3] x) => (float[N, 9] y) {
            a = com.microsoft.Inverse (x) y = Flatten (a)
        }"""
    )
    found = onnxlrp.Explainer(proto, method="finite-difference", step=1e-3).explain(X, target=0).relevance["x"]
    inverse = np.linalg.inv(X.astype(np.float64))
    expected = -np.einsum("ni,nj->nij", inverse[:, 0, :], inverse[:, :, 0])
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05 * np.abs(expected).max())


def test_an_operator_that_onnxruntime_cannot_run_is_said_to_be_that() -> None:
    with pytest.raises((Unsupported, onnxlrp.ModelError), match="Swirl"):
        onnxlrp.Explainer(without_kernels(), method="occlusion").explain(np.ones((1, 4), np.float32))


def test_a_model_without_floats_is_valid_and_cannot_be_explained(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (string[N] x) => (string[N] y) { y = Identity (x) }'
    )
    onnx.save(proto, tmp_path / "model.onnx")
    inspected = CliRunner().invoke(main, ["inspect", str(tmp_path / "model.onnx")])
    assert inspected.exit_code == 0, inspected.output
    assert "No output of the model holds floats" in inspected.output
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "model.onnx")]).exit_code == 3


def test_a_locale_that_the_machine_lacks_is_named() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (string[N] x) => (float[N, 2] y) {
            t = StringNormalizer <case_change_action = "LOWER", locale = "xx_YY.UTF-8"> (x)
            y = TfIdfVectorizer <max_gram_length = 1, max_skip_count = 0, min_gram_length = 1, mode = "TF",
                                 ngram_counts = [0], ngram_indexes = [0, 1], pool_strings = ["a", "b"]> (t)
        }"""
    )
    with pytest.raises(Unsupported, match=r"locale 'xx_YY.UTF-8'.*locale-gen"):
        onnxlrp.Explainer(model).explain(np.array(["a", "b"], object))


def test_where_the_way_from_the_input_ends_is_told() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3] x) => (float[2] y) {
            s = Shape (x)
            y = Cast <to = 1> (s)
        }"""
    )
    with pytest.raises(onnxlrp.ChoiceError, match=r"The way ends at Shape .*reads the shape"):
        onnxlrp.Explainer(model, output="y").explain(np.ones((2, 3), np.float32))
