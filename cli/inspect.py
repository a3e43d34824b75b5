"""`onnxlrp inspect`: what a model is, what would be explained, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxlrp.data import Meaning
from onnxlrp.data.meaning import guess_for, sidecar_path
from onnxlrp.errors import ChoiceError, InputError, Unsupported
from onnxlrp.model import Model
from onnxlrp.report.graph_drawing import save_graph
from onnxlrp.report.inspection import Inspection, inspect_model
from onnxlrp.report.summary import as_json as as_document

from .application import COMMANDS
from .options import Choices, json_option, model_argument, picture_options, plan_options, read_model
from .printing import print_json, print_table, say, warn


@click.command("inspect", short_help=COMMANDS["inspect"])
@model_argument
@plan_options
@click.option(
    "--graph",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw the reversed relevance graph: .svg, .dot or .graphml; all three without a suffix.",
)
@click.option(
    "--write-sidecar", is_flag=True, help="Write model.toml beside the model, guessed from the file and the flags."
)
@click.option("--force", is_flag=True, help="Overwrite a sidecar that is there.")
@click.option("--strict", is_flag=True, help="Exit 3 where the model cannot be explained so, for scripts.")
@picture_options
@json_option
def command(
    model: Path,
    method: str,
    graph: Path | None,
    write_sidecar: bool,
    force: bool,
    strict: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Show what MODEL is, what would be explained and why, and the rule of each layer with its source.

    Everything without a rule is listed at once.

    \b
    Example:
      onnxlrp inspect model.onnx
      onnxlrp inspect model.onnx --preset alpha2-beta1 --rule "/stem/*=flat"
      onnxlrp inspect model.onnx --graph relevance.svg
      onnxlrp inspect model.onnx --write-sidecar
    """
    choices = Choices.of(given)
    read, meaning = read_model(model, choices)
    found, plan = inspect_model(read, meaning, lambda: choices.explainer(read, method, meaning), preset=choices.preset)
    written: list[Path] = []
    if graph is not None:
        if plan is None:
            raise Unsupported(f"There is no plan to draw. {found.problem}".strip())
        written += save_graph(graph, plan)
    reasons: tuple[str, ...] = ()
    if write_sidecar:
        path, reasons = _write_sidecar(read, meaning, choices, force=force)
        written.append(path)
    if as_json:
        print_json(
            as_document(found.as_dict() | {"written": [str(path) for path in written], "reasons": list(reasons)})
        )
    else:
        _print(found)
        for reason in reasons:
            say(f"guessed {reason}")
        for path in written:
            say(f"written: {path}")
    if found.problem and strict:
        raise click.exceptions.Exit(Unsupported.exit_code)


def _write_sidecar(model: Model, meaning: Meaning, choices: Choices, *, force: bool) -> tuple[Path, tuple[str, ...]]:
    if model.path is None:
        raise InputError("A model without a file has no place for a sidecar.")
    path = sidecar_path(model.path)
    if path.exists() and not force:
        raise ChoiceError(f"'{path}' is there already and is left as it is. --force overwrites it.")
    guessed = guess_for(model)
    sidecar = guessed.sidecar.replace(**choices.said) if meaning.sidecar.source is None else meaning.sidecar
    comments = ["Guessed by onnxlrp inspect --write-sidecar; check it and correct it.", *guessed.reasons]
    sidecar.write(path, comments)
    return path, guessed.reasons


def _print(found: Inspection) -> None:
    model, weights = found.model, found.weights
    opset = f"opset {model['opset']}" + (
        f", read as {model['read_as_opset']}" if model["read_as_opset"] != model["opset"] else ""
    )
    say(f"{model['name']}: {model['exporter']}, {opset}, {model['nodes']} nodes")
    say(f"sha256 {model['sha256']}")
    say(f"{weights['parameters']:,} parameters in {weights['tensors']} tensors, {weights['bytes'] / 1e6:,.1f} MB")
    for note in model["notes"]:
        say(f"note: {note}")
    for title, lines in (("in ", found.inputs), ("out", found.outputs)):
        for line in lines:
            say(f"{title}  {line}")
    say("operators: " + ", ".join(f"{count} {name}" for name, count in found.operators.items()))
    _print_preprocessing(found.preprocessing)
    if found.explained:
        inputs = ", ".join(found.explained["inputs"])
        say(f"\nexplained: '{found.explained['tensor']}' ({found.explained['because']}); relevance of {inputs}")
        preset = f", preset {found.preset} ({found.preset_because})" if found.preset else ""
        say(f"method {found.method}{preset}")
    if found.plan:
        say()
        rows = [(row.node, row.operator, row.rule, row.because, row.source) for row in found.plan]
        print_table(rows, ("layer", "operator", "rule", "because", "source"))
    for line in found.without_effect:
        say(f"no effect: {line}")
    if found.without_rule:
        say(f"\n{len(found.without_rule)} operators between the explained inputs and the output have no rule:\n")
        print_table(
            [(op, len(nodes), ", ".join(nodes)) for op, nodes in found.without_rule.items()],
            ("operator", "nodes", "names"),
        )
    if found.problem:
        reason = found.problem.splitlines()[-1] if found.without_rule else found.problem
        warn([f"this model cannot be explained so. {reason}"])


def _print_preprocessing(said: dict[str, Any]) -> None:
    values = ", ".join(f"{key} {value}" for key, value in said.items() if key not in ("sidecar", "guessed"))
    if said["guessed"]:
        say(f"input (no sidecar; guessed): {values}")
        for reason in said["guessed"]:
            say(f"  {reason}")
    elif values:
        say(f"input ({said['sidecar'] or 'no sidecar'}): {values}")
