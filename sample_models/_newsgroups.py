"""20 Newsgroups, the by-date split, without headers, quotes and footers, as token numbers.

What is removed follows scikit-learn's description of `fetch_20newsgroups(remove=("headers", "quotes", "footers"))`:
everything before the first blank line; lines that begin with '>' or '|' or say who wrote what; a last block behind a
blank line or a line of dashes. The texts are not part of this project: get them from http://qwone.com/~jason/20Newsgroups
and give them as JSON lines (gzip) with "split", "label" and "text" per line.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _common import licence_line, write_sidecar
from numpy.typing import NDArray

DATA = "20 Newsgroups, by-date split, headers, quotes and footers removed (K. Lang 1995; qwone.com/~jason/20Newsgroups)"

PADDING, UNKNOWN = "[PAD]", "[UNK]"
WORD = re.compile(r"\w+")
QUOTE = re.compile(r"(writes in|writes:|wrote:|says:|said:|^In article|^Quoted from|^\||^>)")


@dataclass(frozen=True)
class Texts:
    """One half of the split. labels : (text,) numbers into the sorted names of the groups"""

    texts: list[str]
    labels: NDArray[np.int64]


def load_newsgroups(path: Path) -> tuple[Texts, Texts, list[str]]:
    """Return training texts, test texts and the twenty names."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    names = sorted({row["label"] for row in rows})
    halves = [
        Texts(
            [stripped(row["text"]) for row in rows if row["split"] == split],
            np.array([names.index(row["label"]) for row in rows if row["split"] == split], np.int64),
        )
        for split in ("train", "test")
    ]
    return halves[0], halves[1], names


def stripped(text: str) -> str:
    """A post without what gives its group away by who wrote it: header, quotes, footer."""
    body = text.partition("\n\n")[2]
    lines = [line for line in body.split("\n") if not QUOTE.search(line)]
    lines = "\n".join(lines).strip().split("\n")
    bars = [number for number, line in enumerate(lines) if not line.strip().strip("-")]
    return "\n".join(lines[: bars[-1]] if bars and bars[-1] > 0 else lines)


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return WORD.findall(text.lower())


def vocabulary_of(texts: Sequence[str], size: int) -> list[str]:
    """Padding, unknown, and the words that stand in most texts, at ties the first met."""
    count = Counter(word for text in texts for word in dict.fromkeys(words_of(text)))
    return [PADDING, UNKNOWN, *(word for word, _ in count.most_common(size - 2))]


def encode(texts: Sequence[str], vocabulary: Sequence[str], length: int) -> NDArray[np.int64]:
    """(text, length) token numbers: cut at the end, or filled with padding."""
    number = {word: index for index, word in enumerate(vocabulary)}
    rows = np.zeros((len(texts), length), np.int64)
    for row, text in zip(rows, texts, strict=True):
        tokens = [number.get(word, 1) for word in words_of(text)[:length]]
        row[: len(tokens)] = tokens
    return rows


def write_texts_sidecar(
    model: Path, vocabulary: Sequence[str], names: Sequence[str], about: dict[str, object], **fields_of_its_own: object
) -> None:
    """The vocabulary and the sidecar beside a model of tokens.

    names : of the classes        about : accuracy, test_samples, script, exporter
    """
    (model.parent / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    fields = {"kind": "text", "name": model.parent.name, "layout": "NL", "tokenizer": "vocab.txt", "labels": names}
    told = {"licence": licence_line(str(about["script"])), "data": DATA, **about}
    write_sidecar(model, {**fields, **fields_of_its_own, "logits": "logits"}, told)
