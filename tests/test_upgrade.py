"""Files of old opsets compute after the upgrade what onnxruntime computes from them as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnxlrp
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


def test_what_no_converter_knows_is_refused() -> None:
    with pytest.raises(Unsupported, match="Hardmax"):
        onnxlrp.read(old(9, "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)", "y = Hardmax (x)"))
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
    ],
    ids=["Loop", "If", "Slice"],
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
