"""Normalisations and softmax against dense float64 twins: the Jacobian by complex steps, which are exact.

The twins write each operator once, as a function of x, scale and bias in which the statistic can be replaced by a
constant; they never call the implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import pytest
from one_node import Array, OneNode, close, needs_opset, normal, runs_opset, stabilise
from onnx import helper, numpy_helper

import onnxlrp
from onnxlrp.rules.registry import lookup, register

Statistic = Callable[[Array], Array]
Twin = Callable[..., Array]
"""(operands, held) → y; `held(statistic of x)` is the statistic itself, or its value with no derivative."""


def jacobian(f: Callable[[Array], Array], x: Array) -> Array:
    """(y.size, x.size) by complex steps: Im f(x + ih) / h, exact to rounding."""
    columns = []
    for i in range(x.size):
        moved = x.astype(complex).reshape(-1)
        moved[i] += 1e-30j
        columns.append(f(moved.reshape(x.shape)).imag.reshape(-1) / 1e-30)
    return np.stack(columns, axis=1)


def magnitude(x: Array) -> Array:
    """|x| with the sign of the real part, so that complex steps pass through it."""
    return np.where(x.real < 0, -x, x)


def free(statistic: Array) -> Array:
    return statistic


def constant(statistic: Array) -> Array:
    return statistic.real.astype(complex)


# --- the operators, written once more --------------------------------------------------------------------------------


def standardised(x: Array, axes: tuple[int, ...], eps: float, held: Statistic, *, centre: bool = True) -> Array:
    deviation = x - x.mean(axes, keepdims=True) if centre else x
    return deviation / held(np.sqrt((deviation**2).mean(axes, keepdims=True) + eps))


def per_channel(v: Array, x: Array) -> Array:
    return v.reshape(-1, *[1] * (x.ndim - 2))


def layer_norm(axis: int, eps: float = 1e-5, *, centre: bool = True) -> Twin:
    def twin(x: Array, scale: Array, bias: Array | float = 0.0, held: Statistic = free) -> Array:
        return standardised(x, tuple(range(axis % x.ndim, x.ndim)), eps, held, centre=centre) * scale + bias

    return twin


def instance_norm(x: Array, scale: Array, bias: Array, held: Statistic = free) -> Array:
    n = standardised(x, tuple(range(2, x.ndim)), 1e-3, held)
    return n * per_channel(scale, x) + per_channel(bias, x)


def group_norm(groups: int, *, per_group: bool) -> Twin:
    def twin(x: Array, scale: Array, bias: Array, held: Statistic = free) -> Array:
        n = standardised(x.reshape(x.shape[0], groups, -1), (2,), 1e-5, held).reshape(x.shape)
        members = x.shape[1] // groups if per_group else 1
        return n * per_channel(np.repeat(scale, members), x) + per_channel(np.repeat(bias, members), x)

    return twin


def mean_variance_norm(axes: tuple[int, ...]) -> Twin:
    def twin(x: Array, held: Statistic = free) -> Array:
        deviation = x - x.mean(axes, keepdims=True)
        sigma: Array = held(np.sqrt((deviation**2).mean(axes, keepdims=True)) + 1e-9)
        return np.asarray(deviation / sigma)

    return twin


def lp_norm(p: int, axis: int) -> Twin:
    def twin(x: Array, held: Statistic = free) -> Array:
        norm = magnitude(x).sum(axis, keepdims=True) if p == 1 else np.sqrt((x**2).sum(axis, keepdims=True))
        return x / held(norm)

    return twin


def lrn(size: int, alpha: float, beta: float, bias: float) -> Twin:
    def twin(x: Array, held: Statistic = free) -> Array:
        total = np.zeros_like(x)
        for c in range(x.shape[1]):
            first, last = max(0, c - (size - 1) // 2), min(x.shape[1] - 1, c + (size - 1) - (size - 1) // 2)
            total[:, c] = (x[:, first : last + 1] ** 2).sum(1)
        return x / held((bias + alpha / size * total) ** beta)

    return twin


@dataclass(frozen=True)
class Case:
    """One setting.  groups : axes of x over which relevance is conserved together"""

    name: str
    op_type: str
    operands: tuple[Array, ...]
    twin: Twin
    groups: Callable[[Array], Array]
    opset: int = 18
    attributes: dict[str, Any] = field(default_factory=dict)

    def node(self, **facts: Any) -> OneNode:
        everything = tuple(range(len(self.operands)))
        facts = {"explained": everything} | facts
        return OneNode(self.op_type, *self.operands, opset=self.opset, **facts, **self.attributes)

    def jacobian(self, operand: int, held: Statistic) -> Array:
        def f(changed: Array) -> Array:
            operands = [changed if i == operand else other for i, other in enumerate(self.operands)]
            return self.twin(*operands, held=held)

        return jacobian(f, self.operands[operand])

    def y(self) -> Array:
        return np.asarray(self.twin(*self.operands))

    def __str__(self) -> str:
        return self.name


def last(count: int) -> Callable[[Array], Array]:
    return lambda r: r.sum(tuple(range(r.ndim - count, r.ndim)))


def elements(r: Array) -> Array:
    return r


X, SCALE4, BIAS4 = normal(2, 4, 3, 5), normal(4, seed=1), normal(4, seed=2)

ROWS: dict[str, Any] = {"axes": [-1]}
NARROW: dict[str, Any] = {"size": 3, "alpha": 0.3, "beta": 0.75, "bias": 1.5}
WIDE: dict[str, Any] = {"size": 9, "alpha": 2.0, "beta": 0.5, "bias": 1.0}

CASES = [
    Case("layer, last axis", "LayerNormalization", (X, normal(5), normal(5, seed=3)), layer_norm(-1), last(1)),
    Case(
        "layer, axis 1, scale per channel",
        "LayerNormalization",
        (X, normal(4, 1, 1), normal(4, 3, 5)),
        layer_norm(1, 0.1),
        last(3),
        attributes={"axis": 1, "epsilon": 0.1},
    ),
    Case("layer, opset 17", "LayerNormalization", (X, normal(3, 5)), layer_norm(-2), last(2), 17, {"axis": -2}),
    Case("layer, a row", "LayerNormalization", (normal(5), normal(5, seed=1)), layer_norm(0), last(1), 17, {"axis": 0}),
    Case("RMS, last axis", "RMSNormalization", (X, normal(5)), layer_norm(-1, centre=False), last(1), 23),
    Case(
        "RMS, axis 1",
        "RMSNormalization",
        (X, normal(3, 1)),
        layer_norm(1, 1e-2, centre=False),
        last(3),
        23,
        {"axis": 1, "epsilon": 1e-2},
    ),
    Case("instance", "InstanceNormalization", (X, SCALE4, BIAS4), instance_norm, last(2), 16, {"epsilon": 1e-3}),
    Case(
        "instance, a series",
        "InstanceNormalization",
        (normal(3, 4, 5), SCALE4, BIAS4),
        instance_norm,
        last(1),
        16,
        {"epsilon": 1e-3},
    ),
    Case(
        "group, scale per group",
        "GroupNormalization",
        (X, normal(2, seed=4), normal(2, seed=5)),
        group_norm(2, per_group=True),
        last(3),
        18,
        {"num_groups": 2},
    ),
    Case(
        "group, scale per channel",
        "GroupNormalization",
        (X, SCALE4, BIAS4),
        group_norm(2, per_group=False),
        last(3),
        21,
        {"num_groups": 2},
    ),
    Case("mean and variance", "MeanVarianceNormalization", (X,), mean_variance_norm((0, 2, 3)), np.sum, 16),
    Case("mean and variance, rows", "MeanVarianceNormalization", (X,), mean_variance_norm((3,)), last(1), 16, ROWS),
    Case("L2, last axis", "LpNormalization", (X,), lp_norm(2, -1), elements, 16),
    Case("L2, axis 1", "LpNormalization", (X,), lp_norm(2, 1), elements, 16, {"axis": 1}),
    Case("L1", "LpNormalization", (X,), lp_norm(1, 2), elements, 16, {"axis": -2, "p": 1}),
    Case("LRN", "LRN", (X,), lrn(**NARROW), elements, 16, NARROW),
    Case("LRN, wider than its channels", "LRN", (X,), lrn(**WIDE), elements, 16, WIDE),
]

WITH_BIAS = [case for case in CASES if len(case.operands) == 3]

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def runnable(case: Case) -> None:
    if not runs_opset(case.opset):
        pytest.skip(f"the installed onnxruntime does not load opset {case.opset}")


@every_case
@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_gradient_of_every_operand_equals_the_dense_jacobian(case: Case, symbolic: bool) -> None:
    runnable(case)
    node = case.node(symbolic=symbolic)
    close(node.y, case.y())
    g = normal(*node.y.shape, seed=7)
    for operand, found in enumerate(node.gradient(g)):
        wanted = case.jacobian(operand, free).T @ g.reshape(-1)
        close(found, wanted.reshape(case.operands[operand].shape), 1e-4)


@every_case
def test_relevance_is_input_times_gradient_with_the_statistic_constant(case: Case) -> None:
    runnable(case)
    node = case.node(explained=(0,))
    incoming = normal(*node.y.shape, seed=8)
    s = incoming / stabilise(case.y())
    x = case.operands[0]
    wanted = x * (case.jacobian(0, constant).T @ s.reshape(-1)).reshape(x.shape)
    close(node.relevance(incoming)[0], wanted, 1e-4)


@every_case
def test_relevance_stays_among_the_elements_normalised_together(case: Case) -> None:
    """What one of them gets is what all of them had, less the bias' part."""
    runnable(case)
    node = case.node(explained=(0,))
    incoming = normal(*node.y.shape, seed=8)
    unbiased = case.twin(*case.operands[:2], 0 * case.operands[2]) if len(case.operands) == 3 else case.y()
    kept = incoming * unbiased / stabilise(case.y())
    close(case.groups(node.relevance(incoming)[0]), case.groups(kept), 1e-4)


@pytest.mark.parametrize("case", WITH_BIAS, ids=str)
def test_dropped_and_distributed_biases_lose_nothing(case: Case) -> None:
    """But for the stabiliser. A dropped bias is subtracted from y, which costs digits where y is almost all bias."""
    runnable(case)
    node = case.node(explained=(0,))
    incoming = normal(*node.y.shape, seed=8)
    unbiased = case.twin(*case.operands[:2], 0 * case.operands[2])
    for bias, z in (("drop", unbiased), ("distribute", case.y())):
        found = case.groups(node.relevance(incoming, bias=bias)[0])
        close(found, case.groups(incoming * z / stabilise(z)), 2e-3)


@pytest.mark.parametrize("case", WITH_BIAS, ids=str)
def test_fed_scales_take_half_and_fed_biases_their_part(case: Case) -> None:
    """Scale and data multiply each other: one half each. The bias is a summand: R · bias / y. Nothing is lost."""
    runnable(case)
    incoming = normal(*case.y().shape, seed=8)
    alone = case.node(explained=(0,)).relevance(incoming)[0]
    data, scale, bias = case.node().relevance(incoming)
    s = (incoming / stabilise(case.y())).reshape(-1)
    close(data, alone / 2, 1e-4)
    for operand, found, part in ((1, scale, 0.5), (2, bias, 1.0)):
        values = case.operands[operand]
        close(found, part * values * (case.jacobian(operand, free).T @ s).reshape(values.shape), 1e-4)
    assert data.sum() + scale.sum() + bias.sum() == pytest.approx(incoming.sum(), abs=1e-3 * np.abs(incoming).sum())


def test_a_norm_of_zero_sends_back_zeros() -> None:
    x = np.array([[0.0, 0.0], [3.0, -4.0]])
    found = OneNode("LpNormalization", x).gradient(np.ones((2, 2)))[0]
    assert found[0].tolist() == [0, 0]
    close(found[1], (np.ones(2) - np.array([0.6, -0.8]) * -0.2) / 5)


def test_rows_without_variance_stay_finite_and_conserve() -> None:
    """Where every element is the mean, y is the bias, which keeps all relevance: the elements' own sums to zero."""
    node = OneNode("LayerNormalization", np.full((2, 3), 1.5), normal(3), normal(3, seed=1))
    assert np.isfinite(node.gradient(normal(2, 3))[0]).all()
    found = node.relevance(np.ones((2, 3)))[0]
    assert np.abs(found.sum(1)).max() <= 1e-5 * np.abs(found).max()


def test_statistics_that_are_read_get_their_part() -> None:
    """Σ R = mean(x) for the mean; relevance of y and of the mean meet on x."""
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale"], ["n", "mean"], name="norm"),
        helper.make_node("Add", ["n", "mean"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3])]
    scale = numpy_helper.from_array(np.ones(3, np.float32), "scale")
    graph = helper.make_graph(nodes, "statistics", inputs, outputs, [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.array([[1.0, 2.0, 4.0], [-1.0, 0.5, 5.0]], np.float32)
    explainer = onnxlrp.Explainer(model, output="mean")
    found = explainer.explain(x, target=np.ones((2, 1), np.float32)).relevance["x"]
    np.testing.assert_allclose(found, x / 3, rtol=1e-5)
    both = onnxlrp.Explainer(model).explain(x, target=np.ones((2, 3), np.float32)).relevance["x"]
    np.testing.assert_allclose(both.sum(1), 3 * x.mean(1), rtol=1e-4)


def test_the_twin_catches_a_rule_that_forgets_the_mean() -> None:
    right, wrong = lookup("LayerNormalization"), lookup("RMSNormalization")
    assert right is not None
    assert wrong is not None
    case = CASES[2]
    incoming = normal(*case.y().shape, seed=8)
    forgetful = wrong.relevance
    assert forgetful is not None
    register(replace(right, relevance=lambda step, r: forgetful(step, r[0])))
    try:
        found = case.node(explained=(0,)).relevance(incoming)[0]
    finally:
        register(right)
    s = incoming / stabilise(case.y())
    wanted = X * (case.jacobian(0, constant).T @ s.reshape(-1)).reshape(X.shape)
    with pytest.raises(AssertionError):
        close(found, wanted, 1e-2)


@needs_opset(23)
def test_layer_and_rms_agree_where_the_mean_is_zero() -> None:
    """A relation between two entries, by the entries alone."""
    x = np.concatenate([normal(3, 2), -normal(3, 2)], axis=1)
    scale, g = np.ones(4), normal(3, 4)
    g = g - g.mean(1, keepdims=True)
    layer = OneNode("LayerNormalization", x, scale, opset=23).gradient(g)[0]
    close(layer, OneNode("RMSNormalization", x, scale, opset=23).gradient(g)[0])


# --- softmax ---------------------------------------------------------------------------------------------------------


def softmax_twin(axis: int) -> Callable[[Array], Array]:
    return lambda x: np.asarray(np.exp(x) / np.exp(x).sum(axis, keepdims=True))


AXES = [-1, 1, 0, -2]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_softmax_equals_the_dense_jacobian(op_type: str, axis: int) -> None:
    x = normal(2, 3, 4)
    soft = softmax_twin(axis)
    twin = soft if op_type == "Softmax" else lambda z: np.log(soft(z))
    node = OneNode(op_type, x, axis=axis)
    g = normal(2, 3, 4, seed=1)
    dense = jacobian(twin, x)
    close(node.gradient(g)[0], (dense.T @ g.reshape(-1)).reshape(x.shape))
    s = g / stabilise(twin(x)) if op_type == "LogSoftmax" else g / twin(x)
    close(node.relevance(g)[0], x * (dense.T @ s.reshape(-1)).reshape(x.shape), 1e-4)


def test_softmax_relevance_is_the_taylor_expansion() -> None:
    """R_x = x ⊙ (R − y · Σ R), eq. by eq.: here R is what the outputs had, not a gradient."""
    x, incoming = normal(2, 5), normal(2, 5, seed=1)
    y = softmax_twin(1)(x)
    found = OneNode("Softmax", x, axis=1).relevance(incoming)[0]
    close(found, x * (incoming - y * incoming.sum(1, keepdims=True)))


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "ReduceLogSumExp"])
@pytest.mark.parametrize("method", ["gradient", "lrp"])
def test_masked_elements_get_nothing_and_spoil_nothing(op_type: str, method: str) -> None:
    """A mask of −inf is added inside the model; its elements get zero, the others something finite."""
    along = {"axes": [1]} if op_type == "ReduceLogSumExp" else {"axis": 1}
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["masked"]),
        helper.make_node(op_type, ["masked"], ["y"], **along),
        helper.make_node("Slice", ["y", "first", "end", "end"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "masked",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2, 1])],
        [
            numpy_helper.from_array(np.array([0, -np.inf, 0, 0], np.float32), "mask"),
            numpy_helper.from_array(np.array([0]), "first"),
            numpy_helper.from_array(np.array([1]), "end"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    rules = {op_type: "own"} if method == "lrp" else None
    explainer = onnxlrp.Explainer(model, method=method, output="z", rules=rules, providers="cpu")
    found = explainer.explain(normal(2, 4).astype(np.float32), target=0).relevance["x"]
    assert np.isfinite(found).all()
    assert not found[:, 1].any()
    assert found[:, [0, 2, 3]].all()
