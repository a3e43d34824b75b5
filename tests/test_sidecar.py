"""The sidecar says what a model's numbers mean, and says clearly what is wrong with itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from onnxlrp.data import Sidecar
from onnxlrp.data.fields import toml
from onnxlrp.errors import InputError, ModelError


def written(folder: Path, text: str) -> Path:
    path = folder / "model.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_sidecar_beside_the_model_says_nothing(tmp_path: Path) -> None:
    assert Sidecar.beside(tmp_path / "model.onnx") == Sidecar()


def test_the_sidecar_beside_the_model_is_read(tmp_path: Path) -> None:
    written(tmp_path, 'kind = "image"\nsize = 28\nlabels = ["no", "yes"]\n[about]\nlicence = "MIT"\n')
    sidecar = Sidecar.beside(tmp_path / "model.onnx")
    assert (sidecar.kind, sidecar.size, sidecar.labels) == ("image", (28, 28), ("no", "yes"))
    assert sidecar.about == {"licence": "MIT"}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    sidecar = Sidecar().replace(
        kind="image",
        name='a "quoted"\nname \x7f',
        layout="NHWC",
        size=[32, 64],
        scale=1 / 3,
        mean=[1.0, 2.0, 3.5e-9],
        box=[[-1, -2, -3], 4],
        labels=[f"class {number}" for number in range(40)],
        about={"accuracy": 0.97, "tags": ["a", "b"], "made by": {"script": "train.py", "epochs": 3}, "final": True},
    )
    path = tmp_path / "written.toml"
    sidecar.write(path, comments=["guessed:\nsee below"])
    assert path.read_text(encoding="utf-8").startswith("# guessed:\n# see below\n")
    assert dataclasses.replace(Sidecar.read(path), source=None) == sidecar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('kidn = "image"', ["kidn", '"image"', "Did you mean kind?"]),
        ("fruit = 3", ["fruit", "3", "Known keys", "layout"]),
        ('kind = "photo"', ["kind", '"photo"', '"image"', '"tabular"']),
        ('layout = "NCWW"', ["layout", '"NCWW"', '"NHWC"']),
        ("size = [224]", ["size", "[224]", "[height, width]"]),
        ("size = [224, true]", ["size", "true"]),
        ("std = 0", ["std", "0", "other than 0"]),
        ('mean = ["a"]', ["mean", '"a"', "one number per channel"]),
        ("scale = nan", ["scale", "nan"]),
        ("box = [1, 1]", ["box", "low < high"]),
        ("box = [[0, 0], [1, 1, 1]]", ["box", "[[0, 0], [1, 1, 1]]"]),
        ('preprocessing = "imgnet"', ["preprocessing", '"imgnet"', '"caffe-bgr"', '"-1-1"']),
        ('labels = "absent.txt"', ["labels", "absent.txt", "cannot be read"]),
        ("name = =", ["not valid TOML", "line 1"]),
    ],
)
def test_a_wrong_entry_names_file_key_value_and_what_is_allowed(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ModelError) as caught:
        Sidecar.read(path)
    assert all(part in str(caught.value) for part in [str(path), *expected]), caught.value


def test_a_sidecar_that_is_missing_or_not_text_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml: cannot be read"):
        Sidecar.read(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="not valid TOML"):
        Sidecar.read(tmp_path / "binary.toml")


def test_flags_override_the_file_and_are_checked_like_it() -> None:
    sidecar = Sidecar(kind="image", layout="NCHW").replace(layout="NHWC", kind=None)
    assert (sidecar.layout, sidecar.kind) == ("NHWC", None)
    with pytest.raises(InputError, match='layout = "NHWX" does not fit'):
        sidecar.replace(layout="NHWX")
    with pytest.raises(InputError, match="Did you mean layout"):
        sidecar.replace(layuot="NHWC")


def test_labels_come_one_per_line_or_by_index(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("tench\ngreat white shark\n\n", encoding="utf-8")
    (tmp_path / "table.tsv").write_text("index\twnid\tlabel\n2\tn02\thammerhead\n0\tn00\ttench\n", encoding="utf-8")
    assert Sidecar.read(written(tmp_path, 'labels = "lines.txt"')).labels == ("tench", "great white shark")
    assert Sidecar.read(written(tmp_path, 'labels = "table.tsv"')).labels == ("tench", "1", "hammerhead")


def test_a_label_index_that_repeats_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("0\ta\n0\tb\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"line 2 of .*table\.tsv"):
        Sidecar.read(written(tmp_path, 'labels = "table.tsv"'))


def test_a_label_file_stays_a_label_file_where_it_can(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
    sidecar = Sidecar.read(written(tmp_path, 'labels = "labels.txt"'))
    sidecar.write(tmp_path / "copy.toml")
    sidecar.write(tmp_path / "elsewhere" / "copy.toml")
    assert 'labels = "labels.txt"' in (tmp_path / "copy.toml").read_text(encoding="utf-8")
    assert Sidecar.read(tmp_path / "elsewhere" / "copy.toml").labels == ("a", "b")


def test_a_named_preprocessing_expands_and_explicit_keys_override_it() -> None:
    pixels = Sidecar(preprocessing="imagenet", std=0.5).pixels()
    assert (pixels.channels, pixels.mean, pixels.std) == ("RGB", (0.485, 0.456, 0.406), 0.5)
    assert Sidecar(preprocessing="caffe-bgr").pixels().channels == "BGR"
    assert Sidecar(preprocessing="0-1").pixels(channel_count=1).channels == "GRAY"


def test_per_channel_numbers_must_fit_the_channels() -> None:
    with pytest.raises(InputError, match=r"mean = \[0.485, 0.456, 0.406\] holds 3 numbers, channels GRAY needs 1"):
        Sidecar(preprocessing="imagenet", channels="GRAY").pixels()
    with pytest.raises(InputError, match="channels BGR does not fit an input of 1 channels"):
        Sidecar(preprocessing="caffe-bgr").pixels(channel_count=1)


def test_bounds_are_what_pixels_0_and_255_become() -> None:
    low, high = Sidecar(preprocessing="imagenet").bounds()
    assert low.shape == high.shape == (1, 3, 1, 1)
    assert low.dtype == np.float32
    # One float32 rounding of the textbook formula.
    np.testing.assert_allclose(low.ravel(), -np.array([0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], rtol=1e-6)
    np.testing.assert_allclose(high.ravel(), (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-6)


def test_bounds_lie_along_the_channel_axis_of_the_layout() -> None:
    assert Sidecar(preprocessing="imagenet", layout="NHWC").bounds()[0].shape == (1, 1, 1, 3)
    assert Sidecar(preprocessing="imagenet", layout="CHW").bounds()[0].shape == (3, 1, 1)
    assert Sidecar(preprocessing="0-1", channels="GRAY", layout="NHW").bounds()[1].item() == 1.0


def test_bounds_stay_ordered_when_pixels_are_inverted() -> None:
    low, high = Sidecar(preprocessing="0-1", scale=-1 / 255, mean=-1.0).bounds()
    assert (low.min(), high.max()) == (0.0, 1.0)


def test_an_explicit_box_wins_and_an_unknown_range_is_an_error() -> None:
    low, high = Sidecar(preprocessing="0-1", box=(-3.0, (1.0, 2.0, 3.0))).bounds()
    assert (low.item(), high.ravel().tolist()) == (-3.0, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="neither box nor preprocessing"):
        Sidecar(kind="tabular").bounds()


GUESSES = [
    ({"shape": (1, 3, 224, 224), "exporter": "onnx-caffe2"}, "image", "NCHW", "caffe-bgr"),
    ({"shape": ("n", 3, 224, 224), "exporter": "pytorch", "output_shape": (1, 1000)}, "image", "NCHW", "imagenet"),
    ({"shape": (None, 3, None, None), "exporter": "pytorch 2.1"}, "image", "NCHW", "imagenet"),
    ({"shape": (None, 1, 28, 28)}, "image", "NCHW", "0-1"),
    ({"shape": (None, 224, 224, 3), "exporter": "tf2onnx"}, "image", "NHWC", "-1-1"),
    ({"shape": (None, 32, 32, 3), "exporter": "keras2onnx"}, "image", "NHWC", "0-1"),
    ({"shape": (1, 1, 28, 28), "exporter": "CNTK 2.5.1"}, "image", "NCHW", "0-255"),
    ({"shape": (1, 3, 32, 32), "dtype": np.uint8}, "image", "NCHW", "0-255"),
    ({"shape": (None, 28, 28)}, "image", "NHW", "0-1"),
    ({"shape": (1, 1, 1, 5)}, "tensor", None, None),
    ({"shape": (None, 3, 16, 112, 112)}, "video", "NCTHW", "imagenet"),
    ({"shape": ("batch", "sequence"), "name": "input_ids", "dtype": np.int64}, "text", "NL", None),
    ({"shape": (None, 1), "name": "sex", "dtype": object}, "tabular", None, None),
    ({"shape": (None, 10, 3)}, "series", "NLC", None),
    ({"shape": (None, 12)}, "tabular", "NF", None),
    ({"shape": (1, 1, 64, 101), "name": "mel_spectrogram"}, "audio", None, None),
]


@pytest.mark.parametrize(("facts", "kind", "layout", "preprocessing"), GUESSES)
def test_a_guess_gives_its_reasons(
    facts: dict[str, object], kind: str, layout: str | None, preprocessing: str | None
) -> None:
    guess = Sidecar.guess(**facts)
    assert (guess.sidecar.kind, guess.sidecar.layout, guess.sidecar.preprocessing) == (kind, layout, preprocessing)
    assert guess.reasons[0].startswith(f"kind {kind}: ")
    assert len(guess.reasons) == 1 + (preprocessing is not None)


def test_a_guess_reads_back_from_its_file(tmp_path: Path) -> None:
    guess = Sidecar.guess(shape=(1, 28, 28, 1), exporter="tf2onnx")
    guess.sidecar.write(tmp_path / "model.toml", comments=guess.reasons)
    again = Sidecar.beside(tmp_path / "model.onnx")
    assert (again.layout, again.size, again.channels, again.resize) == ("NHWC", (28, 28), "GRAY", "stretch")


def test_a_half_written_sidecar_never_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.toml: cannot be written"):
        Sidecar(kind="image").write(tmp_path / "file" / "model.toml")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_toml_keeps_numbers_as_they_are() -> None:
    assert [toml(value) for value in (1, 1e-9, True, "ä", [1, 2.0])] == ["1", "1e-09", "true", '"ä"', "[1, 2.0]"]
