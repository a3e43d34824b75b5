"""The table: every operator with a record, over every case of the standard's own suite that has a gradient.

The compiled gradient, all floating-point inputs at once and with a random cotangent, agrees with directional central
differences of onnxruntime's forward pass; LRP gives finite numbers. `operator_table.py` makes a page of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from gradient_check import check_operator, check_relevance
from node_cases import FIXED, Case, cases_of, has_cases, highest_opset
from onnx import TensorProto, helper, numpy_helper

import onnxlrp
from onnxlrp.lowering import lowerings
from onnxlrp.rules.registry import Operator, lookup, no_signal_operators, operators, register

WITHOUT_GRADIENT = {
    **dict.fromkeys(
        ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf"), "gives truth values"
    ),
    **dict.fromkeys(("And", "Or", "Xor", "Not"), "works on truth values"),
    **dict.fromkeys(("ArgMax", "ArgMin"), "gives positions"),
    "StringNormalizer": "works on texts",
    "QuantizeLinear": "gives whole numbers",
    "DynamicQuantizeLinear": "gives whole numbers and their scale, which is held constant",
    "DequantizeLinear": "reads whole numbers",
    "TfIdfVectorizer": "counts whole numbers and words",
    **dict.fromkeys(
        ("ConcatFromSequence", "SplitToSequence", "Optional", "OptionalGetElement"), "reads or gives lists"
    ),
    **dict.fromkeys(("SequenceAt", "SequenceConstruct", "SequenceErase", "SequenceInsert"), "reads or gives lists"),
    **dict.fromkeys(("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"), "works on whole numbers"),
}
"""Operators with a relevance rule that no finite difference can say anything about."""

OWN_RECORD = {o.op_type for o in operators() if not o.domain and o.op_type not in WITHOUT_GRADIENT}
WRITTEN_OUT = {
    schema.name
    for schema in onnx.defs.get_all_schemas()
    if not schema.domain
    and schema.name not in WITHOUT_GRADIENT
    and lookup(schema.name) is None
    and ("", schema.name) not in no_signal_operators()
    and (schema.has_function or schema.has_context_dependent_function or ("", schema.name) in lowerings())
}
"""Operators without a record that become others: by a lowering of ours, or by the standard's own function."""

WITHOUT_CASE = {"SequenceMap": "its cases read and give lists, and so do those of test_control_flow.py"}
"""Operators that no case of one node tells anything about."""


@pytest.mark.parametrize("op_type", sorted((OWN_RECORD | WRITTEN_OUT) - WITHOUT_CASE.keys()))
def test_gradient_agrees_with_finite_differences(op_type: str) -> None:
    since = onnx.defs.get_schema(op_type).since_version
    if op_type not in OWN_RECORD and since > highest_opset():
        pytest.skip(f"onnxruntime loads models up to opset {highest_opset()}, and {op_type} begins at {since}")
    tally = check_operator(op_type)
    assert tally.checked[FIXED], f"no case covers {op_type}: add one to node_cases.py. Left out: {dict(tally.left_out)}"


@pytest.mark.parametrize("op_type", sorted(WITHOUT_CASE))
def test_an_operator_without_a_case_has_none(op_type: str) -> None:
    assert not has_cases(op_type), f"{op_type} has cases now: take it off the list"


# --- the check is able to fail ---------------------------------------------------------------------------------------


class ForgetsToAdd:
    """A writer that scatters without addition."""

    def __init__(self, emit: Any) -> None:
        self._emit = emit

    def __getattr__(self, name: str) -> Any:
        if name == "ScatterElements":
            return lambda *inputs, reduction=None, **attributes: self._emit.ScatterElements(*inputs, **attributes)
        return getattr(self._emit, name)


def _forgets_to_add(operator: Operator) -> Callable[..., Any]:
    return lambda step, g: operator.vjp(replace(step, emit=ForgetsToAdd(step.emit)), g)


def _forgets(index: int) -> Callable[[Operator], Callable[..., Any]]:
    def broken(operator: Operator) -> Callable[..., Any]:
        return lambda step, g: [None if i == index else c for i, c in enumerate(operator.vjp(step, g))]

    return broken


def _as_it_is(operator: Operator) -> Callable[..., Any]:
    return lambda step, g: [g, *[None] * (step.count - 1)]


BROKEN = [
    ("Tanh", lambda operator: lambda step, g: [g * (1.0 - step.y())]),
    ("Relu", _as_it_is),
    ("Clip", _as_it_is),
    ("PRelu", _forgets(1)),
    ("Pad", _forgets(2)),
    ("MaxPool", _forgets_to_add),
    ("Gather", _forgets_to_add),
    ("Where", lambda operator: lambda step, g: [None, *operator.vjp(step, g)[:0:-1]]),
    ("Transpose", lambda operator: lambda step, g: [step.emit.reshape_like(g, step.raw(0))]),
    ("DepthToSpace", lambda operator: lambda step, g: [step.emit.reshape_like(g, step.raw(0))]),
    ("Mul", lambda operator: lambda step, g: [g * step.x(0), g * step.x(1)]),
    ("Gemm", _forgets(2)),
]
"""Operators with a gradient that is wrong: (operator, record → wrong vjp)."""


@pytest.mark.parametrize(("op_type", "break_it"), BROKEN, ids=[op_type for op_type, _ in BROKEN])
def test_a_wrong_gradient_is_caught(op_type: str, break_it: Callable[[Operator], Callable[..., Any]]) -> None:
    operator = lookup(op_type)
    assert operator is not None
    with (
        registered(replace(operator, vjp=break_it(operator))),
        pytest.raises(AssertionError, match="central differences"),
    ):
        check_operator(op_type)


def test_relevance_that_is_lost_is_caught() -> None:
    operator = lookup("Concat")
    assert operator is not None
    with registered(replace(operator, vjp=_forgets(1)(operator))), pytest.raises(AssertionError, match="lost"):
        check_relevance(_first_case("Concat"), "output")


def _first_case(op_type: str) -> Case:
    return next(case for case in cases_of(op_type) if isinstance(case, Case))


@contextmanager
def registered(operator: Operator) -> Iterator[None]:
    """Another record in the place of the operator's own, for a while."""
    own = lookup(operator.op_type)
    assert own is not None
    register(operator)
    try:
        yield
    finally:
        register(own)


# --- corners ---------------------------------------------------------------------------------------------------------

CORNERS = np.array([-1e4, -100, -3, -1, -1e-10, -0.0, 0, 1e-10, 0.5, 1, 3, 100, 1e4], np.float32)


@pytest.mark.parametrize("op_type", [operator.op_type for operator in operators() if operator.derivative is not None])
def test_derivative_is_finite_where_the_operator_is(op_type: str) -> None:
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x"], ["y"])],
        "corners",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [13])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [13])],
    )
    opset = max(18, onnx.defs.get_schema(op_type).since_version)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", min(opset, 24))], ir_version=10)
    explainer = onnxlrp.Explainer(model, method="gradient", output="y", providers="cpu")
    defined = np.isfinite(explainer.predict({"x": CORNERS})["y"])
    found = explainer.explain({"x": CORNERS}, target=np.ones(13, np.float32)).relevance["x"]
    assert np.isfinite(found[defined]).all(), dict(zip(CORNERS[defined].tolist(), found[defined].tolist(), strict=True))


# --- whole numbers as the explained input -----------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", ["Gather", "OneHot"])
def test_tokens_get_the_relevance_of_what_they_look_up(op_type: str) -> None:
    tokens = np.array([[3, 0, 0], [1, 4, 3]])
    constants = {
        "Gather": [("table", np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))],
        "OneHot": [("depth", np.array(5)), ("values", np.array([0.0, 1.0], np.float32))],
    }[op_type]
    names = ["tokens", *(name for name, _ in constants)]
    node = helper.make_node(op_type, names[::-1] if op_type == "Gather" else names, ["y"])
    graph = helper.make_graph(
        [node],
        "tokens",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", "wide"])],
        [numpy_helper.from_array(array, name) for name, array in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    explainer = onnxlrp.Explainer(model, method="lrp", output="y", providers="cpu")
    y = explainer.predict({"tokens": tokens})["y"]
    seed = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    found = explainer.explain({"tokens": tokens}, target=seed).relevance["tokens"]
    np.testing.assert_allclose(found, (seed * y).sum(-1), rtol=1e-5, atol=1e-6)
