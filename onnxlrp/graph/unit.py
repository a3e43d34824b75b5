"""`Unit`: what the walk treats as one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from onnxlrp.graph.flow import operands
from onnxlrp.graph.marks import FROM_NODE, READ_AS

OURS = "onnxlrp"
"""Domain of the operators that only units have (never written to a model)."""


@dataclass(frozen=True, eq=False)
class Unit:
    """What the walk treats as one layer: one node, or several that make up one.

    nodes   : in graph order; the last one produces the outputs
    inputs  : the operands, and behind them what the node's subgraphs read of the graphs around them
    op_type : the node's own, or a name of ours in the domain `onnxlrp` (`LinearChain`, `DecomposedActivation`)
    """

    nodes: tuple[ir.Node, ...]
    op_type: str
    domain: str
    inputs: tuple[ir.Value | None, ...]
    outputs: tuple[ir.Value, ...]

    @classmethod
    def of(cls, node: ir.Node) -> Unit:
        read_as = node.metadata_props.get(READ_AS)
        op_type, domain = (node.op_type, node.domain) if read_as is None else (read_as, OURS)
        return cls((node,), op_type, domain, operands(node), tuple(node.outputs))

    @property
    def node(self) -> ir.Node:
        return self.nodes[-1]

    @property
    def name(self) -> str:
        return self.nodes[0].name or "" if len(self.nodes) == 1 else " + ".join(node.name or "" for node in self.nodes)

    @cached_property
    def names(self) -> frozenset[str]:
        """Of its nodes, and of the fused nodes in the file that these are parts of."""
        fused = {node.metadata_props.get(FROM_NODE, "") for node in self.nodes} - {""}
        return frozenset(node.name or "" for node in self.nodes) | fused

    @property
    def described_type(self) -> str:
        return "+".join(node.op_type for node in self.nodes)

    def on(self, twins: Mapping[ir.Value, ir.Value]) -> Unit:
        """The same layer in a copy of its graph."""
        producers = [next(twins[o] for o in node.outputs if o in twins).producer() for node in self.nodes]
        return Unit(
            tuple(node for node in producers if node is not None),
            self.op_type,
            self.domain,
            tuple(None if value is None else twins.get(value, value) for value in self.inputs),
            tuple(twins.get(value, value) for value in self.outputs),
        )

    def __str__(self) -> str:
        return f"{self.described_type} '{self.name}'"
