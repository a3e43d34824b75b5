"""Files → samples: what a model is fed, and the picture to show under its heatmap."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from onnxlrp.data import arrays
from onnxlrp.data.arrays import load_arrays
from onnxlrp.data.audio import Sound
from onnxlrp.data.image import load_image, preprocess, unflatten, unprocess
from onnxlrp.data.meaning import Meaning, ModelInput, inputs_of, meaning_of
from onnxlrp.data.sample import LOADERS, Input, Sample, loader
from onnxlrp.data.series import load_series
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.data.tabular import load_table
from onnxlrp.data.text import load_text
from onnxlrp.data.tokens import Words
from onnxlrp.data.video import Footage, load_video
from onnxlrp.errors import InputError

__all__ = [
    "Footage",
    "Input",
    "Meaning",
    "ModelInput",
    "Sample",
    "Sidecar",
    "Sound",
    "Words",
    "expand",
    "inputs_of",
    "load",
    "load_image",
    "load_series",
    "load_table",
    "load_text",
    "load_video",
    "loader",
    "meaning_of",
    "preprocess",
    "sample_names",
    "unflatten",
    "unprocess",
    "walked",
]

NOTES = frozenset({"text", "series", "tabular"})
"""Kinds whose files lie beside pictures and recordings as notes and tables."""

MOST_SUFFIXES = 6


def load(path: str | os.PathLike[str], sidecar: Sidecar, inputs: Sequence[Input]) -> Sample:
    """Read one file for a model: .npy and .npz as they are, anything else by the loader of the sidecar's kind.

    A sidecar that says no kind, or "tensor", leaves it to the file's suffix.
    Errors: InputError where the file does not fit.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in arrays.SUFFIXES:
        return load_arrays(path, sidecar, inputs)
    known = None if sidecar.kind == "tensor" else sidecar.kind
    kind = known or next((kind for kind, entry in LOADERS.items() if suffix in entry.suffixes), None)
    if kind is None or kind not in LOADERS:
        raise InputError(
            f"{path}: no loader for {f'kind {kind!r}' if kind else f'suffix {suffix!r}'}. "
            f"There are loaders for {', '.join(sorted(LOADERS))}, and .npy and .npz files for everything."
        )
    return LOADERS[kind].load(path, sidecar, inputs)


def expand(paths: Iterable[str | os.PathLike[str]], kind: str | None = None) -> list[Path]:
    """Files from files, folders and globs: folders recursively, known suffixes only, sorted, each file once.

    kind : of the model's input, whose suffixes are taken; without one those of all kinds but `NOTES`
    A file that is named is taken whatever its suffix. Raises InputError where a name, folder or glob matches nothing.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        found |= dict.fromkeys(_matches(path, _known_suffixes(kind)))
    return list(found)


def walked(paths: Iterable[str | os.PathLike[str]], kind: str | None = None) -> list[str]:
    """What `expand` meets in folders, a line for each: how many files of which suffix it takes and passes over."""
    known, lines = _known_suffixes(kind), []
    for folder in filter(Path.is_dir, map(Path, paths)):
        met = Counter(path.suffix.lower() or path.name for path in _visible_files(folder))
        taken = {suffix: count for suffix, count in met.items() if suffix in known}
        left = {suffix: count for suffix, count in met.items() if suffix not in known}
        passed = f"; passed over: {_counted(left)}" if left else ""
        lines.append(f"{folder}: {sum(taken.values())} files ({_counted(taken)}){passed}")
    return lines


def sample_names(paths: Sequence[Path]) -> list[str]:
    """A unique name per file to call its results by: the stem, or folder, stem and suffix where stems repeat."""
    stems = Counter(path.stem.lower() for path in paths)
    root = Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()
    long_names = ["_".join(path.absolute().relative_to(root).parts) for path in paths]
    return [path.stem if stems[path.stem.lower()] == 1 else name for path, name in zip(paths, long_names, strict=True)]


def _matches(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if path.is_dir():
        there = list(_visible_files(path))
        found = sorted(entry for entry in there if entry.suffix.lower() in suffixes)
        met = Counter(entry.suffix.lower() or entry.name for entry in there)
        has = f"; it has {_counted(met)}" if met else "; it is empty"
        missing = f"{path}: nothing in this folder that the model could be fed ({', '.join(suffixes)}){has}."
    elif path.exists():
        return [path]
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        found = [match for match in matches if match.is_file()]
        missing = f"{path}: this pattern matches no file."
    else:
        found, missing = [], f"{path}: no such file or folder."
    if not found:
        raise InputError(f"{missing} Give a file, a folder, or a pattern in quotes.")
    return found


def _visible_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _counted(suffixes: Mapping[str, int]) -> str:
    """The most frequent first, at most `MOST_SUFFIXES` of them."""
    ordered = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    more = sum(count for _, count in ordered[MOST_SUFFIXES:])
    return ", ".join(f"{n} {suffix}" for suffix, n in ordered[:MOST_SUFFIXES]) + (f", {more} others" if more else "")


def _known_suffixes(kind: str | None) -> tuple[str, ...]:
    if kind in LOADERS:
        return arrays.SUFFIXES + LOADERS[kind].suffixes
    media = [entry.suffixes for name, entry in LOADERS.items() if name not in NOTES]
    return arrays.SUFFIXES + tuple(suffix for suffixes in media for suffix in suffixes)
