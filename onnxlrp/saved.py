"""A saved explainer as its users meet it: what goes in and out, and whether the standard's checker accepts it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxlrp.explain import Explainer
from onnxlrp.reading.storage import read_skeleton


@dataclass(frozen=True)
class Saved:
    """A saved explainer. problem : what onnx.checker objects to; empty where it accepts the file"""

    path: str
    bytes: int
    title: str
    opset: int
    nodes: int
    original_nodes: int
    inputs: list[str]
    outputs: list[str]
    problem: str

    @property
    def megabytes(self) -> float:
        return self.bytes / 1e6

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_saved(path: Path, explainer: Explainer) -> Saved:
    """Read an explainer back and check it in full. Errors: ModelError where the file cannot be read."""
    proto = read_skeleton(path)
    defaults = {tensor.name for tensor in proto.graph.initializer}
    preset = f" {explainer.preset}" if explainer.preset else ""
    data = path.with_name(path.name + ".data")
    size = path.stat().st_size + (data.stat().st_size if data.is_file() else 0)
    return Saved(
        str(path),
        size,
        f"{explainer.method.name}{preset}",
        max(entry.version for entry in proto.opset_import if entry.domain == ""),
        len(proto.graph.node),
        len(explainer.model.graph),
        [_described(value) + (" (has a default)" if value.name in defaults else "") for value in proto.graph.input],
        [_described(value) for value in proto.graph.output],
        objection(path),
    )


def objection(path: Path) -> str:
    """What onnx.checker with full checks (shape inference included) has against a file; empty where it accepts it."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).strip()
    return ""


def _described(value: onnx.ValueInfoProto) -> str:
    """`name float32[batch, 3, 224, 224]`, as other messages write it."""
    tensor = value.type.tensor_type
    dims = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}[{', '.join(dims)}]"
