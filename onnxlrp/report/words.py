"""Word heatmaps: the text as it was written, its line breaks included, each word on the colour of its relevance.

Red speaks for the target, blue against it, as in figure 2 (B) of Samek et al. 2017; as a page, as a picture and in the
terminal, where the command line prints it.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from onnxlrp.colours import paint
from onnxlrp.data import Sample, Sidecar, Words
from onnxlrp.files import atomic_write
from onnxlrp.report.sheet import Colour, Drawing, Span, Style

MOST_WORDS = 10
"""Words of a text that `explain.json` lists, by the magnitude of their relevance."""

WIDTH, MARGIN, FONT_SIZE, LEADING = 900, 24, 18, 1.5
"""Of the PNG, in pixels; LEADING in font sizes."""

INK, PAPER = (25, 25, 25), (255, 255, 255)
FONT = "DejaVuSans.ttf"

DARK = 110.0
"""Luminance below which a word is written in white."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 17px/1.7 Georgia, serif; max-width: 46em; margin: 2em auto; padding: 0 1em }}
html {{ color: #191919; background: #fff }}
h1 {{ font: bold 15px/1.4 sans-serif; white-space: pre-line }} p {{ white-space: pre-wrap }}
mark {{ border-radius: 3px; padding: 1px 2px }} small {{ color: #666; font-family: sans-serif }}
</style></head><body><h1>{title}</h1><p>{text}</p>
<small>{legend}</small></body></html>
"""


@dataclass(frozen=True)
class WordMap:
    """A text and one number per word.

    kind  : "signed" or "positive", as heatmaps call it
    limit : the magnitude that gets the full colour; None = the largest of this text
    """

    title: str
    words: Words
    values: NDArray[np.float64]
    kind: str = "signed"
    limit: float | None = None
    panel: None = None

    def write(self, folder: Path, stem: str, suffix: str) -> list[str]:
        """A page and a picture, whatever the suffix of other pictures is."""
        with atomic_write(folder / f"{stem}-words.html") as draft:
            draft.write_text(as_html(self), encoding="utf-8")
        with atomic_write(folder / f"{stem}-words.png") as draft:
            Image.fromarray(as_picture(self)).save(draft, format="PNG")
        return [f"{stem}-words.html", f"{stem}-words.png"]

    def spans(self) -> Iterator[Span]:
        colours = self.colours
        for piece, number in self.pieces():
            yield piece, None if number is None else colours[number]

    def notes(self) -> dict[str, Any]:
        return {"words": dict(self.strongest(MOST_WORDS))}

    @property
    def colours(self) -> list[Colour]:
        """Background per word."""
        largest = self.limit if self.limit is not None else float(np.abs(self.values).max(initial=0.0))
        shares = np.asarray(self.values, np.float64) / (largest or 1.0)
        return [(int(r), int(g), int(b)) for r, g, b in paint(shares, self.kind)]

    def pieces(self) -> Iterator[tuple[str, int | None]]:
        """The whole text in order: (characters, number of the word, or None for what stands between words)."""
        place = 0
        for number in sorted(range(len(self.words)), key=lambda n: self.words.spans[n]):
            start, end = self.words.spans[number]
            start = max(start, place)
            if start > place:
                yield self.words.text[place:start], None
            if end > start:
                yield self.words.text[start:end], number
            place = max(place, end)
        if place < len(self.words.text):
            yield self.words.text[place:], None

    def strongest(self, count: int) -> list[tuple[str, float]]:
        """The words (lower case, summed over the text) with the largest magnitudes."""
        sums: dict[str, float] = {}
        for number, value in enumerate(self.values):
            word = self.words[number].lower()
            sums[word] = sums.get(word, 0.0) + float(value)
        return sorted(sums.items(), key=lambda item: -abs(item[1]))[:count]

    @property
    def legend(self) -> str:
        sum_of = f"sum over all words {float(self.values.sum()):.4g}"
        return f"red: for, blue: against; {sum_of}" if self.kind == "signed" else f"dark: strong; {sum_of}"


def word_view(drawing: Drawing, sample: Sample, sidecar: Sidecar, style: Style) -> WordMap | None:
    """The text on the colours of one drawing; None where the drawing is not of its tokens."""
    values, words = drawing.found.values, sample.original
    if not isinstance(words, Words) or len(values) != len(words.of_token):
        return None
    return WordMap(f"{drawing.heading}\n{drawing.title}", words, words.per_word(values), drawing.found.kind)


def as_html(shown: WordMap) -> str:
    """A page of its own; hovering over a word shows its number."""
    colours = shown.colours
    parts = []
    for piece, number in shown.pieces():
        escaped = html.escape(piece)
        if number is not None:
            style = f"background:rgb{colours[number]};color:rgb{ink_on(colours[number])}".replace(" ", "")
            escaped = f'<mark style="{style}" title="{float(shown.values[number]):.4g}">{escaped}</mark>'
        parts.append(escaped)
    return PAGE.format(title=html.escape(shown.title), text="".join(parts), legend=html.escape(shown.legend))


def as_picture(shown: WordMap, width: int = WIDTH) -> NDArray[np.uint8]:
    """uint8 (height, width, 3). Lines break where the text does, and between words where they get too long."""
    font = _font(FONT_SIZE)
    small = _font(FONT_SIZE - 5)
    colours, step = shown.colours, int(FONT_SIZE * LEADING)
    placed = list(_placed(shown, font, width - 2 * MARGIN))
    lines = 1 + max((line for line, *_ in placed), default=0)
    image = Image.new("RGB", (width, 2 * MARGIN + (lines + 3) * step), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), shown.title, INK, small)
    for line, x, piece, number in placed:
        top, left = MARGIN + (line + 2) * step - step // 2, MARGIN + x
        colour = PAPER if number is None else colours[number]
        if number is not None:
            draw.rectangle((left - 1, top - 3, left + font.getlength(piece), top + FONT_SIZE + 3), colour)
        draw.text((left, top), piece, ink_on(colour), font)
    draw.text((MARGIN, MARGIN + (lines + 2) * step - step // 3), shown.legend, (110, 110, 110), small)
    return np.asarray(image)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever can be read on a colour."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return INK if luminance > DARK else PAPER


def _font(size: int) -> Any:
    """The one that comes with matplotlib, so that a page looks alike everywhere."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FONT), size)


def _placed(shown: WordMap, font: Any, width: float) -> Iterator[tuple[int, float, str, int | None]]:
    """(line, x, characters, word) for everything that leaves ink."""
    line, x = 0, 0.0
    for piece, number in shown.pieces():
        for part in _parts(piece):
            if part == "\n":
                line, x = line + 1, 0.0
                continue
            length = font.getlength(part)
            if x and x + length > width and not part.isspace():
                line, x = line + 1, 0.0
            if not (part.isspace() and not x and number is None and line == 0):
                yield line, x, part, number
            x += length


def _parts(piece: str) -> Sequence[str]:
    """Words, blanks and line breaks, one by one."""
    parts, current = [], ""
    for character in piece.expandtabs(4):
        if character == "\n":
            parts += [current, "\n"]
            current = ""
        elif current and current[-1].isspace() != character.isspace():
            parts.append(current)
            current = character
        else:
            current += character
    return [part for part in [*parts, current] if part]
