"""Time series and sound: files to samples, features, and the pictures of their relevance."""

from __future__ import annotations

import csv
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from nets import Array, Net
from onnxlrp_cli import main
from PIL import Image
from shared import SHARED, needs

import onnxlrp
from onnxlrp.data import Sidecar, load, meaning_of
from onnxlrp.data.audio import Sound, read_sound, resampled
from onnxlrp.data.meaning import ModelInput, inputs_of
from onnxlrp.data.spectrogram import spectrogram
from onnxlrp.errors import InputError, ModelError
from onnxlrp.model import read
from onnxlrp.report.gallery import Entry, Gallery
from onnxlrp.report.traces import COLUMNS, Trace, draw_trace, parts, summed

RATE = 8000


def series_input(*shape: Any) -> ModelInput:
    return ModelInput("x", np.dtype(np.float32), shape)


def fed(path: Path, content: str, entry: ModelInput, **said: Any) -> Array:
    path.write_text(content, encoding="utf-8")
    return load(path, Sidecar().replace(kind="series", **said), [entry]).arrays["x"]


def write_wave(path: Path, values: Array, rate: int = RATE, width: int = 2, channels: int = 1) -> Path:
    """values : −1…1, channels interleaved"""
    numbers = np.rint(values * (2.0 ** (8 * width - 1) - 1)).astype(np.int64) + (128 if width == 1 else 0)
    content = b"".join(int(n).to_bytes(width, "little", signed=width > 1) for n in numbers)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(content)
    return path


# --- series ----------------------------------------------------------------------------------------------------------


def test_a_table_becomes_the_axes_of_the_layout(tmp_path: Path) -> None:
    table = "a,b\n1,2\n3,4\n5,6\n"
    assert fed(tmp_path / "t.csv", table, series_input(1, 2, 3), layout="NCL").tolist() == [[[1, 3, 5], [2, 4, 6]]]
    assert fed(tmp_path / "t.csv", table, series_input(1, 3, 2), layout="NLC").tolist() == [[[1, 2], [3, 4], [5, 6]]]
    assert fed(tmp_path / "t.csv", "1\n3\n", series_input("batch", 2), layout="NL").tolist() == [[1, 3]]


def test_columns_are_chosen_by_name_and_scaled(tmp_path: Path) -> None:
    said = {"layout": "NCL", "features": ["b", "a"], "mean": [1, 0], "std": [2, 1]}
    assert fed(tmp_path / "t.csv", "a;b;c\n1;3;9\n2;5;9\n", series_input(1, 2, 2), **said).tolist() == [
        [[1, 2], [1, 2]]
    ]


def test_json_holds_channels_by_name_or_steps(tmp_path: Path) -> None:
    named = json.dumps({"a": [1, 2], "b": [3, 4]})
    assert fed(tmp_path / "t.json", named, series_input(1, 2, 2), layout="NLC").tolist() == [[[1, 3], [2, 4]]]
    assert fed(tmp_path / "t.json", "[1, 2, 3]", series_input(1, 3), layout="NL").tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "", "the table is empty"),
        ("t.csv", "a,b\n", "a heading and no rows"),
        ("t.csv", "a,b\n1,2\n3\n", r"line 3: holds 1 cells, and the lines above 2"),
        ("t.csv", "a,b\n1,2\n3,n/a\n", r"line 3, column 2: 'n/a' is no number"),
        ("t.csv", "a,b\n1,2\n", r"expects shape \(1, 2, 3\), met \(1, 2, 1\)"),
        ("t.json", "{", "not a series as JSON"),
        ("t.json", '{"a": [1, 2], "b": [1]}', "not a series as JSON"),
        ("t.json", "[[[1]]]", r"\[1, 1, 1\]"),
        ("t.json", "[NaN]", "finite"),
    ],
)
def test_what_is_no_series_says_where(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fed(tmp_path / name, content, series_input(1, 2, 3), layout="NCL")


def test_channels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'z'"):
        fed(tmp_path / "t.csv", "a,b\n1,2\n", series_input(1, 1, 1), layout="NCL", features=["z"])
    with pytest.raises(InputError, match="holds 2 channels"):
        fed(tmp_path / "t.csv", "a,b\n1,2\n", series_input(1, 1), layout="NL")
    with pytest.raises(InputError, match="mean holds 3 numbers, and the series 2 channels"):
        fed(tmp_path / "t.csv", "a,b\n1,2\n", series_input(1, 2, 1), layout="NCL", mean=[1, 2, 3])


# --- sound -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_of_wave_reads_back(tmp_path: Path, width: int) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 50)
    heard = read_sound(write_wave(tmp_path / "a.wav", values, width=width))
    assert heard.rate == RATE
    assert np.abs(heard.waveform - values).max() < 2.5 / 2 ** (8 * width - 1)


def test_other_formats_are_read_where_a_library_is_there(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    values = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    with av.open(str(tmp_path / "a.flac"), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.rint(values * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    heard = read_sound(tmp_path / "a.flac")
    assert heard.rate == RATE
    assert np.abs(heard.waveform - values).max() < 1e-4


def test_channels_are_averaged(tmp_path: Path) -> None:
    heard = read_sound(write_wave(tmp_path / "a.wav", np.array([0.5, 0.25, -0.5, 0.0]), channels=2))
    np.testing.assert_allclose(heard.waveform, [0.375, -0.25], atol=1e-4)


@pytest.mark.parametrize("rate", [4000, 16000, 11025])
def test_resampling_keeps_a_tone(rate: int) -> None:
    tone = lambda r: np.sin(2 * np.pi * 440 * np.arange(r) / r)  # noqa: E731
    np.testing.assert_allclose(resampled(Sound(tone(RATE), RATE), rate).waveform, tone(rate), atol=1e-9)


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    high = np.sin(2 * np.pi * 3000 * np.arange(RATE) / RATE)
    assert np.abs(resampled(Sound(high, RATE), 4000).waveform).max() < 1e-9


def test_a_tone_lies_in_its_mel_band() -> None:
    said = {"window": 256, "hop": 128, "bands": 20, "low": 0, "high": 4000, "log": "none"}
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    bands = spectrogram(tone, RATE, said, "here")
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    assert bands.shape == (1 + (RATE - 256) // 128, 20)
    assert set(bands.argmax(axis=1)) == {round(mel(1000) / (mel(4000) / 21)) - 1}


def test_a_transform_is_the_sum_of_its_definition() -> None:
    x = np.random.default_rng(0).standard_normal(40)
    found = spectrogram(x, RATE, {"window": 16, "hop": 8, "power": 1, "log": "none"}, "here")
    n, hann = np.arange(16), np.sin(np.pi * np.arange(16) / 16) ** 2
    wanted = [
        [abs(np.sum(hann * x[t * 8 : t * 8 + 16] * np.exp(-2j * np.pi * f * n / 16))) for f in range(9)]
        for t in range(4)
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"windows": 3}, "no key 'windows'"),
        ({"hop": 1.5}, "hop = 1.5"),
        ({"log": "ln"}, "log = 'ln'"),
        ({"hop": 0}, "1 at least"),
    ],
)
def test_a_spectrogram_that_does_not_exist_is_refused(said: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        spectrogram(np.zeros(999), RATE, said, "model.toml")


def sound_of(path: Path, *shape: Any, **said: Any) -> Any:
    return load(path, Sidecar().replace(kind="audio", layout="NL", **said), [series_input(*shape)])


def test_a_recording_is_brought_to_the_rate_and_length_of_the_model(tmp_path: Path) -> None:
    path = write_wave(tmp_path / "a.wav", np.full(400, 0.5))
    assert sound_of(path, 1, 400, rate=RATE).warnings == ()
    shorter = sound_of(path, 1, 100, rate=RATE)
    assert shorter.arrays["x"].shape == (1, 100) and "100 of 400 samples were read" in shorter.warnings[0]
    longer = sound_of(path, 1, 900, rate=16000)
    assert longer.arrays["x"].shape == (1, 900) and longer.arrays["x"][0, 850] == 0
    assert "Resampled from 8000 to 16000 Hz" in longer.warnings[0] and "filled up with silence" in longer.warnings[1]
    assert "says no `rate`" in sound_of(path, 1, 400).warnings[0]


def test_what_is_no_recording_says_what_was_tried(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"a\.wav: not a recording.*Give a WAV file"):
        sound_of(tmp_path / "a.wav", 1, 4)
    with pytest.raises(InputError, match="no such file"):
        sound_of(tmp_path / "none.wav", 1, 4)
    with pytest.raises(InputError, match="the recording is empty"):
        sound_of(write_wave(tmp_path / "e.wav", np.zeros(0)), 1, 4)


def test_a_rate_is_a_number_above_zero(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text("rate = 0\n")
    with pytest.raises(ModelError, match="a number above 0"):
        Sidecar.read(tmp_path / "model.toml")


def test_states_and_rates_beside_the_recording_are_fed(tmp_path: Path) -> None:
    inputs = [
        series_input("batch", "n"),
        ModelInput("sr", np.dtype(np.int64), ()),
        ModelInput("state", np.dtype(np.float32), (2, "batch", 8)),
    ]
    path = write_wave(tmp_path / "a.wav", np.zeros(64))
    arrays = load(path, Sidecar().replace(kind="audio", layout="NL", rate=RATE), inputs).arrays
    assert arrays["sr"] == RATE and arrays["sr"].dtype == np.int64
    assert arrays["state"].shape == (2, 1, 8) and not arrays["state"].any()


# --- pictures --------------------------------------------------------------------------------------------------------


def test_summing_keeps_the_total() -> None:
    relevance = np.random.default_rng(0).standard_normal((3, 10_007))
    columns = summed(relevance, COLUMNS)
    assert columns.shape == (3, COLUMNS)
    np.testing.assert_allclose(columns.sum(axis=1), relevance.sum(axis=1))
    assert parts(5, 9).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_terminal_shows_height_and_colour() -> None:
    signal, relevance = np.array([[0.0, 0, 1, 0]]), np.array([[0.0, 0, 3, -3]])
    spans = list(Trace("t", signal, relevance, "signed", ["a"]).spans())
    assert [text for text, _ in spans[1:5]] == ["▁", "▁", "█", "▁"]
    (_, quiet), (_, loud), (_, against) = spans[1], spans[3], spans[4]
    assert quiet == (255, 255, 255) and loud is not None and against is not None
    assert loud[0] > loud[2] and against[2] > against[0]


def test_a_channel_of_no_change_and_no_relevance_is_drawn() -> None:
    zeros = np.zeros((2, 5000))
    assert len(draw_trace(Trace("t", zeros, zeros, "positive", ["a", "b"])).axes) == 3


def bump_model(folder: Path) -> Path:
    """Two classes: a bump in the middle channel, a bump in the right one."""
    net = Net()
    x = net.input("x", ["batch", 3, 200])
    kernels = np.zeros((2, 3, 15), np.float32)
    kernels[0, 1] = kernels[1, 2] = np.hanning(15)
    hidden = net.Relu(net.Conv(x, net.weight(kernels), pads=[7, 7]))
    mean = net.Flatten(net.ReduceMean(hidden, axes=[2]))
    onnx.save(net.model(net.MatMul(mean, net.weight(np.array([[1, -1], [-1, 1]], np.float32)))), folder / "bump.onnx")
    names = ["left", "middle", "right"]
    Sidecar().replace(kind="series", layout="NCL", rate=50, features=names, labels=["middle", "right"]).write(
        folder / "bump.toml"
    )
    return folder / "bump.onnx"


def walk(path: Path) -> Path:
    values = 0.01 * np.random.default_rng(0).standard_normal((200, 3))
    values[60:80, 1] += np.hanning(20)
    path.write_text("left,middle,right\n" + "\n".join(",".join(map(str, row)) for row in values), encoding="utf-8")
    return path


def explained(model: Path, paths: list[Path], out: Path) -> Entry:
    found = read(model)
    meaning = meaning_of(found, {})
    explainer = onnxlrp.Explainer(found, providers="cpu", labels=meaning.sidecar.labels)
    (entry,) = Gallery([explainer], meaning, out).explain(paths).entries
    return entry


def test_explain_draws_a_series_and_names_its_windows(tmp_path: Path) -> None:
    entry = explained(bump_model(tmp_path), [walk(tmp_path / "walk.csv")], tmp_path / "out")
    assert entry.predictions[0].label == "middle"
    with Image.open(tmp_path / "out" / "walk-lrp-trace.png") as picture:
        assert picture.width == 1200
    first = json.loads((tmp_path / "out" / "explain.json").read_text())["inputs"][0]["windows"][0][0]
    assert first["channel"] == "middle" and 1.2 <= first["from"] < first["to"] <= 1.6


def test_without_features_the_heading_names_the_channels(tmp_path: Path) -> None:
    model = bump_model(tmp_path)
    Sidecar().replace(kind="series", layout="NCL").write(tmp_path / "bump.toml")
    explained(model, [walk(tmp_path / "walk.csv")], tmp_path / "out")
    first = json.loads((tmp_path / "out" / "explain.json").read_text())["inputs"][0]["windows"][0][0]
    assert first["channel"] == "middle"


def test_windows_of_a_series_are_regions_of_a_curve(tmp_path: Path) -> None:
    """Replacing the window of the bump by zero takes the whole score at once."""
    words = [str(bump_model(tmp_path)), str(walk(tmp_path / "walk.csv")), "-o", str(tmp_path / "out"), "--json"]
    words += ["--region", "20", "--steps", "3", "--replace", "constant", "--score", "logit", "--provider", "cpu"]
    done = CliRunner().invoke(main, ["curve", *words])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "out" / "curve.csv").read_text().splitlines()))
    falls = [float(row["mean"]) for row in rows if row["method"].startswith("lrp") and row["score"] == "logit"]
    assert falls[1] > 0.9 * max(falls) > 0


def test_explain_draws_a_spectrogram_under_its_waveform(tmp_path: Path) -> None:
    net = Net()
    weights = np.zeros((20, 2), np.float32)
    weights[4:8, 0] = weights[12:16, 1] = 1
    hidden = net.Relu(net.MatMul(net.input("mel", ["batch", "frames", 20]), net.weight(weights)))
    onnx.save(net.model(net.ReduceMean(hidden, axes=[1], keepdims=0)), tmp_path / "mel.onnx")
    features = {"window": 256, "hop": 128, "bands": 20, "log": "none"}
    Sidecar().replace(kind="audio", layout="NTF", rate=RATE, spectrogram=features).write(tmp_path / "mel.toml")
    time = np.arange(RATE) / RATE
    write_wave(tmp_path / "beep.wav", 0.5 * np.sin(2 * np.pi * 500 * time) * (time > 0.6))
    entry = explained(tmp_path / "mel.onnx", [tmp_path / "beep.wav"], tmp_path / "out")
    assert "beep-lrp-spectrogram.png" in entry.files
    (shown,) = entry.shown
    assert shown.values.shape[0] == 20
    windows = shown.notes()["windows"]
    assert all(window["to"] > 0.6 for window in windows[:3])


@needs("zoo")
@pytest.mark.parametrize(
    ("folder", "layout"),
    [("openWakeWord--hey_barcoh-2-", "NTF"), ("dianna--season_prediction_model_temp_max_binary", "NLC")],
)
def test_models_of_the_zoo_take_arrays_of_their_kind(tmp_path: Path, folder: str, layout: str) -> None:
    path = SHARED / "zoo" / folder
    model = read(path / "model.onnx")
    kind = "audio" if layout == "NTF" else "series"
    explainer = onnxlrp.Explainer(model, providers="cpu", layout=layout)
    meaning = meaning_of(model, {"kind": kind, "layout": layout})
    (entry,) = Gallery([explainer], meaning, tmp_path).explain([path / "input.npz"]).entries
    assert any(file.endswith(("-trace.png", "-spectrogram.png")) for file in entry.files)
    assert inputs_of(model)[0].name in explainer.explained


@needs("zoo")
def test_flattened_features_and_a_model_with_states_are_drawn(tmp_path: Path) -> None:
    keywords = SHARED / "zoo" / "emx-onnx-cgen--micro_kws_m_static_fp32"
    model = read(keywords / "model.onnx")
    meaning = meaning_of(model, {"kind": "audio", "layout": "NF", "size": [49, 40]})
    (entry,) = (
        Gallery([onnxlrp.Explainer(model, providers="cpu")], meaning, tmp_path)
        .explain([keywords / "input.npz"])
        .entries
    )
    assert entry.shown[0].values.shape == (40, 49)
    speech = read(SHARED / "zoo" / "silero-vad--silero_vad_op18_ifless" / "model.onnx")
    meaning = meaning_of(speech, {"kind": "audio", "layout": "NL", "rate": 16000})
    path = write_wave(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(1600), 16000)
    explainer = onnxlrp.Explainer(speech, providers="cpu", layout="NL")
    (entry,) = Gallery([explainer], meaning, tmp_path).explain([path]).entries
    assert "a-lrp-input-trace.png" in entry.files
