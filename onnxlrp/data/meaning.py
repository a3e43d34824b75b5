"""What is known of a model's numbers: its sidecar, the caller's word over it, a guess for what both leave open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.data.class_names import class_names
from onnxlrp.data.guess import Guess, guess
from onnxlrp.data.sample import Dimension
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.errors import InputError
from onnxlrp.graph import FLOATS
from onnxlrp.model import Model

_PIXELS = ("preprocessing", "scale", "mean", "std")


@dataclass(frozen=True)
class ModelInput:
    """What a loader needs to know of one input of a model."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dimension, ...]


@dataclass(frozen=True)
class Meaning:
    """A sidecar with nothing left open that could be guessed.

    guessed : why, one sentence per guess; empty where the sidecar or the caller said what pictures need
    """

    sidecar: Sidecar
    guessed: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """What to tell whoever feeds pictures under a guess; empty without one."""
        if not self.guessed:
            return ""
        return (
            f"No sidecar says how pictures become this model's input. Guessed: {'; '.join(self.guessed)}. "
            "If that is wrong, so are the predictions: say --preprocessing (imagenet, caffe-bgr, 0-1, -1-1, 0-255), "
            "or keep it with `onnxlrp inspect MODEL --write-sidecar` and correct the file."
        )

    def box(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        """(low, high) of the preprocessed input, for z-box rules; None where nobody can know it."""
        try:
            return self.sidecar.bounds()
        except InputError:
            return None


def meaning_of(model: Model, said: Mapping[str, object]) -> Meaning:
    """Read the sidecar beside the model, put what the caller says over it, guess the rest.

    said : keys of `Sidecar` with their values; None and missing keys leave the sidecar's word
    Errors: ModelError for a broken sidecar; InputError for values that do not fit.
    """
    given = {key: value for key, value in said.items() if value is not None}
    written = Sidecar.beside(model.path) if model.path is not None else Sidecar()
    if written.labels is None:
        written = written.replace(labels=class_names(model))
    if written.kind is not None or written.preprocessing is not None:
        return Meaning(written.replace(**given))
    found = guess_for(model)
    own = {
        key: getattr(written, key)
        for key in ("layout", "size", "channels", *_PIXELS)
        if getattr(written, key) is not None
    }
    decided = {**own, **given}
    open_keys = ["kind", "layout", "size", "channels", "resize"] + (
        [] if set(decided) & set(_PIXELS) else ["preprocessing"]
    )
    guesses = {key: getattr(found.sidecar, key) for key in open_keys if key not in decided}
    if "kind" in given and given["kind"] != found.sidecar.kind:
        guesses = {}
    sidecar = written.replace(**{key: value for key, value in guesses.items() if value is not None}, **given)
    reasons = found.reasons if "preprocessing" in guesses and sidecar.kind in ("image", "video") else ()
    return Meaning(sidecar, reasons)


def inputs_of(model: Model) -> list[ModelInput]:
    """The model's inputs as loaders see them."""
    return [_model_input(value) for value in model.graph.inputs]


def guess_for(model: Model) -> Guess:
    """The likeliest sidecar for what the file gives away: of its first input and its first float output."""
    entry = inputs_of(model)[0]
    floats = [value for value in model.graph.outputs if value.dtype in FLOATS]
    classes = _dimensions(floats[0] if floats else model.graph.outputs[0])
    return guess(
        shape=entry.shape, name=entry.name, dtype=entry.dtype, output_shape=classes, exporter=model.exporter.lower()
    )


def sidecar_path(model: Path) -> Path:
    """`model.toml` for `model.onnx`."""
    return model.with_suffix(".toml")


def _model_input(value: ir.Value) -> ModelInput:
    dtype = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32)
    return ModelInput(value.name or "", dtype, _dimensions(value))


def _dimensions(value: ir.Value) -> tuple[Dimension, ...]:
    return tuple(d if isinstance(d, int) else d.value for d in value.shape) if value.shape is not None else ()
