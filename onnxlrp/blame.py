"""Blame: what onnxruntime refuses of a graph of ours is our defect where it takes the file as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
    Errors: Defect where the original loads, and runs on these feeds; else the error as it came.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except (ModelError, InputError) as refused:
        if not _takes(original, providers, feeds):
            raise
        raise Defect(f"onnxruntime runs '{original.name}', but not its {what}. {refused}\n{REMEDY}") from refused


def _takes(original: Model, providers: str | Sequence[str] | None, feeds: Arrays | None) -> bool:
    try:
        if original.path is not None:
            session = Session.of_file(original.path, providers)
        else:
            session = Session((original.as_read or original.proto).clone(), providers)
        if feeds is not None:
            run_in_own_batch(session, {name: array for name, array in feeds.items() if name in session.inputs})
    except OnnxlrpError:
        return False
    return True
