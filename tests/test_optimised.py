"""Models saved by onnxruntime's optimisers have the relevance that they had before: the same layers, written otherwise.

The models are small ones in the pieces that PyTorch's exporters write.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxlrp
from onnxlrp.checks import verify

Array = np.ndarray[Any, Any]

CLOSE = 1e-4
"""Of the largest relevance: what stabilisers take where sums are grouped otherwise."""

WIDE, HEADS = 16, 2

LAYER_NORM = {
    17: "{y} = LayerNormalization <axis=-1, epsilon=1e-5> ({x}, {n}_scale, {n}_shift)",
    13: """{n}_m = ReduceMean <axes=[-1]> ({x})
        {n}_d = Sub({x}, {n}_m)
        {n}_p = Pow({n}_d, two)
        {n}_v = ReduceMean <axes=[-1]> ({n}_p)
        {n}_e = Add({n}_v, small)
        {n}_s = Sqrt({n}_e)
        {n}_q = Div({n}_d, {n}_s)
        {n}_g = Mul({n}_q, {n}_scale)
        {y} = Add({n}_g, {n}_shift)""",
}

GELU = """{n}_a = Div({x}, root2)
        {n}_b = Erf({n}_a)
        {n}_c = Add({n}_b, one)
        {n}_d = Mul({x}, {n}_c)
        {y} = Mul({n}_d, half)"""

TANH_GELU = """{n}_a = Pow({x}, three)
        {n}_b = Mul({n}_a, cubic)
        {n}_c = Add({x}, {n}_b)
        {n}_d = Mul({n}_c, root2pi)
        {n}_e = Tanh({n}_d)
        {n}_f = Add({n}_e, one)
        {n}_g = Mul({x}, {n}_f)
        {y} = Mul({n}_g, half)"""

HEAD = """{n}_{p}0 = MatMul({x}, {n}_w{p})
        {n}_{p}1 = Add({n}_b{p}, {n}_{p}0)
        {n}_{p}2 = Reshape({n}_{p}1, heads)
        {n}_{p} = Transpose <perm=[{perm}]> ({n}_{p}2)"""

DENSE = """{y}0 = MatMul({x}, {n}_w)
        {y} = Add({n}_b, {y}0)"""


def attention(n: str, x: str, y: str, mask: str) -> str:
    heads = [HEAD.format(n=n, p=p, x=x, perm="0, 2, 3, 1" if p == "k" else "0, 2, 1, 3") for p in "qkv"]
    return "\n".join(
        [
            *heads,
            f"{n}_z = MatMul({n}_q, {n}_k)",
            f"{n}_s = Div({n}_z, root_size)",
            f"{n}_m = Add({n}_s, {mask})",
            f"{n}_a = Softmax <axis=-1> ({n}_m)",
            f"{n}_y = MatMul({n}_a, {n}_v)",
            f"{n}_t = Transpose <perm=[0, 2, 1, 3]> ({n}_y)",
            f"{n}_f = Reshape({n}_t, flat)",
            DENSE.format(n=f"{n}_o", x=f"{n}_f", y=y),
        ]
    )


def block(n: str, x: str, y: str, opset: int, *, first: bool, gelu: str, mask: str) -> str:
    """A transformer layer, normalised first (GPT, ViT) or last (BERT)."""

    def norm(name: str, x: str, y: str) -> str:
        return LAYER_NORM[opset].format(n=f"{n}_{name}", x=x, y=y)

    attended = attention(f"{n}_a", f"{n}_0" if first else x, f"{n}_1", mask)
    parts = [norm("ln1", x, f"{n}_0"), attended] if first else [attended]
    parts.append(f"{n}_2 = Add({x}, {n}_1)")
    parts.append(norm("ln2", f"{n}_2", f"{n}_3"))
    parts.append(DENSE.format(n=f"{n}_up", x=f"{n}_3", y=f"{n}_4"))
    parts.append(gelu.format(n=f"{n}_gelu", x=f"{n}_4", y=f"{n}_5"))
    parts.append(DENSE.format(n=f"{n}_down", x=f"{n}_5", y=f"{n}_6"))
    if first:
        return "\n".join([*parts, f"{y} = Add({n}_2, {n}_6)"])
    return "\n".join([*parts, f"{n}_7 = Add({n}_6, {n}_3)", norm("ln3", f"{n}_7", y)])


def numbers(wide: int) -> dict[str, Array]:
    return {
        "two": np.array(2, np.float32),
        "three": np.array(3, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "small": np.array(1e-5, np.float32),
        "cubic": np.array(0.044715, np.float32),
        "root2": np.array(np.sqrt(2), np.float32),
        "root2pi": np.array(np.sqrt(2 / np.pi), np.float32),
        "root_size": np.array(np.sqrt(wide / HEADS), np.float32),
        "heads": np.array([0, 0, HEADS, wide // HEADS]),
        "flat": np.array([0, 0, wide]),
        "causal": np.triu(np.full((1, 1, 5, 5), -10000, np.float32), 1),
    }


def weights(text: str) -> dict[str, Array]:
    """Random numbers for every weight that the text names."""
    random, sizes = (
        np.random.default_rng(0),
        {"up_w": (WIDE, 2 * WIDE), "up_b": (2 * WIDE,), "down_w": (2 * WIDE, WIDE)},
    )
    found = dict(numbers(WIDE))
    for name in sorted(set(re.findall(r"\b\w+_(?:w|b)[qkv]?\b|\b\w+_(?:scale|shift)\b", text))):
        if re.search(rf"(?m)^\s*{name} =", text):
            continue
        size = next((s for end, s in sizes.items() if name.endswith(end)), None)
        shape = size or ((WIDE, WIDE) if re.search(r"_w[qkv]?$", name) else (WIDE,))
        found[name] = (random.normal(size=shape) / np.sqrt(shape[0] if len(shape) == 2 else 4)).astype(np.float32)
        if name.endswith("scale"):
            found[name] = np.abs(found[name]) + np.float32(0.5)
    return {name: array for name, array in found.items() if re.search(rf"\b{name}\b", text)}


def model_of(opset: int, *, first: bool, gelu: str, mask: str) -> onnx.ModelProto:
    """Two layers over float embeddings, and a dense head."""
    body = "\n".join(
        [
            block("l0", "x", "h0", opset, first=first, gelu=gelu, mask=mask),
            block("l1", "h0", "h1", opset, first=first, gelu=gelu, mask=mask),
            DENSE.format(n="head", x="h1", y="y"),
        ]
    )
    inputs = f"float[batch, 5, {WIDE}] x" + (", float[batch, 1, 1, 5] mask" if mask == "mask" else "")
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => (float[batch, 5, {WIDE}] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights(body).items())
    return onnx.shape_inference.infer_shapes(model)


MODELS = {
    "bert-13": lambda: model_of(13, first=False, gelu=GELU, mask="mask"),
    "bert-17": lambda: model_of(17, first=False, gelu=GELU, mask="mask"),
    "gpt-17": lambda: model_of(17, first=True, gelu=TANH_GELU, mask="causal"),
    "vit-13": lambda: model_of(13, first=True, gelu=GELU, mask="causal"),
}

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def optimised(model: onnx.ModelProto, level: str, folder: Path) -> onnx.ModelProto:
    """What onnxruntime saves."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def fused_by_transformers(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What onnxruntime.transformers.optimizer saves."""
    from onnxruntime.transformers import optimizer

    onnx.save(model, folder / "plain.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optimizer.optimize_model(
            str(folder / "plain.onnx"), "bert", num_heads=HEADS, hidden_size=WIDE, opt_level=0
        )
        found.save_model_to_file(str(folder / "fused.onnx"))
    return onnx.load(folder / "fused.onnx")


@pytest.mark.parametrize("level", [*LEVELS, "transformers"])
@pytest.mark.parametrize("name", MODELS)
def test_an_optimised_model_explains_as_before(name: str, level: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    other = fused_by_transformers(model, tmp_path) if level == "transformers" else optimised(model, level, tmp_path)
    random = np.random.default_rng(1)
    feeds = {"x": random.normal(size=(2, 5, WIDE)).astype(np.float32)}
    if "mask" in {value.name for value in model.graph.input}:
        feeds["mask"] = np.array([[0, 0, 0, 0, 0], [0, 0, 0, -1e4, -1e4]], np.float32).reshape(2, 1, 1, 5)
    seed = random.normal(size=(2, 5, WIDE)).astype(np.float32)
    for method, preset in (("gradient", None), ("lrp", "epsilon"), ("lrp", "attnlrp"), ("lrp", "cp-lrp")):
        before, after = (
            onnxlrp.Explainer(m, method=method, preset=preset, inputs=["x"], output="y", providers="cpu")
            .explain(feeds, target=seed)
            .relevance["x"]
            for m in (model, other)
        )
        assert np.abs(after - before).max() <= CLOSE * np.abs(before).max(), (method, preset)


CONVOLUTIONS = """a = Conv <kernel_shape=[3, 3], pads=[1, 1, 1, 1]> (x, v)
        b = Relu(a)
        c = Conv <kernel_shape=[3, 3], pads=[1, 1, 1, 1]> (b, w)
        d = Add(c, b)
        e = Relu(d)
        f = MaxPool <kernel_shape=[2, 2], strides=[2, 2]> (e)
        g = Conv <kernel_shape=[1, 1]> (f, u)
        h = GlobalAveragePool(g)
        y = Flatten(h)"""


def test_channels_in_blocks_explain_as_before(tmp_path: Path) -> None:
    """NCHWc: what level "all" saves of a net of convolutions."""
    signature = "g (float[batch, 3, 8, 8] x) => (float[batch, 16] y)"
    text = f'<ir_version: 8, opset_import: ["": 13]> {signature} {{ {CONVOLUTIONS} }}'
    model, random = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {"v": (16, 3, 3, 3), "w": (16, 16, 3, 3), "u": (16, 16, 1, 1)}.items():
        array = (random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    other = optimised(model, "all", tmp_path)
    if "com.microsoft.nchwc" not in {node.domain for node in other.graph.node}:
        pytest.skip("onnxruntime puts no channels into blocks on this processor")
    feeds = {"x": random.normal(size=(2, 3, 8, 8)).astype(np.float32)}
    for method, preset in (("gradient", None), ("lrp", "epsilon"), ("lrp", "epsilon-plus")):
        before, after = (
            onnxlrp.Explainer(m, method=method, preset=preset, output="y", providers="cpu")
            .explain(feeds, target=3)
            .relevance["x"]
            for m in (model, other)
        )
        assert np.abs(after - before).max() <= CLOSE * np.abs(before).max(), (method, preset)


def test_attention_without_a_bias_has_one_of_zeros() -> None:
    """onnxruntime's CPU kernel reads it unasked: the file as it is ends the process."""
    weight = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    found = []
    for bias in ("", ", b"):
        body = f"a = com.microsoft.Attention <num_heads = 2> (x, w{bias}) y = Relu(a)"
        signature = "g (float[batch, 3, 4] x) => (float[batch, 3, 4] y)"
        text = f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> {signature} {{ {body} }}'
        model = onnx.parser.parse_model(text)
        model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        if bias:
            model.graph.initializer.append(numpy_helper.from_array(np.zeros(12, np.float32), "b"))
        found.append(onnxlrp.Explainer(model, target=(1, 2), providers="cpu").explain(np.ones((2, 3, 4), np.float32)))
        assert verify(model, {"x": np.ones((2, 3, 4), np.float32)}, providers="cpu").holds
    np.testing.assert_array_equal(found[0].relevance["x"], found[1].relevance["x"])
    np.testing.assert_array_equal(found[0].outputs["y"], found[1].outputs["y"])
