"""Compatibility modes: the peers' own numbers where they were computed, their formulas in numpy where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from parity import Case
from shared import SHARED, needs

import onnxlrp
from onnxlrp.compat import COMPATS
from onnxlrp.errors import ChoiceError

PARITY = SHARED / "parity"

LAYERS = ("Gemm", "Conv")

THEIRS = {
    "captum_lrp_epsilon_1e-9": ("captum", ""),
    "captum_lrp_epsilon_0.25": ("captum", "epsilon(0.25)"),
    "captum_lrp_gamma_0.25": ("captum", "gamma(0.25)"),
    "captum_lrp_alpha1beta0": ("captum", "alpha-beta(1, 0)"),
    "lrp_toolbox_simple": ("toolbox", ""),
    "lrp_toolbox_epsilon_0.01": ("toolbox", "epsilon(0.01)"),
    "lrp_toolbox_alphabeta_2": ("toolbox", "alpha-beta(2, 1)"),
    "lrp_toolbox_flat": ("toolbox", "flat"),
    "lrp_toolbox_ww": ("toolbox", "w-square"),
}
"""Method of a parity case → mode, and the rule of every layer."""


def mode(case: Case, compat: str, rule: str) -> dict[str, Any]:
    types = {node.op_type for node in onnx.load(case.folder / "model.onnx").graph.node}
    rules = {op_type: rule for op_type in LAYERS if op_type in types} if rule else {}
    return {"preset": "epsilon", "compat": compat, "rules": rules}


@needs("parity")
@pytest.mark.parametrize("name", ["mlp", "cnn_maxpool_plain"])
def test_modes_agree_with_the_tools_numbers(name: str) -> None:
    case = Case.read(PARITY / name)
    methods = [method for method in THEIRS if method in case.description["methods"]]
    assert len(methods) >= 4
    for method in methods:
        assert case.deviation(method, mode(case, *THEIRS[method])) <= case.tolerance(method), method


@needs("parity")
def test_without_the_mode_the_numbers_are_others() -> None:
    """What a mode sets makes a difference, so the agreement above says something."""
    case = Case.read(PARITY / "mlp")
    for method in ("captum_lrp_gamma_0.25", "captum_lrp_alpha1beta0", "lrp_toolbox_ww"):
        without = mode(case, *THEIRS[method]) | {"compat": None}
        assert case.deviation(method, without) > 10 * case.tolerance(method), method


@needs("parity")
@pytest.mark.parametrize("name", ["bert_block", "vit_tiny"])
def test_lxt_s_stabiliser_has_no_sign(name: str) -> None:
    """Its numbers with its own ε, which those with a sign miss by up to 7e-5."""
    case = Case.read(PARITY / name)
    assert case.deviation("attnlrp_lxt_default_eps", {"compat": "lxt"}) <= case.tolerance("attnlrp_lxt_default_eps")


# --- formulas --------------------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(5)
X, W, B = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((1, 4), (4, 3), (3,)))


def dense() -> onnx.ModelProto:
    net = "g (float[N, 4] x) => (float[N, 3] y) { y = Gemm (x, w, b) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {net}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for a, n in ((W, "w"), (B, "b")))
    return proto


def ours(compat: str, rule: str) -> np.ndarray[Any, Any]:
    explainer = onnxlrp.Explainer(dense(), preset="epsilon", rules={"Gemm": rule}, compat=compat)
    seed = np.array([[1, 0, 0]], np.float32)
    return explainer.explain(X, target=seed).relevance["x"][0]


def for_and_against(bias_for: float, bias_against: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Shares of class 0 among what speaks for it and among what speaks against it."""
    z = (X[0] * W[:, 0]).astype(np.float64)
    return np.maximum(z, 0) / (np.maximum(z, 0).sum() + bias_for), np.minimum(z, 0) / (
        np.minimum(z, 0).sum() + bias_against
    )


def test_innvestigate_puts_the_whole_bias_into_both_brackets() -> None:
    score = float((X @ W + B)[0, 0])
    speaks_for, against = for_and_against(B[0], B[0])
    np.testing.assert_allclose(ours("innvestigate", "alpha-beta(2, 1)"), score * (2 * speaks_for - against), rtol=1e-5)


def test_innvestigate_ignores_the_bias_in_z_plus() -> None:
    score = float((X @ W + B)[0, 0])
    np.testing.assert_allclose(ours("innvestigate", "z-plus"), score * for_and_against(0, 0)[0], rtol=1e-5)


def test_innvestigate_s_presets_stabilise_dense_layers_by_a_tenth() -> None:
    z = (X @ W + B)[0, 0]
    explainer = onnxlrp.Explainer(dense(), preset="epsilon-plus", compat="innvestigate")
    found = explainer.explain(X, target=np.array([[1, 0, 0]], np.float32)).relevance["x"][0]
    np.testing.assert_allclose(found, X[0] * W[:, 0] * z / (z + 0.1 * np.sign(z)), rtol=1e-5)


def test_an_epsilon_that_was_said_stays() -> None:
    z = (X @ W + B)[0, 0]
    for compat in COMPATS:
        shifted = z + 0.5 if compat == "lxt" else z + 0.5 * np.sign(z)
        np.testing.assert_allclose(ours(compat, "epsilon(0.5)"), X[0] * W[:, 0] * z / shifted, rtol=1e-5)


def test_a_mode_is_written_into_the_explainer_and_its_plan() -> None:
    explainer = onnxlrp.Explainer(dense(), preset="epsilon", compat="captum")
    assert "as captum" in str(explainer.plan)
    assert explainer.compiled.model.metadata_props["onnxlrp.compat"] == "captum"


def test_a_mode_that_says_nothing_about_a_method_is_refused() -> None:
    with pytest.raises(ChoiceError, match="methods lrp; the method here is 'gradient'"):
        onnxlrp.Explainer(dense(), method="gradient", compat="zennit")
    with pytest.raises(ChoiceError, match="Did you mean 'captum'"):
        onnxlrp.Explainer(dense(), compat="captun")
    with pytest.raises(ChoiceError, match="Captum has no alpha-beta"):
        onnxlrp.Explainer(dense(), preset="alpha2-beta1", compat="captum")


def test_captum_s_deeplift_takes_its_activations() -> None:
    explainer = onnxlrp.Explainer(dense(), method="deeplift", compat="captum")
    assert explainer.method.chooser is not onnxlrp.Explainer(dense(), method="deeplift").method.chooser


def test_the_page_has_a_column_per_mode() -> None:
    page = (Path(__file__).parents[1] / "docs" / "parity.md").read_text(encoding="utf-8")
    head = next(line for line in page.splitlines() if line.startswith("| | ours |"))
    assert [cell.strip(" `") for cell in head.strip("| ").split("|")[1:]] == list(COMPATS)
