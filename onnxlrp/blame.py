"""Blame: what onnxruntime refuses of a graph of ours is our defect where it takes the file as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from onnxlrp.errors import Defect, InputError, ModelError, OnnxlrpError, OutOfMemory
from onnxlrp.model import Model
from onnxlrp.session import Arrays, Session, run_in_own_batch

REMEDY = (
    "This is a mistake of onnxlrp, not of your model: please report it with the model, or with what "
    "`onnxlrp inspect MODEL --json` prints. Until it is mended, another --preset may do, and --method occlusion runs "
    "the model alone."
)


@contextmanager
def ours(
    original: Model, providers: str | Sequence[str] | None, feeds: Arrays | None = None, what: str = "explainer"
) -> Iterator[None]:
    """Around loading or running a graph that was made of `original`.

    feeds : what it was run on; None where it was only loaded        what : the graph is called
    Errors: Defect where the original loads, and runs on these feeds; InputError where it runs and gives no number; else
    the error as it came.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except (ModelError, InputError) as refused:
        found = _taken(original, providers, feeds)
        if found is None:
            raise
        if found and all(np.size(array) == 0 for array in found.values()):
            raise InputError(
                f"Fed with this, '{original.name}' gives no number: "
                + ", ".join(f"'{name}' {list(np.shape(array))}" for name, array in found.items())
                + ". There is nothing to explain: give an input for which there is."
            ) from refused
        raise Defect(f"onnxruntime runs '{original.name}', but not its {what}. {refused}\n{REMEDY}") from refused


def _taken(original: Model, providers: str | Sequence[str] | None, feeds: Arrays | None) -> Arrays | None:
    """What the file itself gives on these feeds, {} where it was only loaded; None where onnxruntime refuses it too."""
    try:
        if original.path is not None:
            session = Session.of_file(original.path, providers)
        else:
            session = Session((original.as_read or original.proto).clone(), providers)
        if feeds is None:
            return {}
        return run_in_own_batch(session, {name: array for name, array in feeds.items() if name in session.inputs})
    except OnnxlrpError:
        return None
