"""Convolutions and pooling in layouts of onnxruntime's own: channels in blocks (NCHWc), or channels last.

A tensor in blocks is read as (batch, channel, height, width) with its channels padded by zeros to whole blocks. How
many channels make a block depends on the processor: onnxruntime itself is asked.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import InputError, ModelError, Unsupported
from onnxlrp.lowering.fused import MICROSOFT, Fused, lowered, not_lowered
from onnxlrp.lowering.linear import activated, given
from onnxlrp.session import Session

BLOCKED = "com.microsoft.nchwc"

POOLING = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


@functools.cache
def block_size() -> int:
    """Channels in a block on this machine.  Errors: Unsupported where onnxruntime has no such layout here."""
    floats = ir.TensorType(ir.DataType.FLOAT)
    value, blocked = ir.Value(name="x", type=floats, shape=ir.Shape([1, 4, 1, 1])), ir.Value(name="y", type=floats)
    node = ir.node("ReorderInput", [value], domain=BLOCKED, outputs=[blocked])
    graph = ir.Graph([value], [blocked], nodes=[node], opset_imports={"": 17, BLOCKED: 1}, name="block")
    try:
        found = Session(ir.Model(graph, ir_version=8), "cpu").run({"x": np.ones((1, 4, 1, 1), np.float32)})["y"]
    except (ModelError, InputError) as error:
        raise Unsupported("this machine's onnxruntime has no layout with channels in blocks") from error
    return int(found.shape[1])


@lowered("ReorderInput", domain=BLOCKED)
def reorder_input(node: Fused) -> ir.Value:
    """Pad the channels with zeros to whole blocks."""
    emit, size = node.emit, block_size()
    x = emit.Transpose(node.x(), perm=TO_CHANNELS_FIRST) if node.attribute("channels_last", 0) else node.x()
    channels = emit.dim(x, 1)
    missing = emit.Sub(emit.Mul(emit.Div(emit.Add(channels, size - 1), size), size), channels)
    return emit.Pad(x, emit.Concat([0, 0, 0, 0, 0], missing, [0, 0], axis=0))


@lowered("ReorderOutput", domain=BLOCKED)
def reorder_output(node: Fused) -> ir.Value:
    """Cut off the channels that pad the last block."""
    emit = node.emit
    x = emit.Slice(node.x(), [0], [int(node.attribute("channels"))], [1])
    return emit.Transpose(x, perm=TO_CHANNELS_LAST) if node.attribute("channels_last", 0) else x


@lowered("Conv", domain=BLOCKED)
def blocked_conv(node: Fused) -> ir.Value:
    """y = activation(Conv(x, w, b) + z), the weights brought back from their blocks."""
    z = node.emit.Conv(node.x(0), _weights(node), node[2], **given(node, *CONVOLUTION))
    z = z if node[3] is None else node.emit.Add(z, node.x(3))
    return activated(node, z, node.attribute("activation"), list(node.attribute("activation_params") or []))


def _weights(node: Fused) -> ir.Value:
    """(out, in, height, width) from [out/B, in/B, height, width, B in, B out]; from [out/B, in, height, width, B out]
    where the input's channels are too few for a block, or one for each group."""
    emit, size = node.emit, block_size()
    out, into, *kernel = (node.size(1, axis, "weights") for axis in range(4))
    if out % size:
        raise Unsupported(
            f"its {out} output channels are no blocks of {size}: the file was saved for another processor. "
            'Save it with onnxruntime\'s optimisation level "extended"'
        )
    shape = [out, into, *kernel]
    if into % size:
        blocks = emit.Reshape(node.x(1), [out // size, into, *kernel, size])
        return emit.Reshape(emit.Transpose(blocks, perm=[0, 4, 1, 2, 3]), shape)
    blocks = emit.Reshape(node.x(1), [out // size, into // size, *kernel, size, size])
    return emit.Reshape(emit.Transpose(blocks, perm=[0, 5, 1, 4, 2, 3]), shape)


@lowered("MaxPool", "AveragePool", domain=BLOCKED)
def blocked_pool(node: Fused) -> ir.Value:
    """Pooling works on each channel alone."""
    own = ("count_include_pad",) if node.node.op_type == "AveragePool" else ()
    return node.emit.node(node.node.op_type, node.x(), **given(node, *POOLING, *own))


@lowered("GlobalAveragePool", "GlobalMaxPool", domain=BLOCKED)
def blocked_global_pool(node: Fused) -> ir.Value:
    """Pooling works on each channel alone."""
    return node.emit.node(node.node.op_type, node.x())


@lowered("Upsample", domain=BLOCKED)
def blocked_upsample(node: Fused) -> ir.Value:
    """Resize by whole factors."""
    scales = [float(scale) for scale in node.attribute("scales")]
    place = node.attribute("coordinate_transformation_mode", "asymmetric")
    mode = node.attribute("mode", "nearest")
    return node.emit.Resize(
        node.x(), None, scales, mode=mode, coordinate_transformation_mode=place, nearest_mode="floor"
    )


@lowered("NhwcMaxPool")
def nhwc_max_pool(node: Fused) -> ir.Value:
    """MaxPool with channels last."""
    emit = node.emit
    x = emit.Transpose(node.x(), perm=TO_CHANNELS_FIRST)
    return emit.Transpose(emit.MaxPool(x, **given(node, *POOLING)), perm=TO_CHANNELS_LAST)


not_lowered(
    "belongs to a layout for accelerators and half precision, which no processor here runs; save the model with "
    'optimisation level "extended" for the CPU provider',
    "NhwcConv",
    "NhwcFusedConv",
    domain=MICROSOFT,
)
