"""Videos: motion vectors from real streams, descriptors, pixels, the film, and what cannot be read."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxlrp.data import Footage, ModelInput, Sidecar, load
from onnxlrp.data.motion import Patches, describe, field_of
from onnxlrp.data.video import motion_of, read_video, write_video
from onnxlrp.errors import InputError, ModelError, Unsupported
from onnxlrp.report.film import FilmStrip

av = pytest.importorskip("av", reason="PyAV is not installed: pip install onnxlrp[video]")
from click.testing import CliRunner  # noqa: E402
from onnxlrp_cli import main  # noqa: E402

VECTOR = np.dtype(
    [(name, np.int32) for name in ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")]
)


def encode(path: Path, frames: NDArray[np.uint8], codec: str = "libx264", **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def moving(right: int, down: int, count: int = 12) -> NDArray[np.uint8]:
    """A spotted square on gray that moves by so many pixels a frame."""
    random = np.random.default_rng(0)
    frames = np.full((count, 96, 128, 3), 110, np.uint8)
    square = random.integers(0, 255, (8, 8), np.uint8).repeat(4, axis=0).repeat(4, axis=1)[..., None]
    for number in range(count):
        y, x = 32 + down * (number - count // 2), 48 + right * (number - count // 2)
        frames[number, y : y + 32, x : x + 32] = square
    return frames


def vectors(*rows: tuple[int, ...]) -> NDArray[np.void]:
    return np.array(list(rows), VECTOR)


# --- the field -------------------------------------------------------------------------------------------------------


def test_a_block_from_a_frame_before_moves_away_from_there() -> None:
    before = field_of([vectors((-1, 16, 16, 24, 8, -8, 4, 4))], 32, 48)
    after = field_of([vectors((1, 16, 16, 24, 8, 8, -4, 4))], 32, 48)
    expected = np.zeros((1, 4, 6, 2))
    expected[0, 0:2, 2:4] = (2.0, -1.0)
    np.testing.assert_array_equal(before, expected)
    np.testing.assert_array_equal(after, expected)


def test_small_partitions_count_by_area_and_two_sides_by_their_mean() -> None:
    small, before, after = (-1, 4, 4, 2, 2, -8, 0, 1), (-1, 8, 8, 12, 4, -2, 0, 1), (1, 8, 8, 12, 4, 4, 0, 1)
    field = field_of([vectors(small, before, after)], 8, 16)
    np.testing.assert_array_equal(field[0, 0, :, 0], [8 / 4, (2 + 4) / 2])


def test_blocks_that_reach_over_the_border_are_cut() -> None:
    field = field_of([vectors((-1, 16, 16, 0, 0, -4, 0, 4)), None], 16, 16)
    assert field[0, 0, 0, 0] == 1.0 and field[0, 1, 1, 0] == 0.0
    assert not field[1].any()


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {}), ("libx264", {"x264-params": "bframes=0"}), ("mpeg4", {}), ("mpeg2video", {"b": "800k"})],
)
@pytest.mark.parametrize(("right", "down"), [(3, 0), (-3, 0), (0, 2)])
def test_real_streams_give_the_direction_of_the_movement(
    tmp_path: Path, codec: str, options: dict[str, str], right: int, down: int
) -> None:
    """With B-frames too, whose vectors point both ways."""
    stream = read_video(encode(tmp_path / "clip.mkv", moving(right, down), codec, **options), vectors=True)
    field = field_of(stream.vectors, 96, 128)
    middle = field[2:-2, 5:7, 7:9].reshape(-1, 2)
    np.testing.assert_allclose(np.sign(middle.mean(axis=0).round()), np.sign((right, down)))


# --- descriptors -----------------------------------------------------------------------------------------------------


def test_a_descriptor_holds_direction_and_rest() -> None:
    field = np.zeros((4, 2, 2, 2))
    field[:2, 0, 0] = (3.0, 0.0)
    (descriptor,) = describe(field).reshape(-1, Patches().length)
    hof = (descriptor[:18] ** 2).reshape(2, 9)
    # first half: two blocks move by 3, six rest; second half: eight rest; 20 votes in all
    np.testing.assert_allclose(hof[0], [6 / 20, 0, 0, 0, 0, 0, 0, 0, 6 / 20], atol=1e-6)
    np.testing.assert_allclose(hof[1, 8], 8 / 20, rtol=1e-6)


def test_a_direction_between_two_bins_is_shared() -> None:
    angle = 2 * np.pi * (2 + 0.25) / 8
    field = np.broadcast_to(np.array([np.cos(angle), np.sin(angle)]), (4, 2, 2, 2))
    (descriptor,) = describe(field).reshape(-1, Patches().length)
    np.testing.assert_allclose(descriptor[:9] ** 2 * 2, [0, 0, 0.75, 0.25, 0, 0, 0, 0, 0], atol=1e-6)
    assert not descriptor[18:].any()  # the same everywhere: no gradient


def test_rest_has_no_descriptor_and_the_end_is_filled_with_rest() -> None:
    field = np.zeros((6, 3, 4, 2))
    field[5, 2, 3] = (0.0, -2.0)
    descriptors = describe(field)
    assert descriptors.shape == (2, 2, 2, 50)
    assert np.argwhere(np.abs(descriptors).sum(axis=-1) > 0).tolist() == [[1, 1, 1]]


def test_sizes_of_patches_come_from_the_sidecar(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.mp4", moving(3, 0))
    sidecar = Sidecar().replace(kind="video", layout="NTHWF", motion={"size": 32, "frames": 6, "bins": 4})
    entry = ModelInput("motion", np.dtype(np.float32), (1, "t", "h", "w", 26))
    assert load(clip, sidecar, [entry]).arrays["motion"].shape == (1, 2, 3, 4, 26)
    (tmp_path / "model.toml").write_text('kind = "video"\nmotion = {size = 12}\n')
    with pytest.raises(ModelError, match=r"motion = \{size = 12\} does not fit.*multiple of 8"):
        Sidecar.read(tmp_path / "model.toml")


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
def test_pixels_are_laid_out_as_the_model_wants(tmp_path: Path, layout: str) -> None:
    clip = encode(tmp_path / "clip.mp4", moving(2, 0))
    sizes = {"N": "batch", "C": 3, "T": 4, "H": 48, "W": 64}
    sidecar = Sidecar().replace(kind="video", layout=layout, resize="stretch", preprocessing="0-1")
    sample = load(clip, sidecar, [ModelInput("clip", np.dtype(np.float32), tuple(sizes[a] for a in layout))])
    values = sample.arrays["clip"].transpose([layout.index(a) for a in "NTHWC"])[0]
    assert values.shape == (4, 48, 64, 3)
    # the square has moved to the right by the same way between the four frames
    strength = np.abs(values.mean(axis=-1) - 110 / 255)
    centres = [np.average(np.arange(64), weights=np.where(one > 0.1, one, 0).sum(axis=0)) for one in strength]
    np.testing.assert_allclose(np.diff(centres), 3, atol=0.4)
    assert sample.original.frames.shape == (4, 48, 64, 3)
    assert sample.original.rate == Fraction(10, 3)


def test_a_model_of_any_length_reads_every_frame_and_a_short_clip_repeats_some(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.mp4", moving(2, 0, 6))
    sidecar = Sidecar().replace(kind="video", layout="NCTHW", channels="GRAY", resize="stretch")
    for wanted, have in (("time", 6), (9, 9)):
        entry = ModelInput("clip", np.dtype(np.float32), (1, 1, wanted, 32, 32))
        assert load(clip, sidecar, [entry]).arrays["clip"].shape == (1, 1, have, 32, 32)


def test_a_video_that_players_turn_is_read_upright(tmp_path: Path) -> None:
    """Telephones write portraits as turned landscapes; motion vectors stay those of the coded picture."""
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write turned videos")
        stream.set_display_rotation(90)
        for picture in moving(3, 0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    pixels = Sidecar().replace(kind="video", layout="NTHWC")
    upright = load(tmp_path / "turned.mp4", pixels, [ModelInput("x", np.dtype(np.float32), (1, "t", "h", "w", 3))])
    assert upright.original.frames.shape == (12, 128, 96, 3)
    motion = Sidecar().replace(kind="video", layout="NTHWF")
    coded = load(tmp_path / "turned.mp4", motion, [ModelInput("x", np.dtype(np.float32), (1, "t", "h", "w", 50))])
    assert coded.arrays["x"].shape == (1, 3, 6, 8, 50)
    assert "turns this video by" in coded.warnings[0]


# --- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [("mjpeg", "avi", {}), ("libvpx-vp9", "webm", {}), ("libx264", "mp4", {"g": "1"})],
)
def test_a_clip_without_motion_vectors_is_refused(
    tmp_path: Path, codec: str, suffix: str, options: dict[str, str]
) -> None:
    clip = encode(tmp_path / f"clip.{suffix}", moving(2, 0), codec, **options)
    with pytest.raises(InputError, match=r"clip\.\w+: this \w+ stream carries no motion vectors.*libx264"):
        motion_of(clip)


def test_a_clip_in_which_nothing_moves_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing moves in this clip"):
        motion_of(encode(tmp_path / "still.mp4", moving(0, 0)))


def test_files_that_are_no_videos_are_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"no video" * 100)
    whole = encode(tmp_path / "whole.mp4", moving(2, 0)).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    sound = tmp_path / "sound.mkv"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    for path, reason in ((garbage, "not a readable video"), (cut, "not a readable video"), (sound, "no video stream")):
        with pytest.raises(InputError, match=rf"{path.name}: .*{reason}"):
            read_video(path)
    with pytest.raises(InputError, match=r"absent\.mp4: no such file"):
        read_video(tmp_path / "absent.mp4")


def test_a_video_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxlrp.data.video.MOST_BYTES", 100_000)
    with pytest.raises(InputError, match=r"once decoded, after 2 frames of 128×96"):
        read_video(encode(tmp_path / "clip.mp4", moving(2, 0)))


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(Unsupported, match=r"pip install 'onnxlrp\[video\]"):
        read_video(tmp_path / "clip.mp4")


# --- the film --------------------------------------------------------------------------------------------------------


def test_relevance_per_frame_adds_up_to_all_of_it() -> None:
    footage = Footage(np.zeros((10, 24, 40, 3), np.uint8), Fraction(8), (4, 16, 16))
    elements = np.random.default_rng(0).standard_normal((3, 2, 3))
    per_frame = footage.per_frame(elements)
    assert per_frame.shape == (10,)
    np.testing.assert_allclose(per_frame.sum(), elements.sum())
    np.testing.assert_allclose(per_frame[8:], elements[2].sum() / 2)  # the last window covers two frames
    painted = footage.painted(elements, 5)
    assert painted.shape == (24, 40)
    assert painted[17, 33] == elements[1, 1, 2]


def test_a_film_can_be_played_and_shows_relevance_in_red_and_blue(tmp_path: Path) -> None:
    values = np.zeros((3, 2, 3))
    values[1, 0, 0], values[1, 1, 2] = 2.0, -2.0
    footage = Footage(np.full((12, 32, 48, 3), 128, np.uint8), Fraction(8), (4, 16, 16))
    shown = FilmStrip("a clip", values, "signed", footage)
    assert shown.write(tmp_path, "clip", "png") == ["clip-frames.png", "clip-film.mp4"]
    film = read_video(tmp_path / "clip-film.mp4")
    assert (len(film.frames), film.rate) == (12, 8)
    red, _, blue = np.moveaxis(film.frames[5].astype(int), -1, 0)
    assert red[20, 20] - blue[20, 20] > 80 and blue[250, 400] - red[250, 400] > 80
    assert np.ptp(film.frames[1][20, 20].astype(int)) < 20  # the first window has none
    assert shown.key_frames == [1, 3, *range(4, 12)]
    assert len(list(shown.spans())) == 12
    assert shown.notes()["relevance_per_frame"] == [0.0] * 12
    assert "sum 0" in shown.legend


def test_arrays_without_a_video_are_drawn_on_white(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("ReduceSum", ["y", "axes"], ["z"], keepdims=0)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 3, 8, 9])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.float32(1), "w"), numpy_helper.from_array(np.array([2, 3, 4]), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    Sidecar().replace(kind="video", layout="NCTHW").write(model.with_suffix(".toml"))
    np.save(tmp_path / "x.npy", np.ones((1, 1, 3, 8, 9), np.float32))
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["explain", str(model), str(tmp_path / "x.npy"), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert {"x-lrp-frames.png", "x-lrp-film.mp4"} <= {path.name for path in out.iterdir()}


def test_without_a_sidecar_what_is_guessed_of_a_video_is_said(tmp_path: Path) -> None:
    model, clip = tmp_path / "model.onnx", encode(tmp_path / "clip.mp4", moving(2, 0))
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    result = CliRunner().invoke(main, ["explain", str(model), str(clip), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "Guessed: kind video" in result.output and "preprocessing imagenet" in result.output


def test_odd_sizes_can_be_written(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", [np.zeros((33, 41, 3), np.uint8)] * 3, Fraction(5))
    assert read_video(tmp_path / "odd.mp4").frames.shape == (3, 32, 40, 3)
