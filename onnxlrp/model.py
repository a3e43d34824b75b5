"""Read: a file becomes a checked `Model` (opset upgraded, functions inlined, shapes inferred).

What is written here about a model (notes, exporter, hash) is printed by `inspect` and stamped into every explainer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.inliner
import onnx_ir as ir

from onnxlrp.errors import ModelError, Unsupported
from onnxlrp.reading.exporters import exporter_of
from onnxlrp.reading.missing_bias import give_missing_biases
from onnxlrp.reading.shapes import declare_operands, infer_shapes
from onnxlrp.reading.sparse import make_dense
from onnxlrp.reading.storage import read_skeleton
from onnxlrp.reading.structure import check_structure
from onnxlrp.reading.upgrade import upgrade

LOWEST_IR_VERSION, HIGHEST_IR_VERSION = 8, 11
"""What explainers are written in: 8 goes with opset 16, and no onnxruntime of the last years stops at less than 11."""

NAMED_DEFAULT_DOMAIN = "ai.onnx"

CLASS_NAMES = "onnxlrp.class_names"
"""Written on what was a ZipMap: the keys of its dictionaries, one a line."""

Source = str | Path | bytes | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class Model:
    """A model that every later stage can rely on.

    graph     : onnx_ir graph; weights stay in their file until somebody reads one
    opset     : of the default domain, at least `LOWEST_OPSET`
    exporter  : who wrote the file, as far as it tells
    notes     : what reading changed, one sentence each
    as_read   : before `prepare` rewrote it; None where it did not
    """

    proto: ir.Model
    path: Path | None
    sha256: str
    exporter: str
    original_opset: int
    notes: tuple[str, ...] = field(default=())
    as_read: ir.Model | None = None

    @property
    def graph(self) -> ir.Graph:
        return self.proto.graph

    @property
    def opset(self) -> int:
        return self.proto.opset_imports[""]

    @property
    def name(self) -> str:
        return self.path.name if self.path is not None else (self.graph.name or "model")

    def copy(self) -> ir.Model:
        """A graph of its own over the same weights."""
        return self.proto.clone()

    def __str__(self) -> str:
        inputs = ", ".join(describe(value) for value in self.graph.inputs)
        outputs = ", ".join(describe(value) for value in self.graph.outputs)
        opset = f"opset {self.original_opset}"
        if self.opset != self.original_opset:
            opset += f" (read as {self.opset})"
        return f"{self.name}: {len(self.graph)} nodes, {opset}, {self.exporter}\n  in   {inputs}\n  out  {outputs}"


def read(source: Source) -> Model:
    """Read and check a model.

    source : path of a `.onnx` file, its bytes, or a ModelProto (onnx or onnx_ir)
    Errors: ModelError when it is no model, misses an external file, or is invalid; Unsupported when its opset cannot
    be upgraded.
    """
    if isinstance(source, ir.Model):
        source = ir.to_proto(source)
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None:
        proto, digest = read_skeleton(path), _hash_file(path)
    elif isinstance(source, bytes):
        proto, digest = _parse(source), hashlib.sha256(source).hexdigest()
    else:
        assert isinstance(source, onnx.ModelProto)
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        digest = hashlib.sha256(proto.SerializeToString()).hexdigest()
    where = str(path) if path is not None else "the model"
    if path is not None:
        _check_external_files(proto, path)
    exporter = exporter_of(proto)
    notes: list[str] = []
    _name_negative_dimensions(proto)
    _normalise_domains(proto, notes)
    original_opset = next((entry.version for entry in proto.opset_import if entry.domain == ""), 0)
    for stage in _STAGES:
        try:
            proto = stage(proto, where, notes)
        except ModelError:
            raise
        except onnx.checker.ValidationError as error:
            raise ModelError(f"{where} is not a valid ONNX model: {str(error).strip()}") from error
    proto.ir_version = min(max(proto.ir_version, LOWEST_IR_VERSION), HIGHEST_IR_VERSION)
    try:
        model = ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        raise Unsupported(f"{where} holds values that onnx_ir cannot read: {_root(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{where} is not a valid ONNX model: {error}") from error
    if path is not None:
        ir.external_data.set_base_dir(model.graph, path.parent)
    model.graph.sort()
    _name_nodes(model.graph)
    return Model(model, path, digest, exporter, original_opset, tuple(notes))


def describe(value: ir.Value) -> str:
    """`name float32[batch, 3, 224, 224]`."""
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"
    dims = "?" if value.shape is None else ", ".join(str(getattr(d, "value", d) or "?") for d in value.shape)
    return f"{value.name} {dtype}[{dims}]"


# --- stages of reading -----------------------------------------------------------------------------------------------


def _check(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    """What every later stage takes for granted; the explainer gets the standard's full checker."""
    del notes
    if not proto.graph.output:
        raise ModelError(f"{where} has no outputs, so there is nothing to explain.")
    if proto.ir_version < 3:
        raise ModelError(f"{where} has IR version {proto.ir_version}; onnxruntime reads versions from 3 on.")
    check_structure(proto, where)
    for value in proto.graph.input:
        if value.type.HasField("map_type"):
            raise Unsupported(
                f"The input '{value.name}' of {where} is a dictionary, and an explainer takes tensors. Export the part "
                "behind the DictVectorizer or CastMap, and feed the columns as a tensor."
            )
    return proto


def _drop_weights_from_inputs(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    """IR version 3 lists every initialiser as an input too, and some files forget to; they are weights, not inputs."""
    del where
    proto.ir_version = max(proto.ir_version, 4)
    weights = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.input if value.name not in weights]
    if len(kept) < len(proto.graph.input):
        notes.append(f"{len(proto.graph.input) - len(kept)} initialisers listed as inputs are read as weights.")
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
    return proto


def _unzip_maps(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    """A ZipMap only dresses scores up as dictionaries: read its output as the tensor of scores."""
    del where
    outputs = {value.name: value for value in proto.graph.output}
    for node in proto.graph.node:
        if node.op_type != "ZipMap":
            continue
        notes.append(f"The dictionaries of '{node.output[0]}' (ZipMap) are read as the tensor of their scores.")
        names = [name for attribute in node.attribute for name in (*attribute.strings, *attribute.ints)]
        text = "\n".join(name.decode() if isinstance(name, bytes) else str(name) for name in names)
        node.metadata_props.add(key=CLASS_NAMES, value=text)
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        if node.output[0] in outputs:
            outputs[node.output[0]].type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
            outputs[node.output[0]].type.tensor_type.ClearField("shape")
    return proto


def _inline_functions(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    del where
    if not proto.functions:
        return proto
    notes.append(f"{len(proto.functions)} model-local functions are inlined.")
    return onnx.inliner.inline_local_functions(proto)


def _map_by_loops(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    """SequenceMap is read as the Loop that the standard defines it by."""
    del where
    if not any(node.op_type == "SequenceMap" for node in proto.graph.node):
        return proto
    notes.append("SequenceMap is read as a Loop.")
    return onnx.inliner.inline_selected_functions(proto, [("", "SequenceMap")], inline_schema_functions=True)


def _declare_operands(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    del where, notes
    declare_operands(proto)
    return proto


def _infer_shapes(proto: onnx.ModelProto, where: str, notes: list[str]) -> onnx.ModelProto:
    del where
    return infer_shapes(proto, notes)


_Stage = Callable[[onnx.ModelProto, str, list[str]], onnx.ModelProto]
_STAGES: tuple[_Stage, ...] = (
    _check,
    make_dense,
    _drop_weights_from_inputs,
    _unzip_maps,
    _inline_functions,
    _map_by_loops,
    _declare_operands,
    give_missing_biases,
    upgrade,
    _infer_shapes,
)


def _parse(data: bytes) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except Exception as error:
        raise ModelError(f"These {len(data)} bytes are not an ONNX model: {error}") from error
    if not proto.graph.output:
        raise ModelError(f"These {len(data)} bytes hold no ONNX graph with outputs.")
    return proto


def _name_negative_dimensions(proto: onnx.ModelProto) -> None:
    """PaddlePaddle and others write −1 for a size that is only known at run time; the standard wants a name."""
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.HasField("dim_value") and dimension.dim_value < 0:
                dimension.dim_param = "batch" if axis == 0 else f"{value.name}_axis{axis}"


def _normalise_domains(proto: onnx.ModelProto, notes: list[str]) -> None:
    """Spell the default domain as the standard does: empty. Of a domain that is imported twice, the last import counts,
    as it does in onnxruntime.
    """
    spelled = [entry for entry in proto.opset_import if entry.domain == NAMED_DEFAULT_DOMAIN]
    nodes = [node for node in proto.graph.node if node.domain == NAMED_DEFAULT_DOMAIN]
    for node in nodes:
        node.domain = ""
    for entry in spelled:
        entry.domain = ""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if len(versions) < len(proto.opset_import):
        del proto.opset_import[:]
        proto.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())
    if spelled or nodes:
        notes.append("The default domain is spelled 'ai.onnx'; it is read as ''.")


def _check_external_files(proto: onnx.ModelProto, path: Path) -> None:
    for tensor in proto.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {item.key: item.value for item in tensor.external_data}
        file = path.parent / entries.get("location", "")
        needed = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        if not file.is_file():
            raise ModelError(
                f"'{path}' keeps the weight '{tensor.name}' in '{entries.get('location')}', and there is no such file "
                f"in '{path.parent}'. Put the data file beside the model, under that name."
            )
        if file.stat().st_size < needed:
            raise ModelError(
                f"'{file}' has {file.stat().st_size} bytes, and the weight '{tensor.name}' of '{path}' ends at byte "
                f"{needed}. The data file is cut short, or belongs to another model: copy it again."
            )


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name_nodes(graph: ir.Graph) -> None:
    """Give nameless nodes a name that says where they are: `Relu_3` is the third Relu of the file.

    Those of subgraphs bear the name of the node that holds them: `Loop_1/Relu_1`.
    """
    taken: set[str | None] = {node.name for node in graph.all_nodes()}
    _name_nodes_of(graph, "", taken)


def _name_nodes_of(graph: ir.Graph, prefix: str, taken: set[str | None]) -> None:
    counts: dict[str, int] = {}
    for node in graph:
        while not node.name:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
            name = f"{prefix}{node.op_type}_{counts[node.op_type]}"
            if name not in taken:
                node.name = name
                taken.add(name)
        for name, attribute in node.attributes.items():
            if attribute.type is ir.AttributeType.GRAPH:
                which = "" if name == "body" else f"{name.removesuffix('_branch')}/"
                _name_nodes_of(attribute.as_graph(), f"{node.name}/{which}", taken)
