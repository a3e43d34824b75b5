"""A saved explainer is a plain ONNX file: it needs onnxruntime and nothing of ours."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest
from nets import Array, Net, run, signed
from onnx import TensorProto

import onnxlrp
from onnxlrp import Explainer, Explanation, InputError, Unsupported

ONE_PASS = ["lrp", "gradient", "sensitivity", "gradient-x-input", "guided-backprop", "deconvnet", "deeplift"]


def classifier() -> onnx.ModelProto:
    """Conv, BatchNormalization, MaxPool, a residual and a Softmax, with a symbolic batch."""
    random = np.random.default_rng(0)
    net = Net()
    x = net.input("picture", ["batch", 2, 8, 8])
    stem = net.weight(signed(random, 4, 2, 3, 3)), net.weight(signed(random, 4))
    c = net.Conv(x, *stem, pads=[1, 1, 1, 1], name="stem")
    statistics = [net.weight(signed(random, 4)) for _ in range(3)] + [net.weight(np.full(4, 1.5))]
    c = net.Relu(net.BatchNormalization(c, *statistics, name="bn"), name="relu")
    p = net.MaxPool(c, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], name="pool")
    p = net.Add(p, net.Conv(p, net.weight(signed(random, 4, 4, 1, 1)), name="side"), name="join")
    logits = net.Gemm(net.Flatten(p), net.weight(signed(random, 64, 5) / 4), net.weight(signed(random, 5)), name="head")
    return net.model(net.Softmax(logits, axis=1, out="probabilities"), logits)


X = signed(np.random.default_rng(1), 3, 2, 8, 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "explainer.onnx"


def bare(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def relevance(path: Path, feeds: dict[str, Array], name: str = "relevance/picture") -> Array:
    return np.asarray(bare(path).run([name], feeds)[0])


def saved(path: Path, model: Any = None, **choices: Any) -> Explainer:
    explainer = Explainer(model if model is not None else classifier(), providers="cpu", **choices)
    explainer.save(path)
    onnx.checker.check_model(str(path), full_check=True)
    return explainer


def same(found: Array, explanation: Explanation) -> bool:
    return np.allclose(found, explanation.relevance["picture"], rtol=1e-5, atol=1e-6 * np.abs(found).max())


# --- same numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ONE_PASS)
def test_a_bare_session_gives_the_same_numbers(method: str, path: Path) -> None:
    explainer = saved(path, method=method)
    found = relevance(path, {"picture": X})
    assert found.dtype == np.float32
    assert found.any()
    assert same(found, explainer.explain(X))


@pytest.mark.parametrize("preset", [name for name in onnxlrp.PRESETS if name not in ("attnlrp", "cp-lrp", "lrp-lstm")])
def test_every_preset_can_be_saved(preset: str, path: Path) -> None:
    explainer = saved(path, preset=preset, box=(-1.5, 1.5))
    assert same(relevance(path, {"picture": X}), explainer.explain(X))


def test_target_is_an_input_with_a_default(path: Path) -> None:
    explainer = saved(path)
    default = relevance(path, {"picture": X})
    for target, ours in (([-1], None), ([2], 2), ([0, 4, 1], [0, 4, 1])):
        found = relevance(path, {"picture": X, "target": np.array(target, np.int64)})
        assert same(found, explainer.explain(X, target=ours)), target
    assert same(default, explainer.explain(X, target=None))
    largest = run(classifier(), {"picture": X}, "probabilities").argmax(axis=1)
    assert np.allclose(default, relevance(path, {"picture": X, "target": largest.astype(np.int64)}))


def test_seed_is_an_input_with_a_default(path: Path) -> None:
    explainer = saved(path)
    seed = signed(np.random.default_rng(2), 3, 5)
    everything = np.array([-2], np.int64)
    assert same(relevance(path, {"picture": X, "target": everything, "seed": seed}), explainer.explain(X, target=seed))
    doubled = relevance(path, {"picture": X, "seed": np.full((1, 1), 2, np.float32)})
    assert np.allclose(doubled, 2 * relevance(path, {"picture": X}), rtol=1e-5)


def test_any_number_of_samples(path: Path) -> None:
    saved(path)
    whole = relevance(path, {"picture": X})
    for index in range(3):
        alone = relevance(path, {"picture": X[index : index + 1]})
        assert np.allclose(alone, whole[index : index + 1], rtol=1e-5, atol=1e-6)
    assert relevance(path, {"picture": np.concatenate([X] * 4)}).shape[0] == 12


def test_the_standard_s_reference_implementation_agrees(path: Path) -> None:
    """Another runtime altogether: the file holds to the standard, not to onnxruntime's reading of it."""
    net = Net()
    hidden = net.Relu(net.Gemm(net.input("picture", ["batch", 6]), net.weight(signed(np.random.default_rng(3), 6, 5))))
    model = net.model(net.Gemm(hidden, net.weight(signed(np.random.default_rng(4), 5, 3))))
    x = signed(np.random.default_rng(5), 2, 6)
    explainer = saved(path, model, preset="alpha2-beta1")
    feeds = {"picture": x, "target": np.array([-1], np.int64), "seed": np.ones((1, 1), np.float32)}
    found = onnx.reference.ReferenceEvaluator(str(path)).run(["relevance/picture"], feeds)[0]
    assert np.allclose(found, explainer.explain(x).relevance["picture"], rtol=1e-5, atol=1e-6)


# --- what the file says ----------------------------------------------------------------------------------------------


def test_outputs_are_the_model_s_and_one_relevance_per_input(path: Path) -> None:
    saved(path)
    session = bare(path)
    assert [output.name for output in session.get_outputs()] == ["probabilities", "head", "relevance/picture"]
    assert [value.name for value in session.get_inputs()] == ["picture"]
    assert [value.name for value in session.get_overridable_initializers()] == ["target", "seed"]
    original = run(classifier(), {"picture": X})
    for name, wanted in zip(["probabilities", "head"], original, strict=True):
        assert np.allclose(session.run([name], {"picture": X})[0], wanted, rtol=1e-6, atol=1e-7)


def test_every_explained_input_has_its_own_output(path: Path) -> None:
    net = Net()
    a, b = net.input("a", ["batch", 3]), net.input("b", ["batch", 2])
    tokens = net.input("tokens", ["batch", 2], TensorProto.INT64)
    rows = net.Flatten(net.Gather(net.weight(signed(np.random.default_rng(1), 5, 2)), tokens))
    joined = net.Gemm(net.Concat(a, b, rows, axis=1), net.weight(signed(np.random.default_rng(2), 9, 4)))
    feeds = {"a": X[0, 0, :2, :3], "b": X[0, 1, :2, :2], "tokens": np.array([[1, 2], [0, 4]], np.int64)}
    explainer = saved(path, net.model(joined), preset="epsilon")
    wanted = explainer.explain(feeds).relevance
    assert {o.name for o in bare(path).get_outputs()} == {joined, "relevance/a", "relevance/b", "relevance/tokens"}
    for name in feeds:
        assert np.allclose(relevance(path, feeds, f"relevance/{name}"), wanted[name], rtol=1e-5, atol=1e-6)


def test_metadata_says_what_was_done(path: Path, tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "model.onnx")
    saved(path, tmp_path / "model.onnx", preset="epsilon-plus", rules={"head": "gamma(0.5)"}, bias="drop")
    said = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert said["onnxlrp.source_sha256"] == hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    assert said["onnxlrp.source"] == "model.onnx"
    assert said["onnxlrp.method"] == "lrp"
    assert said["onnxlrp.preset"] == "epsilon-plus"
    assert said["onnxlrp.bias"] == "drop"
    assert said["onnxlrp.version"] == onnxlrp.__version__
    assert said["onnxlrp.rule/stem + bn"] == "z-plus"
    assert said["onnxlrp.rule/head"] == "gamma(0.5)"
    assert said["onnxlrp.rule/pool"] == "winner-takes-all"
    assert said["onnxlrp.rule/join"].startswith("epsilon")


def test_every_emitted_node_is_stamped_with_what_it_serves(path: Path) -> None:
    saved(path)
    original = {node.name for node in classifier().graph.node}
    stamps = {}
    for node in onnx.load(path).graph.node:
        said = {item.key: item.value for item in node.metadata_props}
        if node.name not in original and "onnxlrp.rule" in said:
            stamps[said["onnxlrp.node"]] = said["onnxlrp.rule"]
    assert stamps.keys() >= {"stem + bn", "side", "head", "pool", "join"}
    assert stamps["side"] == "gamma(0.05)"


def test_only_standard_operators_at_the_model_s_own_opset(path: Path) -> None:
    for method in ONE_PASS:
        saved(path, method=method)
        proto = onnx.load(path)
        assert {node.domain for node in proto.graph.node} == {""}
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
        assert not proto.functions


def test_symbolic_dimensions_stay_symbolic(path: Path) -> None:
    saved(path)
    session = bare(path)
    for value in (*session.get_inputs(), *session.get_outputs()):
        assert value.shape[0] == "batch", value.name
    assert session.get_outputs()[-1].shape == ["batch", 2, 8, 8]


def test_names_of_the_model_stay_its_own(path: Path) -> None:
    """A model that has an input called target and an output called score."""
    net = Net()
    both = net.Concat(net.input("target", ["batch", 2]), net.input("seed", ["batch", 2]), axis=1)
    model = net.model(net.MatMul(both, net.weight(signed(np.random.default_rng(1), 4, 3)), out="score"))
    feeds = {"target": X[0, 0, :2, :2], "seed": X[0, 1, :2, :2]}
    explainer = saved(path, model, preset="epsilon")
    assert [value.name for value in bare(path).get_overridable_initializers()] == ["onnxlrp_target", "onnxlrp_seed"]
    wanted = explainer.explain(feeds)
    assert np.allclose(wanted.outputs["score"], run(model, feeds), rtol=1e-6)
    for name in feeds:
        assert np.allclose(relevance(path, feeds, f"relevance/{name}"), wanted.relevance[name], rtol=1e-5)


def test_half_precision_model(path: Path) -> None:
    net = Net()
    x = net.input("picture", ["batch", 4], TensorProto.FLOAT16)
    w = net.weight(signed(np.random.default_rng(1), 4, 3).astype(np.float16))
    model = net.model(net.Relu(net.MatMul(x, w), out="y"), dtypes={"y": TensorProto.FLOAT16})
    values = X[0, 0, :2, :4].astype(np.float16)
    explainer = saved(path, model, preset="epsilon")
    types = {output.name: output.type for output in bare(path).get_outputs()}
    assert types == {"y": "tensor(float16)", "relevance/picture": "tensor(float)"}
    assert same(relevance(path, {"picture": values}), explainer.explain(values))


def test_an_inner_tensor_has_its_own_output(path: Path) -> None:
    explainer = saved(path, inputs=["pool", "picture"])
    found = explainer.explain(X).relevance
    for name in ("pool", "picture"):
        assert np.allclose(relevance(path, {"picture": X}, f"relevance/{name}"), found[name], rtol=1e-5, atol=1e-6)


def test_large_weights_are_written_whole(path: Path, tmp_path: Path) -> None:
    """They are streamed from the file that they lie in, beside the protobuf or inside it."""
    net = Net()
    x = net.input("picture", ["batch", 60])
    hidden = net.Relu(net.Gemm(x, net.weight(signed(np.random.default_rng(1), 60, 70))))
    model = net.model(net.Gemm(hidden, net.weight(signed(np.random.default_rng(2), 70, 4))))
    x = signed(np.random.default_rng(3), 2, 60)
    wanted = Explainer(model, preset="epsilon").explain(x)
    onnx.save(model, tmp_path / "inside.onnx")
    onnx.save(model, tmp_path / "beside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    for source in ("inside.onnx", "beside.onnx"):
        saved(path, tmp_path / source, preset="epsilon")
        assert same(relevance(path, {"picture": x}), wanted)
    (tmp_path / "weights.bin").unlink()
    assert same(relevance(path, {"picture": x}), wanted), "the explainer stands alone"


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(set(onnxlrp.METHODS) - set(ONE_PASS)))
def test_methods_of_several_passes_cannot_be_saved(method: str, path: Path) -> None:
    explainer = Explainer(classifier(), method=method)
    with pytest.raises(Unsupported, match="not one pass"):
        explainer.save(path)
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="file"):
        Explainer(classifier()).save(tmp_path / "file" / "explainer.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
