"""Rules by name: written the same in Python, on the command line and in TOML.

epsilon(1e-6) · gamma(0.25) · alpha-beta(2, 1) · z-plus · z-box(-3, 3) · w-square · flat · pass · gradient · stop ·
winner-takes-all · route · gate(1) · finite-differences
"""

from __future__ import annotations

import inspect
import re

from onnxlrp.errors import ChoiceError, no_such
from onnxlrp.rules.decompositions import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, ZPlus
from onnxlrp.rules.simple import (
    DeconvnetRelu,
    EachLayer,
    Gate,
    Gradient,
    GuidedRelu,
    Own,
    Pass,
    Route,
    Stop,
    WinnerTakesAll,
)
from onnxlrp.rules.stand_in import FiniteDifferences

RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        Epsilon,
        Gamma,
        AlphaBeta,
        ZPlus,
        ZBox,
        WSquare,
        Flat,
        Pass,
        Gradient,
        Stop,
        WinnerTakesAll,
        Route,
        Gate,
        Own,
        EachLayer,
        GuidedRelu,
        DeconvnetRelu,
        FiniteDifferences,
    )
}

_CALL = re.compile(r"^\s*([A-Za-z][A-Za-z0-9_\- ]*?)\s*(?:\((.*)\))?\s*$")


def parse_rule(text: str | Rule) -> Rule:
    """`"epsilon(1e-6)"` → Epsilon(1e-6); rules pass through.

    Errors: ChoiceError for an unknown name, a number that is none, or the wrong count of numbers.
    """
    if isinstance(text, Rule):
        return text
    found = _CALL.match(text)
    name = found.group(1).lower().replace("_", "-") if found else text
    if found is None or name not in RULES:
        raise no_such("rule", name if found else text, RULES)
    rule = RULES[name]
    written = (found.group(2) or "").strip()
    numbers = [_number(part, text) for part in written.split(",")] if written else []
    if name == "gate":
        numbers = [int(number) for number in numbers]
    try:
        return rule(*numbers)
    except TypeError:
        takes = list(inspect.signature(rule).parameters)
        raise ChoiceError(f"'{text}': {name} takes {len(takes)} numbers ({', '.join(takes) or 'none'}).") from None


def _number(part: str, text: str) -> float:
    try:
        return float(part.split("=")[-1])
    except ValueError:
        raise ChoiceError(f"'{text}': '{part.strip()}' is not a number.") from None
