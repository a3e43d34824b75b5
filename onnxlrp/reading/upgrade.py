"""Upgrade: a file of an old opset becomes one that carries an explainer, and computes what it computed.

The standard's converter does the work. What it gets wrong or leaves out is put right here, each with its reason.
"""

from __future__ import annotations

from contextlib import suppress

import onnx
import onnx.defs
import onnx.numpy_helper
import onnx.shape_inference
import onnx.version_converter

from onnxlrp.errors import Unsupported
from onnxlrp.reading.former import restate
from onnxlrp.reading.structure import bodies_of, graphs_in

LOWEST_OPSET = 16
"""The lowest opset that carries an explainer: ScatterElements adds where windows overlap from 16 on."""

BROADCAST_BY_RANK = 7
"""From this opset on shapes are aligned at their last axes; before, `axis` said where the second one begins."""

SCAN_WITH_BATCH = 8
"""The one opset whose Scan counts samples on the first axis."""

HALF_PIXELS = 11
"""From this opset on Resize says where its samples lie; before, they lay at i / scale, rounded down."""


_FAILURES = (
    RuntimeError,
    onnx.version_converter.ConvertError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    ValueError,
    IndexError,
    MemoryError,
)
"""What the converter raises; the last three are C++'s own, on absurd sizes."""


LAYER_NORMALIZATION = 17
"""The opset that took up LayerNormalization, which onnxruntime's optimiser writes into files of any opset."""

OUT_OF_SIGHT = "onnxlrp.unknown"
"""Where operators stand that the converter has no schema or adapter of, for as long as it is at work."""

NOW_CALLED = {"DynamicSlice": "Slice"}
"""Experiments that became standard under another name, unchanged."""


def upgrade(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    """Raise the default opset to `LOWEST_OPSET`; weights do not pass through the converter.

    Errors: Unsupported where the converter knows no way.
    """
    entry = next((item for item in proto.opset_import if item.domain == ""), None)
    if entry is None:
        proto.opset_import.append(onnx.helper.make_opsetid("", LOWEST_OPSET))
        return proto
    wanted = _wanted(proto)
    if entry.version >= wanted:
        return proto
    restated = restate(proto, entry.version)
    if restated:
        notes.append(f"Operators that newer opsets do not have are read as others: {', '.join(restated)}.")
    if entry.version < BROADCAST_BY_RANK:
        _align_at_the_end(proto)
    scans = [node for node in _all_nodes(proto) if node.op_type == "Scan" and entry.version == SCAN_WITH_BATCH]
    _refuse_lengths(scans, where)
    upgraded = _convert(proto, entry.version, wanted, where)
    if scans:
        _declare_as_before(upgraded, proto)
        _scan_sample_by_sample(upgraded)
    if entry.version < HALF_PIXELS:
        _sample_as_before(upgraded)
    notes.append(f"Opset {entry.version} is upgraded to {wanted}.")
    return upgraded


def _wanted(proto: onnx.ModelProto) -> int:
    types = {node.op_type for node in _all_nodes(proto) if not node.domain}
    return LAYER_NORMALIZATION if "LayerNormalization" in types else LOWEST_OPSET


def _all_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for graph in graphs_in(proto.graph) for node in graph.node]


def _convert(proto: onnx.ModelProto, version: int, wanted: int, where: str) -> onnx.ModelProto:
    external = {t.name: t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    metadata = {item.key: item.value for item in proto.metadata_props}
    proto.opset_import.append(onnx.helper.make_opsetid(OUT_OF_SIGHT, 1))
    for node in _all_nodes(proto):
        if not node.domain and (not onnx.defs.has(node.op_type) or node.op_type == "LayerNormalization"):
            node.domain = OUT_OF_SIGHT
    try:
        upgraded = onnx.version_converter.convert_version(proto, wanted)
    except _FAILURES as error:
        raise Unsupported(
            f"{where} has opset {version}, and an explainer needs {wanted}; the upgrade failed: "
            f"{str(error).strip()}\nExport the model again with opset {wanted} or higher."
        ) from error
    for node in _all_nodes(upgraded):
        if node.domain == OUT_OF_SIGHT:
            node.domain, node.op_type = "", NOW_CALLED.get(node.op_type, node.op_type)
    kept = [entry for entry in upgraded.opset_import if entry.domain != OUT_OF_SIGHT]
    del upgraded.opset_import[:]
    upgraded.opset_import.extend(kept)
    _name_apart(upgraded.graph, frozenset(value.name for value in upgraded.graph.input))
    for index, tensor in enumerate(upgraded.graph.initializer):
        if tensor.name in external:
            upgraded.graph.initializer[index].CopyFrom(external[tensor.name])
    if not upgraded.metadata_props:
        onnx.helper.set_model_props(upgraded, metadata)
    return upgraded


def _types(proto: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    with suppress(*_FAILURES):  # then what the file declares has to do
        proto = onnx.shape_inference.infer_shapes(proto)
    made = [onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in proto.graph.initializer]
    values = (*made, *proto.graph.input, *proto.graph.value_info, *proto.graph.output)
    return {value.name: value for value in values}


def _name_apart(graph: onnx.GraphProto, outside: frozenset[str]) -> None:
    """Give what the converter made inside a body another name where something outside has that name already, in place.

    outside : names of the graphs around this one, and of its own inputs
    """
    known = outside | _made(graph)
    for node in graph.node:
        for position, body in enumerate(bodies_of(node)):
            doubled = {name: f"{name}/{node.output[0]}/body_{position}" for name in _made(body) & known}
            _rename(body, doubled)
            _name_apart(body, known | {value.name for value in body.input})


def _made(graph: onnx.GraphProto) -> frozenset[str]:
    made = {name for node in graph.node for name in node.output if name}
    return frozenset(made | {tensor.name for tensor in graph.initializer})


def _rename(graph: onnx.GraphProto, new: dict[str, str]) -> None:
    """Tensors of a graph, also where its bodies read them."""
    for item in (*graph.initializer, *graph.output, *graph.value_info):
        item.name = new.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        for body in bodies_of(node):
            _rename(body, new)


def _sample_as_before(proto: onnx.ModelProto) -> None:
    """Upsample and the first Resize sample at i / scale; the converter leaves today's default, half a pixel beside.

    Every Resize of the upgraded model was one of the two; the converter gives some of their tensors new names.

    The nearest pixel is the one below, or above where the picture shrinks: the standard was silent, onnxruntime is not.
    """
    nodes = _all_nodes(proto)
    constants = {tensor.name: tensor for graph in graphs_in(proto.graph) for tensor in graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in nodes if n.op_type == "Constant" and n.attribute}
    for node in nodes:
        if node.op_type != "Resize" or node.domain:
            continue
        kept = [a for a in node.attribute if a.name not in ("coordinate_transformation_mode", "nearest_mode")]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        scales = constants.get(node.input[2]) if len(node.input) > 2 else None
        shrinks = scales is not None and bool((onnx.numpy_helper.to_array(scales) < 1).any())
        node.attribute.append(onnx.helper.make_attribute("nearest_mode", "ceil" if shrinks else "floor"))


def _declare_as_before(upgraded: onnx.ModelProto, proto: onnx.ModelProto) -> None:
    """The converter takes the batch off what a Scan of opset 8 reads and gives."""
    del upgraded.graph.value_info[:]
    for now, then in ((upgraded.graph.input, proto.graph.input), (upgraded.graph.output, proto.graph.output)):
        types = {value.name: value.type for value in then}
        for value in now:
            value.type.CopyFrom(types[value.name])


def _refuse_lengths(scans: list[onnx.NodeProto], where: str) -> None:
    for node in scans:
        if node.input[0]:
            raise Unsupported(
                f"{where} has a Scan of opset {SCAN_WITH_BATCH} ('{node.name or node.output[0]}') with a length per "
                f"sample ('{node.input[0]}'); no later opset has that. Export the model again with opset 9 or higher."
            )


def _scan_sample_by_sample(proto: onnx.ModelProto) -> None:
    """A Scan of opset 8 runs along a batch as well, which the converter forgets: a Scan around it takes that over."""
    for node in _all_nodes(proto):
        if node.op_type == "Scan" and not node.domain:
            _put_around(node)


def _put_around(node: onnx.NodeProto) -> None:
    """Make a Scan the body of another one, which hands it one sample of everything, in place."""
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    inner.name = f"{node.name or node.output[0]}/sample"
    inner.input[:] = [f"{inner.name}/in{position}" for position in range(len(node.input))]
    inner.output[:] = [f"{inner.name}/out{position}" if name else "" for position, name in enumerate(node.output)]
    (body,) = bodies_of(inner)
    outputs = [(name, value) for name, value in zip(inner.output, body.output, strict=True) if name]
    sample = onnx.helper.make_graph(
        [inner],
        inner.name,
        [_of_any_shape(name, value) for name, value in zip(inner.input, body.input, strict=True)],
        [_of_any_shape(name, value) for name, value in outputs],
    )
    del node.attribute[:]
    node.output[:] = [name for name in node.output if name]
    node.attribute.append(onnx.helper.make_attribute("body", sample))
    node.attribute.append(onnx.helper.make_attribute("num_scan_inputs", len(node.input)))


def _of_any_shape(name: str, like: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, like.type.tensor_type.elem_type, None)


def _align_at_the_end(proto: onnx.ModelProto) -> None:
    """Give weights that are broadcast from `axis` on the ones behind them that alignment at the end needs."""
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    ranks = _ranks(proto)
    for node in proto.graph.node:
        if len(node.input) < 2 or node.input[1] not in weights or node.input[0] not in ranks:
            continue
        weight, rank = weights[node.input[1]], ranks[node.input[0]]
        axis = next((a for a in node.attribute if a.name == "axis"), None)
        if node.op_type == "PRelu" and len(weight.dims) == 1 and rank > 1:
            weight.dims.extend([1] * (rank - 2))
        elif axis is not None and any(a.name == "broadcast" and a.i for a in node.attribute):
            weight.dims.extend([1] * max(rank - axis.i % rank - len(weight.dims), 0))
            node.attribute.remove(axis)
        for value in proto.graph.value_info:
            if value.name == weight.name:
                value.type.CopyFrom(onnx.helper.make_tensor_type_proto(weight.data_type, list(weight.dims)))


def _ranks(proto: onnx.ModelProto) -> dict[str, int]:
    known = {name: value.type.tensor_type for name, value in _types(proto).items()}
    return {name: len(tensor.shape.dim) for name, tensor in known.items() if tensor.HasField("shape")}
