"""docs/operators.md says what is so, and no operator of the installed onnx is forgotten."""

from __future__ import annotations

import operator_table as table


def test_every_operator_of_the_standard_stands_in_a_list() -> None:
    forgotten = sorted(set(table.history()) - table.decided())
    assert not forgotten, (
        f"{forgotten}: give each a record (rules/), a lowering (lowering/), a place in rules/no_signal.py, or a reason "
        "with not_lowered"
    )


def test_the_page_is_what_the_registries_say() -> None:
    assert table.PAGE.read_text("utf-8") == table.page(table.counted()), "run python tests/operator_table.py"


def test_every_operator_with_cases_is_counted() -> None:
    counts = table.counted()
    uncounted = [name for name in table.names_with_cases() if name not in counts]
    assert not uncounted, f"run python tests/operator_table.py --count {' '.join(uncounted)}"
    assert not [name for name in counts if name not in table.names_with_cases()]


def test_no_record_and_reason_contradict_each_other() -> None:
    known = {(operator.domain, operator.op_type) for operator in table.operators()}
    assert not known & set(table.no_signal_operators())
    assert not known & set(table.refusals())
