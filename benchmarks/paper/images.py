"""The paper's first experiment: photos, trained classifiers, 50 patches of 9×9 replaced by uniform noise.

    python benchmarks/paper/images.py --zoo ../shared/zoo --photos ../shared/data/imagenet-sample

Writes docs/images/paper-images-<model>.png and the model's part of docs/paper.md. Measurements are kept, per model, in
--store: a killed run, or one over more photos, goes on where it stopped. Methods of many passes (integrated gradients,
occlusion) take as long per heatmap as a hundred perturbed copies, so they see fewer photos (--many).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _page import put, signed
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from onnxlrp import Explainer, read
from onnxlrp.curves import Protocol, measure_curves, surroundings
from onnxlrp.data import Sample, expand, meaning_of
from onnxlrp.figure import save_figure
from onnxlrp.perturbation.samples import samples_of
from onnxlrp.perturbation.statistics import FORMULAS, SCORES, Area, Curves, Series
from onnxlrp.report.curve_files import BASELINE, COLOURS

ROOT = Path(__file__).resolve().parents[2]
PRESETS = (
    "epsilon",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-alpha2-beta1",
    "epsilon-gamma-box",
    "epsilon-gamma",
)
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "sensitivity": ("sensitivity", {}),
    "gradient × input": ("gradient-x-input", {}),
    **{f"LRP {preset}": ("lrp", {"preset": preset}) for preset in PRESETS},
    "LRP epsilon-gamma without box": ("lrp", {"preset": "epsilon-gamma", "box": None}),
}
METHODS_OF_MANY_PASSES: dict[str, tuple[str, dict[str, object]]] = {
    "integrated gradients": ("integrated-gradients", {"steps": 20}),
    "occlusion": ("occlusion", {"window": (3, 32, 32), "stride": (3, 16, 16)}),
}
SHOWN = (
    "sensitivity",
    "gradient × input",
    "LRP epsilon",
    "LRP epsilon-gamma-box",
    "LRP epsilon-gamma",
    "integrated gradients",
)
SCORES_SHOWN = ("relative", "logit")
EVERY = 3
"""Photos are taken in steps of this, so that the first ones already span all kinds of classes."""


@dataclass(frozen=True)
class Subject:
    """A trained classifier and what its pixels mean."""

    folder: str
    title: str
    preprocessing: str
    batch_size: int


SUBJECTS = {
    "squeezenet": Subject("squeezenet-float32", "SqueezeNet", "caffe-bgr", 16),
    "mobilenetv2": Subject("mobilenetv2-float32", "MobileNetV2", "imagenet", 8),
    "mobilenetv2-int8": Subject("rtml--mobilenetv2-12-qdq", "MobileNetV2 in int8 (QDQ)", "imagenet", 8),
    "shufflenet-int8": Subject("models--shufflenet-v2-12-int8", "ShuffleNetV2 in int8 (QLinear)", "imagenet", 8),
}

FLOATS = ("squeezenet", "mobilenetv2")


@dataclass(frozen=True)
class Measured:
    """one_pass : methods of one pass and random order        all : every method, on fewer photos; None without them"""

    one_pass: Curves
    all: Curves | None


def measure(subject: Subject, choices: argparse.Namespace) -> Measured:
    """Both sets meet the same noise on one photo, so their curves stand side by side."""
    one_pass = measure_set(subject, choices, METHODS, choices.count, subject.folder)
    count = min(choices.many, choices.count)
    if not count:
        return Measured(one_pass, None)
    many = measure_set(subject, choices, METHODS_OF_MANY_PASSES, count, f"{subject.folder}-many", baseline=False)
    return Measured(one_pass, joined(one_pass, many))


def joined(one: Curves, other: Curves) -> Curves:
    """The series of both, over the samples that both hold."""
    found = {record.name: record for record in other.records}
    records = [
        replace(
            record,
            value=np.concatenate([record.value, found[record.name].value]),
            log_probability=np.concatenate([record.log_probability, found[record.name].log_probability]),
            best=np.concatenate([record.best, found[record.name].best]),
        )
        for record in one.records
        if record.name in found
    ]
    return replace(one, series=(*one.series, *other.series), records=tuple(records))


def measure_set(
    subject: Subject,
    choices: argparse.Namespace,
    methods: dict[str, tuple[str, dict[str, object]]],
    count: int,
    name: str,
    *,
    baseline: bool = True,
) -> Curves:
    zoo, photos, store = choices.zoo, choices.photos, choices.store
    model = read(zoo / subject.folder / "model.onnx")
    meaning = meaning_of(model, {"preprocessing": subject.preprocessing, "kind": "image", "layout": "NCHW"})
    common = {"batch_size": subject.batch_size, "layout": "NCHW", "box": meaning.box(), "providers": "cpu"}
    explainers = {title: Explainer(model, method, **(common | more)) for title, (method, more) in methods.items()}
    paths = expand([photos])
    paths = [path for start in range(EVERY) for path in paths[start::EVERY]][:count]
    started = time.perf_counter()

    def tell(done: int) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{subject.title}: {done} photos, {time.perf_counter() - started:.0f} s, {peak} MB at most", flush=True)

    curves = measure_curves(
        explainers,
        samples_of(paths, model, meaning),
        Protocol(around=surroundings("NCHW", 3, meaning.box()), baseline=baseline),
        label=class_of,
        store=store / f"{name}.jsonl",
        resume=True,
        progress=tell,
    )
    total = curves.seconds["total"]
    print(
        f"{subject.title}: {total:.0f} s, of which inside onnxruntime {curves.seconds['onnxruntime'] / total:.1%}: "
        f"perturbed copies {curves.seconds['forward'] / total:.1%}, heatmaps {curves.seconds['heatmaps'] / total:.1%}",
        flush=True,
    )
    return curves


def class_of(sample: Sample) -> int:
    """Photos are named INDEX_WNID_label."""
    return int(sample.name.partition("_")[0])


# --- figure and tables -----------------------------------------------------------------------------------------------


def draw(title: str, found: Measured) -> Figure:
    """One column per score, as figure 2 (A) of the paper with confidence bands."""
    drawing = Figure(figsize=(5.4 * len(SCORES_SHOWN), 4.1), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(1, len(SCORES_SHOWN))
    for axis, score in zip(axes, SCORES_SHOWN, strict=True):
        for position, method in enumerate(SHOWN):
            curves = holder(found, Series(method, "morf"))
            if curves is not None:
                line(axis, curves, Series(method, "morf"), score, COLOURS[position], "-")
        line(axis, found.one_pass, Series("random", "random"), score, BASELINE, ":")
        axis.set_title(f"{title}, {len(found.one_pass.records)} photos", fontsize=10)
        axis.set_ylabel(f"{SCORES[score]}\n{FORMULAS[score]}", fontsize=9)
        axis.set_xlabel("patches of 9×9 replaced")
        axis.set_xlim(0, found.one_pass.steps)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for edge in ("top", "right"):
            axis.spines[edge].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False, loc="lower right")
    return drawing


def holder(found: Measured, series: Series) -> Curves | None:
    """The larger set of photos on which a method was measured."""
    return next((curves for curves in (found.one_pass, found.all) if curves and series in curves.series), None)


def line(axis: object, curves: Curves, series: Series, score: str, colour: str, dashes: str) -> None:
    band = curves.band(series, score)
    steps = np.arange(len(band.mean))
    axis.fill_between(steps, band.low, band.high, color=colour, alpha=0.12, linewidth=0)  # type: ignore[attr-defined]
    axis.plot(steps, band.mean, dashes, color=colour, linewidth=1.8, label=series.method)  # type: ignore[attr-defined]


def section(name: str, found: Measured, command: str, note: str) -> str:
    """A model's part of docs/paper.md."""
    title, records = SUBJECTS[name].title, found.one_pass.records
    hits = np.mean([record.best[0, 0, 0] == record.label for record in records])
    skipped = f", {len(found.one_pass.skipped)} skipped" if found.one_pass.skipped else ""
    parts = [
        f"### {title}: {len(records)} photos{skipped}, {hits:.0%} of them classified rightly",
        "",
        f"![perturbation curves of {title}](images/paper-images-{name}.png)",
        "",
        *table(found),
        "",
        f"Command: `{command}`; seed 0. {note}".strip(),
    ]
    return "\n".join(parts)


def table(found: Measured) -> list[str]:
    """A row per method, on as many photos as it was measured on; differences are paired by photo."""
    heading = "| method | photos | AOPC, relative | − random | − SA | AOPC, logit | − random | − SA | log p at 40 |"
    sets = [found.one_pass, *([found.all] if found.all is not None else [])]
    rows: dict[Series, tuple[float, str]] = {}
    for curves in sets:
        areas = {score: {a.series: a for a in curves.areas(score)} for score in SCORES_SHOWN}
        for series in (series for series in curves.series if series not in rows):
            rows[series] = areas["relative"][series].aopc.mean, row(curves, series, areas)
    ordered = sorted(rows.values(), key=lambda entry: -entry[0])
    return [heading, "|---|---|---|---|---|---|---|---|---|", *(text for _, text in ordered)]


def row(curves: Curves, series: Series, areas: dict[str, dict[Series, Area]]) -> str:
    sensitivity = Series("sensitivity", "morf")
    cells = [series.method, str(len(curves.records))]
    for score in SCORES_SHOWN:
        above = curves.minus(series, sensitivity, score) if series != sensitivity else None
        cells += [f"{areas[score][series].aopc.mean:.3f}", signed(areas[score][series].minus_random), signed(above)]
    lost = curves.band(series, "log-probability").mean
    return "| " + " | ".join([*cells, f"{lost[min(40, curves.steps)]:.2f}"]) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True, help="holds <model>/model.onnx")
    parser.add_argument("--photos", type=Path, required=True, help="INDEX_WNID_label.jpg each")
    parser.add_argument("--model", choices=SUBJECTS, action="append", help="default: the float ones")
    parser.add_argument("--count", type=int, default=200, help="photos, at most")
    parser.add_argument("--many", type=int, default=66, help="photos for methods of many passes; 0 leaves them out")
    parser.add_argument("--store", type=Path, default=Path("paper-images"), help="where measurements are kept")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--note", default="", help="a sentence on the run, for the page")
    choices = parser.parse_args(arguments)
    command = "python benchmarks/paper/images.py --zoo ../shared/zoo --photos ../shared/data/imagenet-sample"
    for name in choices.model or FLOATS:
        found = measure(SUBJECTS[name], choices)
        save_figure(choices.docs / "images" / f"paper-images-{name}.png", draw(SUBJECTS[name].title, found))
        told = f"{command} --model {name} --count {choices.count} --many {choices.many}"
        put(choices.docs / "paper.md", name, "images.py", section(name, found, told, choices.note))


if __name__ == "__main__":
    main()
