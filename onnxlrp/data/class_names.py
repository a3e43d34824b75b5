"""The names that a model's file gives its classes: texts, or whole numbers."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxlrp.graph import READ_AS, Facts
from onnxlrp.model import CLASS_NAMES, Model

Names = tuple[str, ...]

_LISTS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
_MOVES = frozenset({"Cast", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"})
_CHOICES = frozenset({"ArgMax", "TopK", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not"})


def class_names(model: Model) -> Names | None:
    """In the order of the classes; None where the file names none, or several sets.

    The dictionaries of a ZipMap count first, then the table or encoder that an output of labels is looked up in, then
    the classifiers inside.
    """
    graph = (model.as_read or model.proto).graph
    for places in (_of_dictionaries, _of_labels, _of_classifiers):
        found = set(places(graph))
        if found:
            names = found.pop()
            return names if not found else None
    return None


def names_for(count: int | None, names: Names | None) -> Names | None:
    """The names of `count` scores: a single score of two classes speaks for the second, and against the first."""
    return names[1:] if names is not None and count == 1 and len(names) == 2 else names


def label_output(model: Model) -> tuple[str, Names] | None:
    """The output that names the predicted class, and what it calls the classes; None where there is none."""
    return next(_behind_labels(model.graph), None)


def _of_dictionaries(graph: ir.Graph) -> Iterator[Names]:
    for node in graph:
        if CLASS_NAMES in node.metadata_props:
            yield tuple(node.metadata_props[CLASS_NAMES].split("\n"))


def _of_classifiers(graph: ir.Graph) -> Iterator[Names]:
    for node in graph:
        if names := _listed(node):
            yield names


def _of_labels(graph: ir.Graph) -> Iterator[Names]:
    return (names for _, names in _behind_labels(graph))


def _behind_labels(graph: ir.Graph) -> Iterator[tuple[str, Names]]:
    facts = Facts(graph, (), lambda node: ())
    for output in graph.outputs:
        node = _before_moves(output) if output.dtype in (ir.DataType.INT64, ir.DataType.STRING) else None
        if node is None:
            continue
        if names := _listed(node) or _encoded(node):
            yield output.name or "", names
        elif node.op_type in ("ArrayFeatureExtractor", "Gather"):
            table, chosen = facts.constant(node.inputs[0]), _before_moves(node.inputs[1])
            if table is not None and table.squeeze().ndim == 1 and chosen is not None and chosen.op_type in _CHOICES:
                yield output.name or "", tuple(map(_text, table.squeeze().tolist()))


def _listed(node: ir.Node) -> Names:
    """The classes in a classifier's attributes."""
    lists = (node.attributes[name].value for name in _LISTS if node.domain and name in node.attributes)
    return next((tuple(map(_text, values)) for values in lists if len(values)), ())


def _encoded(node: ir.Node) -> Names:
    """What a LabelEncoder makes of the indices 0, 1, 2…"""
    keys = node.attributes.get("keys_int64s")
    values = next((node.attributes[n] for n in ("values_strings", "values_int64s") if n in node.attributes), None)
    if node.op_type != "LabelEncoder" or keys is None or values is None:
        return ()
    names = dict(zip(keys.as_ints(), map(_text, values.value), strict=True))
    return tuple(names[i] for i in range(len(names))) if set(names) == set(range(len(names))) else ()


def _before_moves(value: ir.Value | None) -> ir.Node | None:
    """The node that computed the elements of a tensor."""
    node = value.producer() if value is not None else None
    while node is not None and (node.op_type in _MOVES or READ_AS in node.metadata_props):
        operand = node.inputs[1 if READ_AS in node.metadata_props else 0]
        node = operand.producer() if operand is not None else None
    return node


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
