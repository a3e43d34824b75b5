"""Word deletion on 20 Newsgroups for a linear SVM over TF-IDF, the bag-of-words classifier of the paper's comparison.

    python benchmarks/paper/text_svm.py 20news-bydate.jsonl.gz --texts 1000

Writes a section of docs/paper.md. Model: sample_models/topics_svm. A word is deleted by taking it out of the text; the
one with the largest relevance for the predicted class goes first:

    LRP  Σ R of the word, back through TF-IDF and the counts to each word of the text
    SA   |∂f/∂count| of the word        random  any order

Posts are drawn with the seed from those of the test half that have at least as many words as are deleted, and at most
`--longest`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "sample_models"))

from _newsgroups import encode, load_newsgroups, words_of  # noqa: E402

from onnxlrp import Explainer  # noqa: E402

MODEL = ROOT / "sample_models" / "topics_svm" / "model.onnx"
START, END = "<!-- text-svm: written by benchmarks/paper/text_svm.py -->", "<!-- text-svm: end -->"
SHOWN = (0, 1, 2, 5, 10, 20, 30, 40, 50)
SPECIAL = 2
Rows = list[np.ndarray[Any, Any]]


def orders_of(rows: Rows, random: np.random.Generator) -> dict[str, Rows]:
    """Per method and post, its words from the most to the least relevant."""
    lrp, sensitivity = Explainer(MODEL), Explainer(MODEL, method="sensitivity", inputs=["counts"])
    found: dict[str, Rows] = {"LRP epsilon": [], "SA": [], "random": []}
    for row in rows:
        tokens = row[None]
        slopes = sensitivity.explain({"tokens": tokens}).relevance["counts"][0]
        by_word = np.where(row >= SPECIAL, slopes[np.maximum(row - SPECIAL, 0)], 0.0)
        noise = random.random(len(row)) * 1e-12
        relevance = lrp.explain({"tokens": tokens}).relevance["tokens"][0]
        found["LRP epsilon"].append(np.argsort(-relevance + noise, kind="stable"))
        found["SA"].append(np.argsort(-by_word + noise, kind="stable"))
        found["random"].append(random.permutation(len(row)))
    return found


def right(explainer: Explainer, rows: Rows, orders: Rows, labels: np.ndarray[Any, Any], deleted: int) -> np.ndarray:
    """(post,) whether the largest score is the true class's once so many words are gone."""
    length = max(map(len, rows))
    batch = np.zeros((len(rows), length), np.int64)
    for target, row, order in zip(batch, rows, orders, strict=True):
        kept = np.sort(order[deleted:])
        target[: len(kept)] = row[kept]
    scores = np.concatenate([explainer.predict(batch[at : at + 16])["logits"] for at in range(0, len(batch), 16)])
    return np.asarray(scores.argmax(axis=1) == labels)


def interval(differences: np.ndarray[Any, Any], random: np.random.Generator) -> str:
    """Mean and 95 % bootstrap interval over posts, in points."""
    means = differences[random.integers(0, len(differences), (1000, len(differences)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{100 * differences.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def measure(choices: argparse.Namespace) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
    """(post, step) whether each post is classified rightly, by method."""
    vocabulary = (MODEL.parent / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    _, test, _ = load_newsgroups(choices.data)
    lengths = np.array([len(words_of(text)) for text in test.texts])
    random = np.random.default_rng(choices.seed)
    chosen = random.permutation(np.flatnonzero((lengths >= choices.words) & (lengths <= choices.longest)))[
        : choices.texts
    ]
    rows = [encode([test.texts[index]], vocabulary, int(lengths[index]))[0] for index in chosen]
    explainer = Explainer(MODEL, method="random", inputs=["counts"])
    orders = orders_of(rows, random)
    steps = range(choices.words + 1)
    return {
        method: np.stack([right(explainer, rows, order, test.labels[chosen], step) for step in steps], axis=1)
        for method, order in orders.items()
    }, len(rows)


def section(found: dict[str, np.ndarray[Any, Any]], posts: int, choices: argparse.Namespace, seconds: float) -> str:
    """The section of docs/paper.md."""
    steps, random = [step for step in SHOWN if step <= choices.words], np.random.default_rng(choices.seed)
    lines = [START, "", "### A linear SVM over TF-IDF", ""]
    lines += [
        f"Accuracy (%) on {posts} posts after so many deleted words. Relevance goes back through TF-IDF and the counts",
        "",
    ]
    lines[-2] += " to the words of the text."
    lines += ["| order | " + " | ".join(map(str, steps)) + " | area above the random curve, points |"]
    lines += ["|---|" + "---|" * (len(steps) + 1)]
    for method, hits in found.items():
        gain = "" if method == "random" else interval((found["random"].astype(float) - hits).mean(axis=1), random)
        cells = " | ".join(f"{100 * hits[:, step].mean():.1f}" for step in steps)
        lines.append(f"| {method} | {cells} | {gain} |")
    command = f"python benchmarks/paper/text_svm.py 20news-bydate.jsonl.gz --texts {choices.texts}"
    lines += ["", f"`{command}`, seed {choices.seed}, {seconds:.0f} s on 2 cores. 95 % intervals by bootstrap."]
    return "\n".join([*lines, "", END])


def main() -> None:
    parser = argparse.ArgumentParser(description="Word deletion on 20 Newsgroups, linear SVM.")
    parser.add_argument("data", type=Path, help="JSON lines, gzip: split, label, text")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--words", type=int, default=50, help="how many are deleted")
    parser.add_argument("--longest", type=int, default=1000, help="words of the longest post that is taken")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    choices = parser.parse_args()
    started = time.perf_counter()
    found, posts = measure(choices)
    written = section(found, posts, choices, time.perf_counter() - started)
    page = choices.docs / "paper.md"
    old = page.read_text(encoding="utf-8")
    before, marked, rest = old.partition(START)
    after = rest.partition(END)[2] if marked else "\n"
    page.write_text(f"{before.rstrip()}\n\n{written}{after}", encoding="utf-8")
    print(written)


if __name__ == "__main__":
    main()
