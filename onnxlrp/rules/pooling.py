"""Pooling: averages are linear maps, maxima are choices, p-norms share in proportion to |x|ᵖ."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.rules.convolution import Window, crop_to_input
from onnxlrp.rules.crossing import STABILISER
from onnxlrp.rules.registry import Bilinear, Contribution, Keeps, choice, general, linear, movement
from onnxlrp.rules.step import Step


def _spatial(step: Step) -> list[int]:
    return list(range(2, step.rank(0)))


def _cells(step: Step) -> ir.Value:
    """How many cells one channel has, as a float scalar."""
    emit = step.emit
    return emit.Cast(emit.ReduceProd(emit.Slice(step.shape(0), [2], [2**31]), keepdims=0), to=ir.DataType.FLOAT)


# --- windows ---------------------------------------------------------------------------------------------------------


def _has_edges(step: Step, window: Window) -> bool:
    """Whether some windows reach beyond the input."""
    return any(window.begins) or any(window.ends) or window.same is not None or bool(step.attribute("ceil_mode", 0))


def _one_channel(emit: Emit, x: ir.Value, count: int) -> ir.Value:
    """(batch, channel, *space) → (batch·channel, 1, *space): one convolution serves all channels."""
    return emit.Reshape(x, emit.Concat([-1, 1], emit.Slice(emit.Shape(x), [2], [2 + count]), axis=0))


def _ones_kernel(emit: Emit, window: Window) -> ir.Value:
    return emit.Expand(1.0, [1, 1, *window.kernel])


def spread(step: Step, window: Window, s: ir.Value) -> ir.Value:
    """Give each cell of a window the window's value; where windows overlap, add. Adjoint of the sum over windows.

    s (batch, channel, *windows) → shaped like the input
    """
    emit = step.emit
    folded = _one_channel(emit, s, window.axes)
    full = emit.ConvTranspose(
        folded,
        _ones_kernel(emit, window),
        strides=list(window.strides),
        dilations=list(window.dilations),
        kernel_shape=list(window.kernel),
    )
    return emit.Reshape(crop_to_input(step, window, full), step.shape(0), allowzero=1)


def _real_cells(step: Step, window: Window, like: ir.Value) -> ir.Value:
    """How many cells of the input lie in each window, (1, 1, *windows)."""
    emit, count = step.emit, window.axes
    ones = emit.Expand(1.0, emit.Concat([1, 1], emit.Slice(step.shape(0), [2], [2 + count]), axis=0))
    ends = [e + s - 1 for e, s in zip(window.ends, window.strides, strict=True)]
    counted = emit.Conv(
        window.padded(emit, ones),
        _ones_kernel(emit, window),
        strides=list(window.strides),
        dilations=list(window.dilations),
        pads=[*window.begins, *ends],
    )
    size = emit.Slice(emit.Shape(like), [2], [2 + count])
    return emit.Slice(counted, [0] * count, size, list(range(2, 2 + count)))


@linear("AveragePool", nonnegative=Keeps.INPUTS, layer="pooling")
def average_pool(step: Step) -> Bilinear:
    """z = mean over each window; the divisor is whatever the forward operator used (padding counted or not).

    The weight of every cell of a window is 1 / divisor = AveragePool(ones) / (cells of the input in the window).
    """
    emit, window = step.emit, Window.of(step)

    def forward(x: ir.Value, _: Contribution) -> ir.Value:
        return emit.AveragePool(x, **step.given_attributes)

    def adjoint(s: ir.Value, _: Contribution) -> ir.Value:
        if not _has_edges(step, window):
            cells = 1
            for k in window.kernel:
                cells *= k
            return spread(step, window, s * (1.0 / cells))
        shape = emit.Slice(step.shape(0), [2], [2 + window.axes])
        ones = emit.Expand(1.0, emit.Concat([1, 1], shape, axis=0))
        return spread(step, window, s * (forward(ones, None) / emit.Max(_real_cells(step, window, s), 1.0)))

    return Bilinear(forward, adjoint)


@linear("GlobalAveragePool", nonnegative=Keeps.INPUTS, layer="pooling")
def global_average_pool(step: Step) -> Bilinear:
    """z = mean over space."""
    emit = step.emit
    return Bilinear(
        forward=lambda x, _: emit.GlobalAveragePool(x),
        adjoint=lambda s, _: emit.Expand(s / _cells(step), step.shape(0)),
    )


# --- maxima ----------------------------------------------------------------------------------------------------------


def winner_indices(step: Step) -> ir.Value:
    """Flat positions of the maxima in the whole tensor (batch and channels included), from the forward node itself."""
    node = step.unit.node
    if step.attribute("storage_order", 0) or step.raw(0) is not node.inputs[0]:
        attributes = step.given_attributes | {"storage_order": 0}
        return step.emit.nodes("MaxPool", step.raw(0), outputs=2, **attributes)[1]
    if len(node.outputs) < 2:
        node.resize_outputs(2)
    indices = node.outputs[1]
    if not indices.name:
        indices.name = f"lrp/{node.name}/winner_indices"
    indices.type = ir.TensorType(ir.DataType.INT64)
    return indices


def scatter_flat(emit: Emit, values: ir.Value, positions: ir.Value, like: ir.Value) -> ir.Value:
    """Add `values` at flat `positions` of zeros shaped like `like`."""
    shape = emit.Shape(like)
    zeros = emit.Expand(0.0, emit.Reshape(emit.Size(like), [1]))
    added = emit.ScatterElements(
        zeros, emit.Reshape(positions, [-1]), emit.Reshape(values, [-1]), axis=0, reduction="add"
    )
    return emit.Reshape(added, shape, allowzero=1)


@choice("MaxPool", nonnegative=Keeps.INPUTS, source="the first maximum of a window wins; overlapping windows add")
def max_pool(step: Step, g: ir.Value) -> list[Contribution]:
    """R_x[winner of each window] += R_y[window]."""
    return [scatter_flat(step.emit, g, winner_indices(step), step.x())]


@choice("GlobalMaxPool", nonnegative=Keeps.INPUTS)
def global_max_pool(step: Step, g: ir.Value) -> list[Contribution]:
    """The first maximum over space takes all."""
    emit = step.emit
    lead = emit.Slice(step.shape(0), [0], [2])
    flat = emit.Reshape(step.x(), emit.Concat(lead, [-1], axis=0))
    winner = emit.ArgMax(flat, axis=2, keepdims=1)
    scattered = emit.ScatterElements(emit.zeros_like(flat), winner, emit.Reshape(g, emit.Shape(winner)), axis=2)
    return [emit.reshape_like(scattered, step.x())]


@movement("MaxUnpool")
def max_unpool(step: Step, g: ir.Value) -> list[Contribution]:
    """Each value comes back from the place it was put to.

    Places are flat positions in the output, also in one of a given output_shape: so onnxruntime reads them. (The
    standard's example reads them in the default shape and moves them.)
    """
    if step.account is not None:
        others = [step.raw(1), *step.unit.inputs[2:]]
        filled = step.emit.MaxUnpool(step.emit.ones_like(step.x()), *others, **step.given_attributes)
        step.account("padding", g - g * filled)
    gathered = step.emit.Gather(step.emit.Reshape(g, [-1]), step.emit.Reshape(step.raw(1), [-1]))
    return step.only(step.emit.reshape_like(gathered, step.x()))


# --- p-norms ---------------------------------------------------------------------------------------------------------


def _power(step: Step, x: ir.Value, p: float) -> ir.Value:
    """|x|ᵖ."""
    return x * x if p == 2 else step.emit.Abs(x) if p == 1 else step.emit.Pow(step.emit.Abs(x), float(p))


def _slope(step: Step, x: ir.Value, y: ir.Value, g: ir.Value, p: float) -> ir.Value:
    """g · y^(1−p), 0 where the norm is 0."""
    if p == 1:
        return g
    zero = step.emit.Equal(y, 0.0)
    return step.emit.Where(zero, 0.0, g / step.emit.Pow(step.emit.Where(zero, 1.0, y), float(p - 1)))


def _towards(step: Step, x: ir.Value, p: float) -> ir.Value:
    """∂|x|ᵖ/∂x / p = |x|^(p−1)·sign(x)."""
    return x if p == 2 else step.emit.Sign(x) if p == 1 else step.emit.Sign(x) * _power(step, x, p - 1)


def _p_norm_pool(op_type: str, spread_back: object) -> None:
    def vjp(step: Step, g: ir.Value) -> list[Contribution]:
        """∂y/∂x = |x|^(p−1)·sign(x)·y^(1−p)."""
        p, x = step.attribute("p", 2), step.x()
        return [_towards(step, x, p) * spread_back(step, _slope(step, x, step.y(), g, p))]  # type: ignore[operator]

    def relevance(step: Step, r: ir.Value) -> list[Contribution]:
        """In proportion to |x|ᵖ: R_x = |x|ᵖ ⊙ spread(R / stabilise(yᵖ))."""
        p, y = step.attribute("p", 2), step.y()
        s = step.emit.quotient(r, _power(step, y, p), STABILISER, nonnegative=True)
        return [_power(step, step.x(), p) * spread_back(step, s)]  # type: ignore[operator]

    general(op_type, nonnegative=Keeps.ALWAYS, relevance=relevance, conserves="up to epsilon")(vjp)


_p_norm_pool("LpPool", lambda step, s: spread(step, Window.of(step), s))
_p_norm_pool("GlobalLpPool", lambda step, s: step.emit.Expand(s, step.shape(0)))
