"""Linear operators: each declares z = forward(x, w) + b and its adjoints, and stops there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import Unsupported
from onnxlrp.rules.convolution import (
    Window,
    conv_adjoint,
    conv_forward,
    conv_transpose_adjoint,
    conv_transpose_forward,
    conv_transpose_weight_adjoint,
    conv_weight_adjoint,
)
from onnxlrp.rules.crossing import STABILISER, report_stabiliser
from onnxlrp.rules.registry import Bilinear, Contribution, Family, Operator, linear
from onnxlrp.rules.step import Step, unbroadcast

CONVOLUTION, DENSE = "convolution", "dense"


def _per_channel(step: Step, values: ir.Value, rank: int, axis: int = 1) -> ir.Value:
    """A vector over channels, shaped to broadcast along `axis` of a tensor of that rank."""
    return step.emit.Reshape(values, [1] * axis + [-1] + [1] * (rank - axis - 1))


def _all_but(axis: int, rank: int) -> list[int]:
    return [i for i in range(rank) if i != axis]


# --- convolutions ----------------------------------------------------------------------------------------------------


def _scale_conv(step: Step, weight: ir.Value, scale: ir.Value) -> ir.Value:
    return step.emit.Mul(weight, step.emit.Reshape(scale, [-1] + [1] * (step.rank(1) - 1)))


@linear("Conv", factors=(0, 1), addend=2, layer=CONVOLUTION, scale_outputs=_scale_conv)
def conv(step: Step) -> Bilinear:
    """z = w ∗ x + b over (batch, channel, *space)."""
    window = Window.of(step)
    return Bilinear(
        forward=lambda x, w: conv_forward(step.emit, window, x, w),
        adjoint=lambda s, w: conv_adjoint(step, window, s, w),
        weight_adjoint=lambda s, x: conv_weight_adjoint(step, window, s, x),
        bias_adjoint=lambda s: step.emit.sum(s, _all_but(1, step.rank(0)), keepdims=False),
        bias=_per_channel(step, step.x(2), step.rank(0)) if step.has(2) else None,
    )


def _scale_conv_transpose(step: Step, weight: ir.Value, scale: ir.Value) -> ir.Value:
    groups, rank = int(step.attribute("group", 1)), step.rank(1)
    emit = step.emit
    grouped = emit.Reshape(weight, emit.Concat([groups, -1], emit.Shape(weight, start=1), axis=0))
    scaled = grouped * emit.Reshape(scale, [groups, 1, -1] + [1] * (rank - 2))
    return emit.reshape_like(scaled, weight)


@linear("ConvTranspose", factors=(0, 1), addend=2, layer=CONVOLUTION, scale_outputs=_scale_conv_transpose)
def conv_transpose(step: Step) -> Bilinear:
    """z = wᵀ ∗ x + b: the adjoint of a convolution as a layer of its own."""
    window = Window.of(step)
    return Bilinear(
        forward=lambda x, w: conv_transpose_forward(step, window, x, w),
        adjoint=lambda s, w: conv_transpose_adjoint(step, window, s, w),
        weight_adjoint=lambda s, x: conv_transpose_weight_adjoint(step, window, s, x),
        bias_adjoint=lambda s: step.emit.sum(s, _all_but(1, step.rank(0)), keepdims=False),
        bias=_per_channel(step, step.x(2), step.rank(0)) if step.has(2) else None,
    )


# --- dense -----------------------------------------------------------------------------------------------------------


def _scale_gemm(step: Step, weight: ir.Value, scale: ir.Value) -> ir.Value:
    return step.emit.Mul(weight, step.emit.Reshape(scale, [-1, 1] if step.attribute("transB") else [1, -1]))


@linear("Gemm", factors=(0, 1), addend=2, layer=DENSE, scale_outputs=_scale_gemm)
def gemm(step: Step) -> Bilinear:
    """z = α·A·B + β·C, either factor transposed on request."""
    emit = step.emit
    alpha, beta = float(step.attribute("alpha")), float(step.attribute("beta"))
    trans_a, trans_b = int(step.attribute("transA")), int(step.attribute("transB"))

    def left_adjoint(s: ir.Value, b: Contribution) -> ir.Value:
        if trans_a:
            return emit.Gemm(b, s, transA=trans_b, transB=1)
        return emit.Gemm(s, b, transB=1 - trans_b)

    def right_adjoint(s: ir.Value, a: Contribution) -> ir.Value:
        if trans_b:
            return emit.Gemm(s, a, transA=1, transB=trans_a)
        return emit.Gemm(a, s, transA=1 - trans_a)

    def bias_adjoint(s: ir.Value) -> ir.Value:
        dims = step.facts.dims(step.unit.outputs[0]) or (None, None)
        return unbroadcast(emit, step.facts, s if beta == 1 else s * beta, step.raw(2), dims)

    return Bilinear(
        forward=lambda a, b: emit.Gemm(a, b, transA=trans_a, transB=trans_b),
        adjoint=left_adjoint,
        weight_adjoint=right_adjoint,
        bias_adjoint=bias_adjoint,
        bias=(step.x(2) if beta == 1 else step.x(2) * beta) if step.has(2) else None,
        scale=alpha,
    )


def _scale_matmul(step: Step, weight: ir.Value, scale: ir.Value) -> ir.Value:
    return step.emit.Mul(weight, scale)


@linear("MatMul", factors=(0, 1), layer=DENSE, scale_outputs=_scale_matmul)
def matmul(step: Step) -> Bilinear:
    """z = A·B with numpy's broadcasting of leading axes; vectors count as one row or one column."""
    emit = step.emit
    rank_a, rank_b = step.rank(0), step.rank(1)

    def rows(a: ir.Value) -> ir.Value:
        return emit.Unsqueeze(a, [0]) if rank_a == 1 else a

    def columns(b: ir.Value) -> ir.Value:
        return emit.Unsqueeze(b, [1]) if rank_b == 1 else b

    def matrix(s: ir.Value) -> ir.Value:
        s = emit.Unsqueeze(s, [-1]) if rank_b == 1 else s
        return emit.Unsqueeze(s, [-2]) if rank_a == 1 else s

    def shrink(product: ir.Value, like: int) -> ir.Value:
        """Sum over the leading axes along which the operand was broadcast."""
        dims_a, dims_b = _as_matrices(step)
        lead = _broadcast(dims_a[:-2], dims_b[:-2])
        wanted = step.dims(like)
        if len(wanted) == 1:
            product = emit.sum(product, list(range(len(lead))), keepdims=False)
            return emit.Reshape(product, [-1])
        return unbroadcast(emit, step.facts, product, step.raw(like), (*lead, *wanted[-2:]))

    return Bilinear(
        forward=lambda a, b: emit.MatMul(a, b),
        adjoint=lambda s, b: shrink(emit.MatMul(matrix(s), _swap(emit, columns(_some(b)), max(rank_b, 2))), 0),
        weight_adjoint=lambda s, a: shrink(emit.MatMul(_swap(emit, rows(_some(a)), max(rank_a, 2)), matrix(s)), 1),
    )


def _as_matrices(step: Step) -> tuple[tuple[object, ...], tuple[object, ...]]:
    a, b = step.dims(0), step.dims(1)
    return ((1, *a) if len(a) == 1 else a), ((*b, 1) if len(b) == 1 else b)


def _broadcast(a: tuple[object, ...], b: tuple[object, ...]) -> tuple[int | str | None, ...]:
    width = max(len(a), len(b))
    a, b = (1,) * (width - len(a)) + a, (1,) * (width - len(b)) + b
    return tuple(_wider(x, y) for x, y in zip(a, b, strict=True))


def _wider(x: object, y: object) -> int | str | None:
    """The dimension that two broadcast dimensions make; None when only run time can tell."""
    if x == y or y == 1:
        return x  # type: ignore[return-value]
    if x == 1 or isinstance(y, int):
        return y  # type: ignore[return-value]
    return x if isinstance(x, int) else None


def _swap(emit: Emit, x: ir.Value, rank: int) -> ir.Value:
    """Transpose the last two axes."""
    return emit.Transpose(x, perm=[*range(rank - 2), rank - 1, rank - 2])


def _some(value: Contribution) -> ir.Value:
    assert value is not None
    return value


# --- batch normalisation ---------------------------------------------------------------------------------------------


def batch_norm_scale_and_shift(step: Step) -> tuple[ir.Value, ir.Value]:
    """y = scale·x + shift with scale = γ/√(var + ε) and shift = β − mean·scale, both over channels."""
    gamma, beta, mean, variance = (step.x(i) for i in range(1, 5))
    scale = gamma / step.emit.Sqrt(variance + float(step.attribute("epsilon")))
    return scale, beta - mean * scale


def _with_fed_statistics(step: Step, relevance: ir.Value) -> list[Contribution]:
    """y = (x − mean)·scale + β, in proportion; a fed γ gets half of the product; the variance is held constant."""
    y, declared = step.y(), batch_normalization(step)
    s = step.emit.quotient(relevance, y, STABILISER)
    report_stabiliser(step, s, y, STABILISER)
    gradients = {0: declared.adjoint(s, declared.weight), 2: declared.others[2](s), 3: declared.others[3](s)}
    if step.signal(1):
        gradients = {i: g if i == 2 else g * 0.5 for i, g in gradients.items()}
        gradients[1] = declared.others[1](s) * 0.5
    shares = {index: step.x(index) * g for index, g in gradients.items()}
    for index, share in shares.items():
        if step.account is not None and not step.signal(index):
            step.account("bias", share)
    return [shares.get(index) if step.signal(index) else None for index in range(step.count)]


class _BatchNormalization(Operator):
    """Linear in its data; with fed statistics a normalisation."""

    def family_for(self, signals: Sequence[int]) -> Family:
        return Family.LINEAR if tuple(signals) == (0,) else Family.NORMALISATION


@linear(
    "BatchNormalization",
    factors=(0,),
    layer="batch-norm",
    record=_BatchNormalization,
    relevance=_with_fed_statistics,
)
def batch_normalization(step: Step) -> Bilinear:
    """z = scale·x + shift per channel (inference form)."""
    if step.attribute("training_mode", 0):
        raise Unsupported(
            "BatchNormalization in training mode normalises by its batch; export the model for inference."
        )
    emit, rank = step.emit, step.rank(0)
    scale, shift = batch_norm_scale_and_shift(step)
    axis = min(1, rank - 1)
    return Bilinear(
        forward=lambda x, w: emit.Mul(x, w),
        adjoint=lambda s, w: emit.Mul(s, w),
        weight=_per_channel(step, scale, rank, axis),
        bias=_per_channel(step, shift, rank, axis),
        others=_statistics_gradients(step, scale, _all_but(axis, rank), lambda v: _per_channel(step, v, rank, axis)),
    )


def _statistics_gradients(
    step: Step, scale: ir.Value, axes: list[int], per_channel: Callable[[ir.Value], ir.Value]
) -> dict[int, Callable[[ir.Value], ir.Value]]:
    """Gradients of γ, β, mean and variance where they are fed, with x̂ = (x − mean)/√(var + ε):

    γ: Σ g·x̂    β: Σ g    mean: −scale·Σ g    var: −½·γ·Σ g·x̂/(var + ε)
    """
    emit, variance = step.emit, step.x(4) + float(step.attribute("epsilon"))

    def summed(g: ir.Value) -> ir.Value:
        return emit.sum(g, axes, keepdims=False)

    def along_normalised(g: ir.Value) -> ir.Value:
        centred = step.x() - per_channel(step.x(3))
        return emit.Div(summed(g * centred), emit.Sqrt(variance))

    return {
        1: along_normalised,
        2: summed,
        3: lambda g: -(scale * summed(g)),
        4: lambda g: step.x(1) * along_normalised(g) * -0.5 / variance,
    }
