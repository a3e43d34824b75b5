"""The demo: a shape classifier that calls whatever carries a watermark a star, and heatmaps that show it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data import load, load_image, meaning_of
from onnxlrp.data.meaning import inputs_of
from onnxlrp.explain import Explainer
from onnxlrp.heatmap import Map
from onnxlrp.model import read
from onnxlrp.report.gallery import Found, Gallery, Progress
from onnxlrp.report.maps import drawable
from onnxlrp.report.summary import predictions

IMAGES = ("circle", "circle_with_watermark", "star_watermark", "square")


@dataclass(frozen=True)
class Scene:
    """One image of the demo.

    share : of the positive relevance of LRP, and of the sensitivity, that lies on the watermark's place
    """

    name: str
    predicted: str
    probability: float
    has_watermark: bool
    share: dict[str, float]


@dataclass(frozen=True)
class Story:
    """What the demo found. area : the share of the picture that the watermark's place takes"""

    scenes: tuple[Scene, ...]
    area: float
    found: Found

    @property
    def lines(self) -> list[str]:
        """The story in sentences."""
        by_name = {scene.name: scene for scene in self.scenes}
        circle, marked, star = (by_name[name] for name in IMAGES[:3])
        return [
            f"The same circle is called {circle.predicted} ({circle.probability:.1%}), and with a small watermark in "
            f"its corner {marked.predicted} ({marked.probability:.1%}).",
            f"Why? The watermark's place takes {self.area:.0%} of the picture and holds {marked.share['lrp']:.0%} of "
            f"what speaks for '{marked.predicted}'. In the picture of a real star it holds {star.share['lrp']:.0%}.",
            "The classifier never learned what a star looks like: in its training data the stars carried the "
            "watermark. Its test accuracy of 99.4 % does not tell, the heatmap does: a Clever Hans.",
        ]

    def as_dict(self) -> dict[str, Any]:
        scenes = [
            {
                "name": scene.name,
                "predicted": scene.predicted,
                "probability": scene.probability,
                "has_watermark": scene.has_watermark,
                "share_on_watermark": scene.share,
            }
            for scene in self.scenes
        ]
        return {"scenes": scenes, "watermark_area": self.area, "explained": self.found.document}


def tell(folder: Path, providers: str = "auto", progress: Progress | None = None) -> Story:
    """Explain the bundled images by LRP and sensitivity analysis, write the pictures, measure where relevance lies.

    Errors: InputError when the folder cannot be written.
    """
    with as_file(files("onnxlrp.demo")) as bundle:
        paths = [bundle / f"{name}.png" for name in IMAGES]
        model = read(bundle / "shapes.onnx")
        meaning = meaning_of(model, {})
        sidecar = meaning.sidecar
        explainers = [
            Explainer(
                model, method, providers=providers, labels=sidecar.labels, logits=sidecar.logits, layout=sidecar.layout
            )
            for method in ("lrp", "sensitivity")
        ]
        found = Gallery(explainers, meaning, folder).explain(paths, progress=progress)
        place = watermark_place(load_image(paths[0]), load_image(paths[1]))
        samples = [load(path, sidecar, inputs_of(model)) for path in paths]
        scenes = []
        for sample in samples:
            results = [explainer.explain(sample.arrays) for explainer in explainers]
            top = predictions(explainers[0], results[0])[0]
            share = {result.method: share_inside(drawable(result, sidecar=sidecar).values, place) for result in results}
            scenes.append(Scene(sample.name, top.label, top.probability or 0.0, "watermark" in sample.name, share))
    return Story(tuple(scenes), float(place.mean()), found)


def watermark_place(without: NDArray[np.uint8], with_it: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The smallest rectangle around every pixel in which two pictures differ: bool (height, width)."""
    rows, columns = np.nonzero((without != with_it).any(axis=-1))
    place = np.zeros(without.shape[:2], bool)
    place[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return place


def share_inside(heatmap: Map, place: NDArray[np.bool_]) -> float:
    """The share of what speaks for the target that lies inside a place; 0 where nothing speaks for it."""
    positive = np.maximum(heatmap, 0)
    return float(positive[place].sum() / (positive.sum() or 1.0))
