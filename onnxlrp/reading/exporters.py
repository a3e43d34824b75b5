"""Who wrote a file, as far as it tells: the producer it names, the habits of its names, and who went over it since."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

UNKNOWN = "unknown exporter"

PRODUCERS = {
    "tf2onnx": "TensorFlow/Keras (tf2onnx)",
    "keras2onnx": "Keras (keras2onnx)",
    "onnx-caffe2": "Caffe2",
    "caffe2": "Caffe2",
    "caffe2onnx": "Caffe",
    "cntk": "CNTK",
    "skl2onnx": "scikit-learn (skl2onnx)",
    "onnxmltools": "onnxmltools",
    "winmltools": "WinMLTools",
    "onnxconverter-common": "onnxconverter-common",
    "paddlepaddle": "PaddlePaddle",
    "paddle2onnx": "PaddlePaddle",
    "onnx.quantize": "onnxruntime quantiser",
    "onnxruntime.quantization": "onnxruntime quantiser",
    "onnxruntime.transformers": "onnxruntime transformers optimiser",
    "onnxruntime-genai": "onnxruntime-genai",
    "jax2onnx": "JAX (jax2onnx)",
    "ml.net": "ML.NET",
    "mxnet": "MXNet",
    "chainer": "Chainer (onnx-chainer)",
    "coremltools": "Core ML (coremltools)",
    "enpasos": "DJL (enpasos)",
    "mindspore": "MindSpore",
    "neural network libraries": "Neural Network Libraries (nnabla)",
    "nnabla": "Neural Network Libraries (nnabla)",
    "catboost": "CatBoost",
    "h2o": "H2O",
    "spox": "Spox",
    "onnxscript": "onnxscript",
    "mlprodict": "mlprodict",
    "sclblonnx": "sclblonnx",
    "tflite2onnx": "TensorFlow Lite (tflite2onnx)",
    "wolfram language": "Wolfram Language",
    "backend-test": "ONNX backend test",
    "onnx-example": "ONNX example",
    "matlab deep learning toolbox converter for onnx model format": "MATLAB",
}
"""Producer as files spell it, in lower case → how it is shown."""

OPTIMISED_DOMAINS = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc", "com.microsoft.experimental"})
"""Imported by every file that an onnxruntime session has written."""

QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
INTEGER = re.compile(r"QLinear\w+|\w+Integer\w*|QGemm|QAttention|QEmbed\w+|DynamicQuantize\w+|MatMulNBits")

JAX_NAMES = re.compile(r"(in_\d+|(v|var|out|bcast_out)_\d+)$")
"""How jax2onnx numbers the inputs and outputs of files in which it names no producer."""


def exporter_of(proto: onnx.ModelProto) -> str:
    """The exporter with its version, and whether the file was quantised or optimised by onnxruntime afterwards."""
    producer, version = proto.producer_name.strip(), proto.producer_version.strip()
    name = name_of(proto)
    types = {node.op_type for node in proto.graph.node}
    finish = [*_quantised(types), *(["optimised by onnxruntime"] if _optimised(proto, producer) else [])]
    return ", ".join([f"{name} {version}".strip(), *finish])


def name_of(proto: onnx.ModelProto) -> str:
    """The exporter alone: "Caffe2", "PyTorch (dynamo exporter)"."""
    producer = proto.producer_name.strip()
    known = PRODUCERS.get(producer.lower())
    if known is not None:
        return known
    if producer.lower() == "pytorch":
        return "PyTorch (dynamo exporter)" if _from_dynamo(proto) else "PyTorch (TorchScript exporter)"
    if not producer and _named_by_jax2onnx(proto):
        return "JAX (jax2onnx)"
    return producer or UNKNOWN


def _from_dynamo(proto: onnx.ModelProto) -> bool:
    """torch.export's programs leave their classes and stack traces at the nodes; torch.jit's leave none."""
    return any("pkg.torch" in item.key for node in proto.graph.node for item in node.metadata_props)


def _named_by_jax2onnx(proto: onnx.ModelProto) -> bool:
    names = [value.name for value in (*proto.graph.input, *proto.graph.output)]
    return bool(names) and all(map(JAX_NAMES.match, names))


def _quantised(types: Iterable[str]) -> list[str]:
    """Which of the two forms a quantised file is in; QuantizeLinear stands at the borders of both."""
    found = set(types)
    if any(map(INTEGER.fullmatch, found)):
        return ["quantised (integer operators)"]
    return ["quantised (QDQ)"] if QDQ & found else []


def _optimised(proto: onnx.ModelProto, producer: str) -> bool:
    """Whether a session of onnxruntime wrote the file; its quantiser and optimiser do so and say who they are."""
    ours = producer.lower().startswith(("onnxruntime", "onnx.quantize"))
    return not ours and bool(OPTIMISED_DOMAINS & {entry.domain for entry in proto.opset_import})
