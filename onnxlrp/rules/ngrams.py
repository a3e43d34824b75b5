"""Bags of words: what a count of n-grams got goes to its occurrences in equal parts, and on to their words.

    R_word = Σ over occurrences o of n-grams j with that word: R_j / (count_j · n)

Tokens are whole numbers or texts. A count has no derivative by its words, so gradients end here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.rules.encoders import sum_of_code
from onnxlrp.rules.registry import Contribution, Keeps, nothing_flows, steps
from onnxlrp.rules.step import Step
from onnxlrp.rules.trees import ML

MICROSOFT = "com.microsoft"

SOURCE = "in equal parts to the occurrences of an n-gram, and to the words of each"


@dataclass(frozen=True)
class Pool:
    """The n-grams of a vectoriser: (column of the output, tokens of the n-gram) each."""

    grams: tuple[tuple[int, tuple[Any, ...]], ...]

    @classmethod
    def of(cls, step: Step) -> Pool:
        tokens = step.attribute("pool_int64s") or step.attribute("pool_strings") or ()
        tokens = [token.decode() if isinstance(token, bytes) else token for token in tokens]
        starts = [*(int(start) for start in step.attribute("ngram_counts")), len(tokens)]
        columns = iter(int(column) for column in step.attribute("ngram_indexes"))
        grams = [
            (next(columns), tuple(tokens[place : place + n]))
            for n, (start, end) in enumerate(pairwise(starts), start=1)
            for place in range(start, end, n)
        ]
        shortest, longest = int(step.attribute("min_gram_length")), int(step.attribute("max_gram_length"))
        return cls(tuple((column, gram) for column, gram in grams if shortest <= len(gram) <= longest))

    @property
    def tokens(self) -> list[Any]:
        """Every token of some n-gram, once."""
        return list(dict.fromkeys(token for _, gram in self.grams for token in gram))

    @property
    def lengths(self) -> list[int]:
        return sorted({len(gram) for _, gram in self.grams})


@dataclass(frozen=True)
class _Windows:
    """Occurrences of n-grams of one length and skip.  columns : (batch, position), −1 where there is none"""

    columns: ir.Value
    found: ir.Value
    length: int
    stride: int


def to_the_words(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_word as above.  relevance : (batch, n-gram) or (n-gram,)"""
    emit, pool = step.emit, Pool.of(step)
    given = relevance if step.rank() > 1 else emit.Unsqueeze(relevance, [0])
    raw = step.raw(0) if step.rank() > 1 else emit.Unsqueeze(step.raw(0), [0])
    ids = _numbered(step, raw, pool.tokens)
    count = emit.zeros_like(given)
    windows = [
        _windows(step, ids, pool, length, stride)
        for length in pool.lengths
        for stride in range(1, (1 if length == 1 else int(step.attribute("max_skip_count")) + 1) + 1)
    ]
    for window in windows:
        count = emit.ScatterElements(count, window.columns, window.found, axis=1, reduction="add")
    each = emit.quotient(given, count, 0.0)
    if step.account is not None:
        step.account("absent", emit.Where(emit.Equal(count, 0.0), given, 0.0))
    total: Contribution = None
    for window in windows:
        share = emit.GatherElements(each, window.columns, axis=1) * window.found * (1.0 / window.length)
        for offset in range(window.length):
            moved = _shifted(step, share, -offset * window.stride, 0.0)
            total = moved if total is None else total + moved
    assert total is not None
    return [emit.reshape_like(total, step.raw(0))]


def _numbered(step: Step, raw: ir.Value, tokens: list[Any]) -> ir.Value:
    """The place of each token among those of the pool, −1 for all others."""
    emit = step.emit
    if tokens and isinstance(tokens[0], str):
        places = list(range(len(tokens)))
        known = {"cats_strings": tokens, "cats_int64s": places, "default_int64": -1}
        return emit.node("CategoryMapper", raw, domain=ML, **known)
    return _looked_up(step, step.as_int64(raw), {int(token): place for place, token in enumerate(tokens)})


def _looked_up(step: Step, keys: ir.Value, table: dict[int, int]) -> ir.Value:
    """table[key], −1 where it has none: by bisection in the sorted keys, so that they may be any numbers."""
    emit = step.emit
    known = np.array(sorted(table), np.int64)
    values = np.array([table[int(key)] for key in known], np.int64)
    place = emit.Mul(keys, emit.constant(0))
    for size in (1 << bit for bit in reversed(range(max(len(known) - 1, 1).bit_length()))):
        tried = emit.Min(emit.Add(place, emit.constant(size)), emit.constant(len(known) - 1))
        ahead = emit.LessOrEqual(emit.Gather(emit.constant(known), tried), keys)
        place = emit.Where(ahead, tried, place)
    hit = emit.Equal(emit.Gather(emit.constant(known), place), keys)
    return emit.Where(hit, emit.Gather(emit.constant(values), place), emit.constant(-1))


def _windows(step: Step, ids: ir.Value, pool: Pool, length: int, stride: int) -> _Windows:
    """Fold the tokens of a window into one number, prefix by prefix."""
    emit, place = step.emit, {token: index for index, token in enumerate(pool.tokens)}
    grams = [(column, [place[token] for token in gram]) for column, gram in pool.grams if len(gram) == length]
    prefixes: dict[tuple[int, ...], int] = {(gram[0],): gram[0] for _, gram in grams}
    folded = ids
    for depth in range(1, length):
        longer = list(dict.fromkeys(tuple(gram[: depth + 1]) for _, gram in grams))
        table = {prefixes[gram[:-1]] * len(place) + gram[-1]: index for index, gram in enumerate(longer)}
        following = _shifted(step, ids, depth * stride, -1)
        valid = emit.And(emit.GreaterOrEqual(folded, 0), emit.GreaterOrEqual(following, 0))
        key = emit.Add(emit.Mul(folded, emit.constant(len(place))), following)
        folded = _looked_up(step, emit.Where(valid, key, emit.constant(-1)), table)
        prefixes = {gram: index for index, gram in enumerate(longer)}
    columns = _looked_up(step, folded, {prefixes[tuple(gram)]: column for column, gram in grams})
    found = emit.mask(emit.GreaterOrEqual(columns, 0))
    return _Windows(emit.Max(columns, emit.constant(0)), found, length, stride)


def _shifted(step: Step, x: ir.Value, by: int, filler: float) -> ir.Value:
    """x[:, i + by], `filler` beyond the ends."""
    if by == 0:
        return x
    emit, size = step.emit, abs(by)
    value = emit.constant(filler, np.float32 if isinstance(filler, float) else np.int64)
    padded = emit.Pad(x, [0, 0, 0, size] if by > 0 else [0, size, 0, 0], value)
    length = emit.dim(x, 1)
    if by < 0:
        return emit.Slice(padded, [0], length, [1])
    return emit.Slice(padded, [size], emit.Add(length, emit.constant([size])), [1])


steps("TfIdfVectorizer", relevance=to_the_words, nonnegative=Keeps.ALWAYS, source=SOURCE)(nothing_flows)
steps("Tokenizer", domain="com.microsoft", relevance=sum_of_code, source="a text gets what its words got")(
    nothing_flows
)
