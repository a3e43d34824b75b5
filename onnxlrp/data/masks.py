"""Masks: which cells of a map are meant, from a picture or an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.image import load_image
from onnxlrp.errors import InputError

Mask = NDArray[np.bool_]


def load_mask(path: Path) -> Mask:
    """(height, width), true where the file is not zero (a picture: not black).

    Errors: InputError for a file that is neither a picture nor an .npy of two axes, and for a mask without a cell.
    """
    if path.suffix.lower() == ".npy":
        try:
            cells = np.load(path, allow_pickle=False) != 0
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: not a readable .npy file ({error}).") from error
        cells = cells.reshape([size for size in cells.shape if size > 1]) if cells.ndim > 2 else cells
    else:
        cells = load_image(path).any(axis=-1)
    if cells.ndim != 2:
        raise InputError(f"{path}: a mask has two axes (height, width), met {list(cells.shape)}.")
    return checked_mask(cells, str(path))


def checked_mask(cells: Mask, where: str) -> Mask:
    """Errors: InputError for a mask without a cell."""
    if not cells.any():
        raise InputError(f"{where}: the mask is empty: every cell is zero. Mark what is meant with other values.")
    return np.asarray(cells, np.bool_)
