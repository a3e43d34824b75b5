"""What goes to the terminal: results on stdout, everything else on stderr; one JSON document with --json."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from onnxlrp.report.sheet import Shown
from onnxlrp.report.words import PAPER, ink_on


def stdout() -> Console:
    """Made anew for each print, because tests and pipes exchange sys.stdout."""
    return _console(sys.stdout)


def stderr() -> Console:
    return _console(sys.stderr)


def say(text: str = "") -> None:
    """One line of the result, wrapped on a terminal; square brackets in it are text, not markup."""
    console = stdout()
    console.print(escape(text), highlight=False, soft_wrap=not console.is_terminal)


def warn(texts: Iterable[str]) -> None:
    for text in texts:
        stderr().print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False, soft_wrap=not sys.stderr.isatty())


def note(texts: Iterable[str]) -> None:
    """What was chosen, on stderr."""
    for text in texts:
        stderr().print(f"[dim]note:[/dim] {escape(text)}", highlight=False, soft_wrap=not sys.stderr.isatty())


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(rows: Iterable[Sequence[object]], headings: Sequence[str], numbers: Sequence[int] = ()) -> None:
    """A table without frames. numbers : columns that are aligned right"""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console = stdout()
    with console.capture() as captured:
        console.print(table, highlight=False)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_shown(shown: Shown) -> None:
    """What the view of a kind has for the terminal, between its title and its legend; without colours bare."""
    spans = list(shown.spans())
    if not spans:
        return
    text = Text()
    for piece, paper in spans:
        if paper is None or paper == PAPER:
            text.append(piece)
        else:
            text.append(piece, f"rgb{ink_on(paper)} on rgb{paper}".replace(", ", ","))
    title, legend = Text(shown.title, style="bold"), Text(shown.legend, style="dim")
    stdout().print("", title, text, legend, sep="\n", highlight=False)


@contextmanager
def progress(title: str) -> Iterator[Callable[[float, float], None]]:
    """A bar on stderr, gone when it is full; nothing where stderr is no terminal."""
    console = stderr()
    if not console.is_terminal:
        yield _nothing
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _nothing(*_: float) -> None:
    pass


def _console(file: Any) -> Console:
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        # A pipe has no width: tables keep their lines whole, so that grep finds them.
        console = Console(file=file, highlight=False, width=max(console.width, 200), no_color=True)
    return console
