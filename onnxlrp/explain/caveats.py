"""Caveats: what the reader of an explanation should know, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from onnxlrp.explain.running import Found
from onnxlrp.explanation import Conservation
from onnxlrp.output import Output, chosen_by_position
from onnxlrp.plan import Plan
from onnxlrp.rules.decompositions import ZBox
from onnxlrp.session import Arrays

LITTLE, MUCH = 0.1, 10.0
"""Shares of the seeded relevance outside which an explanation says so."""

BEYOND = 1e-4
"""Share of a box's width by which an input may leave it unmentioned: what rounding makes."""

SATURATED = "there the score does not answer to small changes of the input, as behind a saturated Clip or Relu."
WITHOUT_SLOPES = "Take a method that does not look at slopes: lrp, occlusion or finite-difference with a large step."


def caveats(
    found: Found, feeds: Arrays, output: Output, plan: Plan | None, conservation: Conservation | None
) -> Iterator[str]:
    """What a run gives reason to say.

    plan         : of the backward pass; None for methods that only run the model forward
    conservation : None for methods that conserve nothing
    """
    if plan is not None:
        yield from _outside_box(feeds, plan)
    if plan is not None and not any(array.any() for array in found.relevance.values()):
        nothing = _why_nothing(output, plan, gradient=conservation is None)
    else:
        nothing = ""
    if not nothing and conservation is not None:
        yield from _unusual_share(conservation)
    if nothing:
        yield nothing
    elif plan is not None and conservation is None and output.batched:
        yield from _some_flat(found)
    for name, array in found.relevance.items():
        if not np.isfinite(array).all():
            yield f"The relevance of '{name}' holds NaN or infinity."


def other_label(target: Any, found: Found, labelled: tuple[str, Sequence[str]] | None) -> Iterator[str]:
    """Where the model calls a sample otherwise than its largest score says: by a threshold, votes, or another order.

    target : class per sample        labelled : the output of labels, and its names of the classes
    """
    given = found.outputs.get(labelled[0]) if labelled is not None else None
    if labelled is None or given is None or not isinstance(target, list) or given.shape != (len(target),):
        return
    names, indices = labelled[1], [entry if isinstance(entry, int) else len(labelled[1]) for entry in target]
    pairs = [(str(label), names[index]) for label, index in zip(given, indices, strict=True) if index < len(names)]
    row = next((row for row, (label, name) in enumerate(pairs) if label in names and label != name), None)
    if row is not None:
        yield (
            f"The model itself calls sample {row} '{pairs[row][0]}', and gives the largest of its scores to "
            f"'{pairs[row][1]}', which is explained. Give the class as target to explain the other."
        )


def _why_nothing(output: Output, plan: Plan, *, gradient: bool) -> str:
    """Where nothing arrives: the model chooses by position, is made of steps or is saturated; "" where none is so."""
    choosers = chosen_by_position(output.tensor)
    if choosers:
        return (
            f"No relevance arrives: {choosers[0]} chooses by position, and here the output is constant between its "
            "choices. Take a method that compares outputs: occlusion, or finite-difference with a large step."
        )
    if gradient and plan.steps:
        return (
            f"Every gradient is 0: {plan.steps[0]} is constant almost everywhere, and so is the model. "
            + WITHOUT_SLOPES
        )
    return f"Every gradient is 0: {SATURATED} {WITHOUT_SLOPES}" if gradient else ""


def _some_flat(found: Found) -> Iterator[str]:
    """Samples of a batch that have no gradient though others have."""
    maps = [array for array in found.relevance.values() if array.ndim and len(array) == len(found.score)]
    flat = np.flatnonzero([not any(array[sample].any() for array in maps) for sample in range(len(found.score))])
    if maps and flat.size:
        numbers = ", ".join(map(str, flat[:5])) + (", …" if flat.size > 5 else "")
        yield f"Every gradient of sample {numbers} of {len(found.score)} is 0: {SATURATED} {WITHOUT_SLOPES}"


def _outside_box(feeds: Arrays, plan: Plan) -> Iterator[str]:
    """Measured elsewhere: a violated box turned a heatmap's correlation to −0.91, so it is worth a sentence."""
    boxed = [(decision.rule, decision.unit) for decision in plan.decisions if isinstance(decision.rule, ZBox)]
    for name, array in feeds.items():
        boxes = (box for box, unit in boxed if any(o is not None and o.name == name for o in unit.inputs))
        yield from islice((text for box in boxes if (text := _violation(name, array, box))), 1)


def _violation(name: str, array: np.ndarray[Any, Any], box: ZBox) -> str:
    low, high = np.asarray(box.low), np.asarray(box.high)
    tolerance = BEYOND * float(np.max(np.abs(high - low)))
    outside = (array < low - tolerance) | (array > high + tolerance)
    if not outside.any():
        return ""
    return (
        f"{outside.mean():.1%} of '{name}' lies outside the box of {box} "
        f"(met: {array.min():.4g} to {array.max():.4g}); z-box is not valid there."
    )


def _unusual_share(conservation: Conservation) -> Iterator[str]:
    """Where far less or far more relevance arrived than was seeded, and the score is no small rest of large parts."""
    shares = np.abs(conservation.ratio)
    known = shares[np.isfinite(shares)]
    unusual = np.flatnonzero((shares < LITTLE) | (shares > MUCH))
    if not unusual.size:
        return
    if conservation.cancels[unusual].all():
        sample = int(unusual[0])
        yield (
            f"The score {conservation.seeded[sample]:.3g} is a small rest of what speaks for and against it "
            f"(Σ|R| {conservation.magnitude[sample]:.3g}): look at the parts, for shares of such a score say little."
        )
        return
    middle = float(np.median(known))
    alike = middle < LITTLE or middle > MUCH
    share, whose = (middle, "median over samples") if alike else (float(shares[unusual[0]]), f"sample {unusual[0]}")
    yield (
        f"{share:.2%} of the seeded relevance arrived ({whose}): biases, stabilisers or rules that do not conserve "
        'took or made the rest. `onnxlrp verify` shows at which layer; bias "distribute" gives their share back.'
    )
