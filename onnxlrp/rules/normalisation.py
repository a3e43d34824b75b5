"""Normalisations: a layer divides by a statistic of its own input, and relevance holds that statistic constant.

Most of them standardise, over some axes, and then scale and shift:

    n = (x − mean) / σ        y = scale · n + bias        h = g · scale
    gradient     g_x = (h − mean(h) − n · mean(h · n)) / σ
    relevance    R_x = x · (h − mean(h)) / σ  with  g = R / stabilise(y)

so an entry declares its axes and where scale and bias go (`Standardised`), and stops there. RMSNormalization leaves
the mean alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx_ir as ir

from onnxlrp.rules.crossing import STABILISER, report_stabiliser
from onnxlrp.rules.registry import Contribution, Family, Operator, register
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

    @cached_property
    def count(self) -> ir.Value:
        """How many elements are normalised together, a float scalar."""
        emit = self.step.emit
        sizes = [emit.Cast(emit.Size(v), to=ir.DataType.FLOAT) for v in (self.deviation, self.sigma)]
        return emit.Div(*sizes)

    def spread(self, values: ir.Value) -> ir.Value:
        """One value per group to all its elements."""
        return self.step.emit.Expand(values, self.step.emit.Shape(self.deviation))

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


def standardisation(
    op_type: str, *, statistics: bool = False
) -> Callable[[Callable[[Step], Standardised]], Callable[[Step], Standardised]]:
    """An entry that declares how it standardises: gradient and relevance rule follow.

    statistics : whether the operator may give mean and 1/σ out as well
    """

    def decorate(declare: Callable[[Step], Standardised]) -> Callable[[Step], Standardised]:
        def vjp(step: Step, cotangents: Any) -> list[Contribution]:
            layer, (g, *others) = declare(step), cotangents if statistics else (cotangents,)
            found = layer.of_scale_and_bias(g) if g is not None else {}
            if step.signal(DATA):
                parts = [layer.gradient(g)] if g is not None else []
                found[DATA] = _total([*parts, *_of_statistics(layer, others)])
            return [found.get(operand) for operand in range(step.count)]

        def relevance(step: Step, arriving: Any) -> list[Contribution]:
            layer, (r, *others) = declare(step), arriving if statistics else (arriving,)
            found = dict(enumerate(_relevance(step, layer, r))) if r is not None else {}
            if step.signal(DATA):
                own = found.get(DATA)
                found[DATA] = _total([*([] if own is None else [own]), *_in_statistics(layer, others)])
            return [found.get(operand) for operand in range(step.count)]

        register(
            Operator(
                op_type,
                Family.NORMALISATION,
                vjp,
                factors=(DATA, SCALE),
                relevance=relevance,
                outputs=statistics,
                conserves="up to bias",
                source=HELD_CONSTANT,
            )
        )
        return declare

    return decorate


def _total(parts: Sequence[ir.Value]) -> ir.Value:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _of_statistics(layer: Standardised, cotangents: Sequence[Contribution]) -> Iterator[ir.Value]:
    """Gradients through mean and 1/σ: g / n, and −g · (x − mean) / (n σ³)."""
    g_mean, g_inverse = (*cotangents, None, None)[:2]
    if g_mean is not None:
        yield layer.spread(g_mean / layer.count)
    if g_inverse is not None:
        cubed = layer.sigma * layer.sigma * layer.sigma
        yield layer.deviation * (g_inverse / (cubed * layer.count)) * -1.0


def _in_statistics(layer: Standardised, arriving: Sequence[Contribution]) -> Iterator[ir.Value]:
    """Relevance of the mean in proportion to x, that of 1/σ in proportion to the squared deviations."""
    r_mean, r_inverse = (*arriving, None, None)[:2]
    step = layer.step
    squares = layer.deviation * layer.deviation
    for relevance, parts in ((r_mean, step.x(DATA)), (r_inverse, squares)):
        if relevance is not None:
            z = step.emit.sum(parts, layer.axes)
            s = step.emit.quotient(relevance, z, STABILISER)
            report_stabiliser(step, s, z, STABILISER)
            yield parts * s


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


@standardisation("LayerNormalization", statistics=True)
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
