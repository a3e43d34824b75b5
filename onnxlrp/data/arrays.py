"""Arrays as they are: .npy for models with one input, .npz with one array per input name."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.image import unprocess
from onnxlrp.data.sample import Input, Sample, fit, only_input
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.errors import InputError

SUFFIXES = (".npy", ".npz")


def load_arrays(path: Path, sidecar: Sidecar, inputs: Sequence[Input]) -> Sample:
    """Read what the model is fed, already preprocessed. Raises InputError where names, shapes or types do not fit."""
    arrays = _read_npz(path, inputs) if path.suffix.lower() == ".npz" else _read_npy(path, inputs)
    fitted = {entry.name: fit(arrays[entry.name], entry, sidecar, path) for entry in inputs}
    return Sample(path.stem, fitted, _picture(fitted, sidecar))


def _read_npy(path: Path, inputs: Sequence[Input]) -> dict[str, NDArray[Any]]:
    entry = only_input(inputs, path)
    content = _read(path)
    if isinstance(content, dict):
        raise InputError(f"{path}: holds several arrays under an .npy name. Call the file .npz.")
    return {entry.name: content}


def _read_npz(path: Path, inputs: Sequence[Input]) -> dict[str, NDArray[Any]]:
    content = _read(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a single array under an .npz name. Call the file .npy.")
    if len(inputs) == len(content) == 1:
        return {inputs[0].name: next(iter(content.values()))}
    _check_names(path, content, [entry.name for entry in inputs])
    return content


def _check_names(path: Path, arrays: dict[str, NDArray[Any]], expected: list[str]) -> None:
    missing = [name for name in expected if name not in arrays]
    unknown = [name for name in arrays if name not in expected]
    if not missing and not unknown:
        return
    hints = [f"'{name}' looks like '{close[0]}'" for name in unknown if (close := _close(name, missing))]
    raise InputError(
        f"{path}: its arrays do not fit the model's inputs. Expected {_quoted(expected)}; "
        f"missing {_quoted(missing)}; unknown {_quoted(unknown)}. "
        + (f"Rename: {', '.join(hints)}." if hints else "Save one array per input name.")
    )


def _close(name: str, names: list[str]) -> list[str]:
    return difflib.get_close_matches(name, names, n=1)


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _read(path: Path) -> NDArray[Any] | dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    if not path.exists():
        return InputError(f"{path}: no such file. Check the path.")
    if "pickle" in str(error):
        return InputError(
            f"{path}: not a plain NumPy file, or one of Python objects, which could run code and are never loaded. "
            "Save numbers or fixed-width strings with numpy.save."
        )
    return InputError(f"{path}: not a readable NumPy file ({error}). Save it again with numpy.save or numpy.savez.")


def _picture(arrays: dict[str, NDArray[Any]], sidecar: Sidecar) -> NDArray[np.uint8] | None:
    if sidecar.kind != "image" or len(arrays) != 1:
        return None
    try:
        return unprocess(next(iter(arrays.values())), sidecar)
    except InputError:  # four channels, say: a fine input that nobody can show
        return None
