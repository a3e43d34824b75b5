"""Reductions and running sums against dense float64 twins: loops over what each output element was made from."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from one_node import EPS, Array, OneNode, close, needs_opset, normal, stabilise

from onnxlrp.rules.registry import lookup, register

Part = Callable[[Array], Array]
"""What one output element sends back to the elements it was made from (in memory order), per unit."""


def one_hot(index: int, size: int) -> Array:
    return np.array([float(i == index) for i in range(size)])


def product_of_the_others(v: Array) -> Array:
    return np.array([np.prod(np.delete(v, i)) for i in range(v.size)])


def softmax(v: Array) -> Array:
    return np.asarray(np.exp(v - v.max()) / np.exp(v - v.max()).sum())


GRADIENTS: dict[str, Part] = {
    "ReduceSum": np.ones_like,
    "ReduceMean": lambda v: np.full_like(v, 1 / v.size),
    "ReduceMax": lambda v: one_hot(int(v.argmax()), v.size),
    "ReduceMin": lambda v: one_hot(int(v.argmin()), v.size),
    "ReduceProd": product_of_the_others,
    "ReduceL1": np.sign,
    "ReduceL2": lambda v: v / np.linalg.norm(v),
    "ReduceLogSum": lambda v: np.full_like(v, 1 / v.sum()),
    "ReduceLogSumExp": softmax,
    "ReduceSumSquare": lambda v: 2 * v,
}

SHARES: dict[str, Part] = {
    "ReduceSum": lambda v: v / stabilise(v.sum()),
    "ReduceMean": lambda v: v / v.size / stabilise(v.mean()),
    "ReduceMax": GRADIENTS["ReduceMax"],
    "ReduceMin": GRADIENTS["ReduceMin"],
    "ReduceProd": lambda v: np.full_like(v, 1 / v.size),
    "ReduceL1": lambda v: np.abs(v) / (np.abs(v).sum() + EPS),
    "ReduceL2": lambda v: v**2 / ((v**2).sum() + EPS),
    "ReduceLogSum": lambda v: v / stabilise(v.sum()),
    "ReduceLogSumExp": softmax,
    "ReduceSumSquare": lambda v: v**2 / ((v**2).sum() + EPS),
}

RULES = {"ReduceSum": "epsilon(1e-6)", "ReduceMean": "epsilon(1e-6)"} | dict.fromkeys(
    ("ReduceMax", "ReduceMin"), "winner-takes-all"
)
"""Whose relevance rule is the family's; the others have their own."""

OPERATORS = sorted(GRADIENTS)

AXES = [None, [-2], [2, 0], [0, 1], []]

FORMS = {"attribute": 16, "constant": 18, "run time": 18}
"""Where the axes stand → opset."""


def dense_twin(part: Part, x: Array, axes: list[int] | None, incoming: Array) -> Array:
    """Send `incoming` (shaped like the output, with or without its reduced axes) back, one output element at a time."""
    reduced = sorted(axis % x.ndim for axis in axes) if axes is not None else list(range(x.ndim))
    kept = [axis for axis in range(x.ndim) if axis not in reduced]
    found = np.zeros(x.shape)
    for index, arrived in zip(itertools.product(*(range(x.shape[a]) for a in kept)), incoming.reshape(-1), strict=True):
        where = [slice(None)] * x.ndim
        for axis, i in zip(kept, index, strict=True):
            where[axis] = i  # type: ignore[call-overload]
        group = x[tuple(where)]
        found[tuple(where)] = (part(group.reshape(-1)) * arrived).reshape(group.shape)
    return found


def data_for(op_type: str) -> Array:
    x = normal(2, 3, 4)
    return np.abs(x) + 0.1 if op_type == "ReduceLogSum" else x


def reduction(op_type: str, x: Array, axes: list[int] | None, form: str = "constant", **facts: Any) -> OneNode:
    """The operator with its axes in one of the three places; an attribute where the opset has them as one."""
    listed = None if axes is None else np.array(axes, np.int64)
    if form == "attribute" and op_type != "ReduceSum":
        return OneNode(op_type, x, opset=FORMS[form], **(facts if axes is None else facts | {"axes": axes}))
    fed = (1,) if form == "run time" and axes is not None else ()
    operands = (x,) if listed is None else (x, listed)
    return OneNode(op_type, *operands, fed=fed, opset=FORMS[form], **facts)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op_type", OPERATORS)
def test_gradient_and_relevance_equal_the_dense_twin(op_type: str, form: str) -> None:
    x = data_for(op_type)
    for axes, keepdims in itertools.product(AXES if form == "constant" else AXES[:3], (0, 1)):
        node = reduction(op_type, x, axes, form, keepdims=keepdims, symbolic=bool(keepdims))
        incoming = normal(*node.y.shape, seed=1)
        everything = axes or None
        close(node.gradient(incoming)[0], dense_twin(GRADIENTS[op_type], x, everything, incoming))
        found = node.relevance(incoming, RULES.get(op_type, "own"))[0]
        close(found, dense_twin(SHARES[op_type], x, everything, incoming))


@pytest.mark.parametrize("op_type", OPERATORS)
def test_no_axes_may_mean_no_reduction(op_type: str) -> None:
    x, incoming = data_for(op_type), normal(2, 3, 4, seed=1)
    node = reduction(op_type, x, [], noop_with_empty_axes=1)
    close(node.gradient(incoming)[0], dense_twin(GRADIENTS[op_type], x, [], incoming))


@pytest.mark.parametrize("op_type", OPERATORS)
def test_relevance_stays_with_the_elements_of_its_output(op_type: str) -> None:
    x = data_for(op_type)
    node = reduction(op_type, x, [0, 2], keepdims=0)
    incoming = np.array([3.0, 0.0, -2.0])
    found = node.relevance(incoming, RULES.get(op_type, "own"))[0]
    close(found.sum(axis=(0, 2)), incoming)
    assert not found[:, 1].any()


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMean"])
def test_sums_are_the_adjoint_of_their_gradient(op_type: str) -> None:
    x = normal(2, 3, 4)
    node = reduction(op_type, x, [0, -1])
    w = normal(*node.y.shape, seed=1)
    assert np.sum(node.y * w) == pytest.approx(np.sum(x * node.gradient(w)[0]), rel=1e-5)


@pytest.mark.parametrize(("op_type", "sign"), [("ReduceMax", 1), ("ReduceMin", -1)])
def test_the_first_of_several_winners_in_memory_order_takes_all(op_type: str, sign: int) -> None:
    x = sign * np.array([[[0, 7, 1], [7, 2, 3]], [[7, 0, 0], [1, 7, 7]]], float)
    whole = reduction(op_type, x, None).gradient(np.ones((1, 1, 1)))[0]
    assert np.argwhere(whole).tolist() == [[0, 0, 1]]
    per_row = reduction(op_type, x, [2, 0], keepdims=0).gradient(np.array([1.0, 2.0]))[0]
    assert np.argwhere(per_row).tolist() == [[0, 0, 1], [0, 1, 0]]
    assert per_row.sum() == 3


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin"])
def test_all_equal_elements_leave_everything_to_the_first(op_type: str) -> None:
    found = reduction(op_type, np.zeros((2, 3)), [1], keepdims=0).gradient(np.array([1.0, 5.0]))[0]
    assert found.tolist() == [[1, 0, 0], [5, 0, 0]]


def test_gradient_of_a_product_stands_zeros() -> None:
    x = np.array([[2.0, 3.0, 4.0], [2.0, 0.0, 4.0], [0.0, 0.0, 4.0]])
    found = reduction("ReduceProd", x, [1]).gradient(np.ones((3, 1)))[0]
    assert found.tolist() == [[12, 8, 6], [0, 8, 0], [0, 0, 0]]


@pytest.mark.parametrize("op_type", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_a_norm_of_zeros_has_a_finite_gradient(op_type: str) -> None:
    found = reduction(op_type, np.zeros((2, 3)), [1]).gradient(np.ones((2, 1)))[0]
    assert found.tolist() == np.zeros((2, 3)).tolist()


def test_masked_elements_of_log_sum_exp_get_nothing() -> None:
    x = np.array([[0.5, -np.inf, 1.0], [2.0, -np.inf, -np.inf]])
    node = OneNode("ReduceLogSumExp", np.where(np.isinf(x), -1e5, x), np.array([1]))
    found = node.gradient(np.ones((2, 1)))[0]
    close(found, np.stack([softmax(row) for row in x]))


def test_the_twin_catches_a_share_of_the_wrong_elements() -> None:
    """By squares instead of magnitudes conserves as well; only the place differs."""
    right, wrong = lookup("ReduceL1"), lookup("ReduceSumSquare")
    assert right is not None
    assert wrong is not None
    x, incoming = normal(2, 3), np.array([[1.0], [2.0]])
    register(replace(right, relevance=wrong.relevance))
    try:
        found = reduction("ReduceL1", x, [1]).relevance(incoming)[0]
    finally:
        register(right)
    with pytest.raises(AssertionError):
        close(found, dense_twin(SHARES["ReduceL1"], x, [1], incoming))


# --- running sums and products ---------------------------------------------------------------------------------------

FLAGS: list[dict[str, Any]] = [{"exclusive": e, "reverse": r} for e, r in itertools.product((0, 1), (0, 1))]


def reach(size: int, exclusive: int, reverse: int) -> Array:
    """(output, input) mask: which elements each running result is made from."""
    mask = np.tril(np.ones((size, size)), -1 if exclusive else 0)
    return mask[::-1, ::-1] if reverse else mask


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_running_sum_sends_back_along_its_mask(axis: int, flags: dict[str, Any]) -> None:
    x = normal(2, 3, 4)
    for fed in ((), (1,)):
        node = OneNode("CumSum", x, np.array(axis, np.int64), fed=fed, **flags)
        w = normal(2, 3, 4, seed=1)
        mask = reach(x.shape[axis], **flags)
        found = node.gradient(w)[0]
        close(found, np.moveaxis(np.tensordot(mask.T, np.moveaxis(w, axis, 0), 1), 0, axis))
        assert np.sum(node.y * w) == pytest.approx(np.sum(x * found), rel=1e-4)


@needs_opset(26)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_running_product_stands_zeros(flags: dict[str, Any]) -> None:
    x = np.array([[2.0, 3.0, -1.0, 0.5], [2.0, 0.0, 3.0, 4.0], [0.0, 5.0, 0.0, 2.0], [1.5, 2.0, 3.0, 0.0]])
    node = OneNode("CumProd", x, np.array(1, np.int64), opset=26, **flags)
    w = normal(4, 4, seed=1)
    wanted = np.zeros((4, 4))
    for row, result, i in itertools.product(range(4), range(4), range(4)):
        mask = reach(4, **flags)[result].astype(bool)
        if mask[i]:
            others = mask & (np.arange(4) != i)
            wanted[row, i] += w[row, result] * np.prod(x[row, others])
    close(node.gradient(w)[0], wanted)


@needs_opset(26)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_running_product_divides_in_equal_parts(flags: dict[str, Any]) -> None:
    x, incoming = normal(2, 4) + 3, normal(2, 4, seed=1)
    node = OneNode("CumProd", x, np.array(1, np.int64), opset=26, **flags)
    mask = reach(4, **flags)
    parts = mask / np.maximum(mask.sum(1, keepdims=True), 1)
    close(node.relevance(incoming)[0], incoming @ parts)
