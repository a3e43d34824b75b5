"""What a run over samples has measured so far: one line per sample, appended when the sample is done.

A killed run leaves whole lines and perhaps half of one, which counts for nothing. The first line holds the settings:
a run goes on only under the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.session import Arrays

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """One sample, measured.

    name, digest    : of the sample; the digest is that of its numbers
    regions         : how many it has
    target, label   : what is explained, and the true class where it is known (else −1)
    value           : (series, repeat, step) Σ target ⊙ y        log_probability, best : likewise; see `Scores`
    """

    name: str
    digest: str
    regions: int
    target: int
    label: int
    value: Values
    log_probability: Values
    best: NDArray[np.int64]

    def as_line(self) -> str:
        document = {key: getattr(self, key) for key in ("name", "digest", "regions", "target", "label")}
        document["value"] = self.value.tolist()
        if np.isfinite(self.log_probability).all():
            document["log_probability"] = self.log_probability.tolist()
            document["best"] = self.best.tolist()
        return json.dumps(document, ensure_ascii=False)

    @classmethod
    def of_line(cls, line: str) -> Record:
        document = json.loads(line)
        value = np.asarray(document["value"], np.float64)
        logs = np.asarray(document.get("log_probability", np.full(value.shape, np.nan)), np.float64)
        best = np.asarray(document.get("best", np.full(value.shape, -1)), np.int64)
        head = {key: document[key] for key in ("name", "digest", "regions", "target", "label")}
        return cls(**head, value=value, log_probability=logs, best=best)


class Store:
    """Records by sample, in memory or in an append-only file.

    path : None keeps nothing on disk        settings : what the numbers depend on
    resume : take up what the file holds; else an older file is replaced
    Errors: ChoiceError where the file was made under other settings; InputError where it cannot be read or written.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(settings))
        self._records: dict[tuple[str, str], Record] = {}
        if path is not None:
            self._open(path, resume)

    def find(self, name: str, digest: str) -> Record | None:
        return self._records.get((name, digest))

    def add(self, record: Record) -> None:
        self._records[record.name, record.digest] = record
        if self.path is not None:
            self._append(self.path, record.as_line())

    def __len__(self) -> int:
        return len(self._records)

    def _open(self, path: Path, resume: bool) -> None:
        head = {"settings": self.settings, "hash": hash_of(self.settings)}
        if resume and path.exists():
            lines = list(_whole_lines(path))
            if lines:
                self._take_up(path, lines, head["hash"])
                return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}). Choose another output folder.") from error

    def _take_up(self, path: Path, lines: list[str], wanted: str) -> None:
        try:
            head = json.loads(lines[0])
            found, settings = head["hash"], head["settings"]
            records = [Record.of_line(line) for line in lines[1:]]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: holds no results of `onnxlrp curve` ({error}). Run without --resume.") from error
        if found != wanted:
            raise ChoiceError(
                f"{path}: was measured under other settings ({_difference(settings, self.settings)}). "
                "Resume under the same ones, choose another folder, or run without --resume to start anew."
            )
        self._records = {(record.name, record.digest): record for record in records}
        # Half a line at the end would swallow the next one: the file is cut back to its whole lines.
        whole = sum(len(line.encode()) + 1 for line in lines)
        with path.open("r+b") as file:
            file.truncate(whole)

    def _append(self, path: Path, line: str) -> None:
        try:
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(line + "\n")
        except OSError as error:
            reason = f"{path}: cannot be written ({error.strerror})"
            raise InputError(f"{reason}. Free some space and use --resume.") from error


def hash_of(settings: Mapping[str, Any]) -> str:
    """The same for the same settings, in whatever order they were written."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def digest_of(arrays: Arrays) -> str:
    """Of a sample's numbers: seeds come from it, so the noise on a photo depends neither on its name nor its place."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype} {array.shape}".encode())
        state.update(array.tobytes() if array.dtype != object else repr(array.tolist()).encode())
    return state.hexdigest()[:16]


def _whole_lines(path: Path) -> Iterator[str]:
    try:
        content = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    yield from content.split("\n")[:-1]


def _difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = sorted(key for key in there.keys() | now.keys() if there.get(key) != now.get(key))
    return "; ".join(f"{key}: {_short(there.get(key))} there, {_short(now.get(key))} now" for key in keys)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
