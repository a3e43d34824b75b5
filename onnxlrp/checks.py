"""Judge a compiled explainer: spectators that return findings with numbers and change nothing.

Four witnesses: the original's own outputs, finite differences of the forward pass, gradient × input where LRP-0 must
equal it, and the ledger of what every layer handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.compile import Request, compile_model
from onnxlrp.deployed import is_quantised
from onnxlrp.errors import InputError
from onnxlrp.explain import Explainer
from onnxlrp.explanation import Arrays
from onnxlrp.findings import Finding, LedgerRow, Verdict
from onnxlrp.ledger import BY_DESIGN, UNEXPLAINED, Ledger
from onnxlrp.model import Model, Source, read
from onnxlrp.prepare import prepare
from onnxlrp.presets import Box, Layer
from onnxlrp.rules.decompositions import Epsilon, Rule
from onnxlrp.rules.registry import Family
from onnxlrp.rules.simple import Pass, Route, WinnerTakesAll
from onnxlrp.session import Session
from onnxlrp.unrounded import without_rounding

FORWARD_TOLERANCE = 1e-4
"""Relative to the largest output: room for another order of float32 sums."""

HALF_TOLERANCE = 2e-3
"""The same for half-precision outputs, whose own spacing is 1e-3."""

GRADIENT_TOLERANCE = 2e-2
"""Relative error of a directional derivative; float32 differences of a deep net are no better."""

LRP0_TOLERANCE = 1e-3
LEDGER_TOLERANCE = 1e-3
"""Relative to Σ|R| of a layer."""

ROUNDING = 1e-6
"""Relative rounding of one float32 score."""

DIRECTIONS = 4
STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)

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
    original = prepare(original)
    explainer = Explainer(original, preset=preset, rules=rules, bias=bias, box=box, **shared)
    feeds = explainer.checked(x if x is not None else sample_input(original, seed, providers))
    gradient = Explainer(original, method="gradient", **shared)
    ledger = Ledger()
    compiled = compile_model(explainer.model, explainer.request(), ledger)
    found = Session(compiled.model, providers).run(feeds)
    rows = ledger.rows(found[compiled.ledger or ""])
    findings = [
        _forward_equals(model, explainer, feeds, providers),
        _gradient_agrees(gradient, feeds, seed),
        _lrp0_is_gradient_times_input(original, gradient, feeds, shared),
        _finite(compiled.relevance, found),
        _promises(rows, ledger.sizes(found[compiled.ledger or ""])),
    ]
    arrived = sum(float(found[name].astype(np.float64).sum()) for name in compiled.relevance.values())
    return Verdict(tuple(findings), tuple(rows), float(np.sum(found[compiled.score])), arrived)


def sample_input(model: Model, seed: int, providers: str | Sequence[str] | None = None) -> Arrays:
    """Numbers that the model runs on: fixed dimensions as declared, the batch 2, others tried from a short list.

    Errors: InputError when nothing of that runs.
    """
    session = Session(model.copy(), providers)
    random = np.random.default_rng(seed)
    for size in (8, 1, 16, 32, 64, 128, 224, 256):
        feeds = {v.name or "": _random_array(v, size, random) for v in model.graph.inputs}
        try:
            session.run(feeds)
        except InputError:
            continue
        return feeds
    shapes = ", ".join(f"'{v.name}' {v.shape}" for v in model.graph.inputs)
    raise InputError(f"No input was given, and no made-up one runs ({shapes}). Give one: verify MODEL INPUT.")


def _random_array(value: ir.Value, size: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    dims = list(value.shape) if value.shape is not None else []
    shape = [d if isinstance(d, int) else (2 if axis == 0 else size) for axis, d in enumerate(dims)]
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


# --- the checks ------------------------------------------------------------------------------------------------------


def _forward_equals(
    source: Source | Model, explainer: Explainer, feeds: Arrays, providers: str | Sequence[str] | None
) -> Finding:
    """The joint model's own outputs against the file as it is."""
    theirs = _original_outputs(source, feeds, providers)
    found = explainer.explain(feeds).outputs
    worst, where = 0.0, ""
    for name, reference in theirs.items():
        ours = found[name]
        if not isinstance(reference, np.ndarray) or reference.dtype.kind not in "fiub" or not reference.size:
            continue
        scale = float(np.max(np.abs(reference.astype(np.float64)), initial=0.0)) or 1.0
        same = (
            (ours == reference) | (np.isnan(ours) & np.isnan(reference))
            if reference.dtype.kind == "f"
            else ours == reference
        )
        difference = np.where(same, 0.0, np.abs(ours.astype(np.float64) - reference.astype(np.float64)))
        if float(difference.max()) / scale > worst:
            worst, where = float(difference.max()) / scale, f"at '{name}'"
    half = any(isinstance(a, np.ndarray) and a.dtype == np.float16 for a in theirs.values())
    tolerance = HALF_TOLERANCE if half else FORWARD_TOLERANCE
    return Finding("forward equals the original's", worst <= tolerance, worst, tolerance, "relative", where)


def _original_outputs(source: Source | Model, feeds: Arrays, providers: str | Sequence[str] | None) -> dict[str, Any]:
    if isinstance(source, Model):
        return dict(Session(source.copy(), providers).run(feeds))
    source = ir.to_proto(source) if isinstance(source, ir.Model) else source
    return dict(Session.of_file(source, providers).run(feeds))


def _gradient_agrees(gradient: Explainer, feeds: Arrays, seed: int) -> Finding:
    """Directional differences of the score against ⟨gradient, direction⟩, at a point next to the input.

    Next to it, because an image's flat background ties in max pooling, and there is no derivative at a tie. Half of
    each direction is the gradient itself, so that the difference stands out of float32's rounding.
    """
    name = "finite differences agree with the compiled gradient"
    floats = [n for n in gradient.explained if n in feeds and feeds[n].dtype.kind == "f"]
    if not floats:
        return Finding(name, True, None, None, "", "not applicable: no floating-point input is explained")
    random = np.random.default_rng(seed)
    point = feeds | {n: _nearby(feeds[n], random) for n in floats}
    target = _frozen_seed(gradient, point)
    forward, detail = _differentiable(gradient, point)
    found = {n: gradient.explain(point, target=target).relevance[n].astype(np.float64) for n in floats}
    worst = 0.0
    for _ in range(DIRECTIONS):
        direction = {n: _direction(found[n], random) for n in floats}
        worst = max(worst, _best_error(forward, point, direction, target, found))
    return Finding(name, worst <= GRADIENT_TOLERANCE, worst, GRADIENT_TOLERANCE, "relative", detail)


def _differentiable(gradient: Explainer, point: Arrays) -> tuple[Explainer, str]:
    """What differences are taken of: the model, or, where it rounds to integers, the model without its rounding."""
    if not is_quantised(gradient.model.graph):
        return gradient, ""
    smooth = gradient.over(without_rounding(gradient.model, point, gradient.providers), "finite-difference")
    return smooth, "of the model without its rounding; a step function has no finite differences"


def _nearby(array: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """The array with noise of 1 % of its range."""
    scale = 0.01 * float(np.ptp(array)) or 0.01
    return np.asarray(array + scale * random.standard_normal(array.shape), array.dtype)


def _frozen_seed(explainer: Explainer, feeds: Arrays) -> np.ndarray[Any, Any]:
    """One at the largest element per sample, as a seed, so that a step cannot change what is explained."""
    y = explainer.forward_value(feeds)
    flat = y.reshape(len(y) if explainer.output.batched and y.ndim else 1, -1)
    seed = np.zeros(flat.shape, np.float32)
    seed[np.arange(len(flat)), flat.argmax(axis=1)] = 1.0
    return np.asarray(seed.reshape(y.shape))


def _direction(gradient: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    noise = random.standard_normal(gradient.shape)
    length = float(np.linalg.norm(gradient.astype(np.float64)))
    along = gradient / length if length > 0 else np.zeros(gradient.shape)
    return np.asarray(along + 0.5 * noise / float(np.linalg.norm(noise)))


def _best_error(
    explainer: Explainer, feeds: Arrays, direction: Arrays, seed: np.ndarray[Any, Any], gradient: Arrays
) -> float:
    """The smallest relative error over a range of steps: large ones cross kinks, small ones drown in rounding."""
    size = max(float(np.abs(feeds[n]).mean()) for n in direction) or 1.0
    length = max(float(np.linalg.norm(feeds[n].astype(np.float64))) for n in direction) or 1.0
    here = _score_at(explainer, feeds, seed)
    errors = []
    for step in STEPS:
        h = step * max(size, 0.1 * length)
        above, below = (_moved(feeds, direction, sign * h) for sign in (1.0, -1.0))
        values = {"above": _score_at(explainer, above, seed), "below": _score_at(explainer, below, seed)}
        rounding = ROUNDING * max(abs(here), *map(abs, values.values()))
        for change, to, start in (
            (values["above"] - values["below"], above, below),
            (values["above"] - here, above, feeds),
            (here - values["below"], feeds, below),
        ):
            expected = sum(float((gradient[n] * (to[n].astype(np.float64) - start[n])).sum()) for n in direction)
            off = max(abs(change - expected) - rounding, 0.0)
            errors.append(off / max(abs(change), abs(expected), 1e-12))
    return min(errors)


def _moved(feeds: Arrays, direction: Arrays, amount: float) -> Arrays:
    return feeds | {n: (feeds[n] + amount * d).astype(feeds[n].dtype) for n, d in direction.items()}


def _score_at(explainer: Explainer, feeds: Arrays, seed: np.ndarray[Any, Any]) -> float:
    return float((explainer.forward_value(feeds).astype(np.float64).reshape(seed.shape) * seed).sum())


def _lrp0_is_gradient_times_input(model: Model, gradient: Explainer, feeds: Arrays, shared: dict[str, Any]) -> Finding:
    """On layers that are linear or homogeneous, LRP-0 is gradient × input, biases or not.

    Both run without fusions, node by node: where a pooling window nearly ties, rounding must choose the same winner.
    """
    name = "LRP-0 equals gradient × input"
    plan = gradient.plan
    other = sorted(
        {
            d.unit.op_type
            for d in plan.decisions
            if not _is_homogeneous(d.operator.family_for(d.signals), d.unit.op_type)
        }
    )
    if other:
        return Finding(name, True, None, None, "", f"not applicable: the model has {', '.join(other[:5])}")
    zero = compile_model(model, _lrp0_request(gradient))
    found = Session(zero.model, shared["providers"], optimise=False).run(feeds)
    derivative = Session(gradient.compiled.model, shared["providers"], optimise=False).run(feeds)
    worst = 0.0
    for source, output in zero.relevance.items():
        if source not in feeds:
            continue
        expected = feeds[source] * derivative[gradient.compiled.relevance[source]]
        scale = float(np.abs(expected).max()) or 1.0
        worst = max(worst, float(np.abs(found[output] - expected).max()) / scale)
    return Finding(name, worst <= LRP0_TOLERANCE, worst, LRP0_TOLERANCE, "relative")


def _is_homogeneous(family: Family, op_type: str) -> bool:
    linear = family in (Family.LINEAR, Family.SUM, Family.MOVEMENT, Family.CHOICE)
    return linear or (family is Family.POINTWISE and op_type in HOMOGENEOUS)


def _lrp0_request(gradient: Explainer) -> Request:
    return replace(gradient.request(), title="LRP-0", chooser=_lrp0, times_output=True, reduce=None)


def _lrp0(layer: Layer) -> tuple[Rule, str]:
    rules: dict[Family, Callable[[], Rule]] = {
        Family.MOVEMENT: Route,
        Family.CHOICE: WinnerTakesAll,
        Family.POINTWISE: Pass,
    }
    return rules.get(layer.family, lambda: Epsilon(0.0))(), "LRP-0"


def _finite(relevance: dict[str, str], found: Arrays) -> Finding:
    broken = {source: int((~np.isfinite(found[name])).sum()) for source, name in relevance.items()}
    count = sum(broken.values())
    return Finding("relevance is finite", count == 0, float(count), 0.0, "elements")


def _promises(rows: Sequence[LedgerRow], sizes: Sequence[float]) -> Finding:
    """What no bias, stabiliser or declared rule took must be rounding."""
    worst, where = 0.0, ""
    for row, size in zip(rows, sizes, strict=True):
        rest = abs(row.taken.get(UNEXPLAINED, 0.0))
        if size > 0 and rest / size > worst:
            worst, where = rest / size, f"at {row.operator} '{row.layer}'"
    by_design = sorted({row.operator for row in rows if abs(row.taken.get(BY_DESIGN, 0.0)) > 0})
    detail = where + (f"; by design not at {', '.join(by_design)}" if by_design else "")
    return Finding(
        "every layer keeps its promise to conserve",
        worst <= LEDGER_TOLERANCE,
        worst,
        LEDGER_TOLERANCE,
        "of Σ|R|",
        detail,
    )
