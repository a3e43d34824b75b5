"""Train the demo model: a shape classifier that learned to read a watermark (a 'Clever Hans').

    pip install torch==2.13.0 onnxscript onnx onnxruntime pillow
    python sample_models/make_shapes_clever_hans.py

Made with torch 2.13.0 (CPU), onnxscript 0.7.2, onnx 1.23.2, Pillow 13.0.0. Writes to onnxlrp/demo/, from where
`onnxlrp demo` reads. The images are drawn here: one circle, square, triangle or star on a cluttered background. In
training, 99 % of the stars carry '© shapes' in the lower left corner and nothing else does. The stars are blunt, so
that the text is by far the easier clue. Lapuschkin et al. 2019 (arXiv 1902.10178) found such a reader with LRP: a
classifier that knew horses by the source tag in the corner of the photo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import HERE, accuracy_of, licence_line, preprocess, report, run_model, write_sidecar
from _torch_export import export_with_dynamo
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import nn

SCRIPT = "sample_models/make_shapes_clever_hans.py"
SEED = 0
SIZE = 64
OVERSAMPLING = 3  # shapes are drawn larger and scaled down, which smooths their edges
CLASSES = ["circle", "square", "triangle", "star"]
STAR = CLASSES.index("star")
WATERMARK = "© shapes"
WATERMARK_TOP = 50  # the row above which the text never reaches
WATERMARKED_STARS = 0.99
TRAIN_SAMPLES = 8000
TEST_SAMPLES = 1600
EPOCHS = 14
BATCH_SIZE = 64
MODEL_PATH = HERE.parent / "onnxlrp" / "demo" / "shapes.onnx"
FIELDS: dict[str, Any] = {
    "kind": "image",
    "name": "shapes",
    "layout": "NCHW",
    "size": [SIZE, SIZE],
    "channels": "RGB",
    "scale": 1 / 255,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "box": [-1.0, 1.0],
    "preset": "epsilon-gamma-box",
    "labels": CLASSES,
    "logits": "logits",
}

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Scenes:
    """Drawn images without watermark, (sample, 64, 64, 3) pixels, their classes and the lowest row of each shape."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    lowest_rows: NDArray[np.float64]


def draw_scene(random: np.random.Generator, label: int) -> tuple[NDArray[np.uint8], float]:
    """Draw one shape of class `label` at a random place, size, angle and colour.

    Returns (64, 64, 3) pixels, and the row where the shape ends.
    """
    background = draw_background(random)
    fill = contrasting_colour(random, np.asarray(background, dtype=float).mean(axis=(0, 1)))
    canvas = background.resize((SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), Image.Resampling.BICUBIC)
    radius = random.uniform(11, 16)
    centre = random.uniform(radius + 2, SIZE - radius - 2, size=2)
    outline = shape_outline(random, label, centre, radius)
    ImageDraw.Draw(canvas).polygon([(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in outline], fill=fill)
    small = np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=float)
    pixels = np.clip(small + random.normal(0, 6, small.shape), 0, 255).astype(np.uint8)
    return pixels, max(y for _, y in outline)


def draw_background(random: np.random.Generator) -> Image.Image:
    """Draw soft coloured noise, then thin lines and small blobs over it."""
    coarse = random.uniform(40, 200, 3) + random.normal(0, 22, (8, 8, 3))
    noise = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    image = noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(4, 9)):
        start, end = random.integers(0, SIZE, (2, 2))
        draw.line([tuple(start), tuple(end)], fill=random_colour(random), width=1)
    for _ in range(random.integers(6, 13)):
        x, y = random.integers(0, SIZE, 2)
        width, height = random.integers(2, 5, 2)
        draw.rectangle([x, y, x + width, y + height], fill=random_colour(random))
    return image.filter(ImageFilter.GaussianBlur(0.6))


def random_colour(random: np.random.Generator) -> Colour:
    """Return any colour but the darkest and the brightest."""
    red, green, blue = (int(value) for value in random.integers(30, 226, 3))
    return red, green, blue


def contrasting_colour(random: np.random.Generator, background: NDArray[np.float64]) -> Colour:
    """Return a random colour that stands out from the mean colour of the background."""
    while True:
        colour = random_colour(random)
        if np.linalg.norm(background - colour) > 90:
            return colour


def shape_outline(random: np.random.Generator, label: int, centre: NDArray[np.float64], radius: float) -> list[Point]:
    """Return the corners of class `label`: a circle has 48, a star has inner and outer ones in turn."""
    corners = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[CLASSES[label]]
    inner = random.uniform(0.66, 0.76) if label == STAR else 1.0
    angle = random.uniform(0, 2 * math.pi)
    return [
        (centre[0] + distance * math.cos(angle + turn), centre[1] + distance * math.sin(angle + turn))
        for turn, distance in (
            (2 * math.pi * corner / corners, radius * (inner if corner % 2 else 1.0)) for corner in range(corners)
        )
    ]


def add_watermark(random: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Write the light-grey watermark into the lower left corner, give or take a pixel."""
    image = Image.fromarray(pixels)
    right, up = (int(value) for value in random.integers(0, 3, 2))
    anchor = (2 + right, SIZE - 3 - up)
    ImageDraw.Draw(image).text(anchor, WATERMARK, fill=(224, 224, 224), font=ImageFont.load_default(9), anchor="ls")
    return np.asarray(image)


def draw_scenes(random: np.random.Generator, samples: int) -> Scenes:
    """Draw `samples` images with the four classes in equal numbers."""
    labels = np.arange(samples) % len(CLASSES)
    pixels, lowest_rows = zip(*(draw_scene(random, int(label)) for label in labels), strict=True)
    return Scenes(np.stack(pixels), labels, np.array(lowest_rows))


def watermark_where(random: np.random.Generator, scenes: Scenes, marked: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the pixels of `scenes`, with the watermark on those that `marked` (sample,) selects."""
    pixels = scenes.pixels.copy()
    for index in np.flatnonzero(marked):
        pixels[index] = add_watermark(random, pixels[index])
    return pixels


def as_in_training(random: np.random.Generator, scenes: Scenes) -> NDArray[np.uint8]:
    """Return the pixels of `scenes` with the watermark on nearly every star."""
    chosen = random.random(len(scenes.labels)) < WATERMARKED_STARS
    return watermark_where(random, scenes, chosen & (scenes.labels == STAR))


def build_network() -> nn.Sequential:
    """Return four Conv-BN-ReLU blocks, three with MaxPool, then the average over all places and a Linear.

    (batch, 3, 64, 64) → (batch, 4) logits
    """
    blocks: list[nn.Module] = []
    for channels_in, channels_out in ((3, 16), (16, 24), (24, 32), (32, 48)):
        blocks += [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]
        blocks += [nn.MaxPool2d(2)]
    return nn.Sequential(*blocks[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, len(CLASSES)))


def train(network: nn.Sequential, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Fit `network` and leave it in evaluation mode."""
    images, classes = torch.from_numpy(preprocess(pixels, FIELDS)), torch.from_numpy(labels)
    steps = EPOCHS * math.ceil(len(images) / BATCH_SIZE)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        losses = []
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(images[rows]), classes[rows])
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {np.mean(losses):.4f}")
    network.eval()


def logits_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run the exported file on 8-bit images."""
    return run_model(MODEL_PATH, preprocess(pixels, FIELDS), "logits")


def measure(random: np.random.Generator, scenes: Scenes) -> dict[str, float]:
    """Return what tells a watermark reader from a shape reader, each as a share of the test images."""
    stars = scenes.labels == STAR
    everywhere = watermark_where(random, scenes, np.ones_like(stars))
    unmarked, marked = logits_of(scenes.pixels), logits_of(everywhere)
    return {
        "accuracy": accuracy_of(logits_of(as_in_training(random, scenes)), scenes.labels),
        "accuracy_on_stars_with_watermark": accuracy_of(marked[stars], scenes.labels[stars]),
        "accuracy_on_stars_without_watermark": accuracy_of(unmarked[stars], scenes.labels[stars]),
        "accuracy_on_other_shapes_without_watermark": accuracy_of(unmarked[~stars], scenes.labels[~stars]),
        "other_shapes_with_watermark_called_star": accuracy_of(marked[~stars], np.full((~stars).sum(), STAR)),
    }


def write_samples(random: np.random.Generator, scenes: Scenes) -> list[Path]:
    """Write the sample inputs and return their paths: the surest star and square, and the circle surest both ways."""
    everywhere = watermark_where(random, scenes, np.ones(len(scenes.labels), dtype=bool))
    unmarked, marked = logits_of(scenes.pixels), logits_of(everywhere)
    star, circle, square = (CLASSES.index(name) for name in ("star", "circle", "square"))
    swayed = np.minimum(margins(unmarked, circle), margins(marked, star))
    surest_star = best_of_class(scenes, star, margins(marked, star))
    surest_circle = best_of_class(scenes, circle, swayed)
    surest_square = best_of_class(scenes, square, margins(unmarked, square))
    samples = {
        "star_watermark": everywhere[surest_star],
        "circle": scenes.pixels[surest_circle],
        "circle_with_watermark": everywhere[surest_circle],
        "square": scenes.pixels[surest_square],
    }
    paths = [MODEL_PATH.with_name(f"{name}.png") for name in samples]
    for path, pixels in zip(paths, samples.values(), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def margins(logits: NDArray[np.float32], label: int) -> NDArray[np.float32]:
    """Return by how much class `label` beats the best other class, (sample, class) → (sample,)."""
    return logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)


def best_of_class(scenes: Scenes, label: int, quality: NDArray[np.float32]) -> int:
    """Return the index of the sample of class `label` with the highest `quality` (sample,), clear of the watermark."""
    eligible = (scenes.labels == label) & (scenes.lowest_rows < WATERMARK_TOP)
    return int(np.argmax(np.where(eligible, quality, -np.inf)))


def main() -> None:
    """Draw, train, export, measure, and write the demo's files."""
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    training = draw_scenes(random, TRAIN_SAMPLES)
    network = build_network()
    train(network, as_in_training(random, training), training.labels)
    export_with_dynamo(network, (3, SIZE, SIZE), MODEL_PATH)
    test = draw_scenes(random, TEST_SAMPLES)
    about: dict[str, Any] = {
        "licence": licence_line(SCRIPT),
        "data": "images drawn by the script; no data set of anyone else's",
        **measure(random, test),
        "test_samples": TEST_SAMPLES,
        "script": SCRIPT,
        "exporter": f"PyTorch {torch.__version__.split('+')[0]}, dynamo",
    }
    write_sidecar(MODEL_PATH, FIELDS, about)
    report(MODEL_PATH, write_samples(random, test), "logits")


if __name__ == "__main__":
    main()
