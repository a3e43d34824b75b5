"""Judge a compiled explainer: spectators that return findings with numbers and change nothing.

Four witnesses: the original's own outputs, finite differences of the forward pass, gradient × input where LRP-0 must
equal it, and the ledger of what every layer handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.blame import ours
from onnxlrp.compile import Compiled, Request, compile_model
from onnxlrp.errors import ModelError
from onnxlrp.explain import Explainer
from onnxlrp.explanation import Arrays
from onnxlrp.findings import Finding, LedgerRow, Verdict
from onnxlrp.judging.agreement import view_agrees
from onnxlrp.judging.differences import gradient_agrees, nearby, sizes_among
from onnxlrp.judging.made_up import sample_input
from onnxlrp.ledger import BY_DESIGN, UNEXPLAINED, Ledger
from onnxlrp.model import Model, Source, read
from onnxlrp.plan import Decision
from onnxlrp.prepare import prepare
from onnxlrp.prepare.dynamic_batch import fixed_batch
from onnxlrp.prepare.widen import WIDENED
from onnxlrp.presets import Box, Layer
from onnxlrp.reading.missing_bias import GIVEN
from onnxlrp.rules.decompositions import Epsilon, Rule
from onnxlrp.rules.registry import Family
from onnxlrp.rules.simple import EachLayer, Own, Pass, Route, WinnerTakesAll
from onnxlrp.session import Session, run_in_own_batch

FORWARD_TOLERANCE = 1e-4
"""Relative to the largest output: room for another order of float32 sums."""

NUDGES, ROUNDING_ROOM = 8, 4.0
"""How often a file's inputs are rounded otherwise, and how much of the movement of its outputs is allowed."""

HALF_TOLERANCE = 2e-3
"""The same for models that compute in half precision, whose own spacing is 1e-3; where onnxruntime widens and where it
rounds differs from operator to operator."""

OLDEST_RUNNABLE = 7
"""The oldest opset that onnxruntime runs; files below are compared as upgraded."""

LRP0_TOLERANCE = 1e-3
ROUNDING = 1e-6
"""Of a float32 sum, relative to its terms: a bias may take and give back a thousand times what arrived."""

LEDGER_TOLERANCE = 1e-3
"""Relative to Σ|R| of a layer."""

HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "Cast", "Neg"})
"""Activations with f(x) = x·f'(x), where passing relevance on is gradient × input."""


def verify(
    model: Source | Model,
    x: Any = None,
    *,
    preset: str | None = None,
    rules: Any = None,
    output: str | None = None,
    inputs: Sequence[str] | None = None,
    bias: str = "absorb",
    providers: str | Sequence[str] | None = None,
    box: Box | None = None,
    labels: Sequence[str] | None = None,
    logits: str | None = None,
    compat: str | None = None,
    seed: int = 0,
) -> Verdict:
    """Run every check on one batch.

    x : array or {input: array}; None = standard-normal numbers of the declared shape, drawn with `seed`
    """
    original = model if isinstance(model, Model) else read(model)
    shared: dict[str, Any] = {
        "output": output,
        "inputs": inputs,
        "providers": providers,
        "labels": labels,
        "logits": logits,
    }
    exported_for = fixed_batch(original.graph)
    original = prepare(original)
    explainer = Explainer(original, preset=preset, rules=rules, bias=bias, box=box, compat=compat, **shared)
    feeds = explainer.checked(
        x if x is not None else sample_input(original, seed, providers, batch=2 * (exported_for or 1))
    )
    gradient = Explainer(original, method="gradient", **shared)
    ledger = Ledger()
    compiled = compile_model(explainer.model, explainer.request(), ledger)
    with ours(original, providers, feeds):
        found = Session(compiled.model, providers).run(feeds)
    rows = ledger.rows(found[compiled.ledger or ""])
    findings = [
        _forward_equals(model, explainer, feeds, providers),
        *view_agrees(original, feeds, providers),
        gradient_agrees(gradient, feeds, seed),
        _lrp0_is_gradient_times_input(original, gradient, feeds, shared, seed),
        _finite(compiled, found),
        _promises(rows, ledger.sizes(found[compiled.ledger or ""])),
    ]
    arrived = sum(float(found[name].astype(np.float64).sum()) for name in compiled.relevance.values())
    return Verdict(tuple(findings), tuple(rows), float(np.sum(found[compiled.score])), arrived)


# --- the checks ------------------------------------------------------------------------------------------------------


def _forward_equals(
    source: Source | Model, explainer: Explainer, feeds: Arrays, providers: str | Sequence[str] | None
) -> Finding:
    """The joint model's own outputs against the file as it is.

    A file whose outputs move more than the tolerance when its inputs are rounded otherwise is held to that.
    """
    name, notes = "forward equals the original's", explainer.model.notes
    try:
        if GIVEN in notes and not isinstance(source, Model):
            source = read(source)
        run, note = _original(source, feeds, providers)
    except ModelError as error:
        if WIDENED not in notes:
            raise
        return Finding(name, True, None, None, "", f"not applicable: it runs in float32 alone. {error}")
    theirs = run(feeds)
    worst, where = _largest_difference(explainer.explain(feeds).outputs, theirs)
    half = WIDENED in notes or any(isinstance(a, np.ndarray) and a.dtype == np.float16 for a in theirs.values())
    tolerance = HALF_TOLERANCE if half else FORWARD_TOLERANCE
    if worst > tolerance:
        random = np.random.default_rng(0)
        moved = max(_largest_difference(run(_rounded_otherwise(feeds, random)), theirs)[0] for _ in range(NUDGES))
        if moved * ROUNDING_ROOM > tolerance:
            tolerance = moved * ROUNDING_ROOM
            note = f"{note} the file's own outputs move by {moved:.2g} when its inputs are rounded otherwise".strip()
    return Finding(name, worst <= tolerance, worst, tolerance, "relative", f"{where} {note}".strip())


def _largest_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[float, str]:
    """Relative to the largest element of each output, and where."""
    worst, where = 0.0, ""
    for name, reference in theirs.items():
        found = ours[name]
        if not isinstance(reference, np.ndarray) or reference.dtype.kind not in "fiub" or not reference.size:
            continue
        if found.shape != reference.shape:
            return np.inf, f"at '{name}', of shape {found.shape} instead of {reference.shape}"
        scale = float(np.max(np.abs(reference.astype(np.float64)), initial=0.0)) or 1.0
        same = found == reference
        if reference.dtype.kind == "f":
            same |= np.isnan(found) & np.isnan(reference)
        difference = np.where(same, 0.0, np.abs(found.astype(np.float64) - reference.astype(np.float64)))
        if float(difference.max()) / scale > worst:
            worst, where = float(difference.max()) / scale, f"at '{name}'"
    return worst, where


def _rounded_otherwise(feeds: Arrays, random: np.random.Generator) -> Arrays:
    """Each float moved to one of its neighbours."""
    return {
        name: np.nextafter(array, np.where(random.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype))
        if array.dtype in (np.float32, np.float64)
        else array
        for name, array in feeds.items()
    }


def _original(
    source: Source | Model, feeds: Arrays, providers: str | Sequence[str] | None
) -> tuple[Callable[[Arrays], dict[str, Any]], str]:
    """What the file gives without any stage of ours, in slices of the batch it was exported for; and a note."""

    def runs(session: Session) -> Callable[[Arrays], dict[str, Any]]:
        return lambda feeds: dict(run_in_own_batch(session, feeds))

    if isinstance(source, Model):
        return runs(Session(source.copy(), providers)), ""
    source = ir.to_proto(source) if isinstance(source, ir.Model) else source
    try:
        session, note = Session.of_file(source, providers), ""
    except ModelError:
        model = read(source)
        if model.original_opset >= OLDEST_RUNNABLE:
            raise
        session = Session(model.copy(), providers)
        note = f"as upgraded: onnxruntime runs no file of opset {model.original_opset}"
    return runs(session), note


def _lrp0_is_gradient_times_input(
    model: Model, gradient: Explainer, feeds: Arrays, shared: dict[str, Any], seed: int
) -> Finding:
    """On layers that are linear or homogeneous, LRP-0 is gradient × input, biases or not.

    Next to the input, because LRP-0 hands nothing on where a layer is exactly 0, as a centred column may be.

    Both run without fusions, node by node: where a pooling window nearly ties, rounding must choose the same winner.
    """
    name = "LRP-0 equals gradient × input"
    plan = gradient.plan
    other = sorted({d.unit.op_type for d in plan.all() if not _is_homogeneous(d)})
    if other:
        return Finding(name, True, None, None, "", f"not applicable: the model has {', '.join(other[:5])}")
    random = np.random.default_rng(seed)
    moved = {n: nearby(a, random) for n, a in feeds.items() if a.dtype.kind == "f"}
    sizes = sizes_among(gradient, feeds, moved)
    feeds = feeds | {n: array for n, array in moved.items() if n not in sizes}
    zero = compile_model(model, _lrp0_request(gradient))
    found = Session(zero.model, shared["providers"], optimise=False).run(feeds)
    derivative = Session(gradient.compiled.model, shared["providers"], optimise=False).run(feeds)
    worst = 0.0
    for source, output in zero.relevance.items():
        if source not in feeds or feeds[source].dtype.kind != "f" or not feeds[source].size:
            continue  # a token has relevance, and no gradient × input
        expected = feeds[source] * derivative[gradient.compiled.relevance[source]]
        scale = float(np.abs(expected).max()) or 1.0
        worst = max(worst, float(np.abs(found[output] - expected).max()) / scale)
    return Finding(name, worst <= LRP0_TOLERANCE, worst, LRP0_TOLERANCE, "relative")


def _is_homogeneous(decision: Decision) -> bool:
    """Whether LRP-0 hands on what gradient × input does: not past operands that shape a linear map."""
    operator, signals = decision.operator, decision.signals
    family = operator.family_for(signals)
    if family is Family.POINTWISE:
        return decision.unit.op_type in HOMOGENEOUS
    node = decision.unit.nodes[-1]
    if node.op_type in ("ScatterElements", "ScatterND") and node.attributes.get_string("reduction") == "mul":
        return False
    linear = family in (Family.LINEAR, Family.SUM, Family.MOVEMENT, Family.CHOICE, Family.CONTROL)
    return linear and not any(index in operator.parameters for index in signals)


def _lrp0_request(gradient: Explainer) -> Request:
    return replace(gradient.request(), title="LRP-0", chooser=_lrp0, times_output=True, reduce=None)


def _lrp0(layer: Layer) -> tuple[Rule, str]:
    own = layer.operator.relevance is not None
    rules: dict[Family, Callable[[], Rule]] = {
        Family.MOVEMENT: Own if own else Route,
        Family.CHOICE: Own if own else WinnerTakesAll,
        Family.POINTWISE: Pass,
        Family.CONTROL: EachLayer,
    }
    return rules.get(layer.family, lambda: Epsilon(0.0))(), "LRP-0"


def _finite(compiled: Compiled, found: Arrays) -> Finding:
    """Where the model's own score is NaN or infinite, so is its relevance; nowhere else."""
    name = "relevance is finite"
    if not np.isfinite(found[compiled.score]).all():
        return Finding(name, True, None, None, "", "not applicable: the model's own output is not finite here")
    count = sum(int((~np.isfinite(found[output])).sum()) for output in compiled.relevance.values())
    return Finding(name, count == 0, float(count), 0.0, "elements")


def _promises(rows: Sequence[LedgerRow], sizes: Sequence[float]) -> Finding:
    """What no bias, stabiliser or declared rule took must be rounding, of its layer or of the largest one."""
    largest = max(sizes, default=0.0)
    lost = [abs(row.taken.get(UNEXPLAINED, 0.0)) for row in rows]
    worst, where = (0.0, max(lost, default=0.0) / (largest or 1.0), 0.0), ""
    for row, gone, size in zip(rows, lost, sizes, strict=True):
        others = abs(row.handed_on) + sum(abs(taken) for who, taken in row.taken.items() if who != UNEXPLAINED)
        rest = max(gone - ROUNDING * others, 0.0)
        if size > 0 and rest > ROUNDING * largest and rest / size > worst[0]:
            worst, where = (rest / size, gone / size, ROUNDING * others / size), f"at {row.operator} '{row.layer}'"
    excess, measured, room = worst
    by_design = sorted({row.operator for row in rows if abs(row.taken.get(BY_DESIGN, 0.0)) > 0})
    detail = where + (f"; by design not at {', '.join(by_design)}" if by_design else "")
    return Finding(
        "every layer keeps its promise to conserve",
        excess <= LEDGER_TOLERANCE,
        measured,
        LEDGER_TOLERANCE + room,
        "of Σ|R|",
        detail,
    )
