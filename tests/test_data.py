"""Files become what the model is fed, or one clear error."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnxlrp.data import Sidecar, expand, load, load_image, preprocess, sample_names, unflatten, unprocess
from onnxlrp.data.sample import LOADERS, Sample, loader
from onnxlrp.data.sidecar import KINDS
from onnxlrp.errors import InputError

FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class FakeInput:
    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any] = FLOAT


IMAGE = FakeInput("image", ("batch", 3, 4, 6))


def photo(height: int = 4, width: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def saved(path: Path, picture: NDArray[Any] | Image.Image, **options: Any) -> Path:
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path


def test_a_photo_is_read_as_it_is(tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_image(saved(tmp_path / "a.png", photo())), photo())


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = load_image(saved(tmp_path / "a.png", photo(), exif=exif))
    np.testing.assert_array_equal(upright, np.rot90(photo(), -1))


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    picture = load_image(saved(tmp_path / "a.png", clear))
    assert picture[0, 0].tolist() == [10, 20, 30]
    assert picture[1, 1].tolist() == [255, 255, 255]


def test_a_transparent_palette_is_flattened(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.putpixel((1, 0), 1)
    picture = load_image(saved(tmp_path / "a.png", palette, transparency=bytes([255, 0])))
    assert picture.tolist() == [[[200, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_become_eight(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert load_image(saved(tmp_path / f"a{suffix}", deep))[0, :, 0].tolist() == [0, 100, 255]


def test_gray_has_three_equal_channels(tmp_path: Path) -> None:
    picture = load_image(saved(tmp_path / "a.png", photo()[..., 0]))
    np.testing.assert_array_equal(picture, photo()[..., :1].repeat(3, -1))


def test_a_missing_file_a_text_file_and_a_truncated_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    whole = io.BytesIO()
    Image.fromarray(photo(64, 64)).save(whole, format="JPEG")
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    for complaint in (
        "absent.png: no such file",
        "text.png: not a readable picture",
        "half.jpg: not a readable picture",
    ):
        with pytest.raises(InputError, match=complaint):
            load_image(tmp_path / complaint.split(":")[0])


def test_preprocessing_is_scale_then_mean_then_std_in_nchw() -> None:
    sidecar = Sidecar(preprocessing="imagenet", layout="NCHW")
    fed = preprocess(photo(), sidecar, (1, 3, 4, 6))
    expected = (photo() / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert (fed.shape, fed.dtype) == ((1, 3, 4, 6), np.float32)
    np.testing.assert_allclose(fed[0], expected.transpose(2, 0, 1), rtol=1e-6, atol=1e-6)


def test_caffe_takes_blue_first() -> None:
    fed = preprocess(photo(), Sidecar(preprocessing="caffe-bgr"), (1, 3, 4, 6))
    np.testing.assert_allclose(fed[0, 0], photo()[..., 2] - 103.939, atol=1e-4)
    np.testing.assert_allclose(fed[0, 2], photo()[..., 0] - 123.68, atol=1e-4)


def test_nhwc_keeps_channels_last_and_chw_has_no_batch() -> None:
    sidecar = Sidecar(preprocessing="0-255")
    np.testing.assert_array_equal(preprocess(photo(), sidecar, (None, 4, 6, 3))[0], photo())
    np.testing.assert_array_equal(preprocess(photo(), sidecar, (3, 4, 6)), photo().transpose(2, 0, 1))


def test_one_channel_is_gray_and_flattened_pictures_are_flat() -> None:
    gray = preprocess(photo()[..., :1].repeat(3, -1), Sidecar(preprocessing="0-1"), ("n", 1, 4, 6))
    np.testing.assert_allclose(gray[0, 0], photo()[..., 0] / 255, atol=1e-7)
    flat = preprocess(photo(), Sidecar(kind="image", preprocessing="0-1", size=(4, 6)), (None, 24))
    assert flat.shape == (1, 24)
    assert unflatten(flat, Sidecar(size=(4, 6))).shape == (1, 1, 4, 6)


def test_any_size_is_kept_where_the_model_takes_any() -> None:
    assert preprocess(photo(5, 9), Sidecar(), ("n", 3, "h", "w")).shape == (1, 3, 5, 9)


def test_shorter_side_keeps_seven_eighths_of_the_middle() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3))
    fed = preprocess(ramp, Sidecar(size=(70, 70)), ("n", 3, "h", "w"))
    assert fed.shape == (1, 3, 70, 70)
    # 100 × 200 becomes 80 × 160; the middle 70 columns are 45…115 of them, 56.25…143.75 of the photo.
    assert abs(fed[0, 0, 0, 0] - 56.5) < 1.5
    assert abs(fed[0, 0, 0, -1] - 142.5) < 1.5


def test_stretch_and_crop_show_the_whole_height() -> None:
    ramp = np.tile(np.arange(100, dtype=np.uint8)[:, None, None], (1, 200, 3))
    for resize in ("stretch", "crop"):
        column = preprocess(ramp, Sidecar(size=(50, 50), resize=resize), ("n", 3, "h", "w"))[0, 0, :, 25]
        assert column[0] < 2
        assert column[-1] > 97


def test_a_picture_of_the_right_size_loses_no_border() -> None:
    np.testing.assert_array_equal(preprocess(photo(), Sidecar(), (1, 3, 4, 6))[0, 0], photo()[..., 0])


def test_a_size_that_contradicts_the_model_is_an_error() -> None:
    with pytest.raises(InputError, match=r"size = \[5, 5\] contradicts the model's input \[1, 3, 4, 6\]"):
        preprocess(photo(), Sidecar(size=(5, 5)), (1, 3, 4, 6))


@pytest.mark.parametrize("preprocessing", ["imagenet", "caffe-bgr", "0-1", "-1-1", "0-255"])
@pytest.mark.parametrize("shape", [(1, 3, 4, 6), (1, 4, 6, 3)])
def test_unprocess_shows_what_the_network_saw(preprocessing: str, shape: tuple[int, ...]) -> None:
    sidecar = Sidecar(preprocessing=preprocessing)
    np.testing.assert_array_equal(unprocess(preprocess(photo(), sidecar, shape), sidecar), photo())


def test_loading_a_photo_gives_array_and_picture(tmp_path: Path) -> None:
    sample = load(saved(tmp_path / "cat.png", photo()), Sidecar(preprocessing="0-1"), [IMAGE])
    assert (sample.name, list(sample.arrays), sample.arrays["image"].shape) == ("cat", ["image"], (1, 3, 4, 6))
    assert sample.picture is not None
    np.testing.assert_array_equal(sample.picture, photo())


def test_a_quantised_model_is_fed_its_own_type(tmp_path: Path) -> None:
    entry = FakeInput("image", (1, 3, 4, 6), np.dtype(np.uint8))
    sample = load(saved(tmp_path / "cat.png", photo()), Sidecar(), [entry])
    assert sample.arrays["image"].dtype == np.uint8
    np.testing.assert_array_equal(sample.arrays["image"][0, 1], photo()[..., 1])


def test_a_photo_for_a_model_with_two_inputs_asks_for_npz(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one file cannot feed 2 inputs \('image', 'mask'\)"):
        load(saved(tmp_path / "cat.png", photo()), Sidecar(), [IMAGE, FakeInput("mask", (1,))])


def test_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((5, 3, 4, 6))
    np.save(tmp_path / "batch.npy", values)
    fed = load(tmp_path / "batch.npy", Sidecar(), [IMAGE]).arrays["image"]
    assert fed.dtype == np.float32
    np.testing.assert_array_equal(fed, values.astype(np.float32))


def test_an_array_for_an_image_model_shows_its_picture(tmp_path: Path) -> None:
    sidecar = Sidecar(kind="image", preprocessing="imagenet")
    np.save(tmp_path / "a.npy", preprocess(photo(), sidecar, (1, 3, 4, 6)))
    picture = load(tmp_path / "a.npy", sidecar, [IMAGE]).picture
    assert picture is not None
    np.testing.assert_array_equal(picture, photo())


def test_npz_feeds_inputs_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", age=np.ones((2, 1)), sex=np.array([["f"], ["m"]]))
    inputs = [FakeInput("age", (None, 1)), FakeInput("sex", (None, 1), np.dtype(object))]
    arrays = load(tmp_path / "a.npz", Sidecar(), inputs).arrays
    assert (arrays["age"].dtype, arrays["sex"].dtype) == (np.float32, np.dtype(object))
    assert arrays["sex"].tolist() == [["f"], ["m"]]


def test_npz_with_other_names_says_which_fits_which(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ages=np.ones((2, 1)), fare=np.ones((2, 1)))
    with pytest.raises(InputError) as caught:
        load(tmp_path / "a.npz", Sidecar(), [FakeInput("age", (None, 1)), FakeInput("fare", (None, 1))])
    for part in ("a.npz", "missing 'age'", "unknown 'ages'", "'ages' looks like 'age'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 3, 4, 5), np.float32), r"input 'image' expects shape \(batch, 3, 4, 6\), met \(1, 3, 4, 5\)"),
        (np.zeros((3, 4, 6), np.float32), r"met \(3, 4, 6\)\. Add the batch axis"),
        (np.zeros((1, 3, 4, 6), np.complex64), "expects float32 values, met complex64"),
        (np.full((1, 3, 4, 6), 1e300), "too large for float32"),
        (np.full((1, 3, 4, 6), "a"), "expects float32 values, met <U1"),
    ],
)
def test_an_array_that_does_not_fit_names_both_sides(tmp_path: Path, values: NDArray[Any], message: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.npy", Sidecar(), [IMAGE])


def test_fractions_are_no_tokens(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0.5]]))
    with pytest.raises(InputError, match=r"expects int64 values, met float64 from 0\.5 to 0\.5"):
        load(tmp_path / "a.npy", Sidecar(), [FakeInput("ids", (1, 1), np.dtype(np.int64))])


def test_pickles_and_broken_files_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array", encoding="utf-8")
    (tmp_path / "text.npz").write_bytes(b"PK\x03\x04 broken")
    for name, reason in [("objects.npy", "never loaded"), ("text.npy", "never loaded"), ("text.npz", "not a readable")]:
        with pytest.raises(InputError, match=rf"{name}.*{reason}"):
            load(tmp_path / name, Sidecar(), [IMAGE])
    with pytest.raises(InputError, match=r"absent\.npy: no such file"):
        load(tmp_path / "absent.npy", Sidecar(), [IMAGE])


def test_a_kind_without_a_loader_is_an_error_that_lists_the_loaders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(LOADERS, "audio")
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"a\.wav: no loader for kind 'audio'.*image"):
        load(tmp_path / "a.wav", Sidecar(kind="audio"), [IMAGE])
    with pytest.raises(InputError, match=r"no loader for suffix '\.wav'"):
        load(tmp_path / "a.wav", Sidecar(), [IMAGE])


def test_a_new_kind_is_one_registered_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setitem(LOADERS, "points", LOADERS["image"])  # so that what is registered below goes away again
    request.addfinalizer(lambda: KINDS.remove("points"))

    @loader("points", (".ply",))
    def load_points(path: Path, sidecar: Sidecar, inputs: Any) -> Sample:
        return Sample(sidecar.kind or path.stem, {inputs[0].name: np.zeros(3, np.float32)})

    (tmp_path / "a.ply").write_bytes(b"ply")
    (tmp_path / "model.toml").write_text('kind = "points"\n', encoding="utf-8")
    assert load(tmp_path / "a.ply", Sidecar.read(tmp_path / "model.toml"), [IMAGE]).name == "points"
    assert expand([tmp_path]) == [tmp_path / "a.ply"]


def test_folders_globs_and_files_expand_sorted_and_once(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/c.npy", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    everything = [tmp_path / name for name in ("a.JPG", "b.png", "deep/c.npy")]
    assert expand([tmp_path]) == everything
    assert expand([tmp_path / "*.png", tmp_path]) == [everything[1], everything[0], everything[2]]
    assert expand([tmp_path / "**" / "*.npy"]) == everything[2:]
    assert expand([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("*.gif", "matches no file"), ("absent.png", "no such file"), ("empty", "nothing in this folder")],
)
def test_an_empty_match_is_an_error(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=reason) as caught:
        expand([tmp_path / name])
    assert str(tmp_path / name) in str(caught.value)


def test_sample_names_are_unique_where_stems_repeat(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one/a.png", "two/a.png", "two/b.png")]
    assert sample_names(paths) == ["one_a.png", "two_a.png", "b"]
