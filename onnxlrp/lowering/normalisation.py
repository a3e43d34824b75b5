"""Normalisations with the residual sum, the bias or the embedding in front of them."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.activations import silu
from onnxlrp.lowering.fused import Fused, lowered

EPSILON = 1e-12
"""The default of onnxruntime's own layer normalisations; the standard's is 1e-5."""


def layer_norm(
    node: Fused, x: ir.Value, scale: ir.Value | None, bias: ir.Value | None, epsilon: float, axis: int = -1
) -> ir.Value:
    """(x − mean) / √(variance + ε) · scale + bias over the last axes; in pieces below opset 17."""
    emit = node.emit
    if node.opset >= 17 and scale is not None:
        return emit.LayerNormalization(x, scale, bias, axis=axis, epsilon=epsilon)
    centred = x - emit.reduce("ReduceMean", x, [axis])
    return _scaled(node, _over_root(node, centred, epsilon, [axis]), scale, bias)


def rms_norm(node: Fused, x: ir.Value, scale: ir.Value | None, epsilon: float, axes: list[int]) -> ir.Value:
    """x / √(mean(x²) + ε) · scale; in pieces below opset 23."""
    if node.opset >= 23 and scale is not None and axes == [-1]:
        return node.emit.RMSNormalization(x, scale, axis=-1, epsilon=epsilon)
    return _scaled(node, _over_root(node, x, epsilon, axes), scale, None)


def _over_root(node: Fused, x: ir.Value, epsilon: float, axes: list[int]) -> ir.Value:
    emit = node.emit
    return emit.Div(x, emit.Sqrt(emit.Add(emit.reduce("ReduceMean", emit.Mul(x, x), axes), epsilon)))


def _scaled(node: Fused, x: ir.Value, scale: ir.Value | None, bias: ir.Value | None) -> ir.Value:
    scaled = x if scale is None else node.emit.Mul(x, scale)
    return scaled if bias is None else node.emit.Add(scaled, bias)


def _summed(node: Fused, bias: int) -> ir.Value:
    """input + skip + bias, as the residual stream goes on; a bias belongs to the matrix product that it was behind."""
    emit, x, skip = node.emit, node.x(0), node.x(1)
    if node[bias] is None:
        return emit.Add(x, skip)
    if _is_product(x):
        return emit.Add(emit.Add(x, node.x(bias)), skip)
    if _is_product(skip):
        return emit.Add(x, emit.Add(skip, node.x(bias)))
    return emit.Add(emit.Add(x, skip), node.x(bias))


def _is_product(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "MatMul"


@lowered("SkipLayerNormalization")
def skip_layer_normalization(node: Fused) -> list[ir.Value | None]:
    """y = LayerNormalization(input + skip + bias); the sum is the last output."""
    z = _summed(node, 4)
    return [layer_norm(node, z, node.x(2), node[3], float(node.attribute("epsilon", EPSILON))), None, None, z]


@lowered("SkipSimplifiedLayerNormalization")
def skip_simplified_layer_normalization(node: Fused) -> list[ir.Value | None]:
    """y = RMSNormalization(input + skip + bias); the sum is the last output."""
    z = _summed(node, 3)
    return [rms_norm(node, z, node.x(2), float(node.attribute("epsilon", EPSILON)), [-1]), None, None, z]


@lowered("SimplifiedLayerNormalization", domain="")
@lowered("SimplifiedLayerNormalization")
def simplified_layer_normalization(node: Fused) -> list[ir.Value | None]:
    """y = RMSNormalization(x) over the axes from `axis` on; onnxruntime writes it in the default domain."""
    axis = int(node.attribute("axis", -1))
    axes = [-1] if axis == -1 else list(range(axis % node.rank(), node.rank()))
    return [rms_norm(node, node.x(), node[1], float(node.attribute("epsilon", 1e-5)), axes), None]


@lowered("EmbedLayerNormalization")
def embed_layer_normalization(node: Fused) -> list[ir.Value | None]:
    """y = LayerNormalization(word + position + segment), each row looked up; the sum is the last output.

    The second output counts the tokens that the mask leaves, or says where padding starts.
    """
    emit, tokens = node.emit, node.x(0)
    z = emit.Gather(node.x(2), tokens, axis=0)
    if node[8] is not None:
        z = z + emit.Gather(node.x(3), node.x(8), axis=0)
    else:
        z = z + emit.Slice(node.x(3), [0], emit.dim(tokens, 1), [0])
    if node[1] is not None and node[4] is not None:
        z = z + emit.Gather(node.x(4), node.x(1), axis=0)
    y = layer_norm(node, z, node.x(5), node.x(6), float(node.attribute("epsilon", EPSILON)))
    return [y, _mask_index(node), z]


def _mask_index(node: Fused) -> ir.Value | None:
    """Tokens per sample that the mask leaves; zeros without a mask."""
    if not node.wants(1):
        return None
    emit = node.emit
    if node[7] is None:
        return emit.Expand(emit.constant([0], "int32"), emit.dim(node.x(0), 0))
    return emit.ReduceSum(node.x(7), [1], keepdims=0)


@lowered("GroupNorm")
def group_norm(node: Fused) -> ir.Value:
    """y = activation(GroupNormalization(x))."""
    return _group_norm(node, node.x())


@lowered("SkipGroupNorm")
def skip_group_norm(node: Fused) -> list[ir.Value | None]:
    """y = activation(GroupNormalization(x + skip + bias)); the sum is the second output."""
    emit, skip = node.emit, node.x(3)
    if node.rank(3) == 2:
        skip = emit.Unsqueeze(skip, [1, 2] if node.attribute("channels_last", 1) else [2, 3])
    z = node.x() + skip
    if node[4] is not None:
        z = z + (node.x(4) if node.attribute("channels_last", 1) else emit.Reshape(node.x(4), [-1, 1, 1]))
    return [_group_norm(node, z), z]


def _group_norm(node: Fused, x: ir.Value) -> ir.Value:
    """(x − mean) / √(variance + ε) within each group of channels, then one scale and bias per channel."""
    emit, last = node.emit, bool(node.attribute("channels_last", 1))
    groups, epsilon = int(node.attribute("groups", 0)), float(node.attribute("epsilon", 1e-5))
    channels_first = emit.Transpose(x, perm=[0, 3, 1, 2]) if last else x
    flat = emit.Reshape(channels_first, emit.constant([0, groups, -1]))
    ones, zeros = emit.constant([1.0] * groups), emit.constant([0.0] * groups)
    normalised = emit.Reshape(
        emit.InstanceNormalization(flat, ones, zeros, epsilon=epsilon), emit.Shape(channels_first)
    )
    scale, bias = (emit.Reshape(node.x(i), [-1, 1, 1]) for i in (1, 2))
    y = emit.Add(normalised * scale, bias)
    y = silu(node, y) if node.attribute("activation", 0) else y
    return emit.Transpose(y, perm=[0, 2, 3, 1]) if last else y


@lowered("GatedRMSNorm")
def gated_rms_norm(node: Fused) -> ir.Value:
    """y = RMSNormalization(x) · silu(gate)."""
    activation = node.attribute("activation", "silu")
    if activation not in ("silu", "swish"):
        raise Unsupported(f"its activation '{activation}' is not silu")
    normalised = rms_norm(node, node.x(0), node.x(1), float(node.attribute("epsilon", 1e-5)), [-1])
    return node.emit.Mul(normalised, silu(node, node.x(2)))
