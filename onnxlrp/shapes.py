"""Shapes of every tensor: what the nodes compute, completed by what the file declares."""

from __future__ import annotations

import onnx
import onnx.shape_inference


def infer_shapes(proto: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """Infer types and shapes from the inputs alone; a declaration only fills what inference leaves open.

    Files declare wrong shapes more often than one would think: exporters infer them with rules of an old opset, and
    tools rename or resize a tensor and leave its declaration. onnxruntime ignores those, so we do.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    inferred = _inferred(bare)
    if inferred is None:
        return _inferred(proto, notes) or proto
    _forget_what_is_inferred_wrong(inferred)
    declared = {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}
    found = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
    wrong = [name for name, value in found.items() if name in declared and not _complete(value, declared[name])]
    inferred.graph.value_info.extend(
        value for value in proto.graph.value_info if value.name not in found and value.type.WhichOneof("value")
    )
    if wrong:
        notes.append(f"Declared shapes that contradict the nodes are not believed: {', '.join(wrong[:4])}.")
    return inferred


def _inferred(proto: onnx.ModelProto, notes: list[str] | None = None) -> onnx.ModelProto | None:
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (RuntimeError, ValueError, MemoryError, onnx.shape_inference.InferenceError) as error:
        if notes is not None:
            notes.append(f"Shape inference stopped: {(str(error).strip() or 'no reason given').splitlines()[0]}")
        return None


def _forget_what_is_inferred_wrong(proto: onnx.ModelProto) -> None:
    """Attention: the standard's inference writes 0 for the length of the keys where that is a name.
    STFT: it gives all frequencies where half of them are asked for."""
    makers = {name: node.op_type for node in proto.graph.node if not node.domain for name in node.output}
    for value in (*proto.graph.value_info, *proto.graph.output):
        dims, maker = value.type.tensor_type.shape.dim, makers.get(value.name)
        wrong = dims[2:3] if maker == "STFT" else [d for d in dims if d.HasField("dim_value") and not d.dim_value]
        for dimension in wrong if maker in ("Attention", "STFT") else ():
            dimension.Clear()


def _complete(found: onnx.ValueInfoProto, declared: onnx.ValueInfoProto) -> bool:
    """Fill what inference left open from the declaration, in place.  returns: False where the two contradict."""
    if declared.type.WhichOneof("value") != "tensor_type" or found.type.WhichOneof("value") not in (
        None,
        "tensor_type",
    ):
        return True
    ours, theirs = found.type.tensor_type, declared.type.tensor_type
    ours.elem_type = ours.elem_type or theirs.elem_type
    if not theirs.HasField("shape"):
        return True
    if not ours.HasField("shape"):
        ours.shape.CopyFrom(theirs.shape)
        return True
    if len(ours.shape.dim) != len(theirs.shape.dim):
        return False
    agree = True
    for dimension, said in zip(ours.shape.dim, theirs.shape.dim, strict=True):
        if not dimension.HasField("dim_value") and (said.HasField("dim_value") or not dimension.dim_param):
            dimension.CopyFrom(said)
        agree &= not said.HasField("dim_value") or dimension.dim_value == said.dim_value
    return agree
