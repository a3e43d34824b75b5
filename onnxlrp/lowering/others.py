"""Operators of onnxruntime that the standard has taken over since, or that are short formulas; and those that stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.lowering.fused import Fused, lowered, not_lowered


@lowered("Trilu", "GatherND", "Pad")
def same_as_the_standard(node: Fused) -> ir.Value:
    """The standard's operator of that name."""
    attributes = {name: attribute.value for name, attribute in node.node.attributes.items()}
    return node.emit.node(node.node.op_type, *node, **attributes)


@lowered("ExpandDims")
def expand_dims(node: Fused) -> ir.Value:
    """A new axis of size 1, counted in the result."""
    return node.emit.Unsqueeze(node.x(), [int(node.known(1, "axis").item())])


@lowered("CDist")
def pairwise_distances(node: Fused) -> ir.Value:
    """Distances of all rows of one matrix to all rows of another: Σ (a − b)², or its root."""
    emit, metric = node.emit, node.attribute("metric", "sqeuclidean")
    if metric not in ("sqeuclidean", "euclidean"):
        raise Unsupported(f"its metric is '{metric}'")
    apart = emit.Sub(emit.Unsqueeze(node.x(0), [1]), emit.Unsqueeze(node.x(1), [0]))
    squares = emit.ReduceSum(emit.Mul(apart, apart), [2], keepdims=0)
    return squares if metric == "sqeuclidean" else emit.Sqrt(squares)


@lowered("ConvTransposeWithDynamicPads")
def conv_transpose_with_dynamic_pads(node: Fused) -> ir.Value:
    """ConvTranspose, the pads an operand."""
    names = ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "strides")
    attributes = {name: node.attribute(name) for name in names}
    pads = [int(pad) for pad in node.known(2, "pads")] if node.has(2) else None
    return node.emit.ConvTranspose(node.x(0), node.x(1), node[3], pads=pads, **attributes)


@lowered("ComplexMul", "ComplexMulConj")
def complex_product(node: Fused) -> ir.Value:
    """(a + ib)(c + id), or with the conjugate of the second; real and imaginary parts alternate on the last axis."""
    emit, sign = node.emit, -1.0 if node.node.op_type == "ComplexMulConj" else 1.0
    (a, b), (c, d) = (
        [emit.Slice(node.x(i), [part], [np.iinfo(np.int64).max], [-1], [2]) for part in (0, 1)] for i in (0, 1)
    )
    d = emit.Mul(d, sign)
    parts = [emit.Unsqueeze(part, [-1]) for part in (emit.Sub(a * c, b * d), emit.Add(a * d, b * c))]
    pairs = emit.Concat(*parts, axis=-1)
    return emit.Reshape(pairs, emit.Concat(emit.Shape(pairs, end=-2), [-1], axis=0))


not_lowered(
    "writes text by running its subgraphs again and again; explain the decoder that it holds",
    "BeamSearch",
    "GreedySearch",
    "Sampling",
    "WhisperBeamSearch",
)
not_lowered("sends each token to experts that are chosen at run time", "MoE")
not_lowered("needs a rule of its own", "Inverse", "Rfft", "Irfft", "CropAndResize", "GridSample", "MaxpoolWithMask")
not_lowered("needs a rule of its own", "AttnLSTM", "UnfoldTensor", "WordConvEmbedding", "DynamicTimeWarping")
not_lowered("runs on CUDA alone", "GatedRelativePositionBias", "GemmaRotaryEmbedding", "MRotaryEmbedding")
not_lowered(
    "is a recurrence over states",
    "CausalConvWithState",
    "VarlenCausalConvWithState",
    "LinearAttention",
    "LinearAttentionGate",
    "GatedDeltaNet",
)
not_lowered("is a graph compiled for an accelerator", "EPContext", "Snpe")
not_lowered("looks up embeddings as training does; export the model for inference", "TorchEmbedding")
