"""Generated clips: a figure that does one of five things for a while, beside discs that drift by all the time.

Nothing here was filmed. The pictures are drawn, and then encoded for real, so that the motion vectors in the stream are
what an encoder makes of moving pixels, its mistakes included.

Needs: pip install numpy pillow av
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT, FRAMES, RATE = 128, 96, 48, 16
ACTIONS = ("hop", "run", "spin", "squat", "wave")
TRAIN, TEST = range(160), range(1000, 1040)
"""Seeds, each for a clip of every action."""

CODECS = {"h264": "libx264", "mpeg4": "mpeg4"}
SIZE, SUPERSAMPLED = 42, 2
TORSO, THIGH, ARM, HEAD = 0.36, 0.25, 0.19, 0.1
DISC_RADIUS = 8

Point = tuple[float, float]
Pose = dict[str, float]
"""Angles in radians from hanging straight down, positive to the right; `x`, `y` shift the hip, `turn` the whole."""


@dataclass(frozen=True)
class Clip:
    """One generated clip.

    frames : uint8 (frame, height, width, 3)        label : index of the action
    span   : (first, last + 1) frames of the action
    box    : (top, left, bottom, right) in pixels that the figure covers during the action
    """

    frames: NDArray[np.uint8]
    label: int
    span: tuple[int, int]
    box: tuple[int, int, int, int]


def make_clip(seed: int, label: int) -> Clip:
    """Draw one clip; the same seed and label give the same pixels."""
    random = np.random.default_rng([seed, label])
    start = int(random.integers(6, 26))
    span = (start, start + int(random.integers(14, 19)))
    on_the_left = bool(random.integers(2))
    stand = (random.uniform(34, 44) + (0 if on_the_left else 50), random.uniform(50, 58))
    act = POSES[ACTIONS[label]]
    period, phase = random.uniform(7.5, 10.0), random.uniform(0, 1)
    discs = [_Disc(random, not on_the_left) for _ in range(int(random.integers(1, 3)))]
    ground, shade = _ground(random), tuple(int(level) for level in random.integers(170, 250, 3))
    frames, covered = [], np.zeros((HEIGHT, WIDTH), bool)
    for number in range(FRAMES):
        acting = span[0] <= number < span[1]
        beat = (number - span[0]) / period + phase * 0.25
        pose = act(beat) if acting else {"x": 0.4 * math.sin(0.5 * number)}
        figure = _figure(stand, pose)
        frames.append(_frame(ground, figure, shade, [disc.at(number) for disc in discs], random))
        if acting:
            covered |= _mask(figure)
    return Clip(np.stack(frames), label, span, _box(covered))


def inside(
    span: Sequence[int], box: Sequence[int], frames: Sequence[int], step: Sequence[int], shape: Sequence[int]
) -> NDArray[np.bool_]:
    """Which elements of a model's input touch a span of frames and a box: (T, H, W).

    frames : (count, height, width) of the frames that the model saw        step : of them, what one element covers
    """
    top, left, bottom, right = box
    ends = ((span[0], span[1], FRAMES), (top, bottom, HEIGHT), (left, right, WIDTH))
    places = []
    for (low, high, whole), shown, each in zip(ends, frames, step, strict=True):
        scale = shown / whole / each
        places.append(slice(int(low * scale), math.ceil(high * scale)))
    mask = np.zeros(shape, bool)
    mask[tuple(places)] = True
    return mask


def write_clip(path: Path, frames: NDArray[np.uint8], codec: str = "h264") -> None:
    """Encode frames. codec : of CODECS, with vectors from the frame before alone; or any other that FFmpeg writes"""
    encoder = CODECS.get(codec, codec)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=RATE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.thread_count = 1  # the same bytes everywhere
        stream.codec_context.gop_size = 250
        if encoder == "libx264":
            stream.options = {"crf": "28", "x264-params": "bframes=0:ref=1:scenecut=0"}
        else:
            stream.bit_rate = 200_000
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def clips_in(folder: Path, seeds: Iterable[int], codec: str = "h264") -> Iterator[tuple[Path, Clip]]:
    """Every action under every seed as an encoded file, made where it is missing, with what is true of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for label, action in enumerate(ACTIONS):
            clip, path = make_clip(seed, label), folder / f"{action}-{seed}-{codec}.mp4"
            if not path.is_file():
                write_clip(path, clip.frames, codec)
            yield path, clip


# --- what the figure does --------------------------------------------------------------------------------------------


def _hop(beat: float) -> Pose:
    """The whole figure up and down."""
    return {"y": -13 * abs(math.sin(math.pi * beat)), "arms": 0.5}


def _run(beat: float) -> Pose:
    """To and fro, legs and arms swinging."""
    swing = math.sin(2 * math.pi * beat)
    return {"x": 12 * math.sin(math.pi * beat), "legs": 0.8 * swing, "knees": -0.5, "swing": 0.8 * swing}


def _spin(beat: float) -> Pose:
    """A cartwheel on the spot."""
    return {"turn": math.pi * beat, "arms": 2.4, "legs": 0.35, "apart": 1.0}


def _squat(beat: float) -> Pose:
    """Down and up again, the feet where they are."""
    depth = 0.5 - 0.5 * math.cos(2 * math.pi * beat)
    return {"depth": depth, "arms": 1.4 * depth}


def _wave(beat: float) -> Pose:
    """Both arms from side to side over the head, wide: of less, a classifier sees only that nothing else happens."""
    swing = 0.9 * math.sin(2 * math.pi * beat)
    return {"right": 2.5 + swing, "left": -2.5 + swing}


POSES: dict[str, Callable[[float], Pose]] = {"hop": _hop, "run": _run, "spin": _spin, "squat": _squat, "wave": _wave}


def _figure(stand: Point, pose: Pose) -> list[list[Point]]:
    """Limbs as chains of points in pixels; the last one is the head's centre alone."""
    say = pose.get
    depth, legs = say("depth", 0.0), say("legs", 0.12)
    bend = math.acos(1 - 0.6 * depth)
    hip = (0.0, 2 * THIGH * (1 - math.cos(bend)))
    neck = _towards(hip, math.pi, TORSO)
    chains = [[hip, neck]]
    for side in (1, -1):
        # swinging, the legs go opposite ways: they do so by themselves, since the angle is mirrored
        thigh = side * legs + bend * (1 if depth else 0)
        shin = side * legs - bend if depth else side * legs + say("knees", 0.0) * (side * legs > 0)
        knee = _towards(hip, thigh, THIGH)
        chains.append([hip, knee, _towards(knee, shin, THIGH)])
        arm = side * say("arms", 0.25) + side * say("swing", 0.0)
        arm = say("right" if side == 1 else "left", arm)
        elbow = _towards(neck, arm, ARM)
        chains.append([neck, elbow, _towards(elbow, arm + 0.15 * side, ARM)])
    chains.append([_towards(neck, math.pi, HEAD * 1.2)])
    turn, (x, y) = say("turn", 0.0), (stand[0] + say("x", 0.0), stand[1] + say("y", 0.0))
    return [[_placed(point, turn, x, y) for point in chain] for chain in chains]


def _towards(start: Point, angle: float, length: float) -> Point:
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def _placed(point: Point, turn: float, x: float, y: float) -> Point:
    cosine, sine = math.cos(turn), math.sin(turn)
    return x + SIZE * (cosine * point[0] - sine * point[1]), y + SIZE * (sine * point[0] + cosine * point[1])


# --- drawing ---------------------------------------------------------------------------------------------------------


class _Disc:
    """A spotted disc that drifts along its half of the picture, never slower, never back."""

    def __init__(self, random: np.random.Generator, on_the_left: bool) -> None:
        low = 6 if on_the_left else 76
        self.place = (random.uniform(low, low + 46), random.uniform(0, HEIGHT))
        self.speed = random.uniform(0.8, 2.2) * (1 if random.integers(2) else -1)
        self.shade = tuple(int(level) for level in random.integers(40, 250, 3))
        self.spots = random.uniform(-0.7, 0.7, (5, 2)) * DISC_RADIUS

    def at(self, number: int) -> tuple[Point, _Disc]:
        around = HEIGHT + 4 * DISC_RADIUS
        return (self.place[0], (self.place[1] + self.speed * number) % around - 2 * DISC_RADIUS), self


def _ground(random: np.random.Generator) -> Image.Image:
    coarse = Image.fromarray(random.integers(70, 130, (HEIGHT // 12, WIDTH // 12, 3)).astype(np.uint8))
    size = (WIDTH * SUPERSAMPLED, HEIGHT * SUPERSAMPLED)
    return coarse.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def _frame(
    ground: Image.Image,
    figure: Sequence[Sequence[Point]],
    shade: tuple[int, ...],
    discs: Sequence[tuple[Point, _Disc]],
    random: np.random.Generator,
) -> NDArray[np.uint8]:
    picture = ground.copy()
    draw = ImageDraw.Draw(picture)
    for (x, y), disc in discs:
        _dot(draw, (x, y), DISC_RADIUS, disc.shade)
        for dx, dy in disc.spots:
            _dot(draw, (x + dx, y + dy), 1.6, (20, 20, 20))
    _draw_figure(draw, figure, shade, (25, 25, 45))
    small = picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    noisy = np.asarray(small, np.float64) + random.normal(0, 1.0, (HEIGHT, WIDTH, 1))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _draw_figure(
    draw: ImageDraw.ImageDraw, figure: Sequence[Sequence[Point]], shade: tuple[int, ...], spots: tuple[int, ...]
) -> None:
    for number, chain in enumerate(figure[:-1]):
        points = [(x * SUPERSAMPLED, y * SUPERSAMPLED) for x, y in chain]
        draw.line(points, shade, (9 if number == 0 else 6) * SUPERSAMPLED, joint="curve")
    for chain in figure[:-1]:
        for (ax, ay), (bx, by) in pairwise(chain):
            for share in (0.3, 0.75):
                _dot(draw, (ax + share * (bx - ax), ay + share * (by - ay)), 1.4, spots)
    _dot(draw, figure[-1][0], SIZE * HEAD, shade)
    _dot(draw, figure[-1][0], 1.5, spots)


def _dot(draw: ImageDraw.ImageDraw, centre: Point, radius: float, shade: tuple[int, ...]) -> None:
    x, y, reach = centre[0] * SUPERSAMPLED, centre[1] * SUPERSAMPLED, radius * SUPERSAMPLED
    draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=shade)


def _mask(figure: Sequence[Sequence[Point]]) -> NDArray[np.bool_]:
    picture = Image.new("L", (WIDTH * SUPERSAMPLED, HEIGHT * SUPERSAMPLED))
    _draw_figure(ImageDraw.Draw(picture), figure, (255,), (255,))
    return np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)) > 0


def _box(covered: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
