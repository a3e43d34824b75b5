"""Targets that are a place in the output: a box, a mask, a detection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from nets import Array, Net, signed
from onnxlrp_cli import main
from PIL import Image
from shared import SHARED, needs

from onnxlrp import ChoiceError, Explainer, InputError
from onnxlrp.curves import Protocol, measure_curves, surroundings
from onnxlrp.data.sample import Sample
from onnxlrp.heatmap import outlined
from onnxlrp.places import BEST, Box, Detection, Mask, place_of

W = signed(np.random.default_rng(0), 3, 2, 1, 1)
X = np.random.default_rng(1).standard_normal((2, 2, 6, 8)).astype(np.float32)


def segmenter(last: bool = False) -> onnx.ModelProto:
    """A 1×1 convolution: three classes at each of 6 × 8 cells."""
    net = Net()
    x = net.input("x", ["batch", 6, 8, 2] if last else ["batch", 2, 6, 8])
    y = net.Conv(net.Transpose(x, perm=[0, 3, 1, 2]) if last else x, net.weight(W))
    return net.model(net.Transpose(y, perm=[0, 2, 3, 1]) if last else y)


def detector(turned: bool = False) -> onnx.ModelProto:
    """Five detections of two classes each."""
    net = Net()
    x = net.input("x", ["batch", 4])
    y = net.MatMul(x, net.weight(signed(np.random.default_rng(2), 4, 10)))
    shape = [0, 2, 5] if turned else [0, 5, 2]
    return net.model(net.Reshape(y, net.weight(np.array(shape, np.int64))))


def gradient(model: Any, x: Array, target: Any, **choices: Any) -> Any:
    return Explainer(model, "gradient", providers="cpu", **choices).explain(x, target=target)


def test_a_box_sums_its_class_and_nothing_else_gets_relevance() -> None:
    found = gradient(segmenter(), X, "box:1,2,4,5:2")
    wanted = np.zeros_like(X)
    wanted[:, :, 2:5, 1:4] = W[2, :, 0, 0][None, :, None, None]
    np.testing.assert_allclose(found.relevance["x"], wanted, rtol=1e-6)
    y = np.einsum("kc,nchw->nkhw", W[:, :, 0, 0], X)
    np.testing.assert_allclose(found.score, y[:, 2, 2:5, 1:4].sum(axis=(1, 2)), rtol=1e-5)
    assert found.title().startswith("gradient: box 1,2,4,5 of 2")


def test_a_box_a_mask_and_a_seed_of_the_same_cells_agree() -> None:
    inside = Box(1, 2, 4, 5).cells(6, 8)
    seed = np.zeros((1, 3, 6, 8), np.float32)
    seed[:, 1] = inside
    by_seed = gradient(segmenter(), X, seed).relevance["x"]
    for place in (Box(1, 2, 4, 5, 1), Mask(inside, 1), "box:1,2,4,5:1"):
        assert np.array_equal(gradient(segmenter(), X, place).relevance["x"], by_seed)


def test_without_a_class_each_sample_takes_its_largest() -> None:
    y = np.einsum("kc,nchw->nkhw", W[:, :, 0, 0], X)
    best = y[:, :, 2:5, 1:4].sum(axis=(2, 3)).argmax(axis=1)
    found = gradient(segmenter(), X, Box(1, 2, 4, 5)).relevance["x"][:, :, 3, 2]
    np.testing.assert_allclose(found, W[best, :, 0, 0], rtol=1e-6)


def test_classes_may_come_last_and_be_named() -> None:
    found = gradient(
        segmenter(last=True), X.transpose(0, 2, 3, 1), "box:0,0,8,6:sky", layout="NHWC", labels=["a", "b", "sky"]
    )
    np.testing.assert_allclose(found.relevance["x"][0, 3, 4], W[2, :, 0, 0], rtol=1e-6)
    assert found.label() == "box 0,0,8,6 of sky"


@pytest.mark.parametrize("turned", [False, True])
def test_a_detection_is_one_entry(turned: bool) -> None:
    x = np.random.default_rng(3).standard_normal((2, 4)).astype(np.float32)
    weights = signed(np.random.default_rng(2), 4, 10).reshape(4, *((2, 5) if turned else (5, 2)))
    weights = weights.swapaxes(1, 2) if turned else weights
    y = np.einsum("ni,idk->ndk", x, weights)
    np.testing.assert_allclose(
        gradient(detector(turned), x, "detection:3:1").relevance["x"][1], weights[:, 3, 1], rtol=1e-6
    )
    best = y[:, :, 0].argmax(axis=1)
    found = gradient(detector(turned), x, Detection(BEST, 0)).relevance["x"]
    np.testing.assert_allclose(found, weights[:, best, 0].T, rtol=1e-6)
    largest = gradient(detector(turned), x, Detection(3)).relevance["x"]
    np.testing.assert_allclose(largest, weights[:, 3, y[:, 3].argmax(axis=1)].T, rtol=1e-6)


@pytest.mark.parametrize("method", ["lrp", "integrated-gradients", "occlusion", "random"])
def test_every_kind_of_method_takes_a_place(method: str) -> None:
    found = Explainer(segmenter(), method, providers="cpu").explain(X, target="box:1,2,4,5:2")
    assert found.inside is not None and found.inside.sum() == 9
    y = np.einsum("kc,nchw->nkhw", W[:, :, 0, 0], X)
    np.testing.assert_allclose(found.score, y[:, 2, 2:5, 1:4].sum(axis=(1, 2)), rtol=1e-4)


def test_curves_watch_a_place() -> None:
    samples = [Sample("one", {"x": X[:1]})]
    protocol = Protocol(steps=48, region=1, replace="constant", around=surroundings("NCHW", 3), layout="NCHW")
    explainer = Explainer(segmenter(), "gradient-x-input", providers="cpu")
    curves = measure_curves({"gi": explainer}, samples, protocol, target="box:1,2,4,5:2")
    fall = curves.decrease(curves.series[0], "logit")[0, 0]
    y = np.einsum("kc,nchw->nkhw", W[:, :, 0, 0], X)[0, 2, 2:5, 1:4]
    assert fall[-1] == pytest.approx(y.sum(), rel=1e-4)
    assert fall.max() == pytest.approx(y[y > 0].sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("box:1,2,3", ChoiceError, "left,top,right,bottom"),
        ("box:1,2,9,5:0", ChoiceError, r"box 1,2,9,5 does not fit the output's map of 8 × 6"),
        ("box:4,2,4,5:0", ChoiceError, "left < right"),
        ("box:1,2,4,5:7", ChoiceError, "class 7 is out of range"),
        ("box:1,2,4,5:cat", ChoiceError, "label"),
        ("mask:none.png:1", InputError, "there is no file none.png"),
        (Mask(np.ones((3, 3))), InputError, "mask has 3 × 3 cells, and the output's map 8 × 6"),
        (Mask(np.zeros((6, 8))), InputError, "empty"),
        ("detection:one", ChoiceError, "detection:best"),
        ("detection:1", ChoiceError, r"shape \[2, 3, 6, 8\]"),
    ],
    ids=str,
)
def test_places_that_do_not_exist_are_refused(target: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gradient(segmenter(), X, target)


def test_what_an_output_lacks_is_said() -> None:
    net = Net()
    classes = net.model(net.MatMul(net.input("x", ["batch", 4]), net.weight(np.ones((4, 3), np.float32))))
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(ChoiceError, match=r"\[1, 3\] and holds no map.*\(sample, class, height, width\)"):
        gradient(classes, x, "box:0,0,1,1")
    with pytest.raises(ChoiceError, match="lists 5 detections, 0 to 4"):
        gradient(detector(), x, "detection:5")


def test_a_label_that_looks_like_a_place_is_a_label() -> None:
    net = Net()
    model = net.model(net.MatMul(net.input("x", ["batch", 2]), net.weight(np.eye(2))))
    found = gradient(model, np.ones((1, 2), np.float32), "box:1,2,3,4", labels=["other", "box:1,2,3,4"])
    assert found.relevance["x"].tolist() == [[0, 1]]


def test_files_of_masks_are_pictures_or_arrays(tmp_path: Path) -> None:
    inside = np.zeros((6, 8), np.uint8)
    inside[2:5, 1:4] = 255
    Image.fromarray(inside).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", inside)
    wanted = gradient(segmenter(), X, Box(1, 2, 4, 5, 2)).relevance["x"]
    for name in ("a.png", "a.npy"):
        assert np.array_equal(gradient(segmenter(), X, f"mask:{tmp_path / name}:2").relevance["x"], wanted)
    assert place_of("contrast-of:things") is None


def test_an_outline_follows_the_mask() -> None:
    drawn = outlined(np.full((60, 80, 3), 128, np.uint8), Box(2, 2, 6, 4).cells(6, 8))
    assert (drawn[20, 40] != 128).all()
    assert (drawn[30, 40] == 128).all() and (drawn[5, 5] == 128).all()


def test_explain_draws_the_box_on_the_picture(tmp_path: Path) -> None:
    net = Net()
    x = net.input("image", ["batch", 3, 16, 16])
    onnx.save(net.model(net.Conv(x, net.weight(signed(np.random.default_rng(0), 2, 3, 1, 1)))), tmp_path / "seg.onnx")
    (tmp_path / "seg.toml").write_text(
        'kind = "image"\nlayout = "NCHW"\npreprocessing = "0-1"\nlabels = ["sky", "sea"]\n'
    )
    Image.fromarray(np.full((16, 16, 3), 128, np.uint8)).save(tmp_path / "photo.png")
    words = [
        "explain",
        str(tmp_path / "seg.onnx"),
        str(tmp_path / "photo.png"),
        "-o",
        str(tmp_path / "out"),
        "--target",
    ]
    done = CliRunner().invoke(main, [*words, "box:4,4,12,12:sea"])
    assert done.exit_code == 0, done.output
    (entry,) = json.loads((tmp_path / "out" / "explain.json").read_text())["inputs"]
    assert entry["results"][0]["label"] == "box 4,4,12,12 of sea"
    drawn = np.asarray(Image.open(tmp_path / "out" / "photo-lrp-overlay.png").convert("RGB")).astype(int)
    assert drawn[56, 112].max() < 40 and drawn[10, 10].min() > 120
    refused = CliRunner().invoke(main, [*words, "box:4,4,40,12:sea"])
    assert refused.exit_code == 2 and "map of 16 × 16" in refused.stderr


@needs("zoo")
@pytest.mark.parametrize(
    ("folder", "output", "target"),
    [
        (
            "Ultra-Light-Fast-Generic-Face-Detector-1MB--version-RFB-320_without_postprocessing",
            None,
            "detection:best:1",
        ),
        ("libfacedetection.train--yunet_yunet_final_dynamic_simplify", "conf", "detection:best:1"),
        ("BlazeFaceBarracuda--face_detection_back_256x256_float32_opt", None, "detection:best"),
    ],
)
def test_detectors_of_the_zoo_explain_their_best_detection(folder: str, output: str | None, target: str) -> None:
    path = SHARED / "zoo" / folder
    with np.load(path / "input.npz") as file:
        feeds = {name: file[name] for name in file.files}
    explainer = Explainer(path / "model.onnx", providers="cpu", output=output)
    found = explainer.explain(feeds, target=target)
    relevance = next(iter(found.relevance.values()))
    spatial = np.abs(relevance).sum(axis=3 if relevance.shape[3] == 3 else 1)[0]
    rows = np.flatnonzero(spatial.sum(axis=1) > 1e-6 * spatial.sum())
    assert np.isfinite(relevance).all() and spatial.any()
    y = explainer.forward_value(feeds)
    assert found.score[0] == pytest.approx(y[..., -1].max(), rel=1e-3)
    assert len(rows) <= spatial.shape[0]
