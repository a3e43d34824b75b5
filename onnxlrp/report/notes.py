"""What is explained where nobody said it: of several outputs the first, of a detector its best, a probability."""

from __future__ import annotations

from collections.abc import Iterator

from onnxlrp.explain import Explainer
from onnxlrp.explanation import Explanation
from onnxlrp.report.pictures import framing_of
from onnxlrp.report.summary import explains_probability

FLAT_OF = 4
"""Axes of a picture's batch: what reads one and lists rows of numbers lists detections."""

MOST_NAMED = 4

PROBABILITY = (
    "A probability is explained, for no logits were found behind it: what speaks for other classes counts against it, "
    "and little is left where it is close to 1. Name the logits with --logits, or any tensor with --output."
)


def detections_of(explainer: Explainer) -> tuple[int | None, int] | None:
    """(detections, numbers of each) that a model of pictures lists; None where the explained output is no such list.

    Shapes (sample, detection, 1), (sample, detection, class), (sample, class, detection): the longer axis counts
    detections. None for a number that only run time can tell.
    """
    shape, graph = explainer.output.asked.shape, explainer.model.graph
    reads_pictures = any(value.shape is not None and len(value.shape) == FLAT_OF for value in graph.inputs)
    if shape is None or not explainer.output.batched or len(shape) != FLAT_OF - 1 or not reads_pictures:
        return None
    sizes = [size if isinstance(size, int) else None for size in list(shape)[1:]]
    known = [size for size in sizes if size is not None]
    if not known:
        return None
    return (max(known), min(known)) if len(known) == len(sizes) else (None, known[0])


def notes_on(explainer: Explainer, *, chosen: bool) -> Iterator[str]:
    """What a reader would ask first.  chosen : whether a target was given"""
    outputs = explainer.model.graph.outputs
    floats = [v.name or "" for v in outputs if v.dtype is not None and v.dtype.is_floating_point()]
    asked = explainer.output.asked.name
    if len(floats) > 1 and explainer.output.because != "as asked" and asked in floats:
        others = [name for name in floats if name != asked]
        named = ", ".join(others[:MOST_NAMED]) + (", …" if len(others) > MOST_NAMED else "")
        yield f"Of {len(floats)} outputs, '{asked}' is explained. --output takes another: {named}."
    found = detections_of(explainer)
    if found is None or chosen:
        return
    count, numbers = found
    how_many = f"{count} detections" if count is not None else "detections"
    yield (
        f"The output lists {how_many} and no classes: the largest score is explained; --target detection:N is another."
    )
    if numbers > 1:
        yield (
            f"Each detection has {numbers} numbers: where one is a background class or an edge of a box, name the "
            "score you mean, as in --target detection:best:1."
        )


def notes_on_result(explainer: Explainer, explanation: Explanation) -> Iterator[str]:
    """What a batch's numbers tell, in words that are the same for every batch."""
    for name in framing_of(explanation):
        yield (
            f"'{name}' says which tokens are read and is not drawn; what it got is told as its share in explain.json. "
            "--input NAME explains only what it names."
        )
    if explains_probability(explainer, explanation, 0):
        yield PROBABILITY
