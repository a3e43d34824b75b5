"""What `explain` tells of choices that nobody made: files of a folder, detections, outputs, scores near zero."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner, Result
from onnxlrp_cli import main
from PIL import Image

import onnxlrp
from onnxlrp.data import walked
from onnxlrp.data.audio import read_sound
from onnxlrp.errors import missing_package
from onnxlrp.perturbation.regions import suited_edge
from onnxlrp.report.notes import detections_of
from onnxlrp.report.summary import as_probabilities

DEMO = Path(onnxlrp.__file__).parent / "demo"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result


def detector(numbers: int) -> onnx.ModelProto:
    """Sixteen detections of a picture (N, 3, 4, 4), one per pixel, with so many numbers each; and a second output."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 4, 4] image)
            => (float[N, 16, {numbers}] boxes, float[N, 3, 4, 4] features) {{
            s = Conv (image, w)
            f = Reshape (s, flat)
            boxes = Transpose <perm = [0, 2, 1]> (f)
            features = Relu (image)
        }}"""
    )
    weight = np.random.default_rng(0).standard_normal((numbers, 3, 1, 1)).astype(np.float32)
    flat = np.array([0, numbers, 16], np.int64)
    proto.graph.initializer.extend([onnx.numpy_helper.from_array(a, n) for n, a in (("w", weight), ("flat", flat))])
    return proto


@pytest.mark.parametrize("numbers", [1, 5])
def test_of_a_detector_the_best_detection_is_explained_and_said(numbers: int, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(detector(numbers), model)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    result = run("explain", model, tmp_path / "a.png", "-o", tmp_path / "out", "--preprocessing", "0-1")
    document = json.loads((tmp_path / "out" / "explain.json").read_text())
    found = document["inputs"][0]
    assert found["predictions"] == []
    assert found["results"][0]["label"].startswith("detection ") and "(best)" in found["results"][0]["label"]
    assert "top class" not in result.stderr
    assert "lists 16 detections and no classes" in result.stderr
    assert ("--target detection:best:1" in result.stderr) == (numbers > 1)
    assert "Of 2 outputs, 'boxes' is explained. --output takes another: features." in result.stderr
    chosen = run("explain", model, tmp_path / "a.png", "-o", tmp_path / "out", "--target", "detection:3", "--json")
    assert json.loads(chosen.stdout)["inputs"][0]["results"][0]["label"].startswith("detection 3")


def test_classifiers_and_tables_list_no_detections() -> None:
    assert detections_of(onnxlrp.Explainer(DEMO / "shapes.onnx")) is None
    rows = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 5, 3] x) => (float[N, 5, 3] y) { y = Relu (x) }'
    )
    assert detections_of(onnxlrp.Explainer(rows)) is None


def test_a_folder_says_what_is_taken_and_what_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("circle.png", "square.png"):
        shutil.copy(DEMO / name, folder / "deep" / name)
    (folder / "notes.md").write_text("a note")
    assert walked([folder, DEMO / "circle.png"], "image") == [f"{folder}: 2 files (2 .png); passed over: 1 .md"]
    result = run("explain", DEMO / "shapes.onnx", folder, "-o", tmp_path / "out", "--no-figure")
    assert "2 files (2 .png); passed over: 1 .md" in result.stderr.replace("\n", " ")
    (folder / "empty").mkdir()
    (folder / "empty" / "b.doc").write_text("")
    nothing = run("explain", DEMO / "shapes.onnx", folder / "empty", "-o", tmp_path / "out")
    assert nothing.exit_code == 2
    assert "it has 1 .doc" in nothing.stderr


def test_a_score_near_zero_is_told_in_amounts_and_not_as_a_share(tmp_path: Path) -> None:
    """y = 100·x₀ − 100·x₁ + 1: for x₀ ≈ x₁ the bias alone decides, and 494 % of a rest says nothing."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2] x) => (float[N, 1] y)
        <float[2, 1] w = {100, -100}, float[1] b = {1}> { y = Gemm (x, w, b) }"""
    )
    onnx.save(proto, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.array([[1.0, 1.0025]], np.float32))
    result = run("explain", tmp_path / "m.onnx", tmp_path / "x.npy", "-o", tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "explain.json").read_text())["inputs"][0]["results"][0]["conservation"]
    assert kept["cancels"] and kept["magnitude"] > 100 * abs(kept["seeded"])
    assert f"{kept['arrived']:.3g} of {kept['seeded']:.3g}" in result.stdout
    assert "small rest of parts for and against" in result.stdout
    assert "%" not in result.stdout
    explanation = onnxlrp.explain(proto, np.array([[1.0, 1.0025], [1.0, 0.0]], np.float32), providers="cpu")
    assert explanation.conservation is not None
    assert explanation.conservation.cancels.tolist() == [True, False]
    assert "nearly cancel" in str(explanation.conservation) and "99" in str(explanation.conservation)


def test_inputs_after_the_third_picture_are_counted(tmp_path: Path) -> None:
    texts = DEMO.parents[1] / "sample_models" / "topics_svm"
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("the space shuttle was launched into orbit")
    result = run("explain", texts / "model.onnx", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "… and 2 more inputs like these" in result.stdout


def reader_of_tokens() -> onnx.ModelProto:
    """The mean of the embeddings of what the mask lets through."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N, L] input_ids, int64[N, L] attention_mask) => (float[N, 2] logits) <int64[1] last = {2}> {
            e = Gather (table, input_ids)
            m = Cast <to = 1> (attention_mask)
            k = Unsqueeze (m, last)
            h = Mul (e, k)
            s = ReduceMean <axes = [1], keepdims = 0> (h)
            logits = MatMul (s, w)
        }"""
    )
    random = np.random.default_rng(0)
    weights = {"table": random.standard_normal((50, 8)), "w": random.standard_normal((8, 2))}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items())
    return proto


def test_token_numbers_have_a_picture_in_the_terminal_and_their_mask_has_none(tmp_path: Path) -> None:
    onnx.save(reader_of_tokens(), tmp_path / "m.onnx")
    ids = np.array([[3, 7, 12, 44, 9]], np.int64)
    np.savez(tmp_path / "t.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    result = run("explain", tmp_path / "m.onnx", tmp_path / "t.npz", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "3 7 12 44 9" in result.stdout
    with np.load(tmp_path / "out" / "t-lrp.npz") as saved:
        relevance = dict(saved)
    strongest = int(np.abs(relevance["input_ids"][0]).argmax())
    assert f"strongest: {ids[0, strongest]} (at {strongest})" in result.stdout
    assert "'attention_mask' says which tokens are read and is not drawn; what it got" in result.stderr
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"t-lrp-bars.png"}
    assert "attention_mask" in relevance
    shares = json.loads((tmp_path / "out" / "explain.json").read_text())["inputs"][0]["results"][0]["shares"]
    assert shares["input_ids"] + shares["attention_mask"] == pytest.approx(1)
    assert shares["attention_mask"] == 0, "a mask that pools is a gate"


@pytest.mark.parametrize(
    ("table", "fragments"),
    [
        ("a,b\n" + "1,2\n" * 20, ["holds 2 channels (a, b)", "shape ['N', 20, 3] takes 3", "axis 2", "one column per"]),
        ("\n".join([",".join("1" * 20)] * 3), ["holds 20 channels", "takes 3", "a step per row"]),
    ],
)
def test_a_series_of_other_channels_says_what_met_what(table: str, fragments: list[str], tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 20, 3] x) => (float[N, 3] y) {
            y = ReduceMean <axes = [1], keepdims = 0> (x)
        }"""
    )
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "s.csv").write_text(table)
    layout = ["--kind", "series", "--layout", "NLC"]
    result = run("explain", tmp_path / "m.onnx", tmp_path / "s.csv", "-o", tmp_path / "out", *layout)
    assert result.exit_code == 2
    for fragment in fragments:
        assert fragment in result.stderr


@pytest.mark.parametrize(
    ("shape", "layout", "edge"),
    [
        ((3, 224, 224), "NCHW", 9),
        ((3, 64, 64), "NCHW", 9),
        ((1, 28, 28), "NCHW", 4),
        ((8, 8, 1), "NHWC", 1),
        ((1, 14, 9), "NCHW", 1),
        ((100, 3), "NLC", 9),
        ((20, 3), "NLC", 2),
        ((3, None, None), "NCHW", 9),
        ((30,), "NF", 4),
    ],
)
def test_regions_are_no_larger_than_a_seventh_of_the_input(shape: tuple[int, ...], layout: str, edge: int) -> None:
    assert suited_edge(shape, layout) == edge


def test_a_missing_package_is_told_with_both_ways_to_install_it() -> None:
    message = str(missing_package("a.mp4: videos need", "av", "video", "give arrays as .npy"))
    for way in ("pip install 'onnxlrp[video]'", "in a clone pip install '.[video]'", "pip install av", "as .npy"):
        assert way in message


def test_where_no_logits_are_found_a_probability_is_said_to_be_explained(tmp_path: Path) -> None:
    branches = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) {
            s = ReduceSum <keepdims = 0> (x)
            c = Greater (s, s)
            y = If (c) <then_branch = t () => (float[N, 4] a) { a = Softmax (x) },
                        else_branch = e () => (float[N, 4] b) { n = Neg (x) b = Softmax (n) }>
        }"""
    )
    onnx.save(branches, tmp_path / "if.onnx")
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) { y = Softmax (x) }'
        ),
        tmp_path / "plain.onnx",
    )
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0, 0.5, 0.25]], np.float32))
    told = "A probability is explained"
    assert told in run("explain", tmp_path / "if.onnx", tmp_path / "x.npy", "-o", tmp_path / "out").stderr
    assert told not in run("explain", tmp_path / "plain.onnx", tmp_path / "x.npy", "-o", tmp_path / "out").stderr


def test_a_file_without_samples_and_a_broken_recording_are_the_callers_mistake(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 3, 64, 64), np.float32))
    result = run("explain", DEMO / "shapes.onnx", tmp_path / "none.npy", "-o", tmp_path / "out")
    assert (result.exit_code, "holds no samples" in result.stderr) == (2, True)
    (tmp_path / "short.wav").write_bytes(b"RIFF")
    with pytest.raises(onnxlrp.InputError, match="ends before the heading of a WAV file does"):
        read_sound(tmp_path / "short.wav")


def test_a_prompt_shows_words_and_not_arrays() -> None:
    explainer = onnxlrp.Explainer(DEMO / "shapes.onnx", providers="cpu")
    assert repr(explainer) == "Explainer(shapes.onnx: lrp epsilon-gamma-box of 'logits' to image)"
    assert repr(explainer.plan).splitlines()[0].endswith("image ← logits")
    x = np.zeros((2, 3, 64, 64), np.float32)
    one = repr(explainer.explain(x, target="star"))
    assert one.startswith("lrp epsilon-gamma-box: star, score") and "relevance of 'image': [2, 3, 64, 64]" in one
    assert repr(explainer.explain(x, target="all")).startswith("lrp: 4 classes of 2 samples")


@pytest.mark.parametrize("scores", [(-1.2e-7, 1.0000001), (1.0, 0.0), (0.25, 0.75)], ids=str)
def test_probabilities_are_told_as_they_are_though_rounding_takes_one_below_zero(scores: tuple[float, float]) -> None:
    told = as_probabilities(np.asarray(scores))
    assert told is not None
    assert np.allclose(told, scores, atol=1e-6)
    assert told.min() >= 0
    assert told.max() <= 1


def test_a_contrast_of_a_class_with_itself_has_no_share_that_arrived(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 64, 64), np.float32))
    found = run("explain", DEMO / "shapes.onnx", tmp_path / "x.npy", "-o", tmp_path / "out", "--target", "1-1")
    assert found.exit_code == 0
    assert "nan" not in found.output
    assert "0 of 0" in found.output
