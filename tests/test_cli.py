"""The command line: what each command writes and prints, and that every mistake is one message and one exit code."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import networkx as nx
import numpy as np
import onnx
import onnxruntime
import pydot
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from onnxlrp_cli import main
from onnxlrp_cli.application import COMMANDS
from PIL import Image

import onnxlrp
from onnxlrp.data import Sidecar
from onnxlrp.errors import InputError
from onnxlrp.report.show import explanation_as_html
from onnxlrp.report.summary import doubt

ROOT = Path(__file__).resolve().parents[1]
DEMO = Path(onnxlrp.__file__).parent / "demo"
SHAPES = str(DEMO / "shapes.onnx")
CIRCLE = str(DEMO / "circle.png")
DIGITS = ROOT / "sample_models" / "digits_cnn_dynamo"
COLUMNS = ROOT / "sample_models" / "digits_sklearn"
NEAR_THE_TARGET = "node_linear"


def run(*arguments: object) -> Result:
    """One command; an exception of ours or anyone's else must have become a message."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def good(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def rows(width: int, path: Path, batch: str | int = "batch") -> Path:
    """A model of one dense layer: y (batch, 2) of x (batch, width)."""
    weight = np.random.default_rng(0).standard_normal((width, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="dense")],
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def unknown_operator(path: Path) -> Path:
    """A model with an operator that no rule is known of."""
    graph = helper.make_graph(
        [
            helper.make_node("Foo", ["x"], ["h"], name="strange", domain="nobody"),
            helper.make_node("Relu", ["h"], ["y"]),
        ],
        "strange",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# --- every command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str) -> None:
    text = good(name, "--help").stdout
    assert "Example:" in text
    assert f"onnxlrp {name}" in text
    assert "--json" in text


def test_the_list_of_commands_says_what_each_is_for() -> None:
    text = good("--help").stdout
    assert all(name in text for name in COMMANDS)
    assert onnxlrp.__version__ in good("--version").stdout


def test_unknown_commands_and_options_are_usage_errors() -> None:
    assert run("explian").exit_code == 2
    assert "Did you mean 'explain'?" in run("expalin", SHAPES).stderr
    assert "onnxlrp explain model.onnx INPUT..." in run("model.onnx", "cat.jpg").stderr
    assert "Did you mean 'zennit'?" in run("inspect", SHAPES, "--compat", "zenit").stderr
    assert "Did you mean" not in run("explain", SHAPES, CIRCLE, "-o", "x", "--provider", "gpu").stderr
    assert run("explain", SHAPES).exit_code == 2
    assert run("explain", SHAPES, CIRCLE, "-o", "x", "--provider", "tpu").exit_code == 2


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "onnxlrp", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["onnxlrp", onnxlrp.__version__]


# --- demo ------------------------------------------------------------------------------------------------------------


def test_demo_finds_the_watermark(tmp_path: Path) -> None:
    result = good("demo", "-o", tmp_path / "demo", "--json")
    document = json.loads(result.stdout)
    scenes = {scene["name"]: scene for scene in document["scenes"]}
    marked, plain = scenes["circle_with_watermark"], scenes["circle"]
    assert (plain["predicted"], marked["predicted"]) == ("circle", "star")
    assert marked["share_on_watermark"]["lrp"] > 0.5
    assert marked["share_on_watermark"]["lrp"] > 5 * document["watermark_area"]
    assert marked["share_on_watermark"]["lrp"] > 3 * marked["share_on_watermark"]["sensitivity"]
    assert plain["share_on_watermark"]["lrp"] < document["watermark_area"]
    written = files_in(tmp_path / "demo")
    for name in ("circle", "circle_with_watermark", "star_watermark"):
        assert {f"{name}-lrp-heatmap.png", f"{name}-sensitivity-heatmap.png", f"{name}-figure.png"} <= written


def test_demo_tells_its_story(tmp_path: Path) -> None:
    text = good("demo", "-o", tmp_path).stdout
    assert "called circle" in text
    assert "star" in text
    assert "Clever Hans" in text
    assert "circle_with_watermark-figure.png" in text


# --- explain ---------------------------------------------------------------------------------------------------------


def test_explain_writes_pictures_relevance_and_a_document(tmp_path: Path) -> None:
    result = good("explain", SHAPES, CIRCLE, "-o", tmp_path, "--json")
    document = json.loads(result.stdout)
    assert document == json.loads((tmp_path / "explain.json").read_text())
    assert len(document["model"]["sha256"]) == 64
    assert document["preset"] == "epsilon-gamma-box"
    assert document["provider"].endswith("ExecutionProvider")
    entry = document["inputs"][0]
    assert entry["predictions"][0]["label"] == "circle"
    assert entry["predictions"][0]["probability"] > 0.99
    assert entry["results"][0]["conservation"]["ratio"] == pytest.approx(
        0.749, abs=0.05
    )  # biases of z < 0 take the rest
    assert files_in(tmp_path) == {*entry["files"], "explain.json"}
    relevance = np.load(tmp_path / "circle-lrp.npz")["image"]
    assert relevance.shape == (1, 3, 64, 64)
    assert relevance.sum() == pytest.approx(entry["results"][0]["conservation"]["arrived"], rel=1e-4)
    with Image.open(tmp_path / "circle-lrp-overlay.png") as overlay:
        assert overlay.size == (256, 256)


def test_explain_takes_folders_globs_and_arrays_with_several_rows(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    np.save(tmp_path / "table.npy", inputs)
    np.savez(tmp_path / "named.npz", x=inputs[:1])
    model = rows(5, tmp_path / "rows.onnx")
    document = json.loads(good("explain", model, tmp_path / "*.np?", "-o", tmp_path / "out", "--json").stdout)
    names = [entry["name"] for entry in document["inputs"]]
    assert names == ["named", "table-0", "table-1", "table-2"]
    assert "table-1-lrp-bars.png" in files_in(tmp_path / "out")
    assert document["preset"] == "epsilon"


def test_inputs_without_a_batch_axis_are_not_joined(tmp_path: Path) -> None:
    """x (batch, 3) times a table (n, 3) that belongs to each file."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["table"], ["row"], axes=[0], keepdims=1),
            helper.make_node("Mul", ["x", "row"], ["y"]),
        ],
        "two inputs",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("table", TensorProto.FLOAT, ["n", 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    model = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    x = np.ones((1, 3), np.float32)
    for name, factor in (("a", 1.0), ("b", 2.0)):
        np.savez(tmp_path / f"{name}.npz", x=x, table=np.full((2, 3), factor, np.float32))
    document = json.loads(good("explain", model, tmp_path / "?.npz", "-o", tmp_path / "out", "--json").stdout)
    assert [entry["results"][0]["score"] for entry in document["inputs"]] == [1.0, 2.0]
    assert np.load(tmp_path / "out" / "a-lrp.npz")["table"].shape == (2, 3)
    assert {"a-lrp-x-bars.png", "a-lrp-table-bars.png"} <= files_in(tmp_path / "out")


def test_several_methods_share_one_figure_and_one_table(tmp_path: Path) -> None:
    methods = ["--method", "lrp", "--method", "integrated-gradients", "--option", "steps=3", "--preset", "epsilon"]
    text = good("explain", SHAPES, CIRCLE, "-o", tmp_path, *methods, "--scale", "shared", "--format", "svg").stdout
    assert "lrp epsilon" in text
    assert "integrated-gradients" in text
    assert {"circle-lrp-heatmap.svg", "circle-integrated-gradients.npz", "circle-figure.svg"} <= files_in(tmp_path)
    ElementTree.parse(tmp_path / "circle-figure.svg")


@pytest.mark.parametrize(
    ("target", "label"), [("3", "star"), ("star", "star"), ("star-circle", "star − circle"), ("all", "all")]
)
def test_targets_are_indices_labels_contrasts_and_all(tmp_path: Path, target: str, label: str) -> None:
    document = json.loads(good("explain", SHAPES, CIRCLE, "-o", tmp_path, "--target", target, "--json").stdout)
    assert document["inputs"][0]["results"][0]["label"] == label
    if target == "all":
        assert np.load(tmp_path / "circle-lrp.npz")["image"].shape == (4, 1, 3, 64, 64)


def test_a_table_is_drawn_as_bars_with_its_columns(tmp_path: Path) -> None:
    document = json.loads(good("explain", COLUMNS / "model.onnx", COLUMNS, "-o", tmp_path, "--json").stdout)
    assert [entry["predictions"][0]["label"] for entry in document["inputs"]] == ["seven", "three"]
    assert document["preset"] == "epsilon"
    assert "seven-lrp-bars.png" in files_in(tmp_path)


def test_without_a_sidecar_the_guess_is_told(tmp_path: Path) -> None:
    shutil.copy(DIGITS / "model.onnx", tmp_path)
    result = good("explain", tmp_path / "model.onnx", DIGITS / "three.png", "-o", tmp_path / "out")
    assert "No sidecar" in result.stderr
    assert "preprocessing 0-1" in result.stderr
    quiet = good("explain", tmp_path / "model.onnx", DIGITS / "three.png", "-o", tmp_path, "--preprocessing", "0-1")
    assert "No sidecar" not in quiet.stderr


def test_hardly_better_than_chance_is_doubted() -> None:
    assert "preprocessing" in doubt([0.1], 1000, "image")
    assert doubt([0.25], 1000, "image") == ""
    assert "preprocessing" in doubt([0.25] * 5, 1000, "image")
    assert doubt([0.9, 0.1, 0.8, 0.7, 0.1], 1000, "image") == ""
    assert doubt([0.1], 2, "image") == ""
    assert "--preprocessing" not in doubt([0.1], 1000, "series")


def test_a_warning_of_every_batch_is_said_once(tmp_path: Path) -> None:
    np.save(tmp_path / "far.npy", np.stack([np.full((3, 64, 64), 40.0 + n, np.float32) for n in range(4)]))
    flags = ["--preset", "epsilon-gamma-box", "--box", "-1", "1", "--batch-size", "1", "--no-figure"]
    result = good("explain", SHAPES, tmp_path / "far.npy", "-o", tmp_path / "out", *flags)
    assert result.stderr.count("lies outside the box") == 1


def test_a_broken_image_is_skipped_and_the_others_are_done(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(CIRCLE, photos)
    shutil.copy(DEMO / "square.png", photos)
    (photos / "broken.png").write_bytes(Path(CIRCLE).read_bytes()[:300])
    result = run("explain", SHAPES, photos / "*.png", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "broken.png: not a readable picture" in result.stderr
    document = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [entry["name"] for entry in document["inputs"]] == ["circle", "square"]
    assert [Path(one["path"]).name for one in document["skipped"]] == ["broken.png"]
    assert not any("broken" in name for name in files_in(tmp_path / "out"))


def test_nan_in_one_file_of_a_batch_leaves_the_others(tmp_path: Path) -> None:
    good_row = np.ones((1, 5), np.float32)
    np.save(tmp_path / "a.npy", good_row)
    np.save(tmp_path / "b.npy", good_row * np.nan)
    np.save(tmp_path / "c.npy", good_row)
    result = run("explain", rows(5, tmp_path / "rows.onnx"), tmp_path / "?.npy", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert [entry["name"] for entry in document["inputs"]] == ["a", "c"]
    assert "b.npy" in result.stderr
    assert "holds nan at [0, 0]" in result.stderr


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "target out of range": (["--target", "9"], ["target 9", "0 to 3"]),
    "unknown label": (["--target", "stair"], ["no label 'stair'", "star"]),
    "unknown preset": (["--preset", "epsilon-pluss"], ["no preset 'epsilon-pluss'", "Did you mean 'epsilon-plus'"]),
    "unknown rule": (["--rule", "Conv=gama(0.25)"], ["no rule 'gama'", "Did you mean 'gamma'"]),
    "wrong numbers of a rule": (["--rule", "Conv=gamma(a)"], ["'a' is not a number"]),
    "unknown node": (["--rule", "/stem/*=flat"], ["'/stem/*' matches no node", "Its operators: Conv"]),
    "rule without rule": (["--rule", "Conv"], ["--rule 'Conv'", "NODE=RULE"]),
    "unknown method": (["--method", "lpr"], ["no method 'lpr'", "Did you mean 'lrp'"]),
    "unknown option": (["--option", "steps=3"], ["no option 'steps'"]),
    "option of no method": (["--method", "lrp", "--method", "gradient", "--option", "stepz=3"], ["'stepz'", "none"]),
    "unknown output": (["--output", "logit"], ["no output 'logit'", "logits"]),
    "unknown input": (["--input", "imag"], ["'imag'", "image"]),
    "box upside down": (["--preset", "epsilon-gamma-box", "--box", "1", "-1"], ["low is above high"]),
    "mean that is no number": (["--mean", "a,b"], ["--mean 'a,b'", "0.485,0.456,0.406"]),
    "unknown preprocessing": (["--preprocessing", "imgnet"], ["--preprocessing 'imgnet'", 'did you mean "imagenet"?']),
    "unknown kind": (["--kind", "imaeg"], ["--kind 'imaeg'", 'did you mean "image"?', '"tabular"']),
    "layout of other letters": (["--layout", "NCWX"], ["--layout 'NCWX'", '"NCHW"']),
    "scale of nothing": (["--pixel-scale", "0"], ["--pixel-scale '0.0'", "other than 0"]),
    "missing labels": (["--labels", "nowhere.txt"], ["--labels", "nowhere.txt"]),
    "odd percentile": (["--percentile", "0"], ["percentile = 0"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_choice_is_one_message_and_writes_nothing(mistake: str, tmp_path: Path) -> None:
    flags, expected = MISTAKES[mistake]
    result = run("explain", SHAPES, CIRCLE, "-o", tmp_path / "out", *flags)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    for fragment in expected:
        assert fragment in result.stderr
    assert not files_in(tmp_path / "out")


def corrupt(folder: Path) -> Path:
    path = folder / "corrupt.onnx"
    path.write_bytes(Path(SHAPES).read_bytes()[:20_000])
    return path


def text_file(folder: Path) -> Path:
    path = folder / "text.onnx"
    path.write_text("This is a text, and no model at all.\n")
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "empty.onnx"
    path.write_bytes(b"")
    return path


def without_its_data(folder: Path) -> Path:
    path = folder / "split.onnx"
    onnx.save(onnx.load(SHAPES), path, save_as_external_data=True, location="split.data", size_threshold=100)
    (folder / "split.data").unlink()
    return path


@pytest.mark.parametrize("command", ["explain", "inspect", "verify", "compile"])
@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (corrupt, "corrupt.onnx"),
        (text_file, "text.onnx"),
        (empty_file, "is empty (0 bytes)"),
        (without_its_data, "'split.data'"),
        (lambda folder: folder / "nowhere.onnx", "No model file"),
    ],
)
def test_a_broken_model_is_one_message(command: str, make: object, fragment: str, tmp_path: Path) -> None:
    model = make(tmp_path)  # type: ignore[operator]
    rest = {"explain": [CIRCLE, "-o", tmp_path / "out"], "compile": ["-o", tmp_path / "out.onnx"]}.get(command, [])
    result = run(command, model, *rest)
    assert result.exit_code == 2
    assert fragment in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("array", "fragments"),
    [
        (np.zeros((1, 3, 32, 64), np.float32), ["expects shape", "(1, 3, 32, 64)"]),
        (np.zeros((3, 64, 64), np.float32), ["met (3, 64, 64)", "array[None]"]),
        (np.full((1, 3, 64, 64), "a"), ["expects float32", "<U1"]),
        (np.full((1, 3, 64, 64), np.nan, np.float32), ["nan", "'image'"]),
        (np.full((1, 3, 64, 64), np.inf, np.float32), ["inf", "'image'"]),
    ],
    ids=["shape", "rank", "type", "nan", "infinity"],
)
def test_an_array_that_does_not_fit_is_one_message(array: np.ndarray, fragments: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "wrong.npy", array)
    result = run("explain", SHAPES, tmp_path / "wrong.npy", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "wrong.npy" in result.stderr
    for fragment in fragments:
        assert fragment in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_wrong_input_name_says_the_right_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "wrong.npz", imagee=np.zeros((1, 3, 64, 64), np.float32), other=np.zeros(1))
    result = run("explain", SHAPES, tmp_path / "wrong.npz", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "'imagee' looks like 'image'" in result.stderr


def test_no_such_input_file(tmp_path: Path) -> None:
    result = run("explain", SHAPES, tmp_path / "*.jpg", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "this pattern matches no file" in result.stderr


@pytest.mark.parametrize("command", ["demo", "explain", "compile", "inspect"])
def test_a_folder_that_cannot_be_written_is_one_message(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    blocked = tmp_path / "file" / "out"
    arguments = {
        "demo": ["-o", blocked],
        "explain": [SHAPES, CIRCLE, "-o", blocked],
        "compile": [SHAPES, "-o", blocked / "explainer.onnx"],
        "inspect": [SHAPES, "--graph", blocked / "graph.svg"],
    }[command]
    result = run(command, *arguments)
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert files_in(tmp_path) == {"file"}


def test_cuda_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxlrp.session.cuda_works", lambda: False)
    result = run("explain", SHAPES, CIRCLE, "-o", tmp_path / "out", "--provider", "cuda")
    assert result.exit_code == 2
    assert "CUDA was asked for" in result.stderr
    assert "--provider cpu" in result.stderr


def test_two_onnxruntimes_side_by_side_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxlrp.session._installed", lambda name: True)
    result = good("explain", SHAPES, CIRCLE, "-o", tmp_path / "out", "--no-figure")
    assert "both installed" in result.stderr


def test_a_model_that_cannot_be_explained_is_exit_3(tmp_path: Path) -> None:
    model = unknown_operator(tmp_path / "strange.onnx")
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    result = run("explain", model, tmp_path / "x.npy", "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "strange" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_defect_asks_for_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a screw is loose")

    monkeypatch.setattr("onnxlrp.report.gallery.Gallery.explain", broken)
    result = run("explain", SHAPES, CIRCLE, "-o", tmp_path)
    assert result.exit_code == 4
    assert "a screw is loose" in result.stderr
    assert "please report it" in result.stderr
    shown = CliRunner().invoke(main, ["--debug", "explain", SHAPES, CIRCLE, "-o", str(tmp_path)])
    assert "Traceback" in shown.stderr


def test_an_interrupt_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxlrp.report.gallery.Gallery.explain", interrupted)
    result = run("explain", SHAPES, CIRCLE, "-o", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted"


# --- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_shows_the_rule_of_each_layer_and_why() -> None:
    document = json.loads(good("inspect", SHAPES, "--json").stdout)
    assert document["operators"]["Conv"] == 4
    assert document["preset"] == "epsilon-gamma-box"
    assert document["explained"]["tensor"] == "logits"
    last = document["plan"][-1]
    assert (last["node"], last["rule"], last["because"]) == (NEAR_THE_TARGET, "epsilon(1e-06)", "dense layer")
    text = good("inspect", SHAPES, "--rule", f"{NEAR_THE_TARGET}=gamma(0.5)", "--preset", "epsilon").stdout
    assert f"rule '{NEAR_THE_TARGET}'" in text
    assert "gamma(0.5)" in text
    assert "PyTorch" in text


def test_inspect_reports_what_has_no_rule_and_is_strict_when_asked(tmp_path: Path) -> None:
    model = unknown_operator(tmp_path / "strange.onnx")
    assert json.loads(good("inspect", model, "--json").stdout)["without_rule"] == {"Foo": ["strange"]}
    assert "strange" in good("inspect", model).stdout
    assert run("inspect", model, "--strict").exit_code == 3
    assert run("inspect", model, "--graph", tmp_path / "graph.svg").exit_code == 3


def test_the_relevance_graph_reads_back_in_every_format(tmp_path: Path) -> None:
    good("inspect", SHAPES, "--graph", tmp_path / "graph")
    assert {"graph.svg", "graph.dot", "graph.graphml"} <= files_in(tmp_path)
    svg = ElementTree.parse(tmp_path / "graph.svg").getroot()
    assert "gamma(0.25)" in "".join(svg.itertext())
    graph = nx.read_graphml(tmp_path / "graph.graphml")
    assert nx.has_path(graph, "logits", "image")
    assert graph.nodes["node_Conv_34"]["rule"] == "z-box(-1, 1)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pydot's parser calls pyparsing by its old names
        (drawing,) = pydot.graph_from_dot_data((tmp_path / "graph.dot").read_text())
    assert len(drawing.get_edges()) == graph.number_of_edges()


def test_a_graph_of_another_kind_is_a_wrong_choice(tmp_path: Path) -> None:
    result = run("inspect", SHAPES, "--graph", tmp_path / "graph.xlsx")
    assert result.exit_code == 2
    assert ".graphml" in result.stderr


def test_a_written_sidecar_reads_back_and_is_not_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    shutil.copy(SHAPES, model)
    assert "preprocessing" in good("inspect", model, "--write-sidecar", "--mean", "0.5", "--std", "0.5").stdout
    sidecar = Sidecar.beside(model)
    assert (sidecar.kind, sidecar.layout, sidecar.mean, sidecar.std) == ("image", "NCHW", 0.5, 0.5)
    (tmp_path / "model.toml").write_text('kind = "image"\n')
    refused = run("inspect", model, "--write-sidecar")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert (tmp_path / "model.toml").read_text() == 'kind = "image"\n'
    good("inspect", model, "--write-sidecar", "--force", "--preprocessing", "caffe-bgr")
    assert Sidecar.beside(model).preprocessing == "caffe-bgr"


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verify_holds_and_prints_the_ledger() -> None:
    text = good("verify", SHAPES, CIRCLE, "--ledger", "all").stdout
    assert "FAILS" not in text
    assert "All 5 checks hold." in text
    assert NEAR_THE_TARGET in text
    document = json.loads(good("verify", SHAPES, "--json").stdout)
    assert document["holds"]
    assert len(document["ledger"]) == 14


def test_verify_is_exit_1_when_a_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxlrp.findings import Finding, Verdict

    verdict = Verdict((Finding("forward equals the original's", False, 0.5, 1e-4, "relative"),), (), 1.0, 1.0)
    monkeypatch.setattr("onnxlrp_cli.verify.verify", lambda *_, **__: verdict)
    result = run("verify", SHAPES)
    assert result.exit_code == 1
    assert "FAILS" in result.stdout
    assert "1 of 1 checks FAIL" in result.stdout


# --- compile ---------------------------------------------------------------------------------------------------------


def test_a_compiled_explainer_runs_in_a_bare_session(tmp_path: Path) -> None:
    path = tmp_path / "explainer.onnx"
    text = good("compile", SHAPES, "-o", path, "--preset", "epsilon").stdout
    assert "full checks: fine" in text
    assert "target int64" in text
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"image": x}), strict=True))
    expected = onnxlrp.explain(SHAPES, x, preset="epsilon", providers="cpu").relevance["image"]
    np.testing.assert_allclose(found["relevance/image"], expected, rtol=1e-4, atol=1e-6)


def test_a_method_of_several_passes_cannot_be_compiled(tmp_path: Path) -> None:
    result = run("compile", SHAPES, "-o", tmp_path / "explainer.onnx", "--method", "smoothgrad")
    assert result.exit_code == 3
    assert not files_in(tmp_path)


# --- notebooks -------------------------------------------------------------------------------------------------------


def test_an_explanation_shows_itself_in_a_notebook() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    explanation = onnxlrp.explain(SHAPES, x, labels=["<circle>", "square", "triangle", "star"])
    page = explanation._repr_html_()
    assert page == explanation_as_html(explanation)
    assert page.count("data:image/png;base64,") == 2
    assert "<circle>" not in page
    buffer = io.BytesIO()
    explanation.plot(1).savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_columns_are_plotted_as_bars(tmp_path: Path) -> None:
    explanation = onnxlrp.explain(rows(5, tmp_path / "rows.onnx"), np.ones((1, 5), np.float32))
    assert explanation.plot().axes[0].patches
    with pytest.raises(onnxlrp.ChoiceError, match="'z' was not explained"):
        explanation.plot(name="z")


def test_a_box_of_columns_fits_every_rank() -> None:
    assert Sidecar(kind="tabular", box=(0.0, 1.0)).bounds()[0].shape == ()
    with pytest.raises(InputError):
        Sidecar(kind="tabular").bounds()
