"""Text files: tokenised as the sidecar says, fed to whatever inputs the model has for tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.sample import Input, Sample, fit, loader
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.data.tokens import Tokens, Words, tokenizer_of
from onnxlrp.errors import InputError

SUFFIXES = (".txt",)

MOST_NAMED = 5
"""Unknown words that a warning names."""


@loader("text", suffixes=SUFFIXES)
def load_text(path: Path, sidecar: Sidecar, inputs: Sequence[Input]) -> Sample:
    """One text of one file.

    Inputs called after a mask get ones where there is text, segments and types their numbers, positions 0, 1, 2…, and
    the one that is left the token numbers. Rows of fixed length are filled with padding; texts longer than these, or
    than the sidecar's `longest`, are cut.
    Errors: InputError for a file that is no text, is empty, or for a model that takes no tokens.
    """
    text = _read(path)
    if any(np.dtype(entry.dtype).kind in "OUS" for entry in inputs):
        return _as_strings(path, text, sidecar, inputs)
    if sidecar.tokenizer is None:
        raise InputError(
            f"{path}: nothing says how text becomes tokens. Name a tokenizer file in the model's sidecar: "
            'tokenizer = "tokenizer.json" or "vocab.txt".'
        )
    folder = sidecar.source.parent if sidecar.source is not None else Path()
    tokens = tokenizer_of(sidecar.tokenizer, folder)(text)
    if not len(tokens.words):
        raise InputError(f"{path}: holds no words that the tokenizer knows. Give a text that is not empty.")
    arrays = {entry.name: fit(_row(tokens, entry, inputs, sidecar.longest), entry, sidecar, path) for entry in inputs}
    length = max(array.shape[-1] for array in arrays.values())
    words = tokens.words.fitted(length)
    return Sample(path.stem, arrays, original=words, warnings=_warnings(words))


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start}). Convert it.") from error
    if not text.strip():
        raise InputError(f"{path}: the text is empty.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _as_strings(path: Path, text: str, sidecar: Sidecar, inputs: Sequence[Input]) -> Sample:
    """A model with its own tokenizer inside takes the text as it is."""
    arrays = {
        entry.name: np.array(text, object).reshape([1] * max(len(entry.shape), 1))
        for entry in inputs
        if np.dtype(entry.dtype).kind in "OUS"
    }
    if len(arrays) < len(inputs):
        raise InputError(f"{path}: the model takes strings and other inputs; give an .npz file.")
    return Sample(path.stem, arrays)


def _row(tokens: Tokens, entry: Input, inputs: Sequence[Input], longest: int | None) -> NDArray[Any]:
    """(1, token) for one input, shaped like it where the model leaves no room for a batch."""
    name = entry.name.lower()
    count = len(tokens.ids)
    fixed = entry.shape[-1] if entry.shape else None
    length = fixed if isinstance(fixed, int) and fixed > 0 else min(count, longest or count)
    filler = 0
    if "mask" in name:
        row = np.ones(count, np.int64)
    elif "type" in name or "segment" in name:
        row = tokens.types
    elif "position" in name:
        row = np.arange(count)
    else:
        row, filler = tokens.ids, tokens.padding
        others = [i.name for i in inputs if i.name != entry.name and is_content(i.name)]
        if others:
            raise InputError(f"One text cannot feed the inputs '{entry.name}' and '{others[0]}'. Give an .npz file.")
    row = np.concatenate([row[:length], np.full(max(length - count, 0), filler, np.int64)])
    kind = np.dtype(entry.dtype).kind
    row = row.astype(entry.dtype) if kind == "f" else row
    return row if len(entry.shape) < 2 else row.reshape([1] * (len(entry.shape) - 1) + [length])


def is_content(name: str) -> bool:
    """Whether an input of tokens is called like one that holds them, and not their mask, segments or positions."""
    return not any(word in name.lower() for word in ("mask", "type", "segment", "position"))


def _warnings(words: Words) -> tuple[str, ...]:
    found = []
    if words.unknown:
        different = list(dict.fromkeys(words.unknown))
        named = ", ".join(f"'{word}'" for word in different[:MOST_NAMED]) + (
            ", …" if len(different) > MOST_NAMED else ""
        )
        found.append(f"{len(words.unknown)} of the text's words are unknown to the vocabulary ({named}).")
    if words.cut:
        found.append(f"The text is longer than the model's input: its last {words.cut} words were not read.")
    return tuple(found)
