"""Text → token numbers, and the way back: which characters of the text each token stands for.

A tokenizer is a file beside the model:

    tokenizer.json                of the `tokenizers` package (the extra `text`)
    vocab.json                    {"word": number}
    vocab.txt                     one word per line, the first line is number 0
    whitespace:vocab.txt          the same, and words are what stands between blanks

A vocabulary without capital letters is looked up in lower case. Words are runs of letters and digits; punctuation is a
word of its own where the vocabulary has some.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import InputError, missing_package

PADDING = ("[PAD]", "<pad>", "<PAD>", "<blank>")
UNKNOWN = ("[UNK]", "<unk>", "<UNK>", "<OOV>")
WHITESPACE = "whitespace:"

_WORDS = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
_PLAIN_WORDS = re.compile(r"\w+")
_BETWEEN_BLANKS = re.compile(r"\S+")

Span = tuple[int, int]


@dataclass(frozen=True)
class Words:
    """A text and the words that its tokens belong to.

    spans    : (start, end) of each word, in characters of `text`, in order
    of_token : (token,) index of each token's word; −1 for tokens that stand for no text
    unknown  : words that the vocabulary does not have        cut : words behind the longest input
    """

    text: str
    spans: tuple[Span, ...]
    of_token: NDArray[np.intp]
    unknown: tuple[str, ...] = ()
    cut: int = 0

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, word: int) -> str:
        return self.text[slice(*self.spans[word])]

    def per_word(self, per_token: NDArray[Any]) -> NDArray[np.float64]:
        """(token,) or (token, channel) → (word,): a word gets the sum of its pieces."""
        values = np.asarray(per_token, np.float64).reshape(len(per_token), -1).sum(axis=1)
        inside = self.of_token >= 0
        return np.asarray(np.bincount(self.of_token[inside], values[inside], len(self.spans)), np.float64)

    def fitted(self, length: int) -> Words:
        """For a longer or shorter row of tokens: filled up, or cut at its end."""
        kept = self.of_token[:length]
        missing = np.full(max(length - len(kept), 0), -1, np.intp)
        lost = len(set(self.of_token[length:].tolist()) - set(kept.tolist()) - {-1})
        return Words(self.text, self.spans, np.concatenate([kept, missing]), self.unknown, self.cut + lost)


@dataclass(frozen=True)
class Tokens:
    """Token numbers of one text.  ids, types : (token,)        padding : the number that fills rows up"""

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    words: Words
    padding: int = 0


Tokenizer = Callable[[str], Tokens]


def tokenizer_of(named: str, folder: Path) -> Tokenizer:
    """The tokenizer that a sidecar names.

    Errors: InputError where the file is missing or is none; Unsupported where the `tokenizers` package is missing.
    """
    between_blanks = named.startswith(WHITESPACE)
    path = folder / named.removeprefix(WHITESPACE)
    if not path.is_file():
        raise InputError(
            f"{path}: no such tokenizer file. Put it beside the model, or correct `tokenizer` in the sidecar."
        )
    return _read(path, path.stat().st_mtime_ns, between_blanks)


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int, between_blanks: bool) -> Tokenizer:
    del changed  # part of the key: a file that was rewritten is read again
    try:
        content = path.read_text(encoding="utf-8")
        entries = json.loads(content) if path.suffix.lower() == ".json" else content.split("\n")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a readable tokenizer file ({error}).") from error
    if isinstance(entries, dict) and "model" in entries and not isinstance(entries["model"], int):
        return _trained(content, path)
    if isinstance(entries, list):
        entries = {str(word).rstrip("\r"): number for number, word in enumerate(entries) if str(word).rstrip("\r")}
    if not isinstance(entries, dict) or not all(isinstance(number, int) for number in entries.values()) or not entries:
        raise InputError(
            f'{path}: neither a tokenizer.json nor a vocabulary (one word per line, or {{"word": number}}).'
        )
    return Vocabulary(entries, between_blanks)


class Vocabulary:
    """Words by number."""

    def __init__(self, numbers: dict[str, int], between_blanks: bool = False) -> None:
        self._numbers = numbers
        special = {*PADDING, *UNKNOWN}
        ordinary = [word for word in numbers if word not in special]
        self._lower = not any(word != word.lower() for word in ordinary)
        self._padding = next((numbers[word] for word in PADDING if word in numbers), 0)
        self._unknown = next((numbers[word] for word in UNKNOWN if word in numbers), None)
        apostrophes = any("'" in word for word in ordinary)
        self._pattern = _BETWEEN_BLANKS if between_blanks else _WORDS if apostrophes else _PLAIN_WORDS
        if not between_blanks and any(not _PLAIN_WORDS.search(word) for word in ordinary):
            self._pattern = _WORDS

    def __call__(self, text: str) -> Tokens:
        ids, spans, unknown = [], [], []
        for found in self._pattern.finditer(text):
            word = found.group().lower() if self._lower else found.group()
            number = self._numbers.get(word, self._unknown)
            if word not in self._numbers and _PLAIN_WORDS.search(word):
                unknown.append(found.group())
            if number is not None and (word in self._numbers or _PLAIN_WORDS.search(word)):
                ids.append(number)
                spans.append(found.span())
        row = np.array(ids, np.int64)
        words = Words(text, tuple(spans), np.arange(len(ids), dtype=np.intp), tuple(unknown))
        return Tokens(row, np.zeros_like(row), words, self._padding)


def _trained(content: str, path: Path) -> Tokenizer:
    """A tokenizer.json, through the `tokenizers` package."""
    try:
        import tokenizers
    except ImportError as error:
        raise missing_package(f"{path} needs", "tokenizers", "text", "give token numbers as an .npy file") from error
    try:
        trained = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the package raises nothing narrower
        raise InputError(f"{path}: the `tokenizers` package cannot read it ({error}).") from error
    trained.no_padding()
    trained.no_truncation()
    numbers = trained.get_vocab()
    unknown = next((numbers[word] for word in UNKNOWN if word in numbers), None)
    padding = next((numbers[word] for word in PADDING if word in numbers), 0)

    def tokenize(text: str) -> Tokens:
        found = trained.encode(text)
        words = _grouped(text, found.word_ids, found.offsets, found.ids, unknown)
        return Tokens(np.array(found.ids, np.int64), np.array(found.type_ids, np.int64), words, padding)

    return tokenize


def _grouped(
    text: str, word_of: Sequence[int | None], offsets: Sequence[Span], ids: Sequence[int], unknown: int | None
) -> Words:
    """Pieces of one word, put together; where a tokenizer knows no words, each piece is one."""
    spans: list[Span] = []
    of_token = []
    last: int | None = None
    missing = []
    for word, (start, end), number in zip(word_of, offsets, ids, strict=True):
        if word is None or start == end:
            of_token.append(-1)
            continue
        blank = len(text[start:end]) - len(text[start:end].lstrip())
        start = min(start + blank, end)
        if word == last and spans:
            spans[-1] = (min(spans[-1][0], start), max(spans[-1][1], end))
        else:
            spans.append((start, end))
        last = word
        of_token.append(len(spans) - 1)
        if number == unknown:
            missing.append(text[start:end])
    return Words(text, tuple(spans), np.array(of_token, np.intp), tuple(missing))
