"""`verify` passes on right explainers of awkward models, and fails on wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from onnxlrp import Explainer, checks
from onnxlrp.checks import verify
from onnxlrp.findings import Finding, Verdict
from onnxlrp.judging.differences import TOLERANCE, _Probe, _Slope
from onnxlrp.rules import registry
from onnxlrp.rules.registry import lookup

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

WEIGHT = np.random.default_rng(3).standard_normal((4, 3), dtype=np.float32)


def model(text: str, *weights: Any, ir_version: int = 8, listed: bool = False, **named: Any) -> onnx.ModelProto:
    """A model in the standard's textual syntax, `named` its weights.  listed : whether inputs list the weights too"""
    proto = onnx.parser.parse_model(text)
    for name, array in named.items():
        tensor = onnx.numpy_helper.from_array(np.asarray(array), name)
        proto.graph.initializer.append(tensor)
        if listed:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    proto.ir_version = ir_version
    return proto


def graph(signature: str, body: str, opset: int = 17, **others: Any) -> onnx.ModelProto:
    return model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {signature} {{ {body} }}', **others)


def finding(verdict: Verdict, word: str) -> Finding:
    return next(found for found in verdict.findings if word in found.check)


# --- right explainers of awkward models ------------------------------------------------------------------------------

AWKWARD = {
    "a batch that cannot change": graph("(float[1, 4] x) => (float[1, 3] y)", "y = MatMul(x, w)", w=WEIGHT),
    "a batch of three": graph("(float[3, 4] x) => (float[3, 3] y)", "y = MatMul(x, w)", w=WEIGHT),
    "opset 6, which onnxruntime does not run": graph(
        "(float[1, 4] x) => (float[1, 3] y)",
        "y = Gemm <broadcast = 1> (x, w, b)",
        6,
        w=WEIGHT,
        b=np.ones(3, "f"),
        ir_version=3,
        listed=True,
    ),
    "IR version 3 with a weight that is not listed": graph(
        "(float[2, 4] x) => (float[2, 3] y)", "y = MatMul(x, w)", 7, w=WEIGHT, ir_version=3
    ),
    "a root of negative numbers": graph("(float[2, 4] x) => (float[2, 4] y)", "y = Sqrt(x)"),
    "tokens": graph("(int64[N, 3] x) => (float[N, 3, 3] y)", "y = Gather(w, x)", w=WEIGHT),
    "padding with ones": graph(
        "(float[N, 4] x) => (float[N, 6] y)", "y = Pad(x, p, v)", p=np.array([0, 1, 0, 1]), v=np.float32(1)
    ),
    "a constant joined on": graph(
        "(float[2, 4] x) => (float[5, 3] y)",
        "a = MatMul(x, w) y = Concat <axis = 0> (a, c)",
        w=WEIGHT,
        c=np.full((3, 3), 9, "f"),
    ),
    "a constant that wins": graph("(float[N, 4] x) => (float[N, 4] y)", "y = Max(x, c)", c=np.ones(4, "f")),
    "a constant branch": graph(
        "(float[N, 4] x) => (float[N, 4] y)", "p = Greater(x, c) y = Where(p, x, c)", c=np.ones(4, "f") / 2
    ),
    "a saturated sigmoid behind large weights": graph(
        "(float[N, 4] x) => (float[N, 3] y)", "a = MatMul(x, w) b = Sigmoid(a) y = Add(b, b)", w=WEIGHT * 1e4
    ),
    "a small score between large numbers": graph(
        "(float[N, 4] x) => (float[N, 3] y)",
        "a = MatMul(x, w) b = Add(a, c) d = Relu(b) y = Sub(d, c)",
        w=WEIGHT,
        c=np.full(3, 1e4, "f"),
    ),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", AWKWARD)
def test_a_right_explainer_of_an_awkward_model_passes(name: str) -> None:
    verdict = verify(AWKWARD[name])
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize("name", ["padding with ones", "a constant that wins", "a constant joined on"])
def test_a_constant_that_takes_relevance_is_named_in_the_ledger(name: str) -> None:
    takers = {taker for row in verify(AWKWARD[name]).ledger for taker in row.taken}
    assert "constant" in takers


def test_what_is_measured_is_told_with_what_the_measurement_leaves_open() -> None:
    verdict = verify(graph("(float[N, 4] x) => (float[N, 3] y)", "a = MatMul(x, w) y = Tanh(a)", w=WEIGHT))
    differences, promises = finding(verdict, "finite differences"), finding(verdict, "promise")
    assert 0 < (differences.measured or 0) < (differences.tolerance or 0)
    assert (differences.tolerance or 0) > TOLERANCE
    assert 0 < (promises.measured or 0) < 1e-6


# --- wrong explainers ------------------------------------------------------------------------------------------------


def factor(op_type: str, wrong: float) -> Callable[[pytest.MonkeyPatch], None]:
    """The operator's gradient times a number."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = lookup(op_type)
        assert right is not None

        def vjp(step: Any, g: Any) -> Any:
            return [None if found is None else found * wrong for found in right.vjp(step, g)]

        monkeypatch.setitem(registry._OPERATORS, ("", op_type), replace(right, vjp=vjp))

    return patch


@pytest.mark.parametrize("wrong", [1.05, 0.9, 0.0, -1.0, 1000.0])
@pytest.mark.parametrize("op_type", ["Tanh", "MatMul", "LayerNormalization"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_wrong_gradient_fails(op_type: str, wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    factor(op_type, wrong)(monkeypatch)
    net = graph(
        "(float[N, 4] x) => (float[N, 3] y)",
        "a = MatMul(x, w) b = LayerNormalization(a, s) y = Tanh(b)",
        w=WEIGHT,
        s=np.ones(3, "f"),
    )
    assert not finding(verify(net), "finite differences").holds


def test_another_output_than_the_files_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    net = AWKWARD["a batch of three"]
    monkeypatch.setattr(checks, "_original", lambda *_: (lambda _: {"y": np.ones((6, 3), np.float32)}, ""))
    assert not finding(verify(net), "forward").holds


@pytest.mark.parametrize(("off", "holds"), [(5e-4, True), (0.1, False)])
def test_a_file_is_held_to_no_more_than_its_own_rounding(
    monkeypatch: pytest.MonkeyPatch, off: float, holds: bool
) -> None:
    """y = x − 4000 for x just above 4000: one rounding of x moves the few digits that are left."""
    net = graph("(float[N, 3] x) => (float[N, 3] y)", "y = Sub(x, big)", big=np.array(4000, "f"))
    honest = checks._original

    def another(*wanted: Any) -> Any:
        run, note = honest(*wanted)
        return lambda feeds: {"y": run(feeds)["y"] + np.float32(off)}, note

    monkeypatch.setattr(checks, "_original", another)
    x = 4000 + np.random.default_rng(0).random((64, 3)).astype(np.float32)
    verdict = finding(verify(net, x), "forward")
    assert verdict.holds is holds and "rounded otherwise" in verdict.detail


@pytest.mark.parametrize("in_a_constant", [False, True])
def test_sparse_weights_are_read(in_a_constant: bool) -> None:
    net = graph("(float[N, 4] x) => (float[N, 3] y)", "y = MatMul (x, w)")
    values, places = (
        onnx.helper.make_tensor("w", FLOAT, [2], [1.5, -2.0]),
        onnx.helper.make_tensor("i", INT64, [2], [0, 5]),
    )
    sparse = onnx.helper.make_sparse_tensor(values, places, [4, 3])
    if in_a_constant:
        net.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    else:
        net.graph.sparse_initializer.append(sparse)
    verdict = verify(net)
    assert verdict.holds, str(verdict)
    found = Explainer(net, method="gradient").explain(np.ones((1, 4), np.float32), target=2).relevance["x"]
    assert found.tolist() == [[0.0, -2.0, 0.0, 0.0]]


@pytest.mark.parametrize("half", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
def test_a_float32_model_that_rounds_to_half_precision_goes_on_rounding(half: int) -> None:
    random = np.random.default_rng(0)
    body = f"a = MatMul (x, w) b = Cast <to = {half}> (a) c = Cast <to = 1> (b) y = Tanh (c)"
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 3] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=(4, 3)).astype(np.float32), "w"))
    verdict = verify(model, {"x": random.normal(size=(2, 4)).astype(np.float32)}, providers="cpu")
    assert verdict.holds, str(verdict)


def test_a_model_that_computes_in_half_precision_between_casts_is_explained_as_in_float32() -> None:
    """The outputs differ by half precision's own rounding, and so does the relevance."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(8, 8)).astype(np.float32) / 3 for name in ("v", "w")}
    body = "a = {0} (x) b = MatMul (a, v) c = Softmax (b) d = MatMul (c, w) e = Tanh (d) y = {1} (e)"
    found, x = [], {"x": random.normal(size=(4, 8)).astype(np.float32)}
    for casts, dtype in ((("Identity", "Identity"), np.float32), (("Cast <to = 10>", "Cast <to = 1>"), np.float16)):
        arrays = {name: array.astype(dtype) for name, array in weights.items()}
        net = graph("(float[N, 8] x) => (float[N, 8] y)", body.format(*casts), **arrays)
        verdict = verify(net, x, providers="cpu")
        assert verdict.holds, str(verdict)
        found.append(Explainer(net, preset="epsilon", output="y", target=2, providers="cpu").explain(x))
    assert finding(verdict, "forward").tolerance == checks.HALF_TOLERANCE
    wide, half = ((explained.outputs["y"], explained.relevance["x"]) for explained in found)
    for expected, given in zip(wide, half, strict=True):
        np.testing.assert_allclose(given, expected, atol=5e-3 * np.abs(expected).max())


def test_a_model_in_bfloat16_that_onnxruntime_does_not_run_itself_is_explained_in_float32() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    net = graph("(float[N, 4] x) => (float[N, 3] y)", "a = Cast <to = 16> (x) b = MatMul (a, w) y = Cast <to = 1> (b)")
    net.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [4, 3], weight.reshape(-1)))
    verdict = verify(net, {"x": np.ones((2, 4), np.float32)}, providers="cpu")
    assert verdict.holds and "float32 alone" in finding(verdict, "forward").detail, str(verdict)
    found = Explainer(net, method="gradient", target=1).explain(np.ones((1, 4), np.float32)).relevance["x"]
    np.testing.assert_allclose(found[0], weight[:, 1], rtol=1e-2)


@pytest.mark.parametrize(("measured", "holds"), [(0.08, True), (0.0, False)], ids=["answers", "silent"])
def test_the_smallest_promised_step_decides_where_larger_ones_saturate(measured: float, holds: bool) -> None:
    small, large = _Slope(measured, 0.1, 1e-4, 1e-3), _Slope(1.0, 1e3, 1e-4, 10.0)
    assert (_Probe._silence([[small], [large]]) is None) == holds
