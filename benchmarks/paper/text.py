"""The paper's second experiment: delete words of 20 Newsgroups posts and watch the accuracy fall (section 5, figure 3).

    python benchmarks/paper/text.py 20news-bydate.jsonl.gz

Four classifiers of the test half, each trained by the script in sample_models that bears its name, which says what is
removed from the posts: a word CNN, a bidirectional LSTM, a transformer, and a linear SVM over TF-IDF. The word with the
largest relevance for the predicted class goes first:

    SA  Σ |∂f/∂e|        LRP  Σ R, over the word's embedding e or its count        random  any order

The networks lose a word as its embedding becomes zero; the SVM as its count does, which takes all its occurrences.
A post with fewer words keeps its last value when they are gone; one without a known word is left out. `--texts` takes
so many of the posts that are long enough, drawn with the seed, instead of all.

Writes docs/images/paper-text.png and the sections "Text" of docs/paper.md. What is measured is kept in --store: a
killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "sample_models"))

from _newsgroups import encode, load_newsgroups, words_of  # noqa: E402
from _page import put  # noqa: E402

from onnxlrp import Explainer  # noqa: E402
from onnxlrp.curves import Protocol, measure_curves  # noqa: E402
from onnxlrp.data import Sample, Sidecar  # noqa: E402
from onnxlrp.figure import new_figure, save_figure  # noqa: E402
from onnxlrp.model import Model, read  # noqa: E402
from onnxlrp.perturbation.statistics import Curves, Series  # noqa: E402
from onnxlrp.perturbation.words import embedding_of, word_regions  # noqa: E402
from onnxlrp.report.curve_files import BASELINE, COLOURS  # noqa: E402

PADDING, UNKNOWN, SPECIAL = 0, 1, 2
SHOWN = (0, 1, 2, 5, 10, 20, 30, 40, 50)
RANDOM = "random"
SA: dict[str, Any] = {"method": "sensitivity"}


@dataclass(frozen=True)
class Subject:
    """A classifier of posts.

    longest : words of a post that it reads, None = all        counts : the tensor of word counts, of a bag of words
    """

    name: str
    title: str
    longest: int | None
    methods: Mapping[str, dict[str, Any]]
    counts: str | None = None

    @property
    def path(self) -> Path:
        return ROOT / "sample_models" / f"topics_{self.name}" / "model.onnx"

    def deleted(self, model: Model) -> str:
        """The tensor in which a word is set to zero."""
        tensor = self.counts or embedding_of(model)
        assert tensor is not None
        return tensor

    def regions(self, sample: Sample) -> NDArray[np.intp]:
        """Label map of a post's words: places of its text, or columns of its counts."""
        if self.counts is None:
            return word_regions(sample, rank=2)
        tokens = sample.arrays["tokens"]
        labels = np.full(len(vocabulary_of(self)) - SPECIAL, -1, np.intp)
        known = np.unique(tokens[tokens >= SPECIAL]) - SPECIAL
        labels[known] = np.arange(len(known))
        return labels


LRP: dict[str, dict[str, Any]] = {f"LRP {preset}": {"preset": preset} for preset in ("epsilon-plus", "epsilon")}
SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("textcnn", "Word CNN", 256, {**LRP, "SA": SA}),
        Subject("lstm", "Bidirectional LSTM", 160, {"LRP lrp-lstm": {"preset": "lrp-lstm"}, "SA": SA}),
        Subject(
            "transformer",
            "Transformer",
            160,
            {"LRP attnlrp": {"preset": "attnlrp"}, "LRP epsilon": {"preset": "epsilon"}, "SA": SA},
        ),
        Subject("svm", "Linear SVM over TF-IDF", None, {"LRP epsilon": {"preset": "epsilon"}, "SA": SA}, "counts"),
    )
}


@dataclass(frozen=True)
class Found:
    subject: Subject
    curves: Curves
    seconds: float

    def accuracy(self, series: Series) -> NDArray[np.float64]:
        """(step,): share of posts whose largest score is the true class's."""
        index = self.curves.series.index(series)
        hits = [(record.best[index] == record.label).mean(axis=0) for record in self.curves.records]
        return np.asarray(np.mean(hits, axis=0))


def vocabulary_of(subject: Subject) -> list[str]:
    sidecar = Sidecar.beside(subject.path)
    assert sidecar.tokenizer is not None
    return (subject.path.parent / sidecar.tokenizer).read_text(encoding="utf-8").split("\n")[:-1]


def posts(subject: Subject, choices: argparse.Namespace) -> tuple[list[Sample], dict[str, int]]:
    """Samples of one post each, by rising length so that neighbours share a batch, and their true classes."""
    _, test, _ = load_newsgroups(choices.data)
    vocabulary = vocabulary_of(subject)
    lengths = np.array([len(words_of(text)) for text in test.texts])
    random, longest = np.random.default_rng(choices.seed), subject.longest or int(lengths.max())
    chosen = random.permutation(np.flatnonzero(lengths >= choices.words))[: choices.texts]
    chosen = chosen if choices.texts else np.arange(len(lengths))
    samples = []
    for index in sorted(chosen, key=lambda index: lengths[index]):
        row = encode([test.texts[index]], vocabulary, max(1, min(lengths[index], longest)))
        if (row >= SPECIAL).any():
            samples.append(Sample(str(index), {"tokens": row}))
    return samples, {str(index): int(test.labels[index]) for index in chosen}


def measure(subject: Subject, choices: argparse.Namespace) -> Found:
    """All curves over the posts."""
    started, model = time.perf_counter(), read(subject.path)
    explained = [subject.deleted(model)]
    explainers = {name: Explainer(model, inputs=explained, **asked) for name, asked in subject.methods.items()}
    samples, labels = posts(subject, choices)
    protocol = Protocol(
        choices.words, replace="constant", seed=choices.seed, labels=subject.regions, labels_name="words"
    )

    def tell(done: int) -> None:
        seconds = time.perf_counter() - started
        print(f"\r{subject.title}: {done} of {len(samples)} posts, {seconds:.0f} s", end="", flush=True)

    curves = measure_curves(
        explainers,
        samples,
        protocol,
        label=lambda sample: labels[sample.name],
        store=choices.store / f"{subject.name}.jsonl",
        resume=True,
        progress=tell,
    )
    print()
    return Found(subject, curves, time.perf_counter() - started)


def draw(found: Sequence[Found]) -> Figure:
    """One panel per classifier, as in figure 3 of the paper: accuracy against deleted words, with its band."""
    drawing = new_figure(4.2 * len(found), 3.6, "")
    panels = drawing.subplots(1, len(found), squeeze=False)[0]
    for axis, one in zip(panels, found, strict=True):
        for position, series in enumerate(one.curves.series):
            colour = {RANDOM: BASELINE, "SA": COLOURS[-1]}.get(series.method, COLOURS[position])
            band, first = one.curves.band(series, "accuracy"), one.accuracy(series)[0]
            steps = np.arange(len(band.mean))
            axis.fill_between(steps, first - band.high, first - band.low, color=colour, alpha=0.13, linewidth=0)
            axis.plot(
                steps, first - band.mean, ":" if series.method == RANDOM else "-", color=colour, label=series.method
            )
        axis.set_title(f"{one.subject.title}, {len(one.curves.records)} posts", fontsize=10)
        axis.set_xlabel("words deleted")
        axis.set_xlim(0, one.curves.steps)
        axis.set_ylim(0, None)
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy")
    return drawing


def section(one: Found, choices: argparse.Namespace) -> str:
    """A classifier's part of docs/paper.md."""
    curves, steps = one.curves, [k for k in SHOWN if k <= choices.words]
    lines = [f"### {one.subject.title}: {len(curves.records)} posts", ""]
    lines += ["Accuracy (%) after so many deleted words.", ""]
    lines += ["| order | " + " | ".join(map(str, steps)) + " | area above random, points | above SA |"]
    lines += ["|---|" + "---|" * (len(steps) + 2)]
    for area in curves.areas("accuracy"):
        values, series = one.accuracy(area.series), area.series
        above = None if series.method == "SA" else curves.minus(series, Series("SA", "morf"), "accuracy")
        cells = [f"{100 * values[min(k, curves.steps)]:.1f}" for k in steps]
        lines.append("| " + " | ".join([series.method, *cells, points(area.minus_random), points(above)]) + " |")
    asked = f" --texts {choices.texts}" if choices.texts else ""
    command = f"python benchmarks/paper/text.py 20news-bydate.jsonl.gz --model {one.subject.name}{asked}"
    inside = curves.seconds["onnxruntime"] / curves.seconds["total"]
    told = choices.note or f"{one.seconds / 60:.0f} min, {inside:.0%} of it inside onnxruntime"
    return "\n".join([*lines, "", f"`{command}`, seed {choices.seed}: {told}. 95 % intervals by bootstrap over posts."])


def points(band: Any) -> str:
    """A gain with its interval, in percentage points."""
    text = "" if band is None else f"{100 * band.mean:.1f} [{100 * band.low:.1f}, {100 * band.high:.1f}]"
    return text.replace("-", "−")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSON lines, gzip: split, label, text")
    parser.add_argument("--model", choices=SUBJECTS, action="append", help="default: all")
    parser.add_argument("--texts", type=int, default=0, help="posts; 0 = the whole test half")
    parser.add_argument("--store", type=Path, default=Path("paper-text"), help="where measurements are kept")
    parser.add_argument("--words", type=int, default=50, help="how many are deleted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--note", default="", help="a sentence on the run, for the page")
    choices = parser.parse_args(arguments)
    found = []
    for name in choices.model or SUBJECTS:
        found.append(measure(SUBJECTS[name], choices))
        put(choices.docs / "paper.md", f"text-{name}", "text.py", section(found[-1], choices))
    save_figure(choices.docs / "images" / "paper-text.png", draw(found), 120)


if __name__ == "__main__":
    main()
