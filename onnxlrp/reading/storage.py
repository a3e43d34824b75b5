"""Files in and out without copying weights: a model travels as a small skeleton plus tensors that stay where they are.

A *skeleton* is a `ModelProto` whose large initialisers are marked as external. On reading, they point into the very
file they came from (an offset into the `.onnx`, mapped lazily); on writing, their bytes are streamed from there into
the new file. So a 500 MB model costs the kilobytes of its graph from reading to saving.
Wire format: protobuf encoding guide, "message structure"; field numbers: onnx.proto (ModelProto.graph = 7,
GraphProto.initializer = 5, TensorProto.float_data = 4, raw_data = 9, external_data = 13, data_location = 14).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxlrp.errors import ModelError
from onnxlrp.files import atomic_write

LARGE = 4096
"""Bytes from which a tensor is left where it is."""

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that one protobuf message may hold, with room for the graph."""

_PLAIN = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL}
    | {ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64}
    | {ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64}
)
"""Types that numpy and onnxruntime share to the byte."""

MODEL_GRAPH, GRAPH_INITIALIZER = 7, 5
TENSOR_DATA_TYPE, TENSOR_FLOAT_DATA, TENSOR_RAW_DATA = 2, 4, 9
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


def read_skeleton(path: Path) -> onnx.ModelProto:
    """Parse a file, leaving large weights in it.

    path : the `.onnx` file        returns: a ModelProto whose large initialisers are external data with `location` the
    file's own name, and the offset and length of their bytes in it.
    Errors: ModelError when the file is missing, empty, or not a protobuf model.
    """
    if not path.is_file():
        raise ModelError(f"No model file at '{path}'. Check the path.")
    if path.stat().st_size == 0:
        raise ModelError(f"'{path}' is empty (0 bytes), so it is not an ONNX model. Export or copy it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            pieces = b"".join(_model_without_weights(view, path.name))
            proto: onnx.ModelProto = onnx.ModelProto.FromString(pieces)
        except Exception as error:
            raise ModelError(
                f"'{path}' ({path.stat().st_size} bytes) is not an ONNX model: {error or 'it cannot be parsed'}. "
                "Export or copy it again; a Git LFS pointer or a text file looks like this too."
            ) from error
        finally:
            view.release()
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(
            f"'{path}' parses as protobuf, but holds no graph with outputs. It is not an ONNX model, or is damaged."
        )
    return proto


def write_model(model: ir.Model, path: Path) -> None:
    """Write a model, streaming large weights from where they lie; above 2 GB they go to `<name>.data` beside it.

    Errors: InputError when the folder cannot be written; nothing half-written stays.
    """
    proto, weights = split_weights(model)
    if sum(tensor.nbytes for tensor in weights.values()) > PROTOBUF_LIMIT:
        with atomic_write(path.with_name(path.name + ".data")) as data, data.open("wb") as file:
            for tensor in weights.values():
                entry = next(item for item in proto.graph.initializer if item.name == tensor.name)
                _point_to(entry, path.name + ".data", file.tell(), tensor.nbytes)
                file.write(_bytes_of(tensor))
        with atomic_write(path) as temporary:
            temporary.write_bytes(proto.SerializeToString())
        return
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        for piece in _model_with_weights(proto, weights):
            file.write(piece)


def split_weights(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The skeleton of an in-memory model, and its large weights by name, none of them copied."""
    large = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and _is_large(value.const_value)
    }
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.const_value = _in_memory(value.const_value)
    for name, tensor in large.items():
        model.graph.initializers[name].const_value = ir.ExternalTensor(
            "weights", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    try:
        return ir.to_proto(model), large
    finally:
        for name, tensor in large.items():
            model.graph.initializers[name].const_value = tensor


def array_of(tensor: ir.TensorProtocol) -> np.ndarray:
    """A tensor as a numpy array, mapped from its file where it lies in one.

    Errors: ModelError when the external file is missing or too short.
    """
    try:
        return tensor.numpy()
    except (OSError, ValueError) as error:
        where = getattr(tensor, "path", None)
        raise ModelError(
            f"The weight '{tensor.name}' cannot be read from its external file '{where}': {error}. "
            "Keep the model's data file beside the model, under the name it was exported with."
        ) from error


def _is_large(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype in _PLAIN and (tensor.nbytes >= LARGE or isinstance(tensor, ir.ExternalTensor))


def _in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Types of other widths (bfloat16, 4 bits) travel inside the protobuf."""
    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype in _PLAIN:
        return tensor
    return ir.Tensor(array_of(tensor), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def _bytes_of(tensor: ir.TensorProtocol) -> memoryview | bytes:
    array = array_of(tensor)
    return array.reshape(-1).view(np.uint8).data if array.flags.c_contiguous else array.tobytes()


# --- reading ---------------------------------------------------------------------------------------------------------


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Each field of a message as (number, start of the field, start of its content, end)."""
    position = 0
    while position < len(data):
        start = position
        tag, position = _read_varint(data, position)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"field number 0 at byte {start}")
        content = position
        if wire == VARINT:
            _, position = _read_varint(data, position)
        elif wire == LENGTH_DELIMITED:
            length, content = _read_varint(data, position)
            position = content + length
        elif wire in (FIXED32, FIXED64):
            position += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {wire} at byte {start}")
        if position > len(data):
            raise ValueError(f"the file ends inside a field that starts at byte {start}")
        yield number, start, content, position


def _model_without_weights(data: memoryview, location: str) -> Iterator[bytes]:
    for number, start, content, end in _fields(data):
        if number == MODEL_GRAPH:
            graph = b"".join(_graph_without_weights(data[content:end], content, location))
            yield _delimited(MODEL_GRAPH, len(graph)) + graph
        else:
            yield bytes(data[start:end])


def _graph_without_weights(data: memoryview, base: int, location: str) -> Iterator[bytes]:
    for number, start, content, end in _fields(data):
        if number == GRAPH_INITIALIZER and end - content >= LARGE:
            tensor = _tensor_without_weights(data[content:end], base + content, location)
            yield _delimited(GRAPH_INITIALIZER, len(tensor)) + tensor
        else:
            yield bytes(data[start:end])


def _tensor_without_weights(data: memoryview, base: int, location: str) -> bytes:
    fields = list(_fields(data))
    types = [_read_varint(data, content)[0] for number, _, content, _ in fields if number == TENSOR_DATA_TYPE]
    if len(types) != 1 or types[0] not in {int(dtype) for dtype in _PLAIN}:
        return bytes(data)
    packed = {TENSOR_RAW_DATA, TENSOR_FLOAT_DATA} if types == [onnx.TensorProto.FLOAT] else {TENSOR_RAW_DATA}
    bodies = [field for field in fields if field[0] in packed and field[3] - field[2] >= LARGE // 2]
    if len(bodies) != 1:
        return bytes(data)
    body = bodies[0]
    tensor = onnx.TensorProto.FromString(b"".join(bytes(data[f[1] : f[3]]) for f in fields if f is not body))
    _point_to(tensor, location, base + body[2], body[3] - body[2])
    skeleton: bytes = tensor.SerializeToString()
    return skeleton


def _point_to(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data):
            raise ValueError("the file ends inside a number")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number longer than 64 bits ends at byte {position}")


# --- writing ---------------------------------------------------------------------------------------------------------


def _model_with_weights(proto: onnx.ModelProto, weights: dict[str, ir.TensorProtocol]) -> Iterator[bytes | memoryview]:
    """The bytes of a complete model: everything small, then each large tensor's header and its bytes."""
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in weights]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    headers = {name: _tensor_header(name, tensor) for name, tensor in weights.items()}
    total = len(graph) + sum(len(headers[name]) + tensor.nbytes for name, tensor in weights.items())
    yield proto.SerializeToString()
    yield _delimited(MODEL_GRAPH, total)
    yield graph
    for name, tensor in weights.items():
        yield headers[name]
        yield _bytes_of(tensor)


def _tensor_header(name: str, tensor: ir.TensorProtocol) -> bytes:
    header = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())
    start: bytes = header.SerializeToString() + _delimited(TENSOR_RAW_DATA, tensor.nbytes)
    return _delimited(GRAPH_INITIALIZER, len(start) + tensor.nbytes) + start


def _delimited(number: int, length: int) -> bytes:
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
