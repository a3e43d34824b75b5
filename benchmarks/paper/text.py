"""The paper's second experiment: delete words of 20 Newsgroups posts and watch the accuracy fall (section 5, figure 3).

    python benchmarks/paper/text.py 20news-bydate.jsonl.gz --texts 1000

Writes docs/images/paper-text.png and the section "Text" of docs/paper.md. Model: sample_models/topics_textcnn, whose
script says what is removed from the posts. A word is deleted by setting its embedding e to zero, the one with the
largest relevance for the predicted class first:

    SA  Σ |∂f/∂e|        LRP  Σ R over the word's embedding, under two presets        random  any order

Posts are drawn with the seed from those of the test half that have at least as many words as are deleted. `--texts 0`
takes the whole half but posts without a known word; a shorter post keeps its last value when its words are gone. What
is measured is kept in --store, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "sample_models"))

from _newsgroups import encode, load_newsgroups  # noqa: E402

from onnxlrp import Explainer  # noqa: E402
from onnxlrp.curves import Protocol, measure_curves  # noqa: E402
from onnxlrp.data import Sample, Sidecar  # noqa: E402
from onnxlrp.model import read  # noqa: E402
from onnxlrp.perturbation.statistics import Curves, Series  # noqa: E402
from onnxlrp.perturbation.words import embedding_of, word_regions  # noqa: E402
from onnxlrp.report.curve_files import draw_curves, save_figure  # noqa: E402

MODEL = ROOT / "sample_models" / "topics_textcnn" / "model.onnx"
LENGTH = 256
START, END = "<!-- text: written by benchmarks/paper/text.py -->", "<!-- text: end -->"
METHODS: dict[str, dict[str, Any]] = {
    "LRP epsilon-plus": {"method": "lrp", "preset": "epsilon-plus"},
    "LRP epsilon": {"method": "lrp", "preset": "epsilon"},
    "SA": {"method": "sensitivity"},
}
SHOWN = (0, 1, 2, 5, 10, 20, 30, 40, 50)


def posts(path: Path, count: int, words: int, seed: int) -> tuple[list[Sample], dict[str, int]]:
    """Samples of one post each, and their true classes."""
    sidecar = Sidecar.beside(MODEL)
    assert sidecar.tokenizer is not None
    vocabulary = (MODEL.parent / sidecar.tokenizer).read_text(encoding="utf-8").split("\n")[:-1]
    _, test, _ = load_newsgroups(path)
    rows = encode(test.texts, vocabulary, LENGTH)
    lengths = (rows != 0).sum(axis=1)
    long_enough = np.flatnonzero(lengths >= (words if count else 1))
    chosen = np.random.default_rng(seed).permutation(long_enough)[: count or None]
    samples = [Sample(str(index), {"tokens": rows[index : index + 1, : lengths[index]]}) for index in chosen]
    return samples, {str(index): int(test.labels[index]) for index in chosen}


def measure(choices: argparse.Namespace) -> Curves:
    """All curves over the posts."""
    model = read(MODEL)
    embedding = embedding_of(model)
    assert embedding is not None
    explainers = {name: Explainer(model, inputs=[embedding], **asked) for name, asked in METHODS.items()}
    samples, labels = posts(choices.data, choices.texts, choices.words, choices.seed)
    regions: Callable[[Sample], Any] = lambda sample: word_regions(sample, rank=2)  # noqa: E731
    protocol = Protocol(choices.words, replace="constant", seed=choices.seed, labels=regions, labels_name="words")
    store = choices.store / "textcnn.jsonl"
    return measure_curves(
        explainers, samples, protocol, label=lambda sample: labels[sample.name], store=store, resume=True, progress=tell
    )


def tell(done: int) -> None:
    if done % 100 < 16:
        print(f"{done} posts", flush=True)


def accuracy(curves: Curves, series: Series) -> np.ndarray[Any, Any]:
    """(step,): share of posts whose largest score is the true class's."""
    index = curves.series.index(series)
    return np.mean([(record.best[index] == record.label).mean(axis=0) for record in curves.records], axis=0)


def section(curves: Curves, choices: argparse.Namespace, seconds: float) -> str:
    """The section of docs/paper.md."""
    steps = [k for k in SHOWN if k <= choices.words]
    lines = [START, "", "## Text", "", "![word deletion](images/paper-text.png)", ""]
    lines += [f"Accuracy (%) on {len(curves.records)} posts after so many deleted words.", ""]
    lines += ["| order | " + " | ".join(map(str, steps)) + " | area above the random curve, points |"]
    lines += ["|---|" + "---|" * (len(steps) + 1)]
    gains = {area.series: area.minus_random for area in curves.areas("accuracy")}
    for series in curves.series:
        values = accuracy(curves, series)
        gain = gains.get(series)
        area = "" if gain is None else f"{100 * gain.mean:.1f} [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"
        lines.append(f"| {series.method} | " + " | ".join(f"{100 * values[k]:.1f}" for k in steps) + f" | {area} |")
    command = f"python benchmarks/paper/text.py 20news-bydate.jsonl.gz --texts {choices.texts}"
    lines += ["", f"`{command}`, seed {choices.seed}, {seconds / 60:.0f} min on 2 cores. 95 % intervals by bootstrap."]
    return "\n".join([*lines, "", END])


def put(page: Path, text: str) -> None:
    """Write the section in its place, or at the end."""
    old = page.read_text(encoding="utf-8") if page.is_file() else "# The paper's experiments\n"
    before, found, rest = old.partition(START)
    after = rest.partition(END)[2] if found else "\n"
    page.write_text(f"{before.rstrip()}\n\n{text}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Word deletion on 20 Newsgroups.")
    parser.add_argument("data", type=Path, help="JSON lines, gzip: split, label, text")
    parser.add_argument("--texts", type=int, default=1000, help="posts; 0 = the whole test half")
    parser.add_argument("--store", type=Path, default=Path("paper-text"), help="where measurements are kept")
    parser.add_argument("--words", type=int, default=50, help="how many are deleted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    choices = parser.parse_args()
    started = time.perf_counter()
    curves = measure(choices)
    written = section(curves, choices, time.perf_counter() - started)
    save_figure(
        draw_curves(curves, "accuracy", "20 Newsgroups: words deleted"), choices.docs / "images" / "paper-text.png"
    )
    put(choices.docs / "paper.md", written)
    print(written)


if __name__ == "__main__":
    main()
