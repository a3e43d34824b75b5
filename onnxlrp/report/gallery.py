"""Explain many files: load, batch by shape, explain, draw and write; what does not fit is skipped with its reason.

found = Gallery(explainers, meaning, Path("out")).explain(paths)
found.entries, found.skipped
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxlrp.data import Meaning, Sample, inputs_of, load, sample_names
from onnxlrp.data.image import SUFFIXES as PICTURES
from onnxlrp.data.video import SUFFIXES as VIDEOS
from onnxlrp.errors import InputError
from onnxlrp.explain import Explainer
from onnxlrp.explanation import Explanation
from onnxlrp.files import atomic_write, require_writable, write_json
from onnxlrp.report import summary
from onnxlrp.report.notes import detections_of, notes_on, notes_on_result
from onnxlrp.report.pictures import Painter, Sheet
from onnxlrp.report.sheet import Shown, Style
from onnxlrp.target import Target
from onnxlrp.version import VERSION

Progress = Callable[[float, float], None]
"""(done, total), in steps: for each file one per method, and one for its pictures."""

NUMBERS = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")


@dataclass(frozen=True)
class Skipped:
    """A file that was not explained, and why."""

    path: Path
    reason: str


@dataclass
class Entry:
    """One sample of one file: what was predicted, its results by method, and the files that hold them."""

    path: Path
    name: str
    predictions: list[summary.Prediction]
    results: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    shown: tuple[Shown, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "name": self.name,
            "predictions": [prediction.as_dict() for prediction in self.predictions],
            "results": self.results,
            "files": self.files,
            "warnings": self.warnings,
            **self._notes(),
        }

    def _notes(self) -> dict[str, list[Any]]:
        """What the views of its kind have to say, under one name each, in the order of the results."""
        notes: dict[str, list[Any]] = {}
        for key, note in (item for one in self.shown for item in one.notes().items()):
            notes.setdefault(key, []).append(note)
        return notes


@dataclass(frozen=True)
class Found:
    """What a run over files gave.

    document : `explain.json`        notes : what was chosen where nobody said it
    """

    document: dict[str, Any]
    entries: list[Entry]
    skipped: list[Skipped]
    warnings: list[str]
    notes: list[str]


@dataclass(frozen=True)
class _Loaded:
    path: Path
    sample: Sample


class Gallery:
    """One run over files.

    explainers : one per method, of the same model        meaning : of the model's numbers
    folder     : where everything is written; made when the first result is there
    """

    def __init__(
        self, explainers: Sequence[Explainer], meaning: Meaning, folder: Path, style: Style | None = None
    ) -> None:
        self.explainers = list(explainers)
        self.meaning = meaning
        self.folder = folder
        self._inputs = inputs_of(self.explainers[0].model)
        leading = {str(entry.shape[0]) if entry.shape else "" for entry in self._inputs}
        self._joinable = self.explainers[0].takes_batches and len(leading) == 1
        self._painter = Painter(folder, style or Style(), meaning.sidecar)
        self._entries: list[Entry] = []
        self._skipped: list[Skipped] = []
        self._waiting: list[tuple[Entry, Sheet]] = []
        self._warnings: dict[str, str] = {}
        self._notes: list[str] = []
        self._lists_detections = False
        self._steps, self._done, self._total = 0, 0.0, 0.0
        self._report: Progress | None = None

    def explain(self, paths: Sequence[Path], target: Target = None, progress: Progress | None = None) -> Found:
        """Explain every file and write `explain.json`; nothing is written where every file was skipped.

        Errors: InputError when the folder cannot be written; ChoiceError for a target that does not exist.
        """
        started = time.perf_counter()
        require_writable(self.folder)
        self._steps = len(self.explainers) + 1
        self._total, self._report = float(len(paths) * self._steps), progress
        if any(path.suffix.lower() in PICTURES + VIDEOS for path in paths):
            self._warn(self.meaning.warning)
        first = self.explainers[0]
        self._notes = list(notes_on(first, chosen=target is not None))
        self._lists_detections = detections_of(first) is not None
        asked = "detection:best" if target is None and self._lists_detections else target
        for group in self._groups(self._load(paths)):
            self._explain_group(group, asked)
        self._draw_waiting()
        self._judge()
        order = {path: position for position, path in enumerate(paths)}
        self._entries.sort(key=lambda entry: (order[entry.path], entry.name))
        document = self._document(target, time.perf_counter() - started)
        if self._entries:
            write_json(self.folder / "explain.json", document)
        return Found(document, self._entries, self._skipped, list(self._warnings.values()), self._notes)

    # --- loading -----------------------------------------------------------------------------------------------------

    def _load(self, paths: Sequence[Path]) -> Iterator[_Loaded]:
        for path, name in zip(paths, sample_names(paths), strict=True):
            try:
                sample = load(path, self.meaning.sidecar, self._inputs)
            except InputError as error:
                self._skip(path, error)
                continue
            yield from (_Loaded(path, part) for part in self._single(replace(sample, name=name)))

    def _single(self, sample: Sample) -> list[Sample]:
        """One sample per row of a batch that a file holds."""
        rows = {len(array) for array in sample.arrays.values() if array.ndim}
        count = next(iter(rows)) if len(rows) == 1 and self._joinable else 1
        if count < 2:
            return [sample]
        digits = len(str(count - 1))
        pieces = [{name: array[row : row + 1] for name, array in sample.arrays.items()} for row in range(count)]
        return [
            Sample(f"{sample.name}-{row:0{digits}}", arrays, columns=sample.columns)
            for row, arrays in enumerate(pieces)
        ]

    def _groups(self, samples: Iterable[_Loaded]) -> Iterator[list[_Loaded]]:
        """Samples of the same shapes, as many as a batch holds; at the end what is left."""
        size = self.explainers[0].batch_size if self._joinable else 1
        groups: dict[Any, list[_Loaded]] = {}
        for loaded in samples:
            key = tuple((name, array.shape[1:]) for name, array in loaded.sample.arrays.items())
            group = groups.setdefault(key, [])
            group.append(loaded)
            if len(group) == size:
                yield groups.pop(key)
        yield from groups.values()

    # --- explaining --------------------------------------------------------------------------------------------------

    def _explain_group(self, group: list[_Loaded], target: Target) -> None:
        """Explain a batch; where it does not fit, one by one, so that the others are still done."""
        base = self._done
        try:
            results = self._results(_joined(group), target, len(group))
        except InputError as error:
            self._done = base
            if len(group) == 1:
                self._skip(group[0].path, error)
                return
            for one in group:
                self._explain_group([one], target)
            return
        for position, one in enumerate(group):
            self._take(one, results, position)

    def _results(self, feeds: dict[str, Any], target: Target, count: int) -> list[Explanation]:
        results = []
        for explainer in self.explainers:
            results.append(explainer.explain(feeds, target, self._inner_progress(count)))
            self._advance(count)
        return results

    def _take(self, one: _Loaded, results: list[Explanation], position: int) -> None:
        """Write what was found for one sample."""
        top = [] if self._lists_detections else summary.predictions(self.explainers[0], results[0], position)
        entry = Entry(one.path, one.sample.name, top, warnings=list(one.sample.warnings))
        for explanation in results:
            entry.results.append(summary.result_as_dict(explanation, position))
            entry.warnings += [text for text in explanation.warnings if text not in entry.warnings]
            entry.files.append(self._write_relevance(entry.name, explanation, position))
            told = {**dict.fromkeys(self._notes), **dict.fromkeys(notes_on_result(self.explainers[0], explanation))}
            self._notes = list(told)
            entry.files += self._painter.draw_classes(entry.name, explanation, position)
        title = f"{entry.name}: {summary.spoken(top[:1])}" if top else entry.name
        sheet = self._painter.sheet(one.sample, title, results, position)
        entry.shown = sheet.shown
        self._entries.append(entry)
        self._warn(*entry.warnings)
        if self._painter.style.scale == "shared":
            self._waiting.append((entry, sheet))
        else:
            entry.files += self._painter.draw(sheet)
        self._advance(1)

    def _write_relevance(self, name: str, explanation: Explanation, position: int) -> str:
        file = f"{name}-{explanation.method}.npz"
        with atomic_write(self.folder / file) as draft:
            np.savez(draft, **_of_sample(explanation, position))
        return file

    def _draw_waiting(self) -> None:
        limits = self._painter.shared_limits([sheet for _, sheet in self._waiting])
        for entry, sheet in self._waiting:
            entry.files += self._painter.draw(sheet, limits)

    # --- accounts ----------------------------------------------------------------------------------------------------

    def _skip(self, path: Path, error: InputError) -> None:
        reason = str(error)
        self._skipped.append(Skipped(path, reason if str(path) in reason else f"{path}: {reason}"))
        self._advance(self._steps)

    def _warn(self, *texts: str) -> None:
        """Keep a warning once, though every batch says it with numbers of its own."""
        for text in filter(None, texts):
            self._warnings.setdefault(NUMBERS.sub("#", text), text)

    def _inner_progress(self, samples: int) -> Callable[[int, int], None]:
        base = self._done

        def report(done: int, total: int) -> None:
            if self._report is not None:
                self._report(min(base + samples * done / max(total, 1), self._total), self._total)

        return report

    def _advance(self, amount: float) -> None:
        self._done = min(self._done + amount, self._total)
        if self._report is not None:
            self._report(self._done, self._total)

    def _judge(self) -> None:
        """Doubt predictions that are hardly better than chance."""
        if self._lists_detections:
            return
        tops = [entry.predictions[0].probability for entry in self._entries if entry.predictions]
        classes = summary.class_count(self.explainers[0])
        self._warn(summary.miscounted(self.explainers[0]))
        self._warn(summary.doubt([top for top in tops if top is not None], classes, self.meaning.sidecar.kind))

    def _document(self, target: Target, seconds: float) -> dict[str, Any]:
        first = self.explainers[0]
        document = {
            "onnxlrp": VERSION,
            "model": summary.model_as_dict(first),
            "methods": [explainer.method.name for explainer in self.explainers],
            "preset": next((explainer.preset for explainer in self.explainers if explainer.preset), None),
            "bias": first.bias,
            "rules": {key: str(rule) for explainer in self.explainers for key, rule in explainer.rules.items()},
            "target": target,
            "preprocessing": summary.preprocessing_as_dict(self.meaning),
            "provider": first.used_providers[0] if first.used_providers else None,
            "seconds": round(seconds, 3),
            "inputs": [entry.as_dict() for entry in self._entries],
            "skipped": [{"path": str(one.path), "reason": one.reason} for one in self._skipped],
            "warnings": list(self._warnings.values()),
            "notes": self._notes,
        }
        return dict(summary.as_json(document))


def _joined(group: Sequence[_Loaded]) -> dict[str, Any]:
    first = group[0].sample.arrays
    if len(group) == 1:
        return dict(first)
    return {name: np.concatenate([one.sample.arrays[name] for one in group]) for name in first}


def _of_sample(explanation: Explanation, position: int) -> dict[str, Any]:
    """The relevance of one sample, with the model's rank; what has no batch axis is whole."""
    per_class = explanation.score.ndim > 1
    axis, samples = int(per_class), explanation.score.shape[-1]
    return {
        name: array.take([position], axis=axis) if array.ndim > axis and array.shape[axis] == samples else array
        for name, array in explanation.relevance.items()
    }
