"""The other methods, each against its own formula in numpy or by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from nets import Array, Net, relative, run, signed
from onnx import TensorProto

from onnxlrp import METHODS, ChoiceError, Explainer
from onnxlrp.methods.path import QUADRATURES

RANDOM = np.random.default_rng(0)
FIRST, SECOND = signed(RANDOM, 6, 5) / 2, signed(RANDOM, 5, 3)
X = signed(RANDOM, 2, 6)


def smooth() -> onnx.ModelProto:
    """tanh, sigmoid and softplus between dense layers: no kink anywhere."""
    net = Net()
    x = net.input("x", ["batch", 6])
    hidden = net.Tanh(net.Gemm(x, net.weight(FIRST), net.weight(np.full(5, 0.3))), out="hidden")
    gated = net.Mul(net.Softplus(hidden), net.Sigmoid(hidden))
    return net.model(net.MatMul(gated, net.weight(SECOND)))


def relu_net() -> onnx.ModelProto:
    net = Net()
    hidden = net.Relu(net.MatMul(net.input("x", ["batch", 6]), net.weight(FIRST)))
    return net.model(net.MatMul(hidden, net.weight(SECOND)))


def picture_net() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["batch", 2, 7, 6])
    c = net.Relu(net.Conv(x, net.weight(signed(np.random.default_rng(1), 3, 2, 3, 3)), pads=[1, 1, 1, 1]), out="maps")
    return net.model(net.Flatten(net.GlobalAveragePool(net.Sigmoid(c))))


PICTURE = signed(np.random.default_rng(2), 2, 2, 7, 6)


def explain(model: Any, x: Array, method: str, target: Any = 1, **choices: Any) -> Array:
    explainer = Explainer(model, method=method, providers="cpu", **choices)
    (relevance,) = explainer.explain(x, target=target).relevance.values()
    return relevance


def f(model: Any, x: Array, target: int = 1) -> Array:
    return np.asarray(run(model, {"x": x.astype(np.float32)})[:, target], np.float64)


# --- integrated gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [0.0, 0.5, signed(np.random.default_rng(3), 6)], ids=["zero", "half", "array"])
def test_integrated_gradients_are_complete_on_a_smooth_net(baseline: Any) -> None:
    """Σ R = f(x) − f(x₀); 20 Gauss-Legendre nodes integrate a smooth function to float32's own precision."""
    found = explain(smooth(), X, "integrated-gradients", steps=20, baseline=baseline)
    start = np.broadcast_to(np.asarray(baseline, np.float32), X.shape)
    assert np.allclose(found.sum(axis=1), f(smooth(), X) - f(smooth(), start), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("name", QUADRATURES)
def test_quadrature_weights_sum_to_one(name: str, steps: int) -> None:
    positions, weights = QUADRATURES[name](steps)
    assert len(positions) == len(weights) == steps
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert positions.min() >= 0
    assert positions.max() <= 1


@pytest.mark.parametrize(
    ("name", "positions", "weights"),
    [
        ("gauss-legendre", [0.5 - 0.5 / np.sqrt(3), 0.5 + 0.5 / np.sqrt(3)], [0.5, 0.5]),
        ("trapezoid", [0, 1], [0.5, 0.5]),
        ("right", [0.5, 1], [0.5, 0.5]),
    ],
)
def test_quadratures_of_two_steps_are_those_of_the_textbook(
    name: str, positions: list[float], weights: list[float]
) -> None:
    found = QUADRATURES[name](2)
    assert np.allclose(found[0], positions)
    assert np.allclose(found[1], weights)


@pytest.mark.parametrize(("name", "degree"), [("gauss-legendre", 9), ("trapezoid", 1), ("right", 0)])
def test_quadratures_integrate_polynomials_exactly_up_to_their_degree(name: str, degree: int) -> None:
    positions, weights = QUADRATURES[name](5)
    for power in range(degree + 1):
        assert weights @ positions**power == pytest.approx(1 / (power + 1), abs=1e-12)
    assert weights @ positions ** (degree + 1) != pytest.approx(1 / (degree + 2), abs=1e-9)


@pytest.mark.parametrize("name", QUADRATURES)
def test_integrated_gradients_are_the_weighted_mean_of_gradients(name: str) -> None:
    positions, weights = QUADRATURES[name](4)
    gradients = [explain(smooth(), (position * X).astype(np.float32), "gradient") for position in positions]
    mean = np.tensordot(weights, np.stack(gradients), axes=1)
    assert relative(explain(smooth(), X, "integrated-gradients", steps=4, quadrature=name), X * mean) < 1e-6


# --- smoothgrad, random, sensitivity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["smoothgrad", "random"])
def test_noise_is_reproducible_by_its_seed(method: str) -> None:
    options = {"samples": 3} if method == "smoothgrad" else {}
    one, same, other = (explain(smooth(), X, method, seed=seed, **options) for seed in (7, 7, 8))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_smoothgrad_is_the_mean_gradient_under_gaussian_noise() -> None:
    """Without noise it is the gradient; with it, the mean over copies drawn as documented."""
    assert relative(explain(smooth(), X, "smoothgrad", samples=2, noise=0.0), explain(smooth(), X, "gradient")) < 1e-6
    random = np.random.default_rng(5)
    spread = 0.2 * (X.max(axis=1) - X.min(axis=1)).astype(np.float64)[:, None]
    copies = [(X + random.standard_normal(X.shape) * spread).astype(np.float32) for _ in range(4)]
    mean = sum(explain(smooth(), copy, "gradient") for copy in copies) / 4
    assert relative(explain(smooth(), X, "smoothgrad", samples=4, noise=0.2, seed=5), mean) < 1e-5


def test_random_fills_the_unit_interval_and_looks_at_nothing() -> None:
    found = explain(picture_net(), PICTURE, "random")
    assert found.shape == PICTURE.shape
    assert found.min() >= 0
    assert found.max() < 1
    assert np.array_equal(found, explain(picture_net(), PICTURE * 3, "random", target=0))


def test_sensitivity_is_the_gradient_without_its_sign() -> None:
    gradient = explain(smooth(), X, "gradient")
    assert (gradient < 0).any()
    assert np.array_equal(explain(smooth(), X, "sensitivity"), np.abs(gradient))


def test_gradient_times_input_is_just_that() -> None:
    assert np.array_equal(explain(smooth(), X, "gradient-x-input"), X * explain(smooth(), X, "gradient"))


# --- DeepLIFT --------------------------------------------------------------------------------------------------------


def activation_net(kind: str) -> onnx.ModelProto:
    """One activation, pooling or product between convolutions."""
    random = np.random.default_rng(4)
    net = Net(20)
    x = net.input("x", ["batch", 2, 6, 6])
    c = net.Conv(x, net.weight(signed(random, 4, 2, 3, 3)), net.weight(signed(random, 4)))
    if kind == "MaxPool":
        c = net.MaxPool(net.Relu(c), kernel_shape=[2, 2], strides=[2, 2])
    elif kind == "MaxPool-overlap":
        c = net.MaxPool(c, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    elif kind == "SiLU":
        c = net.Mul(c, net.Sigmoid(c))
    elif kind == "product":
        c = net.Mul(c, net.Tanh(net.Conv(x, net.weight(signed(random, 4, 2, 3, 3)))))
    elif kind in ("Max", "Min"):
        c = net.add(kind, [c, net.Conv(x, net.weight(signed(random, 1, 2, 3, 3)))])
    elif kind == "Max-constant":
        c = net.Max(net.weight(np.array([0.5])), c)
    elif kind == "residual":
        c = net.Add(c, net.Relu(net.Conv(c, net.weight(signed(random, 4, 4, 1, 1)))))
    else:
        c = net.add(kind, [c])
    return net.model(net.MatMul(net.Flatten(net.Elu(c)), net.weight(signed(random, _flat(kind), 3) / 4)))


def _flat(kind: str) -> int:
    return {"MaxPool": 16, "GlobalMaxPool": 4}.get(kind, 64)


KINDS = ["Relu", "Tanh", "Gelu", "HardSwish", "LeakyRelu", "SiLU", "product", "residual"]
KINDS += ["MaxPool", "MaxPool-overlap", "GlobalMaxPool", "Max", "Min", "Max-constant"]


@pytest.mark.parametrize("baseline", [0.0, 0.25])
@pytest.mark.parametrize("kind", KINDS)
def test_deeplift_is_complete(kind: str, baseline: float) -> None:
    """Σ R = f(x) − f(x₀), through every activation, max pooling and products."""
    model, x = activation_net(kind), signed(np.random.default_rng(5), 2, 2, 6, 6)
    found = explain(model, x, "deeplift", baseline=baseline)
    difference = f(model, x) - f(model, np.full_like(x, baseline))
    assert np.allclose(found.reshape(2, -1).sum(axis=1), difference, rtol=1e-4, atol=1e-6 * np.abs(found).sum())


def test_deeplift_on_one_unit_by_hand() -> None:
    """relu(2·x₁ − x₂) from (0, 0) to (3, 1): Δy/Δz = 1, so 6 and −1; from the dead (0, 4): 5/9 of the slope."""
    net = Net()
    z = net.MatMul(net.input("x", [1, 2]), net.weight(np.array([[2.0], [-1.0]])))
    model, x = net.model(net.Relu(z)), np.array([[3.0, 1.0]], np.float32)
    assert np.allclose(explain(model, x, "deeplift", 0), [[6, -1]])
    found = explain(model, x, "deeplift", 0, baseline=np.array([[0.0, 4.0]]))
    assert np.allclose(found, [[3 * 2 * 5 / 9, (1 - 4) * -1 * 5 / 9]], rtol=1e-6)


def test_deeplift_as_captum_takes_the_plain_gradient_at_gelu() -> None:
    model, x = activation_net("Gelu"), signed(np.random.default_rng(5), 2, 2, 6, 6)
    ours, theirs = (explain(model, x, "deeplift", activations=name) for name in ("rescale", "captum"))
    assert relative(ours, theirs) > 1e-3
    with pytest.raises(ChoiceError, match="'rescale' and 'captum'"):
        explain(model, x, "deeplift", activations="zennit")


# --- occlusion -------------------------------------------------------------------------------------------------------


def occlusion_by_loops(x: Array, window: tuple[int, ...], stride: tuple[int, ...], baseline: float) -> Array:
    """Σ over windows of f(x) − f(x without it), divided by the number of windows that cover the cell."""
    total, covered = np.zeros(x.shape), np.zeros(x.shape[1:])
    starts = [range(-(-max(n - w, 0) // s) + 1) for n, w, s in zip(x.shape[1:], window, stride, strict=True)]
    for place in itertools.product(*starts):
        cells = tuple(slice(k * s, k * s + w) for k, s, w in zip(place, stride, window, strict=True))
        without = x.copy()
        without[(slice(None), *cells)] = baseline
        total[(slice(None), *cells)] += (f(picture_net(), x) - f(picture_net(), without)).reshape(-1, 1, 1, 1)
        covered[cells] += 1
    assert covered.min() > 0, "every cell is covered"
    return total / covered


@pytest.mark.parametrize(
    ("window", "stride", "baseline"),
    [
        ((2, 3, 3), (2, 3, 3), 0.0),
        ((2, 3, 2), (1, 2, 1), 0.0),
        ((1, 4, 4), (1, 3, 4), 0.5),
        ((2, 9, 2), (2, 5, 2), -1.0),
    ],
)
def test_occlusion_equals_its_loops(window: tuple[int, ...], stride: tuple[int, ...], baseline: float) -> None:
    """Windows at multiples of the stride, cut at the border; the last one reaches it."""
    clipped = tuple(min(w, n) for w, n in zip(window, PICTURE.shape[1:], strict=True))
    wanted = occlusion_by_loops(PICTURE, clipped, stride, baseline)
    found = explain(picture_net(), PICTURE, "occlusion", window=window, stride=stride, baseline=baseline)
    assert relative(found, wanted) < 1e-4


def test_occlusion_does_not_depend_on_the_batch_size() -> None:
    options = {"window": (2, 3, 3), "stride": (2, 2, 2)}
    one, many = (explain(picture_net(), PICTURE, "occlusion", batch_size=size, **options) for size in (1, 64))
    assert relative(one, many) < 1e-5


def test_occlusion_that_would_leave_cells_out_is_refused() -> None:
    with pytest.raises(ChoiceError, match="cells would be left out"):
        explain(picture_net(), PICTURE, "occlusion", window=(2, 2, 2), stride=(2, 3, 2))


# --- finite differences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, 2, signed(np.random.default_rng(6), 2, 3)], ids=["largest", "int", "seed"])
def test_finite_differences_agree_with_the_gradient(target: Any) -> None:
    """To the step's square and float32's rounding over the step."""
    found = explain(smooth(), X, "finite-difference", target, step=1e-2)
    assert relative(found, explain(smooth(), X, "gradient", target)) < 2e-3


def test_a_patch_moves_together_and_shares() -> None:
    """Each cell gets the patch's difference divided by its cells: the mean gradient of the patch."""
    gradient = explain(picture_net(), PICTURE, "gradient")
    found = explain(picture_net(), PICTURE, "finite-difference", step=1e-2, patch=(2, 3, 3))
    for rows, columns in itertools.product([slice(0, 3), slice(3, 6), slice(6, 7)], [slice(0, 3), slice(3, 6)]):
        mean = gradient[:, :, rows, columns].mean(axis=(1, 2, 3), keepdims=True)
        assert np.allclose(found[:, :, rows, columns], mean, atol=2e-2 * np.abs(gradient).max())


# --- guided backpropagation and deconvnet ----------------------------------------------------------------------------


def by_hand(guided: bool) -> Array:
    """Two layers: the gradient at the ReLU is masked by its own sign, and by z's too where guided."""
    z = X.astype(np.float64) @ FIRST
    arriving = np.maximum(np.broadcast_to(SECOND[:, 1], z.shape), 0)
    return (arriving * (z > 0) if guided else arriving) @ FIRST.T


@pytest.mark.parametrize(("method", "guided"), [("guided-backprop", True), ("deconvnet", False)])
def test_relu_methods_on_two_layers_by_hand(method: str, guided: bool) -> None:
    z, arriving = X @ FIRST, np.broadcast_to(SECOND[:, 1], (2, 5))
    combinations = {(a, b) for a, b in zip((z > 0).ravel(), (arriving > 0).ravel(), strict=True)}
    assert len(combinations) == 4, "every sign of z meets every sign of the gradient"
    assert relative(explain(relu_net(), X, method), by_hand(guided)) < 1e-6


# --- no batch axis, and tokens ---------------------------------------------------------------------------------------


def test_an_input_without_a_batch_axis_is_one_sample_under_noise() -> None:
    """Rows of very different range get noise of one size, the whole input's."""
    net = Net()
    x = net.input("x", [4, 3])
    model = net.model(net.ReduceSum(net.Mul(net.Mul(x, x), x), keepdims=0))
    rows = np.array([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [10, 0, 0]], np.float32)
    found = Explainer(model, "smoothgrad", samples=4, noise=0.2, seed=5, providers="cpu").explain(rows)
    noise = [np.random.default_rng(5)]
    wanted = np.mean([3 * (rows + noise[0].standard_normal(rows.shape) * 2.0) ** 2 for _ in range(4)], axis=0)
    np.testing.assert_allclose(found.relevance["x"], wanted, rtol=1e-4)


def test_tokens_get_the_length_of_the_gradient_of_their_embedding_and_its_product() -> None:
    random = np.random.default_rng(0)
    table, weights = random.standard_normal((7, 4)), random.standard_normal((4, 3))
    net = Net()
    tokens = net.input("tokens", ["batch", "length"], TensorProto.INT64)
    embedded = net.Gather(net.weight(table), net.Unsqueeze(tokens, net.weight(np.array([2]))), axis=0)
    embedded = net.Squeeze(embedded, net.weight(np.array([2])))
    model = net.model(net.MatMul(net.ReduceMean(embedded, axes=[1], keepdims=0), net.weight(weights)))
    row = np.array([[3, 0, 6, 3]])
    slope = weights[:, 1] / 4
    shown = {
        m: Explainer(model, m, providers="cpu").explain(row, target=1).relevance["tokens"]
        for m in ("sensitivity", "gradient-x-input", "lrp")
    }
    np.testing.assert_allclose(shown["sensitivity"], [[np.linalg.norm(slope)] * 4], rtol=1e-5)
    np.testing.assert_allclose(shown["gradient-x-input"], [table[row[0]] @ slope], rtol=1e-5)
    np.testing.assert_allclose(shown["lrp"], shown["gradient-x-input"], rtol=1e-3)


# --- inner tensors ---------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"steps": 8},
    "smoothgrad": {"samples": 3},
    "occlusion": {"window": 1},
    "finite-difference": {"step": 1e-2},
    "random": {},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reads_an_inner_tensor(method: str) -> None:
    """At `hidden` each method gives what it gives on the model that begins there."""
    model = smooth()
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
    hidden = run(extractor.extract_model(["x"], ["hidden"]), {"x": X})
    upper = extractor.extract_model(["hidden"], [model.graph.output[0].name])
    options = OPTIONS.get(method, {})
    if method == "deeplift":
        options = {"baseline": 0.1}
    if method == "lrp":
        options = {"preset": "epsilon"}
    found = explain(model, X, method, inputs=["hidden"], **options)
    assert found.shape == hidden.shape
    assert relative(found, explain(upper, hidden, method, **options)) < 1e-5


# --- nothing arrives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [[3.0], [3.0, 0.2]], ids=["all", "one of two"])
def test_a_saturated_score_has_no_gradient_and_says_so(samples: list[float]) -> None:
    net = Net()
    y = net.Clip(
        net.MatMul(net.input("x", ["batch", 1]), net.weight(np.ones((1, 2)))), net.weight(0.0), net.weight(1.0)
    )
    explainer = Explainer(net.model(y), "sensitivity", providers="cpu")
    result = explainer.explain(np.array(samples, np.float32)[:, None])
    assert result.relevance["x"].any(axis=1).tolist() == [value < 1 for value in samples]
    (warning,) = result.warnings
    assert warning.startswith("Every gradient " + ("is 0" if len(samples) == 1 else "of sample 0 of 2 is 0"))
