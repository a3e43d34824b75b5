"""Fused operators are read as their parts: the same output, the right gradient, and rules by the file's names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from fused_cases import Array, FusedCase, fused_cases, normal
from gradient_check import NoDirection, check_gradient, check_relevance
from nets import Net, signed
from node_cases import Case, cases_of
from one_node import close

import onnxlrp
from onnxlrp.errors import ChoiceError, NoRule
from onnxlrp.graph import upstream
from onnxlrp.lowering import Fused, fused
from onnxlrp.model import read
from onnxlrp.output import find_tensor
from onnxlrp.prepare import prepare
from onnxlrp.rules.registry import inflows
from onnxlrp.session import Session

CASES = list(fused_cases())


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("symbolic", [False, True], ids=["fixed", "symbolic"])
def test_the_parts_give_what_the_fused_operator_gives(case: FusedCase, symbolic: bool) -> None:
    model, feeds = case.model(symbolic)
    wanted = Session(read(model).proto, "cpu").run(feeds)
    prepared = prepare(read(model))
    assert case.op_type not in {node.op_type for node in prepared.graph if node.domain == case.domain}
    found = Session(prepared.proto, "cpu").run(feeds)
    for name, array in wanted.items():
        close(found[name], array, 1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_agrees_with_finite_differences(case: FusedCase) -> None:
    whole, checked = case.case(), 0
    for output in whole.float_outputs:
        node = replace(whole, explained=reaching(whole, output))
        try:
            check_gradient(node, output)
            checked += 1
        except NoDirection:
            continue
        finally:
            check_relevance(node, output)
    assert checked or case.op_type in STEPS, "no output has a direction in which differences say something"


def reaching(case: Case, output: str) -> tuple[str, ...]:
    """The explained inputs that the output is computed from."""
    graph = prepare(read(case.model)).graph
    there = {value.name for value in upstream(find_tensor(graph, output, "output"), reads=inflows)}
    return tuple(name for name in case.explained if name in there)


STEPS: frozenset[str] = frozenset()
"""Operators that are flat wherever they are smooth."""


# --- operators that onnxruntime's CPU provider does not run: their formulas -------------------------------------------


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))))


def _tanh_gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def _softmax(x: Array, axes: tuple[int, ...]) -> Array:
    powers = np.exp(x - x.max(axes, keepdims=True))
    return np.asarray(powers / powers.sum(axes, keepdims=True))


def _group_norm(x: Array, scale: Array, shift: Array, groups: int) -> Array:
    """Channels last."""
    parts = x.reshape(*x.shape[:3], groups, -1)
    centred = parts - parts.mean((1, 2, 4), keepdims=True)
    return np.asarray((centred / np.sqrt(parts.var((1, 2, 4), keepdims=True) + 1e-5)).reshape(x.shape) * scale + shift)


ROWS, WIDE, LEFT = normal(2, 3, 8), normal(8), normal(3, 4)
IMAGE, SCALE = normal(2, 4, 5, 8), np.abs(normal(8)) + np.float32(0.1)
HALVES = ROWS + WIDE

FORMULAS: list[tuple[FusedCase, Array]] = [
    (FusedCase("BiasAdd", (ROWS, WIDE, ROWS * 2)), ROWS * 3 + WIDE),
    (FusedCase("BiasDropout", (ROWS, WIDE, ROWS * 2)), ROWS * 3 + WIDE),
    (FusedCase("BitmaskBiasDropout", (ROWS, WIDE)), ROWS + WIDE),
    (FusedCase("BitmaskDropout", (ROWS,)), ROWS),
    (FusedCase("BiasSplitGelu", (ROWS, WIDE)), HALVES[..., :4] * _gelu(HALVES[..., 4:])),
    (FusedCase("BiasSoftmax", (ROWS, ROWS[:1]), {"axis": 2}), _softmax(ROWS + ROWS[:1], (2,))),
    (FusedCase("BiasSoftmax", (ROWS, ROWS[:1]), {"axis": 1}), _softmax(ROWS + ROWS[:1], (1, 2))),
    (FusedCase("GemmFastGelu", (LEFT, LEFT.T * 2, normal(3))), _tanh_gelu(LEFT @ LEFT.T * 2 + normal(3))),
    (
        FusedCase("FusedMatMulActivation", (LEFT, LEFT), {"transB": 1, "alpha": 0.5, "activation": "Tanh"}),
        np.tanh(LEFT @ LEFT.T * 0.5),
    ),
    (FusedCase("GroupNorm", (IMAGE, SCALE, WIDE), {"groups": 2}), _group_norm(IMAGE, SCALE, WIDE, 2)),
    (
        FusedCase("SkipGroupNorm", (IMAGE, SCALE, WIDE, IMAGE**2, WIDE), {"groups": 4}),
        _group_norm(IMAGE + IMAGE**2 + WIDE, SCALE, WIDE, 4),
    ),
    (
        FusedCase("ComplexMul", (ROWS, ROWS[:, :1] * 2)),
        (ROWS.view(np.complex64) * (ROWS[:, :1] * 2).view(np.complex64)).view(np.float32),
    ),
    (
        FusedCase("ComplexMulConj", (ROWS, ROWS[:, :1] * 2)),
        (ROWS.view(np.complex64) * (ROWS[:, :1] * 2).view(np.complex64).conj()).view(np.float32),
    ),
]


@pytest.mark.parametrize(("case", "wanted"), FORMULAS, ids=[str(case) for case, _ in FORMULAS])
def test_the_parts_give_what_the_formula_says(case: FusedCase, wanted: Array) -> None:
    model, feeds = case.model()
    close(Session(prepare(read(model)).proto, "cpu").run(feeds)["y"], wanted, 1e-5)


# --- the file's names ------------------------------------------------------------------------------------------------

GEMM = FusedCase("FusedGemm", (normal(3, 4), normal(4, 2), normal(2)), {"activation": "Relu"}, constant=(1, 2))


def explain(**choices: object) -> onnxlrp.Explainer:
    return onnxlrp.Explainer(GEMM.model()[0], preset="epsilon", providers="cpu", **choices)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["fused", "fus*", "FusedGemm", "fused/Gemm"])
def test_a_rule_for_the_fused_node_reaches_its_parts(key: str) -> None:
    plan = explain(rules={key: "gamma(0.25)"}).plan
    assert [str(rule) for _, _, rule, _ in plan.rows()] == ["gamma(0.25)", "pass"]
    assert str(plan.rule_of("fused")) == "gamma(0.25)"


def test_a_rule_that_fits_no_part_is_an_error() -> None:
    with pytest.raises(ChoiceError, match="fits no part of the fused operator 'fused'"):
        explain(rules={"fused": "winner-takes-all"})


def test_every_part_says_where_it_comes_from() -> None:
    parts = list(explain().model.graph)
    assert {node.name.split("/")[0] for node in parts if node.name} == {"fused"}


# --- what cannot be lowered ------------------------------------------------------------------------------------------


@contextmanager
def an_entry(op_type: str, lowering: fused.Lowering) -> Iterator[None]:
    """A lowering for a while."""
    before = fused._LOWERINGS.get((fused.MICROSOFT, op_type))
    fused.lowered(op_type)(lowering)
    try:
        yield
    finally:
        del fused._LOWERINGS[fused.MICROSOFT, op_type]
        if before is not None:
            fused._LOWERINGS[fused.MICROSOFT, op_type] = before


def test_the_plan_tells_why_a_node_is_not_lowered() -> None:
    def refuses(node: Fused) -> ir.Value:
        node.emit.Relu(node.x())
        raise onnxlrp.errors.Unsupported("its moon is not full")

    with an_entry("FusedGemm", refuses):
        with pytest.raises(NoRule, match="its moon is not full"):
            explain()
        forward = onnxlrp.Explainer(GEMM.model()[0], method="occlusion", window=(1,), providers="cpu")
        assert [node.op_type for node in forward.model.graph] == ["FusedGemm"]


def test_a_kept_node_computes_and_its_float_view_explains() -> None:
    """The model's own values go on; gradient and relevance take the way of the view."""

    def twice_as_seen(node: Fused) -> ir.Value:
        (actual,) = node.kept()
        return node.through(actual, node.emit.Gemm(node.x(0), node.x(1), node.x(2)) * 2.0)

    model, feeds = GEMM.model()
    with an_entry("FusedGemm", twice_as_seen):
        explainer = onnxlrp.Explainer(model, method="gradient", output="y", providers="cpu")
        y = explainer.predict(feeds)["y"]
        close(y, Session(read(model).proto, "cpu").run(feeds)["y"])
        found = explainer.explain(feeds, target=np.ones_like(y)).relevance["x0"]
        close(found, np.broadcast_to(2.0 * np.sum(GEMM.operands[1], axis=1), found.shape))  # type: ignore[arg-type]
        lrp = onnxlrp.Explainer(model, preset="epsilon", output="y", providers="cpu")
        assert lrp.explain(feeds, target=np.ones_like(y)).relevance["x0"].sum() == pytest.approx(y.sum(), rel=0.5)


# --- the standard's Attention ----------------------------------------------------------------------------------------

MASKED = (
    "test_attention_4d_attn_mask_3d_causal",
    "test_attention_causal_boolmask_nan_robustness",
    "test_attention_23_boolmask_fullymasked_row_nan_robustness",
    "test_attention_4d_gqa_with_past_and_present",
    "test_attention_4d_softcap",
)
"""Cases with −inf in the scores, rows without a key, caches, grouped heads."""


@pytest.mark.parametrize("name", MASKED)
def test_masked_attention_has_a_gradient_and_finite_relevance(name: str) -> None:
    case = next(case for case in cases_of("Attention") if isinstance(case, Case) and case.name == name)
    output = case.float_outputs[0]
    node = replace(case, explained=reaching(case, output))
    check_gradient(node, output)
    check_relevance(node, output)


def test_every_case_of_the_standards_attention_is_written_out() -> None:
    for case in cases_of("Attention"):
        if not isinstance(case, Case):
            continue
        prepared = prepare(read(case.model))
        assert "Attention" not in {node.op_type for node in prepared.graph}, case
        found = Session(prepared.proto, "cpu").run(case.feeds)
        wanted = case.session().run(case.float_outputs, case.feeds)
        for output, array in zip(case.float_outputs, wanted, strict=True):
            close(np.nan_to_num(found[output]), np.nan_to_num(array), 1e-5)


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6)], ids=str)
def test_a_transposed_matrix_times_a_vector_is_what_numpy_says(shape: tuple[int, ...]) -> None:
    net, random = Net(), np.random.default_rng(0)
    x, vector = signed(random, *shape), signed(random, 4)
    axes = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    turned = net.Transpose(net.input("x", shape), perm=axes)
    model = net.model(net.add("MatMul", [turned, net.weight(vector)], out="y"))
    wanted = x.transpose(axes) @ vector
    explanation = onnxlrp.Explainer(model, method="gradient", output="y").explain(x, target=np.ones_like(wanted))
    close(explanation.outputs["y"], wanted, 1e-5)
