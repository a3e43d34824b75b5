"""What the judges return: findings with numbers, which a command prints and a test can read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One check.

    measured, tolerance : in the check's own unit, named in `unit`
    """

    check: str
    holds: bool
    measured: float | None
    tolerance: float | None
    unit: str
    detail: str = ""

    def __str__(self) -> str:
        mark = "holds" if self.holds else "FAILS"
        numbers = "" if self.measured is None else f" {self.measured:.3g} {self.unit} (tolerance {self.tolerance:.3g})"
        return f"{mark}  {self.check}:{numbers} {self.detail}".rstrip()


@dataclass(frozen=True)
class LedgerRow:
    """Where relevance went at one layer, summed over the batch.

    arrived    : Σ R of the layer's outputs        handed_on : Σ R given to its operands
    taken      : who took the difference: {"bias": …, "stabiliser": …, "z = 0": …, "rule": …}
    """

    layer: str
    operator: str
    rule: str
    arrived: float
    handed_on: float
    taken: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """All findings about one compiled explainer, and its ledger."""

    findings: tuple[Finding, ...]
    ledger: tuple[LedgerRow, ...]
    seeded: float
    arrived: float

    @property
    def holds(self) -> bool:
        return all(finding.holds for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {"holds": self.holds} | asdict(self)

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))
