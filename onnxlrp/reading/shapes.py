"""Shapes of every tensor: what the nodes compute, completed by what the file declares."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.reference
import onnx.shape_inference

from onnxlrp.reading.structure import graphs_in

_KEYS = {"keys_floats": onnx.TensorProto.FLOAT, "keys_int64s": onnx.TensorProto.INT64}
"""Attributes of LabelEncoder that tell the type of what it reads; else it is text."""

_OF_SIZES = frozenset(
    {"Add", "Cast", "Concat", "Div", "Gather", "Mod", "Mul", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze"}
)
"""Operators that exporters compute sizes with; where all they read is constant, so are the sizes."""

_MOST_SIZES = 64
"""Elements up to which whole numbers are taken for sizes."""


def infer_shapes(proto: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """Infer types and shapes from the inputs alone; a declaration only fills what inference leaves open.

    Files declare wrong shapes more often than one would think: exporters infer them with rules of an old opset, and
    tools rename or resize a tensor and leave its declaration. onnxruntime ignores those, so we do.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    _forget_declarations(bare.graph)
    folded = _fold_sizes(bare)
    inferred = _inferred(bare)
    if inferred is None:
        return _inferred(proto, notes) or proto
    for index in folded:
        inferred.graph.node[index].CopyFrom(proto.graph.node[index])
    _forget_what_is_inferred_wrong(inferred)
    wrong = _complete_graph(inferred.graph, proto.graph)
    if misread := _forget_wrong_states(inferred.graph, {}):
        inferred = _inferred(inferred) or inferred
    if wrong or misread:
        notes.append(f"Declared shapes that contradict the nodes are not believed: {', '.join((wrong + misread)[:4])}.")
    return inferred


def declare_operands(proto: onnx.ModelProto) -> None:
    """Give a type to what some operators read, in place: of what has none, onnx's inference of them is a segfault.

    They are LabelEncoder, DictVectorizer and RegexFullMatch, up to onnx 1.23 at least. What onnx cannot infer has no
    type: the output of a tree ensemble, or of an operator of another domain.
    """
    for graph in graphs_in(proto.graph):
        typed = {value.name for value in (*graph.value_info, *graph.input) if value.type.WhichOneof("value")}
        typed |= {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            found = _type_read(node) if node.input and node.input[0] not in typed else None
            if found is not None:
                graph.value_info.append(onnx.helper.make_value_info(node.input[0], found))
                typed.add(node.input[0])


def _type_read(node: onnx.NodeProto) -> onnx.TypeProto | None:
    """What an operator reads whose inference needs to know; None for all others."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "LabelEncoder":
        tensor = given["keys_tensor"].t.data_type if "keys_tensor" in given else onnx.TensorProto.STRING
        kind = next((kind for name, kind in _KEYS.items() if name in given), tensor)
        return onnx.helper.make_tensor_type_proto(kind, None)
    if node.op_type == "DictVectorizer":
        number = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
        key = onnx.TensorProto.INT64 if "int64_vocabulary" in given else onnx.TensorProto.STRING
        return onnx.helper.make_map_type_proto(key, number)
    if node.op_type == "RegexFullMatch":
        return onnx.helper.make_tensor_type_proto(onnx.TensorProto.STRING, None)
    return None


def _fold_sizes(proto: onnx.ModelProto) -> list[int]:
    """Write whole numbers that follow from constants as constants, in place: inference computes few of them itself.

    PyTorch spells the bounds of a Slice of a shape as Reshape(Mod(2, 3)), and then nobody knows the rank behind it.

    returns: which nodes were replaced
    """
    known = {tensor.name: tensor for tensor in proto.graph.initializer if _may_be_sizes(tensor)}
    folded: list[int] = []
    for index, node in enumerate(proto.graph.node):
        if node.op_type == "Constant" and node.attribute and _may_be_sizes(node.attribute[0].t):
            known[node.output[0]] = node.attribute[0].t
        if node.domain or node.op_type not in _OF_SIZES or not all(name in known for name in node.input):
            continue
        value = _computed(node, known, proto)
        if value is not None and _may_be_sizes(value):
            known[node.output[0]] = value
            node.CopyFrom(onnx.helper.make_node("Constant", [], [node.output[0]], value=value, name=node.name))
            folded.append(index)
    return folded


def _may_be_sizes(tensor: onnx.TensorProto) -> bool:
    whole = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return whole and math.prod(tensor.dims) <= _MOST_SIZES and tensor.data_location != onnx.TensorProto.EXTERNAL


def _computed(
    node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], proto: onnx.ModelProto
) -> onnx.TensorProto | None:
    """What a node computes from constants, by the standard's reference; None where that does not run it."""
    operands = [
        onnx.helper.make_tensor_value_info(name, known[name].data_type, known[name].dims)
        for name in dict.fromkeys(node.input)
    ]
    result = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.INT64, None)
    graph = onnx.helper.make_graph([node], "sizes", operands, [result])
    model = onnx.helper.make_model(graph, opset_imports=proto.opset_import)
    feeds = {name: onnx.numpy_helper.to_array(known[name]) for name in node.input}
    try:
        with np.errstate(all="ignore"):
            found = list(onnx.reference.ReferenceEvaluator(model).run(None, feeds))
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
        return None
    return onnx.numpy_helper.from_array(np.asarray(found[0]))


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds."""
    return [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) if graph.node]


def _forget_declarations(graph: onnx.GraphProto) -> None:
    """Take away what is declared of all tensors but the inputs, in branches and bodies too, in place."""
    needed = {node.input[0] for node in graph.node if node.input and _type_read(node) is not None}
    kept = [value for value in graph.value_info if value.name in needed]
    del graph.value_info[:]
    for value in kept:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    graph.value_info.extend(kept)
    for output in graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    for body in (body for node in graph.node for body in _bodies(node)):
        _forget_declarations(body)


def _complete_graph(inferred: onnx.GraphProto, file: onnx.GraphProto) -> list[str]:
    """Fill what inference left open from the file, in place.  returns: the tensors where the two contradict"""
    declared = {value.name: value for value in (*file.value_info, *file.output)}
    found = {value.name: value for value in (*inferred.value_info, *inferred.output)}
    wrong = [name for name, value in found.items() if name in declared and not _complete(value, declared[name])]
    inferred.value_info.extend(
        value for value in file.value_info if value.name not in found and value.type.WhichOneof("value")
    )
    for node, twin in zip(inferred.node, file.node, strict=True):
        for body, original in zip(_bodies(node), _bodies(twin), strict=True):
            wrong += _complete_graph(body, original)
    return wrong


def _forget_wrong_states(graph: onnx.GraphProto, outside: Mapping[str, onnx.TypeProto]) -> list[str]:
    """Take away the shape of a Loop's or Scan's state that it cannot begin with, and what follows, in place.

    outside : types of the tensors around the graph        returns: the states
    """
    known = {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}
    known |= {w.name: onnx.helper.make_tensor_type_proto(w.data_type, w.dims) for w in graph.initializer}
    scope, wrong = {**outside, **known}, []
    for node in graph.node:
        for body in _bodies(node):
            first = 2 if node.op_type == "Loop" else 0
            scanned = [a.i for a in node.attribute if a.name == "num_scan_inputs"]
            states = zip(node.input[first : len(node.input) - sum(scanned)], body.input[first:], strict=False)
            misread = [state for start, state in states if start in scope and _contradict(scope[start], state.type)]
            for state in misread:
                state.type.tensor_type.ClearField("shape")
            if misread:
                _forget_declarations(body)
            wrong += [state.name for state in misread] + _forget_wrong_states(body, scope)
    return wrong


def _contradict(start: onnx.TypeProto, state: onnx.TypeProto) -> bool:
    """Whether no tensor has both shapes."""
    if not (start.tensor_type.HasField("shape") and state.tensor_type.HasField("shape")):
        return False
    ours, theirs = start.tensor_type.shape.dim, state.tensor_type.shape.dim
    fixed = [(a.dim_value, b.dim_value) for a, b in zip(ours, theirs, strict=False) if _fixed(a) and _fixed(b)]
    return len(ours) != len(theirs) or any(a != b for a, b in fixed)


def _fixed(dimension: onnx.TensorShapeProto.Dimension) -> bool:
    return bool(dimension.HasField("dim_value"))


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
