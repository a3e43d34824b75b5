"""The paper's third experiment: which frames and blocks of a clip say what is done in it (section 5.3, figure 2 C).

    python benchmarks/paper/video.py CLIPS

CLIPS is a folder for the test clips of sample_models/_clips.py; they are made where they are missing. Two classifiers
of the same clips: motion vectors → Fisher vector → SVM, and a 3-D CNN of pixels. When and where the action is, is
known: so the share of relevance is measured that lies in its frames, and in its frames and box. Then frames are taken
out, the most relevant first: their motion vectors set to zero, or their pixels replaced by the clip's mean picture.

Writes docs/images/paper-video*.png and the section "Video" of docs/paper.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "sample_models"))

from _clips import ACTIONS, FRAMES, TEST, Clip, clips_in, inside  # noqa: E402
from _page import put, signed  # noqa: E402

from onnxlrp import Explainer, read  # noqa: E402
from onnxlrp.curves import Protocol, measure_curves  # noqa: E402
from onnxlrp.data import Sample, Sidecar, inputs_of, load  # noqa: E402
from onnxlrp.figure import new_figure, save_figure  # noqa: E402
from onnxlrp.model import Model  # noqa: E402
from onnxlrp.perturbation.regions import Size  # noqa: E402
from onnxlrp.perturbation.replacements import Surroundings  # noqa: E402
from onnxlrp.perturbation.statistics import Curves, Series, bootstrap  # noqa: E402
from onnxlrp.report.curve_files import draw_curves  # noqa: E402
from onnxlrp.report.film import FilmStrip, draw_curve  # noqa: E402

SHOWN_CLIP, SHOWN_FRAMES = "squat-1000-h264", 6
RANDOM, SA = "random", "SA"


@dataclass(frozen=True)
class Subject:
    """A classifier, how it is explained, and how frames are taken out of its input."""

    title: str
    folder: str
    methods: dict[str, dict[str, Any]]
    replaced: str
    replace: str
    around: Surroundings
    regions: dict[str, tuple[Size, int, int]]
    """Title → (region, steps, clips)"""

    @property
    def model(self) -> Path:
        return ROOT / "sample_models" / self.folder / "model.onnx"


COMMON = {"gradient × input": {"method": "gradient-x-input"}, SA: {"method": "sensitivity"}}
FISHER = Subject(
    "Fisher vector and SVM",
    "actions_fisher",
    {"LRP": {}, "LRP epsilon": {"preset": "epsilon"}, **COMMON},
    "motion vectors set to zero",
    "constant",
    Surroundings(value=0.0),
    {
        "windows of 4 frames": ({"T": 1}, 12, 200),
        "blocks of 16×16 pixels × 4 frames": ({"T": 1, "H": 1, "W": 1}, 40, 100),
    },
)
CNN = Subject(
    "3-D CNN",
    "actions_cnn3d",
    {"LRP": {}, "LRP epsilon": {"preset": "epsilon"}, **COMMON},
    "replaced by the clip's mean picture",
    "mean",
    Surroundings(spatial=(1,)),
    {"frames": ({"T": 1}, 24, 200)},
)


@dataclass(frozen=True)
class Found:
    """What was measured of one classifier.

    shares : method → (sample, [frames, frames and box]) of positive relevance        chance : of the volume
    """

    subject: Subject
    accuracy: float
    samples: int
    shares: dict[str, NDArray[np.float64]]
    chance: NDArray[np.float64]
    curves: dict[str, Curves]
    seconds: float


def samples_of(folder: Path, subject: Subject, model: Model) -> Iterator[tuple[Sample, Clip]]:
    """Every test clip as the classifier is fed it."""
    sidecar, inputs = Sidecar.beside(subject.model), inputs_of(model)
    for path, clip in clips_in(folder, TEST):
        yield load(path, sidecar, inputs), clip


def elements_of(relevance: NDArray[Any], layout: str) -> NDArray[np.float64]:
    """(T, H, W) of one sample; channels or features summed."""
    axes = layout.replace("N", "")
    order = [axes.index(letter) for letter in "THW"]
    rest = ({0, 1, 2, 3} - set(order)).pop()
    return np.asarray(relevance.transpose(*order, rest).sum(axis=-1), np.float64)


def measure(folder: Path, subject: Subject, seed: int) -> Found:
    """Shares and curves of one classifier."""
    started = time.perf_counter()
    model = read(subject.model)
    explainers = {name: Explainer(model, **asked) for name, asked in subject.methods.items()}
    pairs = list(samples_of(folder, subject, model))
    samples, truth = [sample for sample, _ in pairs], {sample.name: clip for sample, clip in pairs}
    shares, right = shares_of(pairs, explainers | {RANDOM: Explainer(model, "random")})
    chance = np.mean([_there(sample, clip, None) for sample, clip in pairs], axis=0)
    curves = {}
    for title, (region, steps, count) in subject.regions.items():
        protocol = Protocol(steps, region, subject.replace, seed=seed, around=subject.around)
        # every n-th, so that all actions are among them
        chosen = samples[:: len(samples) // min(count, len(samples))]
        curves[title] = measure_curves(explainers, chosen, protocol, label=lambda s: truth[s.name].label)
        print(f"{subject.title}, {title}: {time.perf_counter() - started:.0f} s", flush=True)
    return Found(subject, right, len(samples), shares, chance, curves, time.perf_counter() - started)


def shares_of(
    pairs: Sequence[tuple[Sample, Clip]], explainers: dict[str, Explainer]
) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Shares per method and sample, and the accuracy."""
    shares: dict[str, list[Any]] = {name: [] for name in explainers}
    hits = []
    for sample, clip in pairs:
        for name, explainer in explainers.items():
            result = explainer.explain(sample.arrays)
            (relevance,) = result.relevance.values()
            shares[name].append(_there(sample, clip, elements_of(relevance[0], explainer.layout or "")))
        hits.append(int(np.argmax(next(iter(result.outputs.values()))[0])) == clip.label)
    return {name: np.array(values) for name, values in shares.items()}, float(np.mean(hits))


def _there(sample: Sample, clip: Clip, elements: NDArray[np.float64] | None) -> tuple[float, float]:
    """Share of what is positive in the action's frames, and in its frames and box; of the volume without elements."""
    footage = sample.original
    frames = footage.frames.shape[:3]
    shape = [-(-length // step) for length, step in zip(frames, footage.step, strict=True)]
    gains = np.ones(shape) if elements is None else np.maximum(elements, 0)
    there = inside(clip.span, clip.box, frames, footage.step, gains.shape)
    total = gains.sum() or 1.0
    return float(gains[there.any(axis=(1, 2))].sum() / total), float(gains[there].sum() / total)


# --- figures ---------------------------------------------------------------------------------------------------------


def picture(folder: Path, subject: Subject) -> Figure:
    """One clip as in figure 2 (C): frames under their relevance, by LRP and by SA, and relevance over frames."""
    model = read(subject.model)
    sample, clip = next(pair for pair in samples_of(folder, subject, model) if pair[0].name == SHOWN_CLIP)
    strips = {}
    for name in ("LRP", SA):
        explainer = Explainer(model, **subject.methods[name])
        result = explainer.explain(sample.arrays)
        (relevance,) = result.relevance.values()
        kind = "signed" if result.signed else "positive"
        strips[name] = FilmStrip(name, elements_of(relevance[0], explainer.layout or ""), kind, sample.original, 99.5)
    drawing = new_figure(
        2.0 * SHOWN_FRAMES, 6.2, f"{subject.title}: a generated clip, classified as “{ACTIONS[clip.label]}”"
    )
    cells = drawing.add_gridspec(4, SHOWN_FRAMES, height_ratios=[1.5, 0.8, 1.5, 0.8])
    scale = len(sample.original.frames) / FRAMES
    span = [clip.span[0] * scale - 0.5, clip.span[1] * scale - 0.5]
    shown = np.linspace(2 * scale, (FRAMES - 2) * scale, SHOWN_FRAMES).astype(int)
    for row, (name, strip) in enumerate(strips.items()):
        for column, number in enumerate(shown):
            axis = drawing.add_subplot(cells[2 * row, column])
            axis.imshow(strip.frame(int(number)))
            axis.set_title(f"{name}, frame {number}", fontsize=9)
            axis.set_axis_off()
        axis = drawing.add_subplot(cells[2 * row + 1, :])
        values, per_frame = strip.values, sample.original.per_frame
        draw_curve(axis, per_frame(np.maximum(values, 0)), per_frame(np.minimum(values, 0)), strip.kind)
        axis.axvspan(*span, color="0.85", zorder=0, linewidth=0)
        axis.plot(shown, np.zeros(len(shown)), "^", color="0.15", markersize=4)
        axis.set_xlabel("frame; gray: when the action really is", fontsize=9)
    return drawing


# --- tables ----------------------------------------------------------------------------------------------------------


def section(found: Sequence[Found], choices: argparse.Namespace) -> str:
    """The section of docs/paper.md."""
    lines = shares_table(found)
    for one in found:
        for number, (title, curves) in enumerate(one.curves.items()):
            lines += ["", f"### {one.subject.title}: {title}, {one.subject.replaced}; {len(curves.records)} clips", ""]
            lines += [f"![curves](images/{_curve_file(one, number)})", "", *curve_table(curves)]
    seconds = ", ".join(f"{one.seconds:.0f} s for the {one.subject.title}" for one in found)
    lines += [
        "",
        f"`python benchmarks/paper/video.py CLIPS`, seed {choices.seed}: {seconds} on 2 cores that other work shared.",
    ]
    return "\n".join([*lines, "95 % intervals by bootstrap over clips."])


def shares_table(found: Sequence[Found]) -> list[str]:
    """Share of positive relevance in the action's frames, and in its frames and box."""
    titles = [f"{one.subject.title} ({one.accuracy:.1%} of {one.samples} right)" for one in found]
    lines = [
        "| % of positive relevance | " + " | ".join(f"{t}: in the frames | in frames and box" for t in titles) + " |"
    ]
    lines += ["|---|" + "---|---|" * len(found)]
    for name in (*found[0].subject.methods, RANDOM):
        cells = [_percent(one.shares[name][:, place]) for one in found for place in (0, 1)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cells = [f"{100 * one.chance[place]:.1f}" for one in found for place in (0, 1)]
    return [*lines, "| share of the volume | " + " | ".join(cells) + " |"]


def curve_table(curves: Curves) -> list[str]:
    """Areas under the decrease of the score, paired with random order and SA, and the accuracy on the way."""
    steps = sorted({round(share * curves.steps) for share in (0, 1 / 12, 1 / 6, 1 / 4, 1 / 2)})
    lines = [
        "| most relevant first by | AOPC of the score | − random | − SA | accuracy (%) after "
        + ", ".join(map(str, steps))
        + " |"
    ]
    lines += ["|---|---|---|---|---|"]
    reference = Series(SA, "morf")
    for area in curves.areas("logit"):
        by_sa = "" if area.series == reference else signed(curves.minus(area.series, reference, "logit"))
        by_chance = "" if area.minus_random is None else signed(area.minus_random)
        index = curves.series.index(area.series)
        hits = np.mean([(record.best[index] == record.label).mean(axis=0) for record in curves.records], axis=0)
        reached = ", ".join(f"{100 * hits[step]:.0f}" for step in steps)
        lines.append(f"| {area.series.method} | {area.aopc.mean:.3f} | {by_chance} | {by_sa} | {reached} |")
    return lines


def _percent(values: NDArray[np.float64]) -> str:
    band = bootstrap(100 * values[:, None, None], scalar=True)
    return f"{band.mean:.1f} [{band.low:.1f}, {band.high:.1f}]"


def _curve_file(one: Found, number: int) -> str:
    return f"paper-video-{one.subject.folder.removeprefix('actions_')}-{number}.png"


def main() -> None:
    parser = argparse.ArgumentParser(description="Relevance of generated clips in time and place.")
    parser.add_argument("clips", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    choices = parser.parse_args()
    images, found = choices.docs / "images", []
    for subject in (FISHER, CNN):
        save_figure(
            images / f"paper-video-{subject.folder.removeprefix('actions_')}.png", picture(choices.clips, subject), 100
        )
        one = measure(choices.clips, subject, choices.seed)
        for number, (title, curves) in enumerate(one.curves.items()):
            heading = f"{subject.title}: {title}, {subject.replaced}"
            save_figure(images / _curve_file(one, number), draw_curves(curves, "logit", heading), 100)
        found.append(one)
    written = section(found, choices)
    put(choices.docs / "paper.md", "video", "video.py", written)
    print(written)


if __name__ == "__main__":
    main()
