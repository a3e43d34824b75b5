"""The relevance ledger: per layer what arrived, what was handed on, and who took the difference.

Kept only by `verify`: it adds sums to the compiled model, and those cost time. Everyday explanations carry only the two
sums of `Conservation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp import lists
from onnxlrp.backward import Watcher
from onnxlrp.emit import Emit
from onnxlrp.findings import LedgerRow
from onnxlrp.graph import Facts
from onnxlrp.plan import Decision
from onnxlrp.rules.registry import Family
from onnxlrp.rules.step import Account, Step

ARRIVED, ARRIVED_SIZE, HANDED_ON, HANDED_ON_SIZE = "arrived", "|arrived|", "handed on", "|handed on|"
ROUNDED = 5e-4
"""Share of Σ|handed on| that counts as size: shares far larger than what arrived, of either sign, are only as exact as
float32 is on them (4 · 2⁻²³ of a tolerance of 1e-3)."""

BY_DESIGN, UNEXPLAINED = "rule (does not conserve by design)", "unexplained"


class Ledger:
    """Collects sums while a relevance graph is written, and reads them after it has run."""

    def __init__(self) -> None:
        self._decisions: list[Decision] = []
        self._entries: list[tuple[Decision, str]] = []
        self._sums: list[ir.Value] = []

    # --- while writing -----------------------------------------------------------------------------------------------

    def account(self, emit: Emit, decision: Decision) -> Account:
        """Where the rules of one layer report what they keep."""
        return lambda name, taken: self._note(emit, decision, name, taken)

    @staticmethod
    def asks(decision: Decision, facts: Facts) -> frozenset[int]:
        """Constant operands of data movement and choices: what came from them takes relevance, as a bias does."""
        unit, family = decision.unit, decision.operator.family_for(decision.signals)
        operands = dict(enumerate(unit.inputs))
        if family not in (Family.MOVEMENT, Family.CHOICE) or not all(
            _is_float(operands[index], facts) for index in decision.signals
        ):
            return frozenset()
        return frozenset(
            i for i, operand in operands.items() if i not in decision.signals and _is_float(operand, facts)
        )

    def watch(self, emit: Emit) -> Watcher:
        """Sees every layer's relevance in and out."""

        def watch(
            decision: Decision, step: Step, arrived: Sequence[ir.Value | None], handed_on: Sequence[ir.Value | None]
        ) -> None:
            self._decisions.append(decision)
            for value in arrived:
                if value is not None:
                    self._note(emit, decision, ARRIVED, value)
                    self._note(emit, decision, ARRIVED_SIZE, lists.absolute(emit, value))
            for value in handed_on:
                if value is not None:
                    self._note(emit, decision, HANDED_ON, value)
                    self._note(emit, decision, HANDED_ON_SIZE, lists.absolute(emit, value))

        return watch

    def _note(self, emit: Emit, decision: Decision, name: str, value: ir.Value) -> None:
        self._entries.append((decision, name))
        self._sums.append(emit.Reshape(lists.sum_of(emit, value), [1]))

    def total(self, emit: Emit) -> ir.Value:
        """All sums in one vector; one zero where nothing flowed."""
        return emit.constant([0.0]) if not self._sums else emit.Concat(*self._sums, axis=0)

    # --- after running -----------------------------------------------------------------------------------------------

    def rows(self, sums: np.ndarray[Any, Any]) -> list[LedgerRow]:
        """One row per layer, from the target down."""
        found: dict[Decision, dict[str, float]] = {decision: {} for decision in self._decisions}
        for (decision, name), value in zip(self._entries, sums[: len(self._entries)], strict=True):
            entries = found[decision]
            entries[name] = entries.get(name, 0.0) + float(value)
        return [_row(decision, entries) for decision, entries in found.items()]

    def sizes(self, sums: np.ndarray[Any, Any]) -> list[float]:
        """Σ|R| that arrived per layer, and what float32 rounds of what was handed on: the scale for tolerances."""
        found: dict[Decision, float] = dict.fromkeys(self._decisions, 0.0)
        for (decision, name), value in zip(self._entries, sums[: len(self._entries)], strict=True):
            if name in (ARRIVED_SIZE, HANDED_ON_SIZE):
                found[decision] += float(value) * (ROUNDED if name == HANDED_ON_SIZE else 1.0)
        return list(found.values())


def _is_float(operand: ir.Value | None, facts: Facts) -> bool:
    return operand is not None and operand.dtype is not None and facts.is_float(operand)


def _row(decision: Decision, entries: dict[str, float]) -> LedgerRow:
    arrived, handed_on = entries.get(ARRIVED, 0.0), entries.get(HANDED_ON, 0.0)
    taken = {
        name: value for name, value in entries.items() if name not in (ARRIVED, ARRIVED_SIZE, HANDED_ON, HANDED_ON_SIZE)
    }
    rest = arrived - handed_on - sum(taken.values())
    taken[BY_DESIGN if decision.conserves == "not" else UNEXPLAINED] = rest
    return LedgerRow(
        decision.unit.name,
        decision.unit.described_type,
        str(decision.rule),
        arrived,
        handed_on,
        {name: value for name, value in taken.items() if value != 0.0},
    )
