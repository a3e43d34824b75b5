"""Normalisations: a layer divides by a statistic of its own input, and relevance holds that statistic constant.

Most of them standardise, over some axes, and then scale and shift:

    n = (x − mean) / σ        y = scale · n + bias        h = g · scale
    gradient     g_x = (h − mean(h) − n · mean(h · n)) / σ
    relevance    R_x = x · (h − mean(h)) / σ  with  g = R / stabilise(y)

so an entry declares its axes and where scale and bias go (`Standardised`), and stops there. RMSNormalization leaves
the mean alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from onnxlrp.errors import Unsupported
from onnxlrp.rules.crossing import STABILISER
from onnxlrp.rules.registry import Contribution, Family, Operator, Vjp, normalisation, register
from onnxlrp.rules.step import Step

DATA, SCALE, BIAS = 0, 1, 2

HELD_CONSTANT = "standard deviation or norm held constant, as Achtibat et al. 2024"


@dataclass(frozen=True)
class Standardised:
    """n = (x − mean) / σ over `axes`, in a layout of its own; y = scale · n + bias in the layout of x.

    axes           : over which mean and σ are taken, in the inner layout
    epsilon        : σ = √(variance + epsilon) + floor
    subtracts_mean : False for RMSNormalization
    enter, leave   : between the layout of x and the inner one (GroupNormalization separates its groups)
    broadcast      : operand SCALE or BIAS, so that it broadcasts to x
    gather         : the reverse: (operand, contribution shaped like x) → shaped like the operand
    """

    step: Step
    axes: list[int]
    epsilon: float = 0.0
    floor: float = 0.0
    subtracts_mean: bool = True
    enter: Callable[[ir.Value], ir.Value] = lambda x: x
    leave: Callable[[ir.Value], ir.Value] = lambda x: x
    broadcast: Callable[[int], ir.Value] | None = None
    gather: Callable[[int, ir.Value], ir.Value] | None = None

    def mean(self, values: ir.Value) -> ir.Value:
        return self.step.emit.reduce("ReduceMean", values, self.axes)

    def centred(self, values: ir.Value) -> ir.Value:
        return values - self.mean(values) if self.subtracts_mean else values

    @cached_property
    def deviation(self) -> ir.Value:
        return self.centred(self.enter(self.step.x(DATA)))

    @cached_property
    def sigma(self) -> ir.Value:
        variance = self.mean(self.deviation * self.deviation)
        root: ir.Value = self.step.emit.Sqrt(variance + self.epsilon if self.epsilon else variance)
        return root + self.floor if self.floor else root

    @cached_property
    def normalised(self) -> ir.Value:
        quotient: ir.Value = self.deviation / self.sigma
        return quotient

    @cached_property
    def scale(self) -> Contribution:
        return self._affine(SCALE)

    @cached_property
    def bias(self) -> Contribution:
        return self._affine(BIAS)

    def _affine(self, operand: int) -> Contribution:
        return self.broadcast(operand) if self.broadcast is not None and self.step.has(operand) else None

    def scaled(self, g: ir.Value) -> ir.Value:
        return g if self.scale is None else g * self.scale

    def gradient(self, g: ir.Value) -> ir.Value:
        h = self.enter(self.scaled(g))
        return self.leave((self.centred(h) - self.normalised * self.mean(h * self.normalised)) / self.sigma)

    def gradient_at_constant_sigma(self, g: ir.Value) -> ir.Value:
        return self.leave(self.centred(self.enter(self.scaled(g))) / self.sigma)

    def of_scale_and_bias(self, g: ir.Value) -> dict[int, ir.Value]:
        """g · n and g, summed to the shape of scale and bias, where they are signals."""
        found: dict[int, ir.Value] = {}
        for operand in self.step.signals:
            if operand != DATA and self.gather is not None:
                values = g * self.leave(self.normalised) if operand == SCALE else g
                found[operand] = self.gather(operand, values)
        return found


def standardisation(op_type: str) -> Callable[[Callable[[Step], Standardised]], Callable[[Step], Standardised]]:
    """An entry that declares how it standardises: gradient and relevance rule follow."""

    def decorate(declare: Callable[[Step], Standardised]) -> Callable[[Step], Standardised]:
        def vjp(step: Step, g: ir.Value) -> list[Contribution]:
            _require_only_y(step)
            layer = declare(step)
            found = layer.of_scale_and_bias(g)
            if step.signal(DATA):
                found[DATA] = layer.gradient(g)
            return [found.get(operand) for operand in range(step.count)]

        def relevance(step: Step, incoming: ir.Value) -> list[Contribution]:
            _require_only_y(step)
            return _relevance(step, declare(step), incoming)

        register(
            Operator(
                op_type,
                Family.NORMALISATION,
                vjp,
                factors=(DATA, SCALE),
                relevance=relevance,
                conserves="up to bias",
                source=HELD_CONSTANT,
            )
        )
        return declare

    return decorate


def _require_only_y(step: Step) -> None:
    """LayerNormalization may give mean and 1/σ out as well; training reads them, inference does not."""
    read = [output.name for output in step.unit.outputs[1:] if output.uses()]
    if read:
        raise Unsupported(f"The statistics of {step.unit} ({', '.join(map(str, read))}) are read; only y has a rule.")


def _relevance(step: Step, layer: Standardised, incoming: ir.Value) -> list[Contribution]:
    """R_x = x ⊙ vjp(R / stabilise(y)) with σ constant; data and scale, if both are signals, get one half each."""
    bias = None if step.signal(BIAS) else layer.bias
    z = step.y() - bias if bias is not None and step.bias == "drop" else step.y()
    s = step.emit.quotient(incoming, z, STABILISER)
    if step.account is not None:
        step.account("stabiliser", s * (step.emit.stabilise(z, STABILISER) - z))
        if bias is not None and step.bias == "absorb":
            step.account("bias", s * bias)
    found = {operand: step.x(operand) * back for operand, back in layer.of_scale_and_bias(s).items()}
    if step.signal(DATA):
        found[DATA] = step.x(DATA) * layer.gradient_at_constant_sigma(s)
    if DATA in found and SCALE in found:
        found |= {operand: found[operand] * 0.5 for operand in (DATA, SCALE)}
    if DATA in found and bias is not None and step.bias == "distribute":
        found[DATA] = found[DATA] + layer.leave(_evenly(layer, layer.enter(s * bias)))
    return [found.get(operand) for operand in range(step.count)]


def _evenly(layer: Standardised, share: ir.Value) -> ir.Value:
    """What the biases took, in equal parts over the elements that were normalised together."""
    return layer.step.emit.Expand(layer.mean(share), layer.step.emit.Shape(share))


# --- scale and bias shaped like the last axes ------------------------------------------------------------------------


def _over_last_axes(step: Step, *, subtracts_mean: bool) -> Standardised:
    rank = step.rank()
    return Standardised(
        step,
        axes=list(range(step.axis(), rank)),
        epsilon=float(step.attribute("epsilon")),
        subtracts_mean=subtracts_mean,
        broadcast=step.x,
        gather=lambda operand, values: step.unbroadcast(values, step.raw(operand)),
    )


@standardisation("LayerNormalization")
def layer_normalization(step: Step) -> Standardised:
    """Over every axis from `axis` on.  Source: Ba et al. 2016."""
    return _over_last_axes(step, subtracts_mean=True)


@standardisation("RMSNormalization")
def rms_normalization(step: Step) -> Standardised:
    """y = scale · x / √(mean(x²) + ε): nothing is subtracted.  Source: Zhang and Sennrich 2019."""
    return _over_last_axes(step, subtracts_mean=False)


# --- scale and bias over channels ------------------------------------------------------------------------------------


def _per_channel(step: Step, values: ir.Value) -> ir.Value:
    """(channel) → (channel, 1, 1…)."""
    return step.emit.Reshape(values, [-1] + [1] * (step.rank() - 2))


def _sum_per_channel(step: Step, values: ir.Value) -> ir.Value:
    return step.emit.sum(values, [axis for axis in range(step.rank()) if axis != 1], keepdims=False)


@standardisation("InstanceNormalization")
def instance_normalization(step: Step) -> Standardised:
    """Over space, for each sample and channel.  Source: Ulyanov et al. 2016."""
    return Standardised(
        step,
        axes=list(range(2, step.rank())),
        epsilon=float(step.attribute("epsilon")),
        broadcast=lambda operand: _per_channel(step, step.x(operand)),
        gather=lambda operand, values: _sum_per_channel(step, values),
    )


@standardisation("GroupNormalization")
def group_normalization(step: Step) -> Standardised:
    """Over space and the channels of a group, for each sample.  Source: Wu and He 2018.

    Scale and bias: one number per group below opset 21, one per channel since.
    """
    emit, groups = step.emit, int(step.attribute("num_groups"))
    per_group = step.opset < 21

    def broadcast(operand: int) -> ir.Value:
        values = step.x(operand)
        if per_group:
            members = emit.Div(emit.dim(step.raw(DATA), 1), groups)
            values = emit.Expand(emit.Reshape(values, [-1, 1]), emit.Concat([groups], members, axis=0))
        return _per_channel(step, values)

    def gather(operand: int, values: ir.Value) -> ir.Value:
        sums = _sum_per_channel(step, values)
        return emit.sum(emit.Reshape(sums, [groups, -1]), [1], keepdims=False) if per_group else sums

    return Standardised(
        step,
        axes=[2],
        epsilon=float(step.attribute("epsilon")),
        enter=lambda x: emit.Reshape(x, [0, groups, -1]),
        leave=lambda x: emit.Reshape(x, step.shape(DATA), allowzero=1),
        broadcast=broadcast,
        gather=gather,
    )


@standardisation("MeanVarianceNormalization")
def mean_variance_normalization(step: Step) -> Standardised:
    """Over the given axes, by default all but the channels; σ = √variance + 1e-9, as in the standard's function."""
    return Standardised(step, axes=[axis % step.rank() for axis in step.attribute("axes")], floor=1e-9)


# --- division by a norm ----------------------------------------------------------------------------------------------


def norm_held_constant(step: Step, relevance: ir.Value) -> list[Contribution]:
    """R_x = R · y / stabilise(y): with the norm constant, each element's relevance stays where it is."""
    y = step.y()
    s = step.emit.quotient(relevance, y, STABILISER)
    if step.account is not None:
        step.account("stabiliser", s * (step.emit.stabilise(y, STABILISER) - y))
    return [s * y]


def _by_norm(op_type: str) -> Callable[[Vjp], Vjp]:
    return normalisation(op_type, relevance=norm_held_constant, source=HELD_CONSTANT)


@_by_norm("LpNormalization")
def lp_normalization(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x / ‖x‖: (g − ∂‖x‖ · Σ g·y) / ‖x‖ with ∂‖x‖₂ = y and ∂‖x‖₁ = sign(x); 0 where the norm is 0."""
    emit, axis, first_order = step.emit, [step.axis()], step.attribute("p") == 1
    norm = emit.reduce("ReduceL1" if first_order else "ReduceL2", step.x(), axis)
    slope = emit.Sign(step.x()) if first_order else step.y()
    return [emit.quotient(g - slope * emit.sum(g * step.y(), axis), norm, 0.0)]


@_by_norm("LRN")
def lrn(step: Step, g: ir.Value) -> list[Contribution]:
    """y = x · d^(−β) with d = bias + α/size · Σ x² over the neighbouring channels.

    Gradient: g · d^(−β) − 2αβ/size · x · Σ g·y/d, the sum over the windows that x is part of.
    Source: Krizhevsky et al. 2012.
    """
    size, beta = int(step.attribute("size")), float(step.attribute("beta"))
    slope = float(step.attribute("alpha")) / size
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    x = step.x()
    d = _over_channels(step, x * x, before, after) * slope + float(step.attribute("bias"))
    through_norm = _over_channels(step, g * step.y() / d, after, before) * (2.0 * beta * slope)
    return [g * step.emit.Pow(d, -beta) - x * through_norm]


def _over_channels(step: Step, values: ir.Value, before: int, after: int) -> ir.Value:
    """For each channel the sum over itself, `before` channels before it and `after` after it."""
    emit, window = step.emit, before + 1 + after
    shape = emit.Concat(emit.dim(values, 0), [1], emit.dim(values, 1), [-1], axis=0)
    pooled = emit.AveragePool(
        emit.Reshape(values, shape), kernel_shape=[window, 1], pads=[before, 0, after, 0], count_include_pad=1
    )
    return emit.reshape_like(pooled * float(window), values)
