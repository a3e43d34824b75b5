"""The activations inside recurrent operators: named by attributes, clipped, and each direction with its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from onnxlrp.emit import Emit
from onnxlrp.errors import Unsupported
from onnxlrp.graph import Unit
from onnxlrp.rules.registry import lookup
from onnxlrp.rules.step import Step

WITH_ALPHA = {
    "affine": 1.0,
    "leakyrelu": 0.01,
    "thresholdedrelu": 1.0,
    "scaledtanh": 1.0,
    "hardsigmoid": 0.2,
    "elu": 1.0,
}
"""Functions that take the next entry of `activation_alpha`, and what they do without one."""

WITH_BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}

OPERATORS = {
    name.lower(): name
    for name in (
        *("Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Softplus"),
        *("Sigmoid", "HardSigmoid", "Tanh", "Softsign"),
    )
}


@dataclass(frozen=True)
class Function:
    """y = outer · op(inner · z) + shift; Affine and ScaledTanh are no operators of their own any more."""

    op_type: str
    attributes: dict[str, Any] = field(default_factory=dict)
    inner: float = 1.0
    outer: float = 1.0
    shift: float = 0.0

    @classmethod
    def named(cls, name: str, alpha: float, beta: float) -> Function:
        """Errors: Unsupported for a name that the standard does not list."""
        known = name.lower()
        if known == "affine":
            return cls("Identity", outer=alpha, shift=beta)
        if known == "scaledtanh":
            return cls("Tanh", inner=beta, outer=alpha)
        if known not in OPERATORS:
            raise Unsupported(
                f"The activation '{name}' is none of Affine, ScaledTanh, {', '.join(OPERATORS.values())}."
            )
        given = {"alpha": alpha} if known in WITH_ALPHA else {}
        given |= {"beta": beta} if known in WITH_BETA else {}
        return cls(OPERATORS[known], given)

    def __call__(self, emit: Emit, z: ir.Value) -> ir.Value:
        y = self._core(emit, z)
        y = y if self.outer == 1.0 else emit.Mul(y, self.outer)
        return y if self.shift == 0.0 else emit.Add(y, self.shift)

    def slope(self, step: Step, z: ir.Value) -> ir.Value:
        """dy/dz from the operator's own record."""
        scale = self.inner * self.outer
        if self.op_type == "Identity":
            return step.emit.filled(step.emit.Shape(z), scale)
        y = self._core(step.emit, z)
        node, operator = y.producer(), lookup(self.op_type)
        assert node is not None and node.inputs[0] is not None and operator is not None
        assert operator.derivative is not None
        slope = operator.derivative(replace(step, unit=Unit.of(node)), node.inputs[0], y)
        return slope if scale == 1.0 else step.emit.Mul(slope, scale)

    def _core(self, emit: Emit, z: ir.Value) -> ir.Value:
        return emit.node(self.op_type, z if self.inner == 1.0 else emit.Mul(z, self.inner), **self.attributes)


@dataclass(frozen=True)
class Activation:
    """One place in a cell.  functions : one per direction        clip : bound of |z|, None without one"""

    functions: tuple[Function, ...]
    clip: float | None = None

    def __call__(self, emit: Emit, z: ir.Value) -> ir.Value:
        """z : (…, direction, batch, hidden), as is what is returned."""
        parts = self._by_direction(emit, self._clipped(emit, z))
        return _joined(emit, [function(emit, part) for function, part in parts])

    def slope(self, step: Step, z: ir.Value) -> ir.Value:
        """dy/dz, shaped like z; 0 beyond the clip."""
        emit = step.emit
        parts = self._by_direction(emit, self._clipped(emit, z))
        slope = _joined(emit, [function.slope(step, part) for function, part in parts])
        return slope if self.clip is None else emit.Mul(slope, emit.mask(emit.Less(emit.Abs(z), self.clip)))

    def _clipped(self, emit: Emit, z: ir.Value) -> ir.Value:
        return z if self.clip is None else emit.Clip(z, -self.clip, self.clip)

    def _by_direction(self, emit: Emit, z: ir.Value) -> list[tuple[Function, ir.Value]]:
        if len(set(map(repr, self.functions))) == 1:
            return [(self.functions[0], z)]
        parts = split(emit, z, len(self.functions), axis=-3)
        return list(zip(self.functions, parts, strict=True))


def activations(step: Step, defaults: Sequence[str], directions: int) -> list[Activation]:
    """One per place in the cell: f, g, h as the standard calls them.

    The attributes list the functions of the forward direction, then those of the reverse one; alphas and betas are
    taken in that order by the functions that have some.
    """
    names = _given(step, "activations") or list(defaults) * directions
    alphas = list(_given(step, "activation_alpha"))
    betas = list(_given(step, "activation_beta"))
    functions = []
    for name in names:
        known = name.lower()
        alpha = alphas.pop(0) if known in WITH_ALPHA and alphas else WITH_ALPHA.get(known, 0.0)
        beta = betas.pop(0) if known in WITH_BETA and betas else WITH_BETA.get(known, 0.0)
        functions.append(Function.named(name, float(alpha), float(beta)))
    if len(functions) != len(defaults) * directions:
        raise Unsupported(f"{step.unit} has {len(functions)} activations; it takes {len(defaults) * directions}.")
    clip = step.attribute("clip")
    bound = float(clip) if clip else None
    count = len(defaults)
    return [Activation(tuple(functions[place::count]), bound) for place in range(count)]


def split(emit: Emit, z: ir.Value, parts: int, axis: int = -1) -> list[ir.Value]:
    """Equal parts along an axis."""
    if parts == 1:
        return [z]
    counted: dict[str, Any] = {"num_outputs": parts} if emit.opset >= 18 else {}
    return list(emit.nodes("Split", z, outputs=parts, axis=axis, **counted))


def _joined(emit: Emit, parts: Sequence[ir.Value]) -> ir.Value:
    return parts[0] if len(parts) == 1 else emit.Concat(*parts, axis=-3)


def _given(step: Step, name: str) -> list[Any]:
    """A list attribute as the file has it: the standard's defaults are those of one of the three operators."""
    return list(step.given_attributes.get(name) or ())
