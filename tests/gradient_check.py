"""The check of one operator's gradient and relevance, which cases, graphs and other tests are held to.

The compiled gradient, all floating-point inputs at once and with a random cotangent, agrees with directional central
differences of onnxruntime's forward pass; LRP gives finite numbers, and every layer keeps its promise to conserve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from node_cases import FIXED, Array, Case, cases_of

import onnxlrp
from onnxlrp.compile import compile_model
from onnxlrp.errors import ChoiceError, Unsupported
from onnxlrp.ledger import UNEXPLAINED, Ledger
from onnxlrp.seed import EVERYTHING
from onnxlrp.session import Session

STEP = 1e-3
"""Of each input's own size: small enough to miss most kinks, large enough for float32."""

ROUNDING = 2e-6
"""Of the size of the explained sum: a dozen units of the last place of float32."""

TOLERANCE = 3e-3
"""Of the size of the derivative: what a central difference with this step leaves over in float32."""

PROMISE = 1e-3
"""Of Σ|R| at a layer: what may be missing after bias, stabiliser and rules that do not conserve by design."""

FAR = 1e30
"""What masks are filled with; times anything it overflows."""

DIRECTIONS, TRIES, FEW = 3, 24, 16

REFUSALS = ("training mode", "for its first output alone", "Scan of opset 8")
"""What a rule may refuse at any time; everything else may be refused only where sizes are known at run time alone."""


@dataclass
class Tally:
    """What became of an operator's cases.  checked : (case, output) pairs that agree, by form"""

    checked: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def check_operator(op_type: str) -> Tally:
    tally = Tally()
    for case in cases_of(op_type):
        if not isinstance(case, Case):
            tally.left_out[case[1]] += 1
        else:
            for output in case.float_outputs:
                try:
                    reached = replace(case, explained=reaching(case, output))
                    check_gradient(reached, output)
                    check_relevance(reached, output)
                    tally.checked[case.form] += 1
                except NoDirection as reason:
                    tally.left_out[str(reason)] += 1
                except Unsupported as error:
                    if case.form == FIXED and not any(words in str(error) for words in REFUSALS):
                        raise
                    tally.left_out[f"{case.form}: {str(error).splitlines()[0]}"] += 1
    return tally


class NoDirection(Exception):
    """Why finite differences say nothing here."""


def explainer_of(case: Case, output: str, method: str) -> onnxlrp.Explainer:
    """On the CPU and in one piece: the first axis of these inputs does not count samples."""
    return onnxlrp.Explainer(
        case.model,
        method=method,
        inputs=list(case.explained),
        output=output,
        providers="cpu",
        batch_size=10**9,
    )


def reaching(case: Case, output: str) -> tuple[str, ...]:
    """Of several outputs, each has its own inputs.  Errors: NoDirection where none is left."""
    if len(case.model.graph.output) == 1:
        return case.explained
    found = tuple(name for name in case.explained if _reaches(replace(case, explained=(name,)), output))
    if not found:
        raise NoDirection(f"no floating-point input reaches '{output}'")
    return found


def _reaches(case: Case, output: str) -> bool:
    try:
        return bool(explainer_of(case, output, "gradient").plan is not None)
    except ChoiceError:
        return False


def check_gradient(case: Case, output: str) -> None:
    """Errors: AssertionError where gradient and differences disagree; NoDirection where there is no telling."""
    rng = np.random.default_rng(0)
    explainer = explainer_of(case, output, "gradient")
    probe = Probe(case, output, rng)
    if np.abs(probe.forward(case.feeds)).max() > FAR:
        raise NoDirection("its result holds the numbers of a mask")
    agreed = 0
    for attempt in range(TRIES):
        if attempt and attempt % 4 == 0:
            probe.move()
        if probe.gradient is None:
            probe.gradient = explainer.explain(probe.feeds, target=probe.cotangent).relevance
        agreed += probe.agrees(few=attempt % 2 == 1)
        if agreed == DIRECTIONS:
            return
    if not agreed:
        raise NoDirection("kinked or lost in rounding at every point and in every direction tried")


def check_relevance(case: Case, output: str) -> None:
    """LRP gives finite numbers of the right shape, and every layer keeps its promise to conserve."""
    explainer = explainer_of(case, output, "lrp")
    probe = Probe(case, output, np.random.default_rng(0))
    ledger = Ledger()
    compiled = compile_model(explainer.model, explainer.request(), ledger)
    seed = probe.cotangent.reshape(probe.cotangent.shape or (1,))
    extra = {compiled.target: np.array([EVERYTHING]), compiled.seed: seed}
    found = Session(compiled.model, "cpu").run(explainer.checked(case.feeds) | extra)
    relevance = {name: found[compiled.relevance[name]] for name in case.explained}
    for name, array in relevance.items():
        assert array.shape == case.feeds[name].shape, f"{case}: relevance of '{name}' has shape {array.shape}"
        assert np.isfinite(array).all(), f"{case}: relevance of '{name}' is not finite"
    sums = found[compiled.ledger or ""]
    rows = ledger.rows(sums)
    for row, size in zip(rows, ledger.sizes(sums), strict=True):
        rest = abs(row.taken.get(UNEXPLAINED, 0.0))
        assert rest <= PROMISE * size, f"{case}: {row.operator} ({row.rule}) lost {rest:.3g} of {size:.3g} that arrived"
    if all(decision.conserves == "exactly" for decision in compiled.plan):
        start = probe.cotangent.astype(float) * probe.forward(case.feeds)
        arrived = sum(float(array.astype(float).sum()) for array in relevance.values())
        arrived += sum(sum(row.taken.values()) for row in rows)  # by constants, of which something was chosen
        assert abs(arrived - start.sum()) <= 1e-5 * np.abs(start).sum(), f"{case}: {arrived} of {start.sum()} arrived"


def _typed(values: Any, like: Array) -> Array:
    return np.asarray(values, like.dtype)


class Probe:
    """One point, one cotangent, and the slope there in random directions."""

    def __init__(self, case: Case, output: str, rng: np.random.Generator) -> None:
        self.case, self.rng, self.feeds = case, rng, dict(case.feeds)
        session = case.session()
        self.forward: Callable[[dict[str, Array]], Array] = lambda feeds: session.run([output], feeds)[0]
        shape = self.forward(self.feeds).shape
        self.cotangent = rng.normal(size=shape).astype(np.float32)
        self.gradient: dict[str, Array] | None = None
        self.size = {name: max(float(np.std(case.feeds[name])), 0.1) for name in case.explained}

    def move(self) -> None:
        """Off a kink: the data of many cases are whole numbers."""
        moved = {
            name: _typed(array + 0.1 * self.size[name] * self.rng.normal(size=array.shape), array)
            for name, array in self.case.feeds.items()
            if name in self.case.explained
        }
        try:
            output = self.forward(self.case.feeds | moved)
            if output.shape == self.cotangent.shape and np.isfinite(output).all():
                self.feeds, self.gradient = self.case.feeds | moved, None
        except Exception:  # onnxruntime's own: the point left the operator's domain, so stay
            return

    def agrees(self, *, few: bool) -> bool:
        """True where differences and gradient agree, False where the direction is of no use.  Errors: AssertionError.

        few : move few elements at once, so that a large input with many kinks has a smooth direction
        """
        assert self.gradient is not None
        direction = {name: self._towards(self.feeds[name], few) * self.size[name] for name in self.case.explained}
        middle, noise = self._value(direction, 0.0)
        ends = {t: self._value(direction, t * STEP)[0] for t in (-1.0, -0.5, 0.5, 1.0)}
        if not np.isfinite([middle, *ends.values()]).all():
            return False
        coarse, fine = (ends[1.0] - ends[-1.0]) / (2 * STEP), (ends[0.5] - ends[-0.5]) / STEP
        corner = abs(ends[0.5] + ends[-0.5] - 2 * middle) / (STEP / 2)
        parts = [np.sum(self.gradient[name].astype(float) * direction[name]) for name in direction]
        products = [np.sum((self.gradient[name].astype(float) * direction[name]) ** 2) for name in direction]
        ours, size = float(np.sum(parts)), float(np.sqrt(np.sum(products)))
        rounding = ROUNDING * noise / STEP
        allowed = TOLERANCE * max(size, abs(fine)) + rounding
        if abs(coarse - fine) > allowed or corner > allowed:
            return False
        assert abs(ours - fine) <= allowed, (
            f"{self.case}: along a random direction the compiled gradient gives {ours:.6g}, central differences "
            f"{fine:.6g} (allowed {allowed:.2g})"
        )
        significant = max(size, abs(fine))
        return rounding <= 0.05 * significant or significant <= rounding

    def _towards(self, array: Array, few: bool) -> Array:
        share = min(1.0, FEW / max(array.size, 1)) if few else 1.0
        return self.rng.normal(size=array.shape) * (self.rng.random(array.shape) < share)  # type: ignore[no-any-return]

    def _value(self, direction: dict[str, Array], t: float) -> tuple[float, float]:
        """(Σ cotangent ⊙ output, the size of what is summed) at x + t·direction."""
        moved = {name: _typed(self.feeds[name] + t * step, self.feeds[name]) for name, step in direction.items()}
        output = self.forward(self.feeds | moved)
        if output.shape != self.cotangent.shape:
            return np.nan, np.nan
        terms = self.cotangent.astype(float) * output.astype(float)
        return float(np.sum(terms)), float(np.sqrt(np.sum(terms**2)))
