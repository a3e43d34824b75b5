"""Videos: decoded to frames for models of pixels, or to descriptors of their motion vectors (`motion.py`).

The sidecar's layout decides: with an axis F of features the model reads descriptors, "NTHWF"; with channels or none it
reads pixels, "NCTHW" or any order. Needs PyAV (the extra `video`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.image import preprocess, unprocess
from onnxlrp.data.motion import Patches, describe, field_of
from onnxlrp.data.sample import Dimension, Input, Sample, fit, loader, only_input
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.errors import InputError, missing_package

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".3gp")

MOST_BYTES = 2 << 30
"""Of decoded frames that are kept: what is longer is refused, not swapped."""

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Stream:
    """A decoded video.

    frames  : uint8 (frame, height, width, 3)        rate : frames per second        codec : as FFmpeg calls it
    vectors : per frame the stream's motion vectors, None for frames that carry none
    turned  : degrees counterclockwise by which a player turns the frames; they are here as they are coded
    """

    frames: Frames
    rate: Fraction
    codec: str
    vectors: tuple[NDArray[Any] | None, ...] = ()
    turned: int = 0

    @property
    def upright(self) -> Frames:
        """The frames as a player shows them."""
        return np.rot90(self.frames, self.turned // 90, axes=(1, 2))


@dataclass(frozen=True)
class Footage:
    """What a video looks like, and which part of it each element of the model's input stands for.

    frames : uint8 (frame, height, width, 3)        rate : frames per second
    step   : (frames, rows, columns) that one element of the input's axes T, H, W covers
    """

    frames: Frames
    rate: Fraction
    step: tuple[int, int, int] = (1, 1, 1)

    def painted(self, elements: NDArray[Any], frame: int) -> NDArray[Any]:
        """(T, H, W) → (height, width): at each pixel of one frame the value of the element that covers it."""
        height, width = self.frames.shape[1:3]
        values = elements[frame // self.step[0]].repeat(self.step[1], axis=0).repeat(self.step[2], axis=1)
        return np.asarray(values[:height, :width])

    def per_frame(self, elements: NDArray[Any]) -> NDArray[np.float64]:
        """(T, H, W) → (frame,): sums, of elements that cover several frames in equal parts to each; Σ stays."""
        length = len(self.frames)
        sums = np.asarray(elements, np.float64).sum(axis=(1, 2))
        covered = np.minimum(self.step[0], length - self.step[0] * np.arange(len(sums)))
        return np.asarray((sums / covered).repeat(self.step[0])[:length])


@loader("video", SUFFIXES)
def load_video(path: Path, sidecar: Sidecar, inputs: Sequence[Input]) -> Sample:
    """Read a video for a model of motion descriptors or of pixels.

    A fixed number of frames is met by taking as many at even distances. Errors: InputError for a file that is no video,
    has no motion vectors where they are needed, or does not fit; Unsupported where PyAV is missing.
    """
    entry = only_input(inputs, path)
    layout = sidecar.layout or _layout_by_shape(entry.shape, path)
    if "F" in layout:
        return _described(path, sidecar, entry, layout)
    return _pixels(path, sidecar, entry, layout)


def read_video(path: Path, *, vectors: bool = False) -> Stream:
    """Decode the first video stream.  vectors : whether motion vectors are read as well

    Errors: InputError where the file cannot be read, holds no frames, or too many; Unsupported where PyAV is missing.
    """
    frames: list[Frames] = []
    found: list[NDArray[Any] | None] = []
    with _opened(path, vectors) as (container, stream):
        size, turned = 0, 0
        for frame in container.decode(stream):
            picture = frame.to_ndarray(format="rgb24")
            size += picture.nbytes
            if size > MOST_BYTES:
                raise InputError(
                    f"{path}: more than {MOST_BYTES >> 30} GB once decoded, after {len(frames)} frames of "
                    f"{picture.shape[1]}×{picture.shape[0]}. Cut a piece out of it, or make it smaller."
                )
            if frames and picture.shape != frames[0].shape:
                raise InputError(f"{path}: the size of the picture changes at frame {len(frames)}. Encode it again.")
            turned = getattr(frame, "rotation", 0)  # PyAV knows it from 14.1 on
            frames.append(picture)
            found.append(_vectors(frame) if vectors else None)
        rate, codec = stream.average_rate or Fraction(25), stream.codec_context.name
    if not frames:
        raise InputError(f"{path}: the video stream holds no frames.")
    return Stream(np.stack(frames), Fraction(rate), codec, tuple(found), turned)


def write_video(path: Path, frames: Iterable[Frames], rate: Fraction) -> None:
    """Write frames (height, width, 3), all of one size, as .mp4: H.264 where FFmpeg can, else MPEG-4.

    Odd sizes lose their last row or column, which these codecs cannot hold. Unsupported where PyAV is missing.
    """
    av = _av(path)
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = None
        for picture in frames:
            even = np.ascontiguousarray(picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2])
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
                stream.bit_rate = 2_000_000
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode(None))


def motion_of(path: Path, patches: Patches = Patches()) -> tuple[NDArray[np.float32], Footage]:  # noqa: B008
    """Descriptors (window, row, column, number) of a video's motion vectors, and the frames they belong to, as coded.

    Errors: as `read_video`; InputError where the stream has no motion vectors, or nothing moves in it.
    """
    return _described_motion(read_video(path, vectors=True), path, patches)


def _described_motion(stream: Stream, path: Path, patches: Patches) -> tuple[NDArray[np.float32], Footage]:
    if all(records is None for records in stream.vectors):
        raise InputError(
            f"{path}: this {stream.codec} stream carries no motion vectors: either its frames are coded one by one, or "
            f"FFmpeg does not export those of {stream.codec}. Encode it as H.264 or MPEG-4 with predicted frames: "
            "ffmpeg -i IN -c:v libx264 OUT.mp4"
        )
    height, width = stream.frames.shape[1:3]
    descriptors = describe(field_of(stream.vectors, height, width), patches)
    if not descriptors.any():
        raise InputError(f"{path}: nothing moves in this clip, so there is no motion to describe.")
    return descriptors, Footage(stream.frames, stream.rate, (patches.frames, patches.size, patches.size))


def _described(path: Path, sidecar: Sidecar, entry: Input, layout: str) -> Sample:
    axes = [letter for letter in layout if letter != "N"]
    if sorted(axes) != sorted("THWF"):
        raise InputError(f'{sidecar.where}: layout "{layout}" is none of descriptors. Say "NTHWF".')
    stream = read_video(path, vectors=True)
    descriptors, footage = _described_motion(stream, path, Patches(**(sidecar.motion or {})))
    values = descriptors.transpose(["THWF".index(letter) for letter in axes])
    values = np.expand_dims(values, layout.index("N")) if "N" in layout else values
    warning = f"A player turns this video by {stream.turned}°; its motion vectors are read as coded, unturned."
    warnings = (warning,) if stream.turned else ()
    return Sample(path.stem, {entry.name: fit(values, entry, sidecar, path)}, original=footage, warnings=warnings)


def _pixels(path: Path, sidecar: Sidecar, entry: Input, layout: str) -> Sample:
    axes = dict(zip(layout, entry.shape, strict=False))
    if len(layout) != len(entry.shape) or not set("THW") <= set(layout) <= set("NTHWC"):
        raise InputError(
            f'{sidecar.where}: layout "{layout}" does not fit a video input of shape {list(entry.shape)}. '
            'Say one letter per axis, such as "NCTHW".'
        )
    stream = read_video(path)
    chosen = _evenly(len(stream.frames), axes["T"])
    still = sidecar.replace(layout="HWC" if "C" in layout else "HW", kind="image")
    shape = [axes[letter] for letter in still.layout or ""]
    frames = stream.upright
    pictures = [preprocess(frames[number], still, shape) for number in chosen]
    values = np.stack(pictures)
    values = values.transpose([("T" + (still.layout or "")).index(letter) for letter in layout if letter != "N"])
    values = np.ascontiguousarray(np.expand_dims(values, layout.index("N")) if "N" in layout else values)
    rate = stream.rate * len(chosen) / len(stream.frames)
    shown = Footage(_seen(pictures, still), rate)
    return Sample(path.stem, {entry.name: fit(values, entry, sidecar, path)}, original=shown)


def _seen(pictures: Sequence[NDArray[np.float32]], sidecar: Sidecar) -> Frames:
    return np.stack([unprocess(picture, sidecar) for picture in pictures])


def _evenly(have: int, wanted: Dimension) -> NDArray[np.int64]:
    """Numbers of frames: all, or as many as are wanted at even distances, with repeats where there are fewer."""
    if not isinstance(wanted, int):
        return np.arange(have)
    return ((np.arange(wanted) + 0.5) * have / wanted).astype(np.int64)


def _layout_by_shape(shape: Sequence[Dimension], path: Path) -> str:
    if len(shape) == 5:
        return next((layout for layout in ("NCTHW", "NTCHW") if shape[layout.index("C")] in (1, 3)), "NTHWC")
    raise InputError(
        f"{path}: an input of shape {list(shape)} gives no video's layout away. Say layout in the sidecar, such as "
        '"NCTHW" for pixels or "NTHWF" for descriptors of motion.'
    )


@contextmanager
def _opened(path: Path, vectors: bool) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; what PyAV raises becomes ours."""
    av = _av(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path.")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video stream.")
            stream = container.streams.video[0]
            stream.codec_context.options = {"flags2": "+export_mvs"} if vectors else {}
            yield container, stream
    except av.FFmpegError as error:
        raise InputError(
            f"{path}: not a readable video ({error.strerror or error}). Give a whole file that FFmpeg can decode."
        ) from error


def _av(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise missing_package(f"{path}: videos need", "av", "video", "give arrays as .npy") from error
    return av


def _vectors(frame: Any) -> NDArray[Any] | None:
    """The motion vectors of a decoded frame as records; None where it carries none."""
    found = frame.side_data.get("MOTION_VECTORS")
    return None if found is None else np.asarray(found.to_ndarray())
