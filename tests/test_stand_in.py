"""What may stand at an operator that nobody knows: never by itself, and declared wherever rules are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxlrp
from onnxlrp.errors import ChoiceError, NoRule, Unsupported
from onnxlrp.rules import registry

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)

SAMPLE = {"op_type": "SampleOp", "domain": "com.microsoft"}
"""An operator that onnxruntime has and onnxlrp has no record of: y = x."""


@pytest.fixture
def without_erf() -> Iterator[None]:
    """Erf as an operator that nobody knows."""
    record = registry._OPERATORS.pop(("", "Erf"))
    try:
        yield
    finally:
        registry.register(record)


def model_with(op_type: str, domain: str = "", outputs: int = 1, operands: int = 1, **attributes: Any) -> bytes:
    """x → Gemm → the operator → Gemm."""
    results = ["middle", "other"][:outputs]
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["z"], name="first"),
        helper.make_node(op_type, ["z"] * operands, results, name="odd", domain=domain, **attributes),
        helper.make_node("Gemm", ["middle", "w"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(W, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def explain(model: bytes, **choices: Any) -> np.ndarray[Any, Any]:
    return onnxlrp.Explainer(model, providers="cpu", **choices).explain(X, target=1).relevance["x"]


def test_nothing_stands_in_by_itself() -> None:
    with pytest.raises(NoRule, match="--rule OP=pass") as caught:
        explain(model_with(**SAMPLE))
    assert caught.value.missing == {"SampleOp": ["odd"]}


@pytest.mark.parametrize("method", ["lrp", "gradient"])
@pytest.mark.parametrize("rule", ["pass", "finite-differences"])
@pytest.mark.parametrize("key", ["SampleOp", "odd", "o*"])
def test_an_unknown_identity_is_crossed(method: str, rule: str, key: str) -> None:
    found = explain(model_with(**SAMPLE), method=method, rules={key: rule})
    expected = explain(model_with("Identity"), method=method)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)


def test_differences_measure_the_slope(without_erf: None) -> None:
    model = model_with("Erf")
    found = explain(model, method="gradient", rules={"Erf": "finite-differences"})
    z = X @ W
    slope = 2 / np.sqrt(np.pi) * np.exp(-(z.astype(float) ** 2))
    np.testing.assert_allclose(found, (slope * W[:, 1]) @ W.T, rtol=2e-3, atol=1e-4)


def test_differences_are_one_sided_at_the_edge_of_the_domain() -> None:
    model = model_with("Sqrt")
    explainer = onnxlrp.Explainer(
        model,
        method="gradient",
        rules={"odd": "finite-differences(0.01)"},
        providers="cpu",
        inputs=["z"],
        output="middle",
    )
    z = np.full((1, 4), 1e-3, np.float32) @ np.linalg.inv(W)
    found = explainer.explain(z.astype(np.float32), target=np.ones((1, 4), np.float32)).relevance["z"]
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_stop_hands_nothing_on() -> None:
    assert not explain(model_with(**SAMPLE), rules={"SampleOp": "stop"}).any()


@pytest.mark.parametrize("rule", ["epsilon", "gradient", "z-plus", "winner-takes-all", "gate(0)"])
def test_a_rule_that_needs_a_record_is_refused(rule: str) -> None:
    with pytest.raises(ChoiceError, match="unknown operator"):
        explain(model_with(**SAMPLE), rules={"SampleOp": rule})


def test_a_stand_in_needs_an_operand_shaped_like_the_output() -> None:
    shape = registry._OPERATORS.pop(("", "ReduceMax"))
    try:
        model = model_with("ReduceMax", axes=[1], keepdims=0)
        proto = onnx.ModelProto.FromString(model)
        proto.graph.node[2].op_type = "Mul"
        with pytest.raises(Unsupported, match="shaped like its output"):
            explain(proto.SerializeToString(), rules={"odd": "pass"})
    finally:
        registry.register(shape)


def test_several_signals_share_in_equal_parts() -> None:
    record = registry._OPERATORS.pop(("", "Max"))
    try:
        found = explain(model_with("Max", operands=2), rules={"Max": "pass"})
    finally:
        registry.register(record)
    np.testing.assert_allclose(found, explain(model_with("Identity")), rtol=1e-5)


def test_it_is_declared(tmp_path: Path) -> None:
    explainer = onnxlrp.Explainer(model_with(**SAMPLE), providers="cpu", rules={"SampleOp": "finite-differences"})
    assert "stand-in: rule 'SampleOp'" in str(explainer.plan)
    assert "not known to be right: SampleOp 'odd'" in str(explainer.plan)
    path = tmp_path / "explainer.onnx"
    explainer.save(path)
    metadata = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert metadata["onnxlrp.stand-ins"] == "SampleOp 'odd': finite-differences(0.001)"


@pytest.mark.parametrize("step", ["0", "-1", "2"])
def test_a_step_that_is_none_is_refused(step: str) -> None:
    with pytest.raises(ChoiceError, match="between 0 and 1"):
        onnxlrp.rules.parse_rule(f"finite-differences({step})")
