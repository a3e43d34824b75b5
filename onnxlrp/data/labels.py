"""Class names: from a file, one per line or index and name separated by tabs; and from name to index and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxlrp.errors import ChoiceError, no_such

MOST_LISTED = 8
"""Labels that a message names, of all that there are."""


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names, in the order of the classes.

    Lines are `label`, or `index<TAB>…<TAB>label` (the last column counts; a heading is skipped).
    Indices may come in any order; a class without a line is called by its number.
    Raises ValueError whose text continues "expected …", for the reader of the sidecar to complete.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"a text file with one label per line; '{path}' cannot be read ({error})") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"a text file with one label per line; '{path}' is empty")
    return _indexed(lines, path) if "\t" in lines[0] else tuple(line.strip() for line in lines)


def index_of(label: str, labels: Sequence[str] | None) -> int:
    """The index of a label, or of a number written as text.

    Where the labels are numbers themselves, such as 3, 5 and 8, a number is one of them and never an index.
    Errors: ChoiceError with the closest labels, and where several classes have the name (ImageNet has two cranes).
    """
    named = [index for index, name in enumerate(labels or ()) if name == label]
    if len(named) > 1:
        raise ChoiceError(
            f"target='{label}' is the name of {len(named)} classes: {', '.join(map(str, named[:MOST_LISTED]))}"
            f"{', …' if len(named) > MOST_LISTED else ''}. Give the index of the one that is meant."
        )
    if named:
        return named[0]
    if _is_number(label) and not (labels and all(map(_is_number, labels))):
        return int(label)
    if labels is None:
        raise ChoiceError(
            f"target='{label}' is a label, but no labels are known: "
            "give --labels FILE or `labels` in the sidecar, or an index."
        )
    more = ", …" if len(labels) > MOST_LISTED else "."
    raise no_such("label", label, labels, f"There are {len(labels)}: {', '.join(list(labels)[:MOST_LISTED])}{more}")


def shown_label(index: int, labels: Sequence[str] | None) -> str:
    """The name of a class, or its number."""
    return labels[index] if labels is not None and index < len(labels) else str(index)


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _indexed(lines: list[str], path: Path) -> tuple[str, ...]:
    rows = [line.split("\t") for line in lines]
    heading = 0 if rows[0][0].strip().isdecimal() else 1
    labels: dict[int, str] = {}
    for number, row in enumerate(rows[heading:], start=heading + 1):
        index = row[0].strip()
        if len(row) < 2 or not index.isdecimal() or int(index) in labels:
            raise ValueError(f"index<TAB>label, each index once; line {number} of '{path}' is {lines[number - 1]!r}")
        labels[int(index)] = row[-1].strip()
    return tuple(labels.get(index, str(index)) for index in range(max(labels, default=-1) + 1))
