"""How a curve is measured, from the options of `onnxlrp curve`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onnxlrp import Explainer
from onnxlrp.data import Meaning, Sample, expand
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.perturbation.predictor import moved_tensors
from onnxlrp.perturbation.protocol import RANDOM, Protocol, surroundings
from onnxlrp.perturbation.regions import Size, suited_edge
from onnxlrp.perturbation.samples import Skipped, samples_of
from onnxlrp.perturbation.store import hash_of
from onnxlrp.perturbation.words import word_regions


def protocol_of(given: dict[str, Any], explainer: Explainer, meaning: Meaning) -> Protocol:
    """Errors: ChoiceError and InputError for options and files that do not fit."""
    layout = meaning.sidecar.layout or explainer.layout
    name = moved_tensors(explainer)[0]
    shape = next(value.shape for value in explainer.tensors if value.name == name)
    rank = len(shape) - int(explainer.takes_batches) if shape is not None else 0
    sizes = [d if isinstance(d, int) else None for d in shape] if shape is not None else []
    sample = sizes[1:] if explainer.takes_batches else sizes
    box = (given["box"] and tuple(map(np.float32, given["box"]))) or meaning.box()
    background = _background(given["background"], explainer, meaning)
    embedded = name not in {value.name for value in explainer.model.graph.inputs}
    around = surroundings(layout, rank, None if embedded else box, background, given["value"])
    orders = tuple(order for order in dict.fromkeys(given["orders"]) if order != RANDOM)
    return Protocol(
        given["steps"],
        _region(given["region"]) if given["region"] else suited_edge(sample, layout, meaning.sidecar.size),
        given["replace"] or ("zero-embedding" if embedded or meaning.sidecar.kind == "text" else "uniform"),
        orders,
        given["repeats"],
        given["seed"],
        around=around,
        layout=layout,
        picture=meaning.sidecar.size,
        **(_masked(given["mask"]) or (_words(rank) if meaning.sidecar.kind == "text" else {})),
    )


def _words(rank: int) -> dict[str, Any]:
    """Of texts, words are the regions."""
    return {"labels": lambda sample: word_regions(sample, rank), "labels_name": "words"}


def _region(text: str) -> Size:
    try:
        if "=" not in text:
            return int(text)
        pairs = (part.partition("=") for part in text.split(","))
        return {axis.strip().upper(): int(size) for axis, _, size in pairs}
    except ValueError:
        raise ChoiceError(f"--region '{text}': give a whole number, or one per axis as in H=8,W=8,T=4.") from None


def _masked(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--mask {path}: not a readable .npy file ({error}).") from error
    mask: Callable[[Sample], Any] = lambda sample: labels  # noqa: E731
    return {"labels": mask, "labels_name": f"{path.name} {hash_of({'labels': labels.tolist()})}"}


def _background(paths: tuple[str, ...], explainer: Explainer, meaning: Meaning) -> Any:
    if not paths:
        return None
    found: list[Any] = []
    for sample in samples_of(expand(paths, meaning.sidecar.kind), explainer.model, meaning):
        if isinstance(sample, Skipped):
            raise InputError(f"--background: {sample.reason}")
        found.append(next(iter(sample.arrays.values())))
    return np.concatenate(found)
