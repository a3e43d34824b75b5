"""Explain many files: load, batch by shape, explain, draw and write; what does not fit is skipped with its reason.

    found = Gallery(explainers, meaning, Path("out")).explain(paths)
    found.entries, found.skipped
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxlrp.data import Meaning, Sample, inputs_of, load, sample_names
from onnxlrp.data.image import SUFFIXES as PICTURES
from onnxlrp.errors import InputError
from onnxlrp.explain import Explainer
from onnxlrp.explanation import Explanation
from onnxlrp.figure import Panel, bars, figure, grid, save_figure
from onnxlrp.files import atomic_write
from onnxlrp.heatmap import Map, limit_of, save_heatmap
from onnxlrp.report.maps import Drawable, drawable
from onnxlrp.report.summary import (
    VERSION,
    Prediction,
    as_json,
    doubt,
    model_as_dict,
    prediction_as_dict,
    predictions,
    result_as_dict,
)
from onnxlrp.target import Target

Progress = Callable[[float, float], None]
"""(done, total), in files."""

MOST_CLASSES = 12
"""Classes that the grid of target "all" draws: those with the largest scores."""


@dataclass(frozen=True)
class Style:
    """How maps are drawn; see `onnxlrp.heatmap`.

    how    : reduction of channels, None = by method        scale : "image" or "shared" by all files of a method
    figure : whether a titled figure with colour bars is drawn for each file
    """

    how: str | None = None
    percentile: float | None = 99.5
    scale: str = "image"
    format: str = "png"
    figure: bool = True


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
    predictions: list[Prediction]
    results: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        shown = [prediction_as_dict(prediction) for prediction in self.predictions]
        return {
            "path": str(self.path),
            "name": self.name,
            "predictions": shown,
            "results": self.results,
            "files": self.files,
            "warnings": self.warnings,
        }


@dataclass
class Found:
    """What a run over files gave."""

    document: dict[str, Any]
    entries: list[Entry]
    skipped: list[Skipped]
    warnings: list[str]


@dataclass(frozen=True)
class _Loaded:
    path: Path
    sample: Sample


@dataclass(frozen=True)
class _Drawn:
    """What is needed to draw one entry once the scale is known. maps : (method, explained tensor) → values"""

    entry: Entry
    sample: Sample
    maps: dict[tuple[str, str], Drawable]
    titles: list[str]


class Gallery:
    """A run over files.

    explainers : one per method, of the same model        meaning : of the model's numbers
    folder     : where everything is written; made when the first result is there
    """

    def __init__(self, explainers: Sequence[Explainer], meaning: Meaning, folder: Path, style: Style | None = None) -> None:
        self.explainers = list(explainers)
        self.meaning = meaning
        self.folder = folder
        self.style = style or Style()
        self.entries: list[Entry] = []
        self.skipped: list[Skipped] = []
        self._waiting: list[_Drawn] = []
        self._warnings: dict[str, None] = {}
        self._done = 0.0
        self._total = 0.0

    def explain(self, paths: Sequence[Path], target: Target = None, progress: Progress | None = None) -> Found:
        """Explain every file and write `explain.json`; nothing is written where every file was skipped.

        Errors: InputError when the folder cannot be written; ChoiceError for a target that does not exist.
        """
        started = time.perf_counter()
        require_writable(self.folder)
        self._total, self._report = float(len(paths) * len(self.explainers)), progress
        if any(path.suffix.lower() in PICTURES for path in paths) and self.meaning.warning:
            self._warnings[self.meaning.warning] = None
        for group in self._groups(self._load(paths)):
            self._explain_group(group, target)
        self._draw_waiting()
        self._doubt()
        order = {path: position for position, path in enumerate(paths)}
        self.entries.sort(key=lambda entry: (order[entry.path], entry.name))
        document = self._document(target, time.perf_counter() - started)
        if self.entries:
            write_json(self.folder / "explain.json", document)
        return Found(document, self.entries, self.skipped, list(self._warnings))

    # --- loading -----------------------------------------------------------------------------------------------------

    def _load(self, paths: Sequence[Path]) -> Iterator[_Loaded]:
        inputs = inputs_of(self.explainers[0].model)
        for path, name in zip(paths, sample_names(paths), strict=True):
            try:
                sample = load(path, self.meaning.sidecar, inputs)
            except InputError as error:
                self._skip(path, error)
                continue
            for part in self._single(replace(sample, name=name)):
                yield _Loaded(path, part)

    def _single(self, sample: Sample) -> list[Sample]:
        """One sample per row of a batch that a file holds."""
        rows = {len(array) for array in sample.arrays.values() if array.ndim}
        count = next(iter(rows)) if len(rows) == 1 and self.explainers[0].takes_batches else 1
        if count < 2:
            return [sample]
        digits = len(str(count - 1))
        rows_of = [{name: array[row : row + 1] for name, array in sample.arrays.items()} for row in range(count)]
        return [Sample(f"{sample.name}-{row:0{digits}}", arrays) for row, arrays in enumerate(rows_of)]

    def _groups(self, samples: Iterable[_Loaded]) -> Iterator[list[_Loaded]]:
        """Samples of the same shapes, as many as a batch holds; what is left at the end."""
        size = self.explainers[0].batch_size if self.explainers[0].takes_batches else 1
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
            feeds = {name: np.concatenate([one.sample.arrays[name] for one in group]) if len(group) > 1 else array
                     for name, array in group[0].sample.arrays.items()}
            results = []
            for explainer in self.explainers:
                results.append(explainer.explain(feeds, target, self._inner(len(group))))
                self._advance(len(group))
        except InputError as error:
            self._done = base
            if len(group) == 1:
                self._skip(group[0].path, error)
            else:
                for one in group:
                    self._explain_group([one], target)
            return
        for position, one in enumerate(group):
            self._take(one, results, position)

    def _take(self, one: _Loaded, results: list[Explanation], position: int) -> None:
        entry = Entry(one.path, one.sample.name, predictions(self.explainers[0], results[0], position))
        maps: dict[tuple[str, str], Drawable] = {}
        titles = []
        for explanation in results:
            name, method = entry.name, explanation.method
            entry.results.append(result_as_dict(explanation, position))
            entry.warnings += [text for text in explanation.warnings if text not in entry.warnings]
            self._write_relevance(f"{name}-{method}.npz", explanation, position, entry)
            if explanation.target == "all":
                self._draw_all(f"{name}-{method}-all", explanation, position, entry)
                continue
            for tensor in explanation.relevance:
                maps[method, tensor] = drawable(explanation, position, tensor, how=self.style.how, sidecar=self.meaning.sidecar)
            titles.append(explanation.title(position))
        self.entries.append(entry)
        self._warnings |= dict.fromkeys(entry.warnings)
        drawn = _Drawn(entry, one.sample, maps, titles)
        if self.style.scale == "shared":
            self._waiting.append(drawn)
        else:
            self._draw(drawn, {})

    def _write_relevance(self, file: str, explanation: Explanation, position: int, entry: Entry) -> None:
        samples = len(explanation) if explanation.score.ndim == 1 else explanation.score.shape[1]
        axis = 1 if explanation.target == "all" else 0
        one = {
            name: array.take([position], axis=axis) if array.ndim > axis and array.shape[axis] == samples else array
            for name, array in explanation.relevance.items()
        }
        with atomic_write(self.folder / file) as draft:
            np.savez(draft, **one)  # type: ignore[arg-type]
        entry.files.append(file)

    # --- drawing -----------------------------------------------------------------------------------------------------

    def _draw_waiting(self) -> None:
        """Everything under one scale per method and tensor."""
        keys = {key for drawn in self._waiting for key in drawn.maps}
        limits = {
            key: limit_of(np.concatenate([d.maps[key].values.ravel() for d in self._waiting if key in d.maps]), self.style.percentile)
            for key in keys
        }
        for drawn in self._waiting:
            self._draw(drawn, limits)

    def _draw(self, drawn: _Drawn, limits: dict[tuple[str, str], float]) -> None:
        entry, several = drawn.entry, len({tensor for _, tensor in drawn.maps}) > 1
        for (method, tensor), found in drawn.maps.items():
            stem = f"{entry.name}-{method}" + (f"-{_as_file_name(tensor)}" if several else "")
            if not found.is_map:
                self._draw_bars(f"{stem}-bars.{self.style.format}", found, method, drawn, entry)
                continue
            limit = limits.get((method, tensor)) or limit_of(found.values, self.style.percentile)
            self._save_map(f"{stem}-heatmap.{self.style.format}", found, limit, entry)
            if drawn.sample.picture is not None:
                self._save_map(f"{stem}-overlay.{self.style.format}", found, limit, entry, drawn.sample.picture)
        if self.style.figure:
            self._draw_figure(drawn)

    def _save_map(self, file: str, found: Drawable, limit: float, entry: Entry, picture: Any = None) -> None:
        save_heatmap(self.folder / file, found.values, found.kind, limit=limit, picture=picture, resample="bilinear")
        entry.files.append(file)

    def _draw_bars(self, file: str, found: Drawable, method: str, drawn: _Drawn, entry: Entry) -> None:
        title = next((title for title in drawn.titles if title.startswith(method)), method)
        features = self.meaning.sidecar.features
        names = features if features is not None and len(features) == found.values.size else None
        if names is None and found.values.size <= MOST_CLASSES:
            names = tuple(map(str, range(found.values.size)))
        save_figure(self.folder / file, bars(found.values, names, title, kind=found.kind))
        entry.files.append(file)

    def _draw_figure(self, drawn: _Drawn) -> None:
        """The input and every method beside it, with title and colour bars."""
        shown = [found for found in drawn.maps.values() if found.is_map]
        if not shown:
            return
        panels = [
            Panel(_panel_title(title), found.values, found.kind)
            for title, found in zip(self._repeat(drawn), shown, strict=False)
        ]
        picture = drawn.sample.picture
        title = f"{drawn.entry.name}: {spoken(drawn.entry.predictions[:1])}" if drawn.entry.predictions else drawn.entry.name
        drawing = figure(panels, picture, title, percentile=self.style.percentile)
        file = f"{drawn.entry.name}-figure.{self.style.format}"
        save_figure(self.folder / file, drawing, dpi=110)
        drawn.entry.files.append(file)

    def _repeat(self, drawn: _Drawn) -> list[str]:
        """A title per map: its method's, and the tensor's name where several were explained."""
        tensors = {tensor for _, tensor in drawn.maps}
        by_method = {result["method"]: title for result, title in zip(drawn.entry.results, drawn.titles, strict=False)}
        return [
            by_method[method] + (f"\n{tensor}" if len(tensors) > 1 else "")
            for (method, tensor), found in drawn.maps.items()
            if found.is_map
        ]

    def _draw_all(self, stem: str, explanation: Explanation, position: int, entry: Entry) -> None:
        """A grid of the classes with the largest scores, under one scale."""
        scores = explanation.score[:, position]
        order = np.argsort(-scores, kind="stable")[:MOST_CLASSES]
        labels = explanation.labels or ()
        found = [drawable(explanation, position, how=self.style.how, sidecar=self.meaning.sidecar, index=int(i)) for i in order]
        if not found[0].is_map:
            return
        panels = [
            Panel(f"{labels[i] if i < len(labels) else i}, score {scores[i]:.3g}", one.values, one.kind)
            for i, one in zip(order, found, strict=True)
        ]
        file = f"{stem}.{self.style.format}"
        drawing = grid(panels, f"{entry.name}: {explanation.method}", scale="shared", percentile=self.style.percentile)
        save_figure(self.folder / file, drawing, dpi=110)
        entry.files.append(file)

    # --- accounts ----------------------------------------------------------------------------------------------------

    def _skip(self, path: Path, error: InputError) -> None:
        self.skipped.append(Skipped(path, str(error)))
        self._advance(len(self.explainers))

    def _inner(self, samples: int) -> Callable[[int, int], None]:
        base = self._done

        def report(done: int, total: int) -> None:
            if self._report is not None:
                self._report(min(base + samples * done / max(total, 1), self._total), self._total)

        return report

    def _advance(self, amount: float) -> None:
        self._done += amount
        if self._report is not None:
            self._report(min(self._done, self._total), self._total)

    def _doubt(self) -> None:
        """Say so where the top predictions are hardly better than chance: wrong preprocessing looks like that."""
        tops = [entry.predictions[0].probability for entry in self.entries if entry.predictions]
        text = doubt([top for top in tops if top is not None], self._classes)
        self._warnings |= {text: None} if text else {}

    @property
    def _classes(self) -> int:
        shape = self.explainers[0].output.asked.shape
        axis = 1 if self.explainers[0].output.batched else 0
        size = shape[axis] if shape is not None and len(shape) > axis else 0
        return size if isinstance(size, int) else 0

    def _document(self, target: Target, seconds: float) -> dict[str, Any]:
        first = self.explainers[0]
        document = {
            "onnxlrp": VERSION,
            "model": model_as_dict(first),
            "methods": [explainer.method.name for explainer in self.explainers],
            "preset": next((explainer.preset for explainer in self.explainers if explainer.preset), None),
            "bias": first.bias,
            "rules": {key: str(rule) for key, rule in first.rules.items()},
            "target": target,
            "preprocessing": preprocessing_as_dict(self.meaning),
            "provider": first.used_providers[0] if first.used_providers else None,
            "seconds": round(seconds, 3),
            "inputs": [entry.as_dict() for entry in self.entries],
            "skipped": [{"path": str(one.path), "reason": one.reason} for one in self.skipped],
            "warnings": list(self._warnings),
        }
        return as_json(document)  # type: ignore[no-any-return]


def preprocessing_as_dict(meaning: Meaning) -> dict[str, Any]:
    """What was taken for the meaning of the input's numbers, and how far it was guessed."""
    sidecar = meaning.sidecar
    keys = ("kind", "layout", "size", "channels", "preprocessing", "scale", "mean", "std", "resize")
    said = {key: getattr(sidecar, key) for key in keys if getattr(sidecar, key) is not None}
    return {"sidecar": str(sidecar.source) if sidecar.source else None, "guessed": list(meaning.guessed), **said}


def spoken(found: Sequence[Prediction]) -> str:
    """`star 99.8 %, circle 0.1 %`."""
    return ", ".join(f"{p.label} {p.score:.3g}" if p.probability is None else f"{p.label} {p.probability:.1%}" for p in found)


def require_writable(folder: Path) -> None:
    """Errors: InputError where a folder cannot be made or written, before time is spent on what would go there."""
    nearest = next(place for place in [folder, *folder.absolute().parents] if os.path.lexists(place))
    if not nearest.is_dir():
        raise InputError(f"{folder}: cannot be written ('{nearest}' is not a folder). Choose another output folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written (no permission in '{nearest}'). Choose another output folder.")


def write_json(path: Path, document: Any) -> None:
    """Write a document, whole or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _panel_title(title: str) -> str:
    return title.replace(": ", "\n", 1)


def _as_file_name(tensor: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in tensor)


__all__ = ["Entry", "Found", "Gallery", "Map", "Skipped", "Style", "require_writable", "write_json"]
