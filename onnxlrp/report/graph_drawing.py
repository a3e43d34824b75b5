"""The reversed relevance graph: drawn as SVG, and written as DOT and GraphML for other tools."""

from __future__ import annotations

import io
import os
from pathlib import Path as FilePath

import matplotlib as mpl
import networkx as nx
import pydot
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from onnxlrp.errors import ChoiceError
from onnxlrp.files import atomic_write
from onnxlrp.graph import as_networkx
from onnxlrp.plan import Decision, Plan

SUFFIXES = (".svg", ".dot", ".graphml")

WIDTH, HEIGHT = 2.5, 0.62
"""Of one layer's cell, in inches."""

FILLS = {"input": "#e3edf8", "target": "#fbe3dd", "layer": "#ffffff"}
MARGIN = 0.35
"""Columns left and right, for edges that bow past rows in between."""

SWEEPS = 4
"""Passes over the layers that order them by their neighbours, so that fewer edges cross."""

HALF = 0.34
"""Of a box's height, in rows, with a little air."""

LONGEST_NAME = 34


def relevance_graph(plan: Plan) -> nx.DiGraph:
    """Edges from the target down to the inputs, as relevance goes.

    Vertices are called after their nodes and carry operator, rule, because and kind ("input", "layer", "target").
    """
    graph = as_networkx(plan.units, plan.facts)
    for layer in plan.decisions:
        _hang_below(graph, layer)
    by_name = {decision.unit.name: decision for decision in plan.all()}
    for name, vertex in graph.nodes(data=True):
        decision = by_name.get(name)
        vertex["kind"] = "input" if decision is None else "layer"
        vertex["rule"] = str(decision.rule) if decision is not None else ""
        vertex["because"] = decision.source if decision is not None else ""
    target = plan.target.name or "target"
    if target not in graph:
        graph.add_node(target, operator="target", kind="target", rule="", because="")
        producers = [d.unit.name for d in plan.decisions if plan.target in d.unit.outputs]
        graph.add_edges_from([(target, producer, {"tensor": target}) for producer in producers])
    return graph


def _hang_below(graph: nx.DiGraph, decision: Decision) -> None:
    """The layers of a branch or body, below the layer that runs it, down to what they read from outside."""
    for inside in decision.inside:
        region = inside.region
        graph.add_nodes_from((d.unit.name, {"operator": d.unit.described_type}) for d in region.decisions)
        layers = as_networkx([d.unit for d in region.decisions], region.facts)
        names = {d.unit.name for d in region.decisions}
        graph.add_edges_from((up, down, data) for up, down, data in layers.edges(data=True) if down in names)
        for inner in region.decisions:
            if not set(region.targets).isdisjoint(inner.unit.outputs):
                graph.add_edge(decision.unit.name, inner.unit.name, tensor=inner.unit.outputs[0].name)
            _hang_below(graph, inner)


def save_graph(path: str | os.PathLike[str], plan: Plan) -> list[FilePath]:
    """Write the graph as .svg, .dot or .graphml; a path without suffix gets all three. Returns what was written.

    Errors: ChoiceError for another suffix; InputError when the folder cannot be written.
    """
    path = FilePath(path)
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        raise ChoiceError(f"{path}: a graph is written as {', '.join(SUFFIXES)}, or as all of them without a suffix.")
    paths = [path] if path.suffix else [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    graph = relevance_graph(plan)
    writers = {".svg": _svg, ".dot": _dot, ".graphml": _graphml}
    for target in paths:
        content = writers[target.suffix.lower()](graph, plan.title)
        with atomic_write(target) as draft:
            draft.write_bytes(content)
    return paths


def _svg(graph: nx.DiGraph, title: str) -> bytes:
    places = _places(graph)
    left, right = min(x for x, _ in places.values()) - MARGIN, max(x for x, _ in places.values()) + MARGIN
    columns, rows = right - left + 1, max(y for _, y in places.values()) + 1
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * (rows + 1)))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(left - 0.5, left + columns - 0.5)
    axes.set_ylim(rows - 0.4, -1.4)
    axes.text(
        left + (columns - 1) / 2, -1.0, title, ha="center", va="center", fontsize=10, weight="bold", parse_math=False
    )
    for upper, lower in graph.edges:
        axes.add_patch(_arrow(places[upper], places[lower]))
    for name, vertex in graph.nodes(data=True):
        _draw_box(axes, places[name], str(name), vertex)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "onnxlrp"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _places(graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """(column, row) per vertex: rows by the longest way from the target, columns near the neighbours."""
    layers = [sorted(layer, key=list(graph).index) for layer in _layers(graph)]
    column = {name: float(place) - (len(layer) - 1) / 2 for layer in layers for place, name in enumerate(layer)}
    for sweep in range(SWEEPS):
        neighbours = graph.predecessors if sweep % 2 == 0 else graph.successors
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wish = {name: _mean([column[other] for other in neighbours(name)], column[name]) for name in layer}
            ordered = sorted(layer, key=wish.__getitem__)
            centre = _mean(list(wish.values()), 0.0)
            column |= {name: place - (len(layer) - 1) / 2 + centre for place, name in enumerate(ordered)}
    return {name: (column[name], float(row)) for row, layer in enumerate(layers) for name in layer}


def _layers(graph: nx.DiGraph) -> list[list[str]]:
    """Vertices by the longest way from a vertex that nothing points to."""
    return [list(layer) for layer in nx.topological_generations(graph)]


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _draw_box(axes: object, place: tuple[float, float], name: str, vertex: dict[str, str]) -> None:
    column, row = place
    box = FancyBboxPatch(
        (column - 0.42, row - 0.33),
        0.84,
        0.66,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor=FILLS[vertex["kind"]],
        edgecolor="0.4",
        linewidth=0.8,
        mutation_aspect=WIDTH / HEIGHT,
    )
    axes.add_patch(box)  # type: ignore[attr-defined]
    heading = f"{vertex['operator']}: {vertex['rule']}" if vertex["rule"] else vertex["operator"]
    for text, offset, size in ((_shortened(heading), -0.13, 8.0), (_shortened(name), 0.15, 6.0)):
        axes.text(column, row + offset, text, ha="center", va="center", fontsize=size, parse_math=False)  # type: ignore[attr-defined]


def _arrow(upper: tuple[float, float], lower: tuple[float, float]) -> FancyArrowPatch:
    """Straight to the next row; past rows in between along the side of the boxes, as a skip connection does."""
    passes_by = lower[1] - upper[1] > 1.5
    start, end = (upper[0], upper[1] + HALF), (lower[0], lower[1] - HALF)
    path = Path([start, end])
    if passes_by:
        side = max(upper[0], lower[0]) + 0.47 if lower[0] >= upper[0] else min(upper[0], lower[0]) - 0.47
        corners = [
            (upper[0], upper[1] + 0.5),
            (side, upper[1] + 0.5),
            (side, lower[1] - 0.5),
            (lower[0], lower[1] - 0.5),
        ]
        path = Path([start, *corners, end])
    return FancyArrowPatch(
        path=path,
        arrowstyle="-|>",
        mutation_scale=7,
        color="0.45",
        linewidth=0.8,
        shrinkA=0,
        shrinkB=0,
        joinstyle="round",
    )


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME // 2 - 1]}…{text[-LONGEST_NAME // 2 :]}"


def _dot(graph: nx.DiGraph, title: str) -> bytes:
    """Vertices are numbered, their names are labels: DOT gives colons and slashes a meaning of their own."""
    numbers = {name: f"n{number}" for number, name in enumerate(graph)}
    drawing = pydot.Dot("relevance", graph_type="digraph", label=_quoted(title), labelloc="t", fontname="sans-serif")
    drawing.set_node_defaults(shape="box", style='"rounded,filled"', fontname="sans-serif", fontsize="10")
    for name, vertex in graph.nodes(data=True):
        heading = f"{vertex['operator']}: {vertex['rule']}" if vertex["rule"] else vertex["operator"]
        label = _quoted(f"{heading}\n{name}")
        drawing.add_node(pydot.Node(numbers[name], label=label, fillcolor=_quoted(FILLS[vertex["kind"]])))
    for upper, lower, edge in graph.edges(data=True):
        drawing.add_edge(pydot.Edge(numbers[upper], numbers[lower], tooltip=_quoted(edge["tensor"] or "")))
    return str(drawing.to_string()).encode()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _graphml(graph: nx.DiGraph, title: str) -> bytes:
    named = graph.copy()
    named.graph["title"] = title
    buffer = io.BytesIO()
    nx.write_graphml_xml(named, buffer)
    return buffer.getvalue()
