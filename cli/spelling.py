"""Names that were mistyped: what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import click

ALIKE = 0.7
"""Likeness from which on a word is proposed; 'cpu' for 'gpu' has 0.67."""


class Choice(click.Choice[str]):
    """One of a few words; a near miss is told the word."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message}{hint(str(value), self.choices)}", param, ctx)


def hint(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'explain'?", or nothing."""
    by_letters = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), by_letters, n=1, cutoff=ALIKE)
    return f" Did you mean '{by_letters[close[0]]}'?" if close else ""
