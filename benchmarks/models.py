"""Well-known architectures with random weights, written straight to ONNX: speed does not depend on training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Writer:
    """Collects nodes and weights; every layer method returns the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)
        self.channels = {"image": 3}

    def node(self, op_type: str, inputs: list[str], channels: int, **attributes: object) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self.channels[name] = channels
        return name

    def weight(self, *shape: int, fan_in: int) -> str:
        name = f"w{len(self.weights)}"
        values = self.random.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2 / fan_in))
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def bias(self, size: int) -> str:
        name = f"w{len(self.weights)}"
        values = 0.01 * self.random.standard_normal(size)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, out: int, k: int, stride: int = 1, group: int = 1, relu: bool = True) -> str:
        inner = self.channels[x] // group
        weights = [self.weight(out, inner, k, k, fan_in=inner * k * k), self.bias(out)]
        pads = [k // 2] * 4
        y = self.node("Conv", [x, *weights], out, kernel_shape=[k, k], strides=[stride] * 2, pads=pads, group=group)
        return self.node("Relu", [y], out) if relu else y

    def dense(self, x: str, inner: int, out: int, relu: bool = False) -> str:
        y = self.node("Gemm", [x, self.weight(out, inner, fan_in=inner), self.bias(out)], out, transB=1)
        return self.node("Relu", [y], out) if relu else y

    def save(self, output: str, path: Path, name: str) -> Path:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])
        logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 1000])
        graph = helper.make_graph(self.nodes, name, [image], [logits], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(path))
        return path


def resnet50(path: Path) -> Path:
    """He et al. 2015, BatchNormalization folded as exporters do."""
    w = Writer()
    x = w.node("MaxPool", [w.conv("image", 64, 7, 2)], 64, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            y = w.conv(w.conv(w.conv(x, width, 1), width, 3, step), 4 * width, 1, relu=False)
            shortcut = x if block else w.conv(x, 4 * width, 1, step, relu=False)
            x = w.node("Relu", [w.node("Add", [y, shortcut], 4 * width)], 4 * width)
    pooled = w.node("Flatten", [w.node("GlobalAveragePool", [x], 2048)], 2048)
    return w.save(w.dense(pooled, 2048, 1000), path, "resnet50")


def resnet18(path: Path) -> Path:
    """He et al. 2015, BatchNormalization folded."""
    w = Writer()
    x = w.node("MaxPool", [w.conv("image", 64, 7, 2)], 64, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for block in range(2):
            step = stride if block == 0 else 1
            y = w.conv(w.conv(x, width, 3, step), width, 3, relu=False)
            shortcut = x if w.channels[x] == width else w.conv(x, width, 1, step, relu=False)
            x = w.node("Relu", [w.node("Add", [y, shortcut], width)], width)
    pooled = w.node("Flatten", [w.node("GlobalAveragePool", [x], 512)], 512)
    return w.save(w.dense(pooled, 512, 1000), path, "resnet18")


def vgg16(path: Path) -> Path:
    """Simonyan and Zisserman 2014: 528 MB of weights."""
    w = Writer()
    x = "image"
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            x = w.conv(x, width, 3)
        x = w.node("MaxPool", [x], width, kernel_shape=[2, 2], strides=[2, 2])
    x = w.node("Flatten", [x], 512 * 49)
    x = w.dense(w.dense(x, 512 * 49, 4096, relu=True), 4096, 4096, relu=True)
    return w.save(w.dense(x, 4096, 1000), path, "vgg16")


MODELS = {"resnet18": resnet18, "resnet50": resnet50, "vgg16": vgg16}


def model_file(name: str, folder: Path) -> Path:
    """The file of a model, written once."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    return path if path.exists() else MODELS[name](path)
