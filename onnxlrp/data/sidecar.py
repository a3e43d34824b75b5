"""The sidecar: `model.toml` beside `model.onnx` says what the model's numbers mean.

    kind = "image"
    layout = "NCHW"
    size = [224, 224]
    preprocessing = "imagenet"
    labels = "labels.txt"

    [about]
    licence = "MIT"

A named preprocessing stands for channels, scale, mean and std; each of those keys overrides its part of it.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data import fields
from onnxlrp.data.fields import Levels
from onnxlrp.data.labels import read_labels
from onnxlrp.data.pixels import CHANNEL_ORDERS, NAMED, Pixels
from onnxlrp.errors import InputError, ModelError
from onnxlrp.files import atomic_write

if TYPE_CHECKING:
    from onnxlrp.data.guess import Guess

KINDS = ["tensor"]
"""Kinds of input that a sidecar may name: arrays as they are, and one per loader (see `sample.loader`)."""

KEYS: dict[str, fields.Check] = {
    "kind": lambda value: fields.one_of(*KINDS)(value),
    "name": fields.text,
    "layout": fields.axis_letters,
    "size": fields.height_width,
    "channels": fields.one_of(*CHANNEL_ORDERS),
    "preprocessing": fields.one_of(*NAMED),
    "scale": fields.levels_not_zero,
    "mean": fields.levels,
    "std": fields.levels_not_zero,
    "resize": fields.one_of("shorter-side", "crop", "stretch"),
    "box": fields.box,
    "labels": lambda value: value if isinstance(value, str) and value else fields.names(value),
    "features": fields.names,
    "rate": fields.positive,
    "spectrogram": fields.table,
    "tokenizer": fields.text,
    "longest": fields.whole,
    "logits": fields.text,
    "preset": fields.text,
    "motion": fields.patches,
    "about": fields.table,
}


@dataclass(frozen=True)
class Sidecar:
    """What a model's numbers mean. A field that is None was not said; `about` holds whatever the author noted.

    name    : the model's name, for titles        size      : (height, width) of the picture the model sees
    layout  : axes of the input, a letter each    resize    : how a photo gets that size
    box     : lowest and highest input            labels    : one per class
    features: column names, channel names
    rate    : samples per second of a recording or series        spectrogram : how a recording becomes features
    tokenizer, logits : a file beside the model; the tensor that holds the logits
    longest : tokens of a text at most, where the model has no more positions
    preset  : of LRP, the one that suits the model's architecture
    motion  : of videos read as motion vectors: how patches are cut, see `onnxlrp.data.motion.Patches`
    """

    kind: str | None = None
    name: str | None = None
    layout: str | None = None
    size: tuple[int, int] | None = None
    channels: str | None = None
    preprocessing: str | None = None
    scale: Levels | None = None
    mean: Levels | None = None
    std: Levels | None = None
    resize: str | None = None
    box: tuple[Levels, Levels] | None = None
    labels: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    rate: float | None = None
    spectrogram: dict[str, object] | None = None
    tokenizer: str | None = None
    longest: int | None = None
    logits: str | None = None
    preset: str | None = None
    motion: dict[str, int] | None = None
    about: dict[str, object] = field(default_factory=dict)
    source: Path | None = None
    labels_file: str | None = None

    @classmethod
    def beside(cls, model: str | os.PathLike[str]) -> Self:
        """The sidecar of a model file: `model.toml` for `model.onnx`, or one that says nothing where there is none."""
        path = Path(model).with_suffix(".toml")
        return cls.read(path) if path.is_file() else cls()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a sidecar. InputError where there is no such file, ModelError where its content does not fit."""
        path = Path(path)
        try:
            entries = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path of the sidecar.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: not valid TOML ({error}). Fix the file.") from error
        return cls(source=path, **_checked(entries, str(path), path.parent, ModelError))

    def replace(self, **changes: object) -> Self:
        """This sidecar with other values, as flags override a file; None unsays a key. InputError on a misfit."""
        given = {key: value for key, value in changes.items() if value is not None}
        unsaid: dict[str, Any] = {key: {} if key == "about" else None for key in changes.keys() - given.keys()}
        _refuse_unknown(changes, "sidecar", InputError)
        if "labels" in changes:
            unsaid["labels_file"] = None
        return dataclasses.replace(self, **unsaid | _checked(given, "sidecar", Path(), InputError))

    def write(self, path: str | os.PathLike[str], comments: Sequence[str] = ()) -> None:
        """Write this sidecar as TOML, `comments` on top of it; `read` gives it back."""
        path = Path(path)
        said = {key: getattr(self, key) for key in KEYS if key != "about" and getattr(self, key) is not None}
        if self.labels_file and (path.parent / self.labels_file).is_file():
            said["labels"] = self.labels_file
        lines = [f"# {line}" for comment in comments for line in comment.splitlines()]
        lines += [f"{key} = {fields.toml(value)}" for key, value in said.items()]
        if self.about:
            lines += ["", "[about]"] + [f"{fields.toml_key(k)} = {fields.toml(v)}" for k, v in self.about.items()]
        with atomic_write(path) as draft:
            draft.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def pixels(self, channel_count: int | None = None) -> Pixels:
        """The preprocessing with nothing left open: named, then what was said explicitly, then pixels as they are.

        channel_count : the model's number of channels, which decides between GRAY and RGB where nothing else does
        """
        named = NAMED[self.preprocessing or "0-255"]
        channels = self.channels or named.channels or _channels_by_count(channel_count, self.where)
        said = {key: getattr(self, key) for key in ("scale", "mean", "std") if getattr(self, key) is not None}
        pixels = dataclasses.replace(named, channels=channels, **said)
        for key in ("scale", "mean", "std"):
            self._check_width(key, getattr(pixels, key), len(CHANNEL_ORDERS[channels]), f"channels {channels}")
        if channel_count not in (None, len(CHANNEL_ORDERS[channels])):
            raise InputError(
                f"{self.where}: channels {channels} does not fit an input of {channel_count} channels. "
                "Say channels and preprocessing that do, or give an .npy file."
            )
        return pixels

    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest value of the model's input, per channel, for the z-box rule.

        `box` where it is said, else what pixels 0…255 become. Shaped to broadcast over the layout: (1, channel, 1, 1)
        for NCHW (a picture's default), (1, 1, 1, channel) for NHWC; a number for all channels of anything that is no
        picture stays a number, which fits every rank. InputError where neither box nor preprocessing is said.
        """
        low, high = self.box or self._pixel_range()
        per_channel = isinstance(low, tuple) or isinstance(high, tuple)
        layout = self.layout or ("NCHW" if self._is_picture or per_channel else "")
        return self._along_channels("box", low, layout), self._along_channels("box", high, layout)

    @staticmethod
    def guess(**facts: Any) -> Guess:
        """The likeliest sidecar for what a model file gives away; see `onnxlrp.data.guess.guess` for the facts."""
        from onnxlrp.data.guess import guess

        return guess(**facts)

    @property
    def where(self) -> str:
        """How messages call this sidecar; without a file, what it says."""
        return str(self.source) if self.source else "preprocessing"

    @property
    def _is_picture(self) -> bool:
        return self.kind == "image" or {self.preprocessing, self.scale, self.mean, self.std} != {None}

    def _pixel_range(self) -> tuple[Levels, Levels]:
        if not self._is_picture:
            raise InputError(
                f"{self.where}: says neither box nor preprocessing, so the range of the input is not known. "
                'Add box = [low, high] or preprocessing = "imagenet".'
            )
        pixels = self.pixels()
        channel_count = len(CHANNEL_ORDERS[pixels.channels or "RGB"])
        ends = np.stack([pixels.forward(np.full(channel_count, end, np.float64)) for end in (0, 255)])
        return _shortest(ends.min(axis=0)), _shortest(ends.max(axis=0))

    def _along_channels(self, key: str, value: Levels, layout: str) -> NDArray[np.float32]:
        if isinstance(value, tuple) and "C" not in layout:
            self._check_width(key, value, 1, f"layout {layout} without a channel axis")
        shape = [np.size(value) if letter == "C" else 1 for letter in layout]
        return np.asarray(value, np.float32).reshape(shape)

    def _check_width(self, key: str, value: Levels, width: int, against: str) -> None:
        if isinstance(value, tuple) and len(value) != width:
            raise InputError(
                f"{self.where}: {key} = {fields.toml(value)} holds {len(value)} numbers, {against} needs {width}. "
                "Give one number for all channels, or one per channel."
            )


def _checked(
    entries: Mapping[str, object], where: str, folder: Path, error_type: Callable[[str], Exception]
) -> dict[str, Any]:
    _refuse_unknown(entries, where, error_type)
    values: dict[str, Any] = {}
    for key, value in entries.items():
        try:
            values[key] = KEYS[key](value)
            if key == "labels" and isinstance(value, str):
                values |= {"labels": read_labels(folder / value), "labels_file": value}
        except ValueError as error:
            raise error_type(f"{where}: {key} = {fields.toml(value)} does not fit. Expected {error}.") from error
    return values


def _refuse_unknown(entries: Mapping[str, object], where: str, error_type: Callable[[str], Exception]) -> None:
    for key in entries.keys() - KEYS.keys():
        close = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Known keys: {', '.join(KEYS)}; notes go under [about]."
        raise error_type(f"{where}: unknown key {fields.toml_key(key)} = {fields.toml(entries[key])}. {hint}")


def _channels_by_count(channel_count: int | None, where: str) -> str:
    if channel_count in (None, 3):
        return "RGB"
    if channel_count == 1:
        return "GRAY"
    raise InputError(f"{where}: a picture has 1 or 3 channels, the model's input {channel_count}. Give an .npy file.")


def _shortest(values: NDArray[np.float32]) -> Levels:
    return tuple(float(value) for value in values)
