"""Files of old opsets compute after the upgrade what onnxruntime computes from them as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnxlrp
from onnxlrp.checks import verify
from onnxlrp.errors import Unsupported
from onnxlrp.session import Session

IMAGE = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)


def old(opset: int, signature: str, body: str, **weights: Any) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 4, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items())
    return proto


UP, DOWN = np.array([1, 1, 2, 2], np.float32), np.array([1, 1, 0.6, 0.6], np.float32)
IMAGES = "(float[1, 2, 4, 4] x) => (float[1, 2, A, B] y)"

OLD = {
    "Upsample 7": old(7, IMAGES, 'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 2.0]> (x)'),
    "Upsample 9, linear": old(9, IMAGES, 'y = Upsample <mode = "linear"> (x, s)', s=UP),
    "Upsample 9, nearest": old(9, IMAGES, 'y = Upsample <mode = "nearest"> (x, s)', s=UP),
    "Resize 10, linear": old(10, IMAGES, 'y = Resize <mode = "linear"> (x, s)', s=UP),
    "Resize 10, larger": old(10, IMAGES, 'y = Resize <mode = "nearest"> (x, s)', s=UP),
    "Resize 10, smaller": old(10, IMAGES, 'y = Resize <mode = "nearest"> (x, s)', s=DOWN),
    "Softmax 9 over all axes from 1 on": old(9, "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)", "y = Softmax (x)"),
    "Unsqueeze 9 behind the last axis": old(
        9,
        "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 8] y)",
        "a = Unsqueeze <axes = [-1]> (x) y = Concat <axis = -1> (a, a)",
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_an_upgraded_file_computes_what_it_did(name: str) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    expected = ort.InferenceSession(OLD[name].SerializeToString(), options).run(None, {"x": IMAGE})[0]
    model = onnxlrp.read(OLD[name])
    assert model.opset == 16
    np.testing.assert_allclose(Session(model.copy(), "cpu").run({"x": IMAGE})["y"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "body", "weight", "expected"),
    [
        ("a bias over channels", "y = Add <broadcast = 1, axis = 1> (x, w)", [1, 2], lambda x, w: x + w[:, None, None]),
        ("a slope per channel", "y = PRelu (x, w)", [1, 2], lambda x, w: np.where(x < 0, x * w[:, None, None], x)),
        ("aligned at the end", "y = Mul <broadcast = 1> (x, w)", [1, 2, 3, 4], lambda x, w: x * w),
    ],
)
def test_a_file_older_than_onnxruntime_broadcasts_from_its_axis_on(
    name: str, body: str, weight: list[float], expected: Any
) -> None:
    array = np.array(weight, np.float32)
    model = onnxlrp.read(old(6, "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)", body, w=array))
    found = Session(model.copy(), "cpu").run({"x": IMAGE})["y"]
    np.testing.assert_allclose(found, expected(IMAGE, array), rtol=1e-6, err_msg=name)


SEQUENCES = "(float[3, 5, 2] x) => (float[3, 2] last, float[3, 5, 2] y)"
SCAN = """
last, y = Scan <num_scan_inputs = 1, directions = [1], body = b (float[2] s, float[2] v) => (float[2] t, float[2] u) {
    p = Mul (s, s)
    q = Add (p, v)
    t = Tanh (q)
    u = Sub (t, v)
}> (, a, x)
"""


def test_a_scan_of_opset_8_runs_along_a_batch() -> None:
    net = old(8, SEQUENCES, SCAN, a=np.zeros((3, 2), np.float32))
    x = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    last, y = ort.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    verdict = verify(net, x)
    assert verdict.holds, str(verdict)
    found = onnxlrp.Explainer(net).explain(x).outputs
    np.testing.assert_allclose(found["last"], last, rtol=1e-6)
    np.testing.assert_allclose(found["y"], y, rtol=1e-6)


NORMALISED = "(float[2, 6] x) => (float[2, 6] y)"


@pytest.mark.parametrize("opset", [9, 16])
@pytest.mark.parametrize("op_type", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_normalisations_of_onnxruntimes_optimiser_stand_in_files_of_any_opset(
    op_type: str, opset: int, tmp_path: Path
) -> None:
    body = f"y = {op_type} <epsilon = 0.5> (x, w)"
    net = old(opset, NORMALISED, body, w=np.arange(6, dtype=np.float32))
    verdict = verify(net)
    assert verdict.holds, str(verdict)
    onnxlrp.Explainer(net).save(tmp_path / "explainer.onnx")
    onnx.checker.check_model(tmp_path / "explainer.onnx", full_check=True)


def test_an_experiment_is_read_under_the_name_that_became_standard() -> None:
    cut = {"s": np.array([1]), "e": np.array([4]), "a": np.array([2])}
    net = old(9, "(float[1, 2, 4, 4] x) => (float[1, 2, 3, 4] y)", "y = DynamicSlice (x, s, e, a)", **cut)
    expected = ort.InferenceSession(net.SerializeToString()).run(None, {"x": IMAGE})[0]
    np.testing.assert_array_equal(Session(onnxlrp.read(net).copy(), "cpu").run({"x": IMAGE})["y"], expected)


def test_what_no_converter_knows_is_refused() -> None:
    lengths = SCAN.replace("(, a, x)", "(n, a, x)")
    with pytest.raises(Unsupported, match="length per sample"):
        onnxlrp.read(old(8, SEQUENCES, lengths, a=np.zeros((3, 2), np.float32), n=np.array([5, 4, 3])))
    with pytest.raises(Unsupported, match="opset 5"):
        onnxlrp.read(old(5, "(float[4] x) => (float[4] y)", 'y = Cast <to = "FLOAT"> (x)'))


def test_a_declared_shape_that_contradicts_the_nodes_is_not_believed() -> None:
    model = onnxlrp.read(old(16, "(float[2, 4] x) => (float[2, 8] y)", "y = Unsqueeze (x, a)", a=np.array([1])))
    assert list(model.graph.outputs[0].shape or ()) == [2, 1, 4]
    assert any("not believed: y" in note for note in model.notes)


LOOP = """
y = Loop (n, t, x) <body = b (int64 i, bool go, float[1, 2, 4, 4] s) => (bool more, float[1, 2, 4, 4] r) {
    more = Identity (go)
    a = Unsqueeze <axes = [0]> (s)
    c = ReduceSum <axes = [1], keepdims = 0> (a)
    r = Mul (c, w)
}>
"""
SLICE = """
y = Loop (n, t, x) <body = b (int64 i, bool go, float[1, 2, 4, 4] s) => (bool more, float[1, 2, 4, 4] r) {
    more = Identity (go)
    a = Slice <axes = [1], starts = [0], ends = [1]> (s)
    r = Mul (s, a)
}>
"""
UPSAMPLE = """
z, y1 = Loop (n, t, x) <body = b (int64 i, bool go, float[1, 2, 4, 4] s) => (
    bool more, float[1, 2, 4, 4] s2, float[1, 2, 8, 8] r) {
    more = Identity (go)
    s2 = Identity (s)
    r = Upsample <mode = "linear"> (s, u)
}>
y = Squeeze <axes = [0]> (y1)
"""
HARDMAX = """
y = Loop (n, t, x) <body = b (int64 i, bool go, float[1, 2, 4, 4] s) => (bool more, float[1, 2, 4, 4] r) {
    more = Identity (go)
    a = Hardmax <axis = 2> (s)
    r = Mul (s, a)
}>
"""
IF = """
p = ReduceSum <keepdims = 0> (x)
q = Greater (p, zero)
y = If (q) <
    then_branch = a () => (float[1, 2, 4, 4] u) { v = Squeeze <axes = [0]> (x) u = Unsqueeze <axes = [0]> (v) },
    else_branch = b () => (float[1, 2, 4, 4] z) { z = Clip <max = 0.25> (x) }
>
"""


@pytest.mark.parametrize(
    "net",
    [
        old(9, "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)", LOOP, n=np.int64(2), t=np.bool_(True), w=IMAGE),
        old(9, "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)", IF, zero=np.float32(0)),
        old(9, "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)", SLICE, n=np.int64(2), t=np.bool_(True)),
        old(9, "(float[1, 2, 4, 4] x) => (float[1, 2, 8, 8] y)", UPSAMPLE, n=np.int64(1), t=np.bool_(True), u=UP),
        old(9, "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)", HARDMAX, n=np.int64(1), t=np.bool_(True)),
    ],
    ids=["Loop", "If", "Slice", "Upsample", "Hardmax"],
)
def test_bodies_of_control_flow_are_upgraded_too(net: onnx.ModelProto) -> None:
    expected = ort.InferenceSession(net.SerializeToString()).run(None, {"x": IMAGE})[0]
    model = onnxlrp.read(net)
    np.testing.assert_allclose(Session(model.copy(), "cpu").run({"x": IMAGE})["y"], expected, rtol=1e-6)


def test_a_body_and_the_graph_around_it_may_both_hold_what_the_converter_writes() -> None:
    """It numbers the constants that it makes alike in both, and onnxruntime wants each name once."""
    twice = """
        a = Slice <axes = [1], starts = [0], ends = [2]> (x)
        y = Loop (n, t, a) <body = b (int64 i, bool go, float[1, 2, 4, 4] s) => (bool more, float[1, 2, 4, 4] r) {
            more = Identity (go)
            c = Slice <axes = [1], starts = [0], ends = [1]> (s)
            d = Slice <axes = [1], starts = [1], ends = [2]> (s)
            r = Concat <axis = 1> (d, c)
        }>
    """
    net = old(9, "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)", twice, n=np.int64(3), t=np.bool_(True))
    expected = ort.InferenceSession(net.SerializeToString()).run(None, {"x": IMAGE})[0]
    model = onnxlrp.read(net)
    np.testing.assert_allclose(Session(model.copy(), "cpu").run({"x": IMAGE})["y"], expected, rtol=1e-6)


def test_a_rank_is_known_where_a_slice_of_the_shape_has_computed_bounds() -> None:
    """As PyTorch's TorchScript exporter spells `unflatten` in its attention; Gather needs the rank for its axis."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, L, 4] x) => (float[N, 2] y)
           <int64 two = {2}, int64 three = {3}, int64[1] one = {1}, int64[1] zero = {0}, int64[2] halves = {2, 2},
            int64 second = {1}> {
            s = Shape (x)
            rest = Mod (two, three)
            end = Reshape (rest, one)
            first = Slice (s, zero, end)
            sizes = Concat <axis = 0> (first, halves)
            split = Reshape (x, sizes)
            half = Gather <axis = -2> (split, second)
            y = ReduceSum <keepdims = 0> (half, one)
        }"""
    )
    x = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 4)
    result = onnxlrp.Explainer(proto, preset="epsilon", providers="cpu").explain(x, target=1)
    wanted = np.zeros_like(x)
    wanted[..., 3] = x[..., 3]
    assert np.allclose(result.relevance["x"], wanted, rtol=1e-5)
    assert [node.op_type for node in onnxlrp.read(proto).graph][1:3] == ["Mod", "Reshape"]
