"""Resize against a dense float64 twin of its weights, and against itself: ⟨Resize(x), w⟩ = ⟨x, gradient(w)⟩.

The twin writes coordinates and kernels out from the standard's text. The adjoint test needs no twin, so it covers every
mode that onnxruntime runs, whatever it does there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from one_node import EPS, Array, OneNode, close, needs_opset, normal, stabilise
from onnx import helper, numpy_helper

from onnxlrp.model import read
from onnxlrp.rules.registry import lookup, register

# --- the twin --------------------------------------------------------------------------------------------------------

COORDINATES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric")


def coordinate(k: Array, n: int, m: int, scale: float, way: str) -> Array:
    """Where output elements k of m look among the n input elements."""
    if way == "align_corners":
        return k * (n - 1) / (m - 1) if m > 1 else 0 * k
    if way == "asymmetric":
        return k / scale
    if way == "pytorch_half_pixel" and m == 1:
        return 0 * k
    offset = n / 2 * (1 - m / (scale * n)) if way == "half_pixel_symmetric" else 0.0
    return offset + (k + 0.5) / scale - 0.5


ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def hat(distance: Array) -> Array:
    return np.maximum(0.0, 1.0 - np.abs(distance))


def keys(distance: Array, a: float = -0.75) -> Array:
    """Cubic convolution.  Source: Keys 1981."""
    d = np.abs(distance)
    near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def weights(
    n: int, m: int, scale: float, mode: str, coordinates: str, nearest: str = "round_prefer_floor", antialias: int = 0
) -> Array:
    """(m, n): what each output element takes of each input element along one axis.

    Beyond the border the outermost element is read; with antialias (and exclude_outside) nothing is.
    """
    x = coordinate(np.arange(m, dtype=float), n, m, scale, coordinates)
    if mode == "nearest":
        chosen = np.clip(ROUNDINGS[nearest](x).astype(int), 0, n - 1)
        return np.array([[float(i == c) for i in range(n)] for c in chosen])
    stretch = min(scale, 1.0) if antialias else 1.0
    kernel, reach = (hat, 1) if mode == "linear" else (keys, 2)
    margin = int(np.ceil(reach / stretch)) + 2
    found: Array = np.zeros((m, n))
    for i in range(-margin, n + margin):
        if not antialias or 0 <= i < n:
            found[:, min(max(i, 0), n - 1)] += kernel((i - x) * stretch)
    return np.asarray(found / found.sum(1, keepdims=True))


def resized(node: OneNode, sizes: tuple[int, int], by_scales: tuple[float, float] | None, **mode: Any) -> list[Array]:
    """The weights of the last two axes."""
    shape = node.feeds["x0"].shape[-2:]
    scales = by_scales or tuple(m / n for m, n in zip(sizes, shape, strict=True))
    return [weights(n, m, s, **mode) for n, m, s in zip(shape, sizes, scales, strict=True)]


def back(s: Array, matrices: list[Array]) -> Array:
    """A_heightᵀ · s · A_width."""
    return np.asarray(np.einsum("mi,bcmk,kj->bcij", matrices[0], s, matrices[1]))


def floats(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


def whole(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def by_sizes(x: Array, *sizes: int, fed: bool = False, symbolic: bool = False, opset: int = 19, **mode: Any) -> OneNode:
    operands = (x, None, None, whole(*sizes))
    return OneNode("Resize", *operands, fed=(3,) if fed else (), symbolic=symbolic, opset=opset, **mode)


def by_scales(
    x: Array, *scales: float, fed: bool = False, symbolic: bool = False, opset: int = 19, **mode: Any
) -> OneNode:
    operands = (x, None, floats(*scales))
    return OneNode("Resize", *operands, fed=(2,) if fed else (), symbolic=symbolic, opset=opset, **mode)


X = normal(2, 3, 4, 5)

ASYMMETRIC: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric"}

CROP: dict[str, Any] = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 2.5}

WAYS = [
    {"mode": mode, "coordinates": coordinates}
    for mode, coordinates in itertools.product(("nearest", "linear", "cubic"), COORDINATES)
]


# --- against the twin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(way.values()))
def test_gradient_equals_the_dense_weights(way: dict[str, str]) -> None:
    mode: dict[str, Any] = {"mode": way["mode"], "coordinate_transformation_mode": way["coordinates"]}
    for sizes in ((8, 10), (3, 2), (7, 3)):
        node = by_sizes(X, 2, 3, *sizes, **mode)
        matrices = resized(node, sizes, None, **way)
        w = normal(*node.y.shape, seed=1)
        close(node.y, np.einsum("mi,bcij,kj->bcmk", matrices[0], X, matrices[1]))
        close(node.gradient(w)[0], back(w, matrices))


@pytest.mark.parametrize("nearest", ROUNDINGS)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest_sends_back_to_the_element_it_read(coordinates: str, nearest: str) -> None:
    """Whole factors take the short way through pooling where the standard makes blocks; the others do not."""
    for scales in ((2.0, 3.0), (1.0, 4.0), (1.5, 2.0)):
        mode: dict[str, Any] = {"coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
        node = by_scales(X, 1, 1, *scales, **mode)
        matrices = resized(node, node.y.shape[-2:], scales, mode="nearest", coordinates=coordinates, nearest=nearest)
        w = normal(*node.y.shape, seed=1)
        close(node.gradient(w)[0], back(w, matrices))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialiasing_stretches_the_kernel(mode: str) -> None:
    node = by_sizes(X, 2, 3, 2, 3, mode=mode, antialias=1, exclude_outside=1)
    matrices = resized(node, (2, 3), None, mode=mode, coordinates="half_pixel", antialias=1)
    w = normal(*node.y.shape, seed=1)
    close(node.gradient(w)[0], back(w, matrices))


# --- against itself --------------------------------------------------------------------------------------------------


def assert_adjoint(node: OneNode) -> None:
    """⟨Resize(x) − Resize(0), w⟩ = ⟨x, gradient(w)⟩, for a w and for single output elements."""
    x = node.feeds["x0"].astype(float)
    linear_part = node.y.astype(float) - node.forward(x0=0 * x)
    for w in (normal(*node.y.shape, seed=1), *single_elements(node.y.shape)):
        found = node.gradient(w)[0]
        assert found.shape == x.shape
        terms = x * found
        assert np.sum(linear_part * w) == pytest.approx(np.sum(terms), abs=2e-5 * (1 + np.abs(terms).sum()))


def single_elements(shape: tuple[int, ...]) -> Iterator[Array]:
    size = int(np.prod(shape))
    for position in (0, size // 2, size - 1):
        yield np.array([float(i == position) for i in range(size)]).reshape(shape)


def modes() -> Iterator[dict[str, Any]]:
    for mode, coordinates in itertools.product(("nearest", "linear", "cubic"), COORDINATES):
        yield {"mode": mode, "coordinate_transformation_mode": coordinates}
    for mode, outside in itertools.product(("linear", "cubic"), (0, 1)):
        yield {"mode": mode, "antialias": 1, "exclude_outside": outside}
    yield {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}


@pytest.mark.parametrize("mode", list(modes()), ids=lambda mode: " ".join(map(str, mode.values())))
def test_adjoint_where_every_size_is_known_at_run_time_only(mode: dict[str, Any]) -> None:
    assert_adjoint(by_sizes(X, 2, 3, 7, 3, fed=True, symbolic=True, **mode))
    assert_adjoint(by_scales(X, 1, 1, 0.6, 1.7, fed=True, symbolic=True, **mode))
    assert_adjoint(by_scales(X, 1, 1, 0.6, 1.7, symbolic=True, **mode))


@pytest.mark.parametrize(
    ("shape", "sizes", "mode"),
    [
        ((5,), (9,), "nearest"),
        ((4, 5), (6, 3), "linear"),
        ((4, 5), (6, 3), "cubic"),
        ((2, 4, 5), (2, 6, 3), "linear"),
        ((1, 4, 5, 3), (1, 6, 10, 3), "linear"),
        ((1, 4, 5, 3), (1, 8, 10, 3), "nearest"),
        ((2, 2, 2, 3), (4, 2, 3, 5), "nearest"),
        ((1, 2, 3, 2, 3), (1, 2, 5, 4, 2), "linear"),
        ((1, 2, 3, 2, 3), (1, 2, 6, 4, 9), "nearest"),
    ],
)
@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_adjoint_for_every_rank_and_layout(
    shape: tuple[int, ...], sizes: tuple[int, ...], mode: str, symbolic: bool
) -> None:
    assert_adjoint(by_sizes(normal(*shape), *sizes, mode=mode, symbolic=symbolic))


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [3]])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_adjoint_where_axes_are_listed_and_the_aspect_ratio_kept(policy: str, axes: list[int], mode: str) -> None:
    for sizes, coordinates in (((7, 6), "half_pixel"), ((3, 7), "align_corners")):
        facts: dict[str, Any] = {"axes": axes, "keep_aspect_ratio_policy": policy}
        facts["coordinate_transformation_mode"] = coordinates
        assert_adjoint(by_sizes(X, *sizes[: len(axes)], mode=mode, **facts))
        assert_adjoint(by_sizes(X, *sizes[: len(axes)], mode=mode, fed=True, symbolic=True, **facts))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("axes", [None, [2, 3], [3, 2]])
def test_adjoint_of_a_crop(mode: str, axes: list[int] | None) -> None:
    """What is written where the crop looks outside of x is a constant: it has no gradient."""
    facts = CROP | {"mode": mode} | ({} if axes is None else {"axes": axes})
    roi = floats(0, 0, 0.1, 0.2, 1, 1, 0.8, 1.3) if axes is None else floats(0.1, 0.2, 0.8, 1.3)
    sizes = whole(2, 3, 6, 3) if axes is None else whole(6, 3)
    for fed in ((), (1, 3)):
        assert_adjoint(OneNode("Resize", X, roi, None, sizes, opset=19, fed=fed, **facts))


@pytest.mark.parametrize("opset", [16, 18, 19])
def test_adjoint_in_every_opset(opset: int) -> None:
    assert_adjoint(by_scales(X, 1, 1, 1.7, 2.0, opset=opset, mode="linear"))
    assert_adjoint(OneNode("Resize", X, floats(), floats(1, 1, 2, 3), opset=opset))
    assert_adjoint(OneNode("Resize", X, floats(), floats(), whole(2, 3, 8, 3), opset=opset, mode="cubic"))


@needs_opset(23)
def test_adjoint_in_a_late_opset() -> None:
    assert_adjoint(by_scales(X, 1, 1, 2.0, 2.0, opset=23, mode="linear"))


# --- relevance -------------------------------------------------------------------------------------------------------


def test_relevance_divides_in_proportion_to_what_was_mixed() -> None:
    node = by_sizes(X, 2, 3, 7, 3, mode="linear")
    matrices = resized(node, (7, 3), None, mode="linear", coordinates="half_pixel")
    incoming = normal(*node.y.shape, seed=2)
    y = np.einsum("mi,bcij,kj->bcmk", matrices[0], X, matrices[1])
    close(node.relevance(incoming, "epsilon(1e-6)")[0], X * back(incoming / stabilise(y), matrices), 1e-4)


def test_relevance_of_blocks_is_their_sum() -> None:
    """In each channel of each sample, and of each element's block."""
    x = np.abs(X) + 0.5
    node = by_scales(x, 1, 1, 2.0, 3.0)
    incoming = normal(*node.y.shape, seed=2)
    wanted = incoming.reshape(2, 3, 4, 2, 5, 3).sum((3, 5))
    for rule in ("epsilon(1e-6)", "z-plus", "flat", "gamma(0.25)"):
        close(node.relevance(incoming, rule)[0], wanted)


def test_what_a_crop_makes_up_keeps_its_relevance() -> None:
    """The extrapolated elements are a bias: they absorb what they get, and the others hand theirs on."""
    x = np.abs(X) + 0.5
    facts = CROP | {"mode": "linear"}
    roi = floats(0, 0, 0.5, 0, 1, 1, 1.5, 1)
    node = OneNode("Resize", x, roi, None, whole(2, 3, 6, 5), opset=19, **facts)
    made_up = node.y == 2.5
    assert 0 < made_up.sum() < made_up.size
    incoming = np.ones(node.y.shape)
    found = node.relevance(incoming, "epsilon(1e-6)")[0]
    assert found.sum() == pytest.approx((incoming * ~made_up).sum(), rel=1e-4)
    assert not found[:, :, 0].any()


def test_dead_elements_spread_no_nan() -> None:
    node = by_scales(np.zeros((1, 1, 2, 2)), 1, 1, 1.5, 1.5, mode="linear")
    explainer = node.explainer("lrp", preset="epsilon", rules={"Resize": f"epsilon({EPS})"})
    found = explainer.explain(node.feeds, target=np.ones(node.y.shape, np.float32)).relevance["x0"]
    assert found.tolist() == np.zeros((1, 1, 2, 2)).tolist()


# --- how it is written -----------------------------------------------------------------------------------------------


def operators_of(node: OneNode) -> set[str]:
    return {n.op_type for n in node.explainer("gradient").compiled.model.graph}


def test_blocks_take_one_pooling() -> None:
    assert "MatMul" not in operators_of(by_scales(X, 1, 1, 2.0, 2.0))
    assert "MatMul" not in operators_of(by_scales(X, 1, 1, 3.0, 3.0, nearest_mode="floor", **ASYMMETRIC))
    assert "MatMul" in operators_of(by_scales(X, 1, 1, 3.0, 3.0, nearest_mode="ceil", **ASYMMETRIC))


def test_untouched_axes_need_no_matrix() -> None:
    """Also where batch, height and width are symbolic."""
    model = by_scales(X, 1, 1, 1.5, 1.5, symbolic=True, mode="linear").explainer("gradient").compiled.model
    assert sum(n.op_type == "EyeLike" for n in model.graph) == 2


def test_upsample_of_old_models_is_read_as_resize() -> None:
    graph = helper.make_graph(
        [helper.make_node("Upsample", ["x", "scales"], ["y"], mode="nearest")],
        "old",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1, 4, 6])],
        [numpy_helper.from_array(floats(1, 1, 2, 3), "scales")],
    )
    model = read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4))
    assert "Resize" in {node.op_type for node in model.graph}
    assert "Upsample" not in {node.op_type for node in model.graph}


def test_the_adjoint_test_catches_an_adjoint_that_forgets_an_axis() -> None:
    right = lookup("Resize")
    assert right is not None

    def one_axis_averaged(step: Any, g: Any) -> list[Any]:
        whole_width = step.emit.reduce("ReduceMean", g, [3])
        return [step.emit.Expand(whole_width, step.shape(0)), *[None] * (step.count - 1)]

    register(replace(right, vjp=one_axis_averaged))
    try:
        with pytest.raises(AssertionError):
            assert_adjoint(by_sizes(X, 2, 3, 4, 10, mode="linear"))
    finally:
        register(right)
