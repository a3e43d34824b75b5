"""The one way files are written: beside their place, then moved onto it, so that no half-written file ever stays."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from onnxlrp.errors import InputError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it onto `path` when the block ends without an error.

    The temporary name keeps the suffix, because many writers choose their format by it. Missing folders are created.
    An error inside the block removes the temporary file and leaves an older `path` as it was.
    Raises InputError where the operating system refuses: no permission, no space, a file where a folder should be.
    """
    target = Path(path)
    draft = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, target)
    except OSError as error:
        raise InputError(_refusal(target, error)) from error
    finally:
        _remove(draft)


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Ask whether a folder can be made and written, before time is spent on what would go there.

    Raises InputError where a file stands in its way or permission is missing. Nothing is made.
    """
    wanted = Path(folder)
    nearest = next(place for place in [wanted, *wanted.absolute().parents] if os.path.lexists(place))
    if not nearest.is_dir():
        raise InputError(f"{wanted}: cannot be written ('{nearest}' is not a folder). Choose another output folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{wanted}: cannot be written (no permission in '{nearest}'). Choose another output folder.")


def write_json(path: str | os.PathLike[str], document: Any) -> None:
    """Write a document, whole or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _refusal(target: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return (
        f"{target}: cannot be written ({reason}). "
        f"The folder '{target.parent}' must be writable and have space: choose another one."
    )


def _remove(draft: Path) -> None:
    # Where the folder itself cannot be reached there is no draft either: nothing to report on top of the first error.
    with suppress(OSError):
        draft.unlink()
