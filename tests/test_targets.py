"""Every way to name a target, on every kind of output. The nets are linear, so the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from nets import Array, Net, signed
from onnx import TensorProto, helper

from onnxlrp import ChoiceError, Explainer, InputError, Unsupported

W = signed(np.random.default_rng(0), 4, 3)
X = signed(np.random.default_rng(1), 2, 4)
LABELS = ("cat", "dog", "tail-less cat")
CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 1e-5}


def scores(**head: Any) -> onnx.ModelProto:
    """y = x·W (batch, 3), optionally behind a head; head = {operator: attributes} in order."""
    net = Net()
    y = net.MatMul(net.input("x", ["batch", 4]), net.weight(W), out="logits", name="dense")
    for op_type, attributes in head.items():
        shape = attributes.pop("shape", None)
        operands = [y] if shape is None else [y, net.weight(np.array(shape, np.int64))]
        y = net.add(op_type, operands, **attributes)
    return net.model(y)


def parts() -> Array:
    """(sample, input, class): the relevance of each input for each class, x_i·w_ik."""
    return X[:, :, None] * W[None]


def ask(model: Any, target: Any, x: Array = X, **choices: Any) -> Any:
    return Explainer(model, preset="epsilon", providers="cpu", **choices).explain(x, target=target)


# --- one class -------------------------------------------------------------------------------------------------------


def test_none_is_the_largest_element_of_each_sample() -> None:
    best = (X @ W).argmax(axis=1)
    assert len(set(best)) == 2, "the samples should differ"
    result = ask(scores(), None)
    assert result.target == best.tolist()
    assert np.allclose(result.score, (X @ W).max(axis=1), **CLOSE)
    assert np.allclose(result.relevance["x"], parts()[np.arange(2), :, best], **CLOSE)


@pytest.mark.parametrize("target", [1, np.int64(1), (1,), [1, 1], np.array([1, 1]), "dog", "1", ["dog", 1]], ids=repr)
def test_a_class_has_many_spellings(target: Any) -> None:
    result = ask(scores(), target, labels=LABELS)
    assert np.allclose(result.relevance["x"], parts()[:, :, 1], **CLOSE)
    assert np.allclose(result.score, (X @ W)[:, 1], **CLOSE)


def test_a_list_names_one_class_per_sample() -> None:
    result = ask(scores(), [2, 0])
    assert np.allclose(result.relevance["x"], parts()[[0, 1], :, [2, 0]], **CLOSE)
    assert result.target == [2, 0]
    named = ask(scores(), ["tail-less cat", "cat"], labels=LABELS)
    assert np.array_equal(named.relevance["x"], result.relevance["x"])
    assert [named.label(0), named.label(1)] == ["tail-less cat", "cat"]


def test_the_call_overrides_the_constructor() -> None:
    explainer = Explainer(scores(), preset="epsilon", target=2, providers="cpu")
    assert np.allclose(explainer.explain(X).relevance["x"], parts()[:, :, 2], **CLOSE)
    assert np.allclose(explainer.explain(X, target=0).relevance["x"], parts()[:, :, 0], **CLOSE)


def test_targets_survive_slicing_into_batches() -> None:
    x, targets = signed(np.random.default_rng(3), 7, 4), [0, 1, 2, 2, 1, 0, 1]
    whole, sliced = (ask(scores(), targets, x, batch_size=size) for size in (16, 3))
    assert np.allclose(whole.relevance["x"], sliced.relevance["x"], rtol=1e-6)
    assert np.allclose(sliced.relevance["x"], x * W[:, targets].T, **CLOSE)
    seed = signed(np.random.default_rng(4), 7, 3)
    whole, sliced = (ask(scores(), seed, x, batch_size=size) for size in (16, 3))
    assert np.allclose(whole.relevance["x"], sliced.relevance["x"], rtol=1e-5)


# --- several classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "plus", "minus"),
    [(("dog", "cat"), 1, 0), ("dog-cat", 1, 0), ("dog - cat", 1, 0), ("tail-less cat-dog", 2, 1), ("2-0", 2, 0)],
)
def test_a_contrast_is_the_difference_of_two_classes(target: Any, plus: int, minus: int) -> None:
    result = ask(scores(), target, labels=LABELS)
    assert np.allclose(result.relevance["x"], parts()[:, :, plus] - parts()[:, :, minus], **CLOSE)
    assert np.allclose(result.score, (X @ W)[:, plus] - (X @ W)[:, minus], **CLOSE)


def test_a_label_with_a_dash_is_a_label_first() -> None:
    assert np.allclose(ask(scores(), "tail-less cat", labels=LABELS).relevance["x"], parts()[:, :, 2], **CLOSE)


def test_all_puts_a_class_axis_in_front() -> None:
    result = ask(scores(), "all")
    assert result.relevance["x"].shape == (3, 2, 4)
    assert np.allclose(result.relevance["x"], parts().transpose(2, 0, 1), **CLOSE)
    assert np.allclose(result.score, (X @ W).T, **CLOSE)


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_a_float_array_seeds_relevance_in_lrp_and_the_cotangent_in_gradients() -> None:
    seed = signed(np.random.default_rng(5), 2, 3)
    lrp, gradient = ask(scores(), seed), Explainer(scores(), method="gradient").explain(X, target=seed)
    assert np.allclose(lrp.relevance["x"], (parts() * seed[:, None]).sum(axis=2), **CLOSE)
    assert np.allclose(gradient.relevance["x"], seed @ W.T, **CLOSE)
    assert np.allclose(lrp.score, (seed * (X @ W)).sum(axis=1), **CLOSE)
    assert np.allclose(gradient.score, lrp.score, **CLOSE)


TARGETS = [None, 1, [2, 0], (2,), "1-0", signed(np.random.default_rng(6), 2, 3)]


@pytest.mark.parametrize("target", TARGETS, ids=["none", "int", "list", "tuple", "contrast", "seed"])
@pytest.mark.parametrize("method", ["integrated-gradients", "smoothgrad", "finite-difference", "occlusion", "deeplift"])
def test_all_methods_read_a_target_alike(method: str, target: Any) -> None:
    """On a linear net each of them is the gradient, times the input or not."""
    gradient = Explainer(scores(), method="gradient").explain(X, target=target)
    options = {"window": 1} if method == "occlusion" else {}
    other = Explainer(scores(), method=method, **options).explain(X, target=target)
    plain = method in ("smoothgrad", "finite-difference")
    wanted = gradient.relevance["x"] * (1 if plain else X)
    assert np.allclose(other.relevance["x"], wanted, rtol=5e-3, atol=5e-3)
    assert np.allclose(other.score, gradient.score, **CLOSE)
    assert other.target == gradient.target


# --- outputs of other ranks ------------------------------------------------------------------------------------------


def segmenter() -> tuple[onnx.ModelProto, Array, Array]:
    net = Net()
    kernel = signed(np.random.default_rng(7), 3, 2, 1, 1)
    model = net.model(net.Conv(net.input("x", ["batch", 2, 3, 4]), net.weight(kernel)))
    x = signed(np.random.default_rng(8), 2, 2, 3, 4)
    return model, x, np.einsum("bihw,ci->cbihw", x, kernel[:, :, 0, 0])


def test_an_int_on_a_map_is_a_class_summed_over_space() -> None:
    model, x, each = segmenter()
    result = ask(model, 1, x)
    assert np.allclose(result.relevance["x"], each[1], **CLOSE)
    assert np.allclose(result.score, each[1].sum(axis=(1, 2, 3)), rtol=1e-4)


def test_a_tuple_on_a_map_is_one_pixel_of_a_class() -> None:
    model, x, each = segmenter()
    wanted = np.zeros_like(x)
    wanted[:, :, 2, 1] = each[2][:, :, 2, 1]
    assert np.allclose(ask(model, (2, 2, 1), x).relevance["x"], wanted, **CLOSE)


def test_none_on_a_map_is_its_largest_element() -> None:
    model, x, each = segmenter()
    result = ask(model, None, x)
    y = each.sum(axis=2).transpose(1, 0, 2, 3)
    assert result.target == [tuple(int(i) for i in np.unravel_index(sample.argmax(), sample.shape)) for sample in y]
    assert np.count_nonzero(result.relevance["x"]) == 2 * 2


def test_a_seed_on_a_map_is_a_mask() -> None:
    model, x, each = segmenter()
    seed = np.zeros((2, 3, 3, 4), np.float32)
    seed[:, 1, :2] = 1
    wanted = np.where(np.arange(3)[None, None, :, None] < 2, each[1], 0)
    assert np.allclose(ask(model, seed, x).relevance["x"], wanted, **CLOSE)


def regressor() -> onnx.ModelProto:
    net = Net()
    y = net.MatMul(net.input("x", ["batch", 4]), net.weight(W[:, :1]))
    return net.model(net.Squeeze(y, net.weight(np.array([1], np.int64))))


@pytest.mark.parametrize("target", [None, 0, np.ones(2, np.float32), "all"], ids=repr)
def test_an_output_of_one_number_per_sample(target: Any) -> None:
    found = ask(regressor(), target).relevance["x"]
    assert np.allclose(found[0] if isinstance(target, str) else found, X * W[:, 0], **CLOSE)


def vector_model() -> onnx.ModelProto:
    """x (4) → y (3): no batch anywhere, so a call is one sample."""
    net = Net()
    return net.model(net.MatMul(net.input("x", [4]), net.weight(W)))


@pytest.mark.parametrize("target", [2, (2,), [2], "2", np.array([0, 0, 1], np.float32)], ids=repr)
@pytest.mark.parametrize("method", ["lrp", "finite-difference"])
def test_an_output_without_a_batch_is_one_sample(method: str, target: Any) -> None:
    result = Explainer(vector_model(), method=method).explain(X[0], target=target)
    wanted = X[0] * W[:, 2] if method == "lrp" else W[:, 2]
    assert np.allclose(result.relevance["x"], wanted, rtol=1e-3, atol=1e-3)
    assert np.allclose(result.score, [X[0] @ W[:, 2]], **CLOSE)


def test_the_largest_element_without_a_batch() -> None:
    best = int((X[0] @ W).argmax())
    result = ask(vector_model(), None, X[0])
    assert result.target == [best]
    assert np.allclose(result.relevance["x"], X[0] * W[:, best], **CLOSE)


# --- stepping back to logits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        {"Softmax": {"axis": 1}},
        {"LogSoftmax": {"axis": -1}},
        {"Sigmoid": {}},
        {"Reshape": {"shape": [-1, 3, 1, 1]}, "Softmax": {"axis": 1}, "Flatten": {}},
        {"Softmax": {"axis": 1}, "Identity": {}},
        {"Dropout": {}, "Sigmoid": {}},
    ],
    ids="+".join,
)
def test_probabilities_are_explained_by_their_logits(head: dict[str, Any]) -> None:
    model = scores(**{name: dict(attributes) for name, attributes in head.items()})
    result = ask(model, 1)
    assert np.allclose(result.relevance["x"], parts()[:, :, 1], **CLOSE)
    assert np.allclose(result.score, (X @ W)[:, 1], **CLOSE)
    assert set(result.outputs) == {model.graph.output[0].name}
    best = (X @ W).argmax(axis=1)
    assert ask(model, None).target == best.tolist()


def test_reshaped_probabilities_are_indexed_as_the_output() -> None:
    """The logits are (batch, 3), the output is (batch, 1, 3)."""
    model = scores(Softmax={"axis": 1}, Reshape={"shape": [-1, 1, 3]})
    assert np.allclose(ask(model, (0, 2)).relevance["x"], parts()[:, :, 2], **CLOSE)
    seed = np.zeros((2, 1, 3), np.float32)
    seed[:, 0, 2] = 1
    assert np.allclose(ask(model, seed).relevance["x"], parts()[:, :, 2], **CLOSE)
    assert np.allclose(ask(model, 0).relevance["x"], parts().sum(axis=2), **CLOSE)


def test_a_named_output_is_explained_as_it_is() -> None:
    model = scores(Sigmoid={"out": "p"})
    p = 1 / (1 + np.exp(-(X @ W)))
    result = ask(model, 1, output="p")
    assert np.allclose(result.score, p[:, 1], **CLOSE)
    assert np.allclose(result.relevance["x"].sum(axis=1), p[:, 1], rtol=1e-4)
    assert np.allclose(ask(model, 1, output="logits").score, (X @ W)[:, 1], **CLOSE)


@pytest.mark.parametrize("spelling", ["argmax", "argmax and cast", "looked up"])
def test_label_outputs_are_explained_by_the_scores_behind_them(spelling: str) -> None:
    net = Net()
    logits = net.MatMul(net.input("x", ["batch", 4]), net.weight(W), out="logits")
    label = net.ArgMax(net.Softmax(logits, axis=1), axis=1, keepdims=0)
    kind = TensorProto.INT64
    if spelling == "argmax and cast":
        label, kind = net.Cast(label, to=TensorProto.INT32), TensorProto.INT32
    if spelling == "looked up":
        label = net.Gather(net.weight(np.array([7, 8, 9], np.int64)), label)
    model = net.model(label, dtypes={label: kind})
    result = ask(model, None)
    best = (X @ W).argmax(axis=1)
    assert np.allclose(result.relevance["x"], parts()[np.arange(2), :, best], **CLOSE)
    assert np.allclose(ask(model, 2).relevance["x"], parts()[:, :, 2], **CLOSE)


def test_a_model_of_labels_alone_says_so() -> None:
    graph = helper.make_graph(
        [helper.make_node("Shape", ["x"], ["y"])],
        "labels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(Unsupported, match="No output of the model holds floats"):
        Explainer(model)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "3 is out of range.*0 to 2"),
        (-1, "-1 is out of range"),
        ([0, 5], "5 is out of range"),
        ((3,), "3 is out of range"),
        ((0, 0), "2 indices; one sample of the output has 1"),
        ([0], "1 targets were given for 2 samples"),
        ([0, 1, 2], "3 targets were given for 2 samples"),
        ("bird", "no label 'bird'"),
        ("dgo", "Did you mean 'dog'"),
        ("dog-bird", "no label 'dog-bird'"),
        (("dog", "bird"), "no label 'bird'"),
        (True, "True is no target"),
        ([True, 0], "True is no target"),
        (1.5, "1.5 is no target"),
        ({"class": 1}, "is no target"),
        ([None, 0], "is no target"),
    ],
    ids=repr,
)
def test_a_target_that_does_not_exist_is_named(target: Any, message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        ask(scores(), target, labels=LABELS)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1), (3, 3), ()], ids=str)
def test_a_seed_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"The seed has shape .*, and the output"):
        ask(scores(), np.ones(shape, np.float32))


def test_a_seed_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        ask(scores(), np.full((2, 3), np.nan, np.float32))


def test_a_label_without_labels_says_what_to_do() -> None:
    with pytest.raises(ChoiceError, match=r"no labels are known.*sidecar"):
        ask(scores(), "dog")


@pytest.mark.parametrize("target", ["crane", "crane-dog", ["dog", "crane"]], ids=repr)
def test_a_name_of_two_classes_is_not_taken_for_the_first(target: Any) -> None:
    with pytest.raises(ChoiceError, match=r"'crane' is the name of 2 classes: 0, 2\. Give the index"):
        ask(scores(), target, labels=("crane", "dog", "crane"))
