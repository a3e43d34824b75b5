"""The writer of new nodes: `emit.Conv(x, w, strides=[1, 1])` appends a node and returns its output.

Python literals become constants (float → float32, int → int64, lists → vectors), equal nodes are written once, and
every node is stamped with the forward node, rule and source that it serves. While a writer is *active*, values
understand arithmetic, so that a formula reads as in the paper: `y * (1.0 - y)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

Literal = float | int | bool | Sequence[int] | Sequence[float] | np.ndarray
Operand = ir.Value | Literal | None

STEEP = 1e30
"""Slope of the step function: everything below −1e-30 counts as negative, far below any stabiliser."""


class Emit:
    """Writes nodes into a graph: at its end, or while `placed` in front of a node.

    graph  : where the nodes go        opset : of the default domain (reductions are spelled differently below 18)
    signed : whether what is stabilised moves away from zero; otherwise upwards (LXT's convention)
    """

    def __init__(self, graph: ir.Graph, opset: int, *, signed: bool = True) -> None:
        self.graph = graph
        self.opset = opset
        self.signed = signed
        self.stamp: dict[str, str] = {}
        self.scope = "lrp"
        self._place: tuple[ir.Node, list[ir.Node]] | None = None
        self._names = names_in(graph)
        self._nodes: set[ir.Node] = set()
        self._written: dict[tuple[Any, ...], tuple[ir.Value, ...]] = {}
        self._constants: dict[tuple[Any, ...], ir.Value] = {}

    # --- nodes and constants -----------------------------------------------------------------------------------------

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)
        return lambda *inputs, **attributes: self.node(op_type, *inputs, **attributes)

    def node(self, op_type: str, *inputs: Operand, domain: str = "", **attributes: Any) -> ir.Value:
        """Append one node with one output."""
        return self.nodes(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def nodes(
        self, op_type: str, *inputs: Operand, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """Append one node with several outputs."""
        operands = [self.value(operand) for operand in inputs]
        while operands and operands[-1] is None:
            operands.pop()
        attributes = {name: value for name, value in attributes.items() if value is not None}
        key = (domain, op_type, tuple(map(id, operands)), outputs, _frozen(attributes))
        if key not in self._written:
            name = self.new_name(f"{self.scope}/{op_type}")
            values = [ir.Value(name=name if i == 0 else self.new_name(f"{name}_{i}")) for i in range(outputs)]
            node = ir.node(op_type, operands, attributes, domain=domain, outputs=values, name=name)
            node.metadata_props.update(self.stamp)
            if self._place is None:
                self.graph.append(node)
            else:
                self.graph.insert_before(self._place[0], node)
                self._place[1].append(node)
            self._nodes.add(node)
            self._written[key] = tuple(node.outputs)
        return self._written[key]

    def fresh(self, op_type: str, *inputs: Operand, **attributes: Any) -> ir.Value:
        """Like `node`, but never one that was written before."""
        written, self._written = self._written, {}
        try:
            return self.node(op_type, *inputs, **attributes)
        finally:
            self._written = written

    def value(self, operand: Operand) -> ir.Value | None:
        return operand if operand is None or isinstance(operand, ir.Value) else self.constant(operand)

    def constant(self, literal: Literal, dtype: Any = None) -> ir.Value:
        """An initialiser; equal ones are shared. float → float32, int → int64, an empty list → int64."""
        array = np.asarray(literal)
        if dtype is None:
            dtype = array.dtype
            if dtype.kind in "fiu":
                dtype = np.float32 if dtype.kind == "f" and array.size else np.int64
        array = np.ascontiguousarray(array.astype(dtype, copy=False)) if array.ndim else array.astype(dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.new_name("lrp/constant")
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def new_name(self, wanted: str) -> str:
        """A name that nothing else bears."""
        name, count = wanted, 0
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    @contextmanager
    def serving(self, scope: str, **stamp: str) -> Iterator[None]:
        """Name and stamp the nodes written inside after the forward node they serve."""
        before = self.scope, self.stamp
        self.scope, self.stamp = f"lrp/{scope.strip('/')}", stamp
        try:
            yield
        finally:
            self.scope, self.stamp = before

    @contextmanager
    def placed(self, before: ir.Node, scope: str, **stamp: str) -> Iterator[list[ir.Node]]:
        """Write in front of a node of the forward graph, under names that begin with `scope`.

        yields: the nodes written so far
        """
        outside = self.scope, self.stamp, self._place, self._written
        self.scope, self.stamp, self._place, self._written = scope, stamp, (before, []), {}
        try:
            yield self._place[1]
        finally:
            self.scope, self.stamp, self._place, self._written = outside

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let values do arithmetic through this writer."""
        before = ir.set_value_magic_handler(_Arithmetic(self))
        try:
            yield
        finally:
            ir.set_value_magic_handler(before)

    # --- small formulas that many rules share ------------------------------------------------------------------------

    def positive(self, x: ir.Value) -> ir.Value:
        """x⁺ = max(x, 0)."""
        return self.Relu(x)

    def negative(self, x: ir.Value) -> ir.Value:
        """x⁻ = min(x, 0)."""
        return self.Min(x, 0.0)

    def ones_like(self, x: ir.Value) -> ir.Value:
        return self.filled(self.Shape(x), 1.0)

    def zeros_like(self, x: ir.Value) -> ir.Value:
        return self.filled(self.Shape(x), 0.0)

    def filled(self, shape: ir.Value, number: float) -> ir.Value:
        return self.Expand(number, shape)

    def reshape_like(self, x: ir.Value, like: ir.Value) -> ir.Value:
        return self.Reshape(x, self.Shape(like), allowzero=1)

    def stabilise(self, z: ir.Value, eps: float, *, nonnegative: bool = False) -> ir.Value:
        """Move z away from zero by eps, keeping its sign; zero counts as positive.

        z : float tensor, any shape        eps : same unit as z, > 0        returns: same shape, |value| ≥ eps
        Zero must move too: a dead unit has z = 0 exactly, and 0/0 would spread NaN to every input.
        A steep HardSigmoid is the step that is 1 from zero on; on onnxruntime's CPU provider it costs a fifth of Where.
        Source: Bach et al. 2015, the epsilon rule.
        """
        if nonnegative or not self.signed:
            return self.Add(z, eps)
        step = self.HardSigmoid(z, alpha=STEEP, beta=1.0)
        return self.Add(z, self.Sub(self.Mul(step, 2.0 * eps), eps))

    def quotient(self, r: ir.Value, z: ir.Value, eps: float, *, nonnegative: bool = False) -> ir.Value:
        """r / stabilise(z, eps); with eps = 0 the quotient is 0 where z = 0 (LRP-0).

        Relevance often travels as a product a ⊙ c that is formed for this division alone. With a = z, or a = max(z, 0),
        the quotient is c ⊙ |a| / (|a| + eps), and the product is never formed.
        """
        if eps == 0:
            zero = self.Equal(z, 0.0)
            return self.Where(zero, 0.0, self.Div(r, self.Where(zero, 1.0, z)))
        factored = self._as_product(r, z) if self.signed else None
        if factored is None:
            return self.Div(r, self.stabilise(z, eps, nonnegative=nonnegative))
        activation, multiplier = factored
        size = activation if nonnegative or activation is not z else self.Abs(activation)
        return self.Mul(multiplier, self.Div(size, self.Add(size, eps)))

    def _as_product(self, r: ir.Value, z: ir.Value) -> tuple[ir.Value, ir.Value] | None:
        """(a, c) where this writer wrote r = a ⊙ c with a = z or a = max(z, 0)."""
        node = r.producer()
        if node is None or node.op_type != "Mul" or node not in self._nodes:
            return None
        for a, c in (node.inputs, node.inputs[::-1]):
            maker = a.producer() if a is not None else None
            rectified = maker is not None and maker.op_type == "Relu" and maker.inputs[0] is z
            if a is not None and c is not None and (a is z or rectified):
                return a, c
        return None

    def vanishes_below_zero(self, r: ir.Value, z: ir.Value) -> bool:
        """Whether this writer wrote r = a ⊙ c with an a that is 0 wherever z ≤ 0: a rectified z."""
        node = r.producer()
        if node is None or node.op_type != "Mul" or node not in self._nodes:
            return False
        return any(a is not None and _is_rectified(a.producer(), z) for a in node.inputs)

    def total(self, parts: Sequence[ir.Value], value: ir.Value) -> ir.Value:
        """Σ parts; value ⊙ Σ c_i where every part was written as value ⊙ c_i."""
        if len(parts) == 1:
            return parts[0]
        factors = [self._cofactor(part, value) for part in parts]
        if all(factor is not None for factor in factors):
            return self.Mul(value, self.Sum(*factors))
        return self.Sum(*parts)

    def _cofactor(self, part: ir.Value, value: ir.Value) -> ir.Value | None:
        node = part.producer()
        if node is None or node.op_type != "Mul" or node not in self._nodes or value not in node.inputs:
            return None
        return node.inputs[1] if node.inputs[0] is value else node.inputs[0]

    def mask(self, condition: ir.Value) -> ir.Value:
        """A boolean tensor as 0.0 and 1.0."""
        return self.Cast(condition, to=ir.DataType.FLOAT)

    def sum(self, x: ir.Value, axes: Sequence[int] | ir.Value | None = None, *, keepdims: bool = True) -> ir.Value:
        """ReduceSum over `axes`; None = all of them, an empty list = none."""
        if axes is not None and not isinstance(axes, ir.Value) and not len(axes):
            return x
        return self.ReduceSum(x, axes, keepdims=int(keepdims))

    def reduce(self, op_type: str, x: ir.Value, axes: Operand, *, keepdims: bool = True) -> ir.Value:
        """ReduceMax, ReduceMin, ReduceMean…: axes are an attribute below opset 18 and an input from 18 on."""
        if self.opset >= 18:
            return self.node(op_type, x, axes, keepdims=int(keepdims))
        return self.node(op_type, x, axes=axes, keepdims=int(keepdims))

    def dim(self, x: ir.Value, axis: int) -> ir.Value:
        """One dimension as an int64 vector of one element."""
        return self.Gather(self.Shape(x), [axis])


class _Arithmetic:
    """What `+ - * /` and unary minus on values mean while a writer is active."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def Add(self, lhs: Operand, rhs: Operand) -> ir.Value:
        return self._emit.node("Add", lhs, rhs)

    def Sub(self, lhs: Operand, rhs: Operand) -> ir.Value:
        return self._emit.node("Sub", lhs, rhs)

    def Mul(self, lhs: Operand, rhs: Operand) -> ir.Value:
        return self._emit.node("Mul", lhs, rhs)

    def Div(self, lhs: Operand, rhs: Operand) -> ir.Value:
        return self._emit.node("Div", lhs, rhs)

    def Neg(self, operand: Operand) -> ir.Value:
        return self._emit.node("Neg", operand)


def _is_rectified(maker: ir.Node | None, z: ir.Value) -> bool:
    """Relu, or a Clip whose lower bound is the constant 0."""
    if maker is None or maker.inputs[0] is not z:
        return False
    low = maker.inputs[1] if maker.op_type == "Clip" and len(maker.inputs) > 1 else None
    known = low.const_value if low is not None else None
    return maker.op_type == "Relu" or (known is not None and not known.numpy().any())


def names_in(graph: ir.Graph) -> set[str | None]:
    """The names of a graph's tensors and of those in its subgraphs, which must not be used twice."""
    graphs = [graph, *graph.subgraphs()]
    names = {value.name for g in graphs for value in [*g.inputs, *g.initializers.values()]}
    return names | {value.name for node in graph.all_nodes() for value in node.outputs}


def _frozen(attributes: dict[str, Any]) -> tuple[Any, ...]:
    """Attributes as a key: equal attributes, equal key."""
    shown = {name: id(value) if isinstance(value, ir.Graph) else repr(value) for name, value in attributes.items()}
    return tuple(sorted(shown.items()))
