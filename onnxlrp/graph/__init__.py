"""What is known about every tensor, and the way from the explained inputs to the target."""

from onnxlrp.graph.constants import RANDOM, SMALL, Dimension
from onnxlrp.graph.facts import FLOATS, QUANTISED, Facts
from onnxlrp.graph.flow import a_category, captured, downstream, operands, subgraphs, upstream
from onnxlrp.graph.marks import FROM_NODE, FROM_TYPE, KEPT, MASKED, NOT_LOWERED, READ_AS
from onnxlrp.graph.unit import OURS, Unit
from onnxlrp.graph.way import as_networkx, between

__all__ = [
    "FLOATS",
    "FROM_NODE",
    "FROM_TYPE",
    "KEPT",
    "MASKED",
    "NOT_LOWERED",
    "OURS",
    "QUANTISED",
    "RANDOM",
    "READ_AS",
    "SMALL",
    "Dimension",
    "Facts",
    "Unit",
    "a_category",
    "as_networkx",
    "between",
    "captured",
    "downstream",
    "operands",
    "subgraphs",
    "upstream",
]
