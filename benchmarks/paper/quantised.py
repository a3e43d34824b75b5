"""A model and its quantised twin: do their heatmaps show the same?

    python benchmarks/paper/quantised.py --zoo ../shared/zoo --photos ../shared/data/imagenet-sample

Both explain the float model's class. Prints the rank correlation of the heatmaps, pixel by pixel, over all photos, and
writes the section "Quantised" of docs/paper.md. Relevance is summed over colour channels, of sensitivity analysis the
largest is taken.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _page import put
from numpy.typing import NDArray

from onnxlrp import Explainer, read
from onnxlrp.data import Sample, expand, meaning_of
from onnxlrp.metrics import spearman
from onnxlrp.perturbation.samples import samples_of

ROOT = Path(__file__).resolve().parents[2]
FLOAT, QUANTISED = "mobilenetv2-float32", "rtml--mobilenetv2-12-qdq"
METHODS: dict[str, dict[str, Any]] = {
    "LRP, default preset": {"method": "lrp"},
    "LRP epsilon-gamma-box": {"method": "lrp", "preset": "epsilon-gamma-box"},
    "sensitivity": {"method": "sensitivity"},
}

Array = NDArray[np.floating[Any]]


def heatmap(relevance: Array, method: str) -> Array:
    """(channel, height, width) → (height, width)."""
    return relevance.max(axis=0) if method == "sensitivity" else relevance.sum(axis=0)


def photos(choices: argparse.Namespace) -> Iterator[Array]:
    model = read(choices.zoo / FLOAT / "model.onnx")
    meaning = meaning_of(model, {"preprocessing": "imagenet", "kind": "image", "layout": "NCHW"})
    for sample in samples_of(expand([choices.photos])[: choices.count], model, meaning):
        if isinstance(sample, Sample):
            yield next(iter(sample.arrays.values()))


def explainers(choices: argparse.Namespace, folder: str) -> dict[str, Explainer]:
    model = read(choices.zoo / folder / "model.onnx")
    meaning = meaning_of(model, {"preprocessing": "imagenet", "kind": "image", "layout": "NCHW"})
    common = {"box": meaning.box(), "layout": "NCHW", "providers": "cpu"}
    return {title: Explainer(model, **method, **common) for title, method in METHODS.items()}


def measure(choices: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, list[float]], float, str]:
    """Correlations with the twin, with the twin's map of the photo before, the share of equal classes, the preset."""
    ours, theirs = explainers(choices, FLOAT), explainers(choices, QUANTISED)
    found: dict[str, list[float]] = {title: [] for title in METHODS}
    chance: dict[str, list[float]] = {title: [] for title in METHODS}
    before: dict[str, Array] = {}
    same = []
    for count, x in enumerate(photos(choices), start=1):
        target = int(np.argmax(next(iter(ours["sensitivity"].predict(x).values()))))
        for title in METHODS:
            pair = [explainer[title].explain(x, target=target) for explainer in (ours, theirs)]
            a, b = (heatmap(next(iter(e.relevance.values()))[0], title) for e in pair)
            found[title].append(spearman(a, b))
            if title in before:
                chance[title].append(spearman(a, before[title]))
            before[title] = b
        same.append(target == int(np.argmax(next(iter(pair[1].outputs.values())))))
        if count % 20 == 0:
            print(f"{count} photos: " + ", ".join(f"{t} {np.nanmean(v):.3f}" for t, v in found.items()), flush=True)
    preset = theirs["LRP, default preset"].preset or ""
    return found, chance, float(np.mean(same)), preset


def section(found: dict[str, list[float]], chance: dict[str, list[float]], same: float, preset: str) -> str:
    count = len(next(iter(found.values())))
    rows = [
        "## Quantised",
        "",
        f"MobileNetV2 in float, and as deployed in 8 bits (QuantizeLinear, DequantizeLinear), on {count} photos. Both "
        f"explain the class that the float model sees; on {same:.0%} of the photos the deployed one sees the same. "
        "Rank correlation (Spearman) of the two heatmaps over all pixels; beside it that of heatmaps of two different "
        "photos.",
        "",
        "| method | mean | median | lowest tenth below | two different photos | without a map |",
        "|---|---|---|---|---|---|",
    ]
    for title, values in found.items():
        name = f"{title} ({preset})" if title.endswith("preset") else title
        low, middle = np.nanquantile(values, [0.1, 0.5])
        other = float(np.nanmean(chance[title])) if chance[title] else float("nan")
        flat = int(np.isnan(values).sum())
        rows.append(f"| {name} | {np.nanmean(values):.3f} | {middle:.3f} | {low:.3f} | {other:.3f} | {flat} |")
    why = "Without a map: the deployed logit is saturated at the top of its 8 bits, so its gradient is 0 everywhere."
    command = "python benchmarks/paper/quantised.py --zoo ../shared/zoo --photos ../shared/data/imagenet-sample"
    return "\n".join([*rows, "", why, "", f"Command: `{command}`."])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True, help="holds <model>/model.onnx")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200, help="photos, at most")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    choices = parser.parse_args(arguments)
    text = section(*measure(choices))
    print(text)
    put(choices.docs / "paper.md", "quantised", "quantised.py", text)


if __name__ == "__main__":
    main()
