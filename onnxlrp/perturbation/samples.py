"""Files as a stream of samples: one per row of a file, what cannot be read among them with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxlrp.data import Meaning, Sample, inputs_of, load, sample_names
from onnxlrp.errors import InputError
from onnxlrp.model import Model


@dataclass(frozen=True)
class Skipped:
    """A sample that was not measured, and why."""

    name: str
    reason: str


def samples_of(paths: Sequence[Path], model: Model, meaning: Meaning) -> Iterator[Sample | Skipped]:
    """Read files one at a time, when they are asked for; a file of several rows gives a sample per row."""
    inputs = inputs_of(model)
    for path, name in zip(paths, sample_names(paths), strict=True):
        try:
            sample = load(path, meaning.sidecar, inputs)
        except InputError as error:
            yield Skipped(name, str(error))
            continue
        yield from _rows(dataclasses.replace(sample, name=name), [len(entry.shape) for entry in inputs])


def read_classes(path: Path, labels: Sequence[str] | None = None) -> Callable[[Sample], int]:
    """True classes from a table of `file name<TAB>class`, the class an index or one of the labels.

    Names may lack their suffix. A line that does not fit is refused, a heading too.
    Errors: InputError for a table that does not fit, and when a sample is asked for that is not in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table of classes ({error}).") from error
    known = dict(_class_rows(lines, path, labels))

    def class_of(sample: Sample) -> int:
        row = known.get(sample.name)
        if row is None:
            raise InputError(f"{sample.name}: has no class in {path}. Add a line, or leave the sample out.")
        return row

    return class_of


def _class_rows(lines: Iterable[str], path: Path, labels: Sequence[str] | None) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, label = (part.strip() for part in line.partition("\t")[::2])
        if label.isdecimal():
            index = int(label)
        elif labels is not None and label in labels:
            index = list(labels).index(label)
        else:
            raise InputError(
                f"{path}: line {number} is {line!r}. Expected file name, tab, class index or one of the labels."
            )
        yield name, index
        yield Path(name).stem, index


def _rows(sample: Sample, ranks: Sequence[int]) -> Iterator[Sample]:
    """One sample per row, where every array has as many rows; else the sample as it is."""
    counts = {len(array) if array.ndim else 0 for array in sample.arrays.values()}
    rows = counts.pop() if len(counts) == 1 and all(rank > 1 for rank in ranks) else 1
    if rows <= 1:
        yield sample
        return
    for row in range(rows):
        arrays = {name: array[row : row + 1] for name, array in sample.arrays.items()}
        yield Sample(f"{sample.name}[{row}]", arrays)
