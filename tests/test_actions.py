"""The trained models of clips: relevance lies where and when the action is, and a batch goes on without misfits."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnxlrp_cli import main

import onnxlrp
from onnxlrp.data import Sidecar, inputs_of, load
from onnxlrp.data.video import read_video

pytest.importorskip("av", reason="PyAV is not installed: pip install onnxlrp[video]")

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"
sys.path.insert(0, str(SAMPLES))
from _clips import FRAMES, inside, write_clip  # noqa: E402

CLIPS = SAMPLES / "actions_clips"
MODELS = {name: SAMPLES / name / "model.onnx" for name in ("actions_fisher", "actions_cnn3d")}
TRUTH = tomllib.loads((CLIPS / "truth.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("action", TRUTH)
def test_relevance_peaks_where_and_when_the_action_is(model: str, action: str) -> None:
    path = MODELS[model]
    sidecar = Sidecar.beside(path)
    explainer = onnxlrp.Explainer(path)
    (entry,) = inputs_of(explainer.model)
    sample = load(CLIPS / f"{action}.mp4", sidecar, [entry])
    result = explainer.explain(sample.arrays)
    assert result.title(0).split(": ")[1].startswith(f"{action}, score")
    elements = by_place(result.relevance[entry.name][0], (sidecar.layout or "").replace("N", ""))
    gains, footage, truth = np.maximum(elements, 0), sample.original, TRUTH[action]
    there = inside(truth["span"], truth["box"], footage.frames.shape[:3], footage.step, elements.shape)
    assert gains[there].sum() / gains.sum() > 2.5 * there.mean()
    per_frame = sample.original.per_frame(gains)
    start, end = (frame * len(per_frame) / FRAMES for frame in TRUTH[action]["span"])
    assert start - sample.original.step[0] < per_frame.argmax() < end + sample.original.step[0]


def by_place(relevance: NDArray[np.float32], axes: str) -> NDArray[np.float64]:
    """(T, H, W), channels or features summed."""
    order = [axes.index(letter) for letter in "THW"]
    rest = ({0, 1, 2, 3} - set(order)).pop()
    return relevance.transpose(*order, rest).sum(axis=-1).astype(np.float64)


def test_a_curve_takes_out_frames_and_counts_what_it_cannot_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"broken")
    clips = [str(CLIPS / "run.mp4"), str(broken)]
    how = ["--region", "T=1", "--replace", "constant", "--steps", "4", "--score", "logit"]
    arguments = ["curve", str(MODELS["actions_fisher"]), *clips, "-o", str(tmp_path / "out"), *how, "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    document = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert (document["samples"], [one["name"] for one in document["skipped"]]) == (1, ["broken"])
    by_relevance, at_random = (curve["mean"][1] for curve in document["curves"])
    assert by_relevance > at_random


def test_a_batch_goes_on_without_the_clips_that_do_not_fit(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    frames = read_video(CLIPS / "hop.mp4").frames
    write_clip(clips / "frames_alone.avi", frames, "mjpeg")
    (clips / "broken.mp4").write_bytes(b"broken")
    shutil.copy(CLIPS / "hop.mp4", clips)
    arguments = ["explain", str(MODELS["actions_fisher"]), str(clips), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "1 explained, 2 skipped" in result.output
    document = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [Path(one["path"]).name for one in document["skipped"]] == ["broken.mp4", "frames_alone.avi"]
