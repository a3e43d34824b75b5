"""`onnxlrp compile`: the explainer as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxlrp.errors import CheckFailed
from onnxlrp.report.summary import as_json as as_document
from onnxlrp.saved import Saved, describe_saved

from .application import COMMANDS
from .options import Choices, json_option, model_argument, picture_options, plan_options, read_model
from .printing import print_json, say, warn


@click.command("compile", short_help=COMMANDS["compile"])
@model_argument
@click.option(
    "-o",
    "--out",
    "path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    required=True,
    help="The explainer, an .onnx file.",
)
@plan_options
@picture_options
@json_option
def command(model: Path, path: Path, method: str, as_json: bool, **given: Any) -> None:
    """Write the explainer of MODEL: a plain ONNX file with the model's outputs and relevance of its inputs.

    Any onnxruntime runs it (C++, C#, Java, mobile, a browser). `target` (-1 = the largest) and `seed` are inputs with
    defaults.

    \b
    Example:
      onnxlrp compile model.onnx -o explainer.onnx
      onnxlrp compile model.onnx -o explainer.onnx --preset epsilon-plus-flat
    """
    choices = Choices.of(given)
    read, meaning = read_model(model, choices)
    explainer = choices.explainer(read, method, meaning)
    explainer.save(path)
    saved = describe_saved(path, explainer)
    if as_json:
        print_json(as_document(saved.as_dict()))
    else:
        _print(saved)
    if saved.problem:
        raise click.exceptions.Exit(CheckFailed.exit_code)


def _print(saved: Saved) -> None:
    nodes = f"{saved.nodes} nodes ({saved.original_nodes} in the model)"
    say(f"{saved.path}: {saved.title}, {saved.megabytes:.1f} MB, opset {saved.opset}, {nodes}")
    for title, lines in (("in ", saved.inputs), ("out", saved.outputs)):
        for line in lines:
            say(f"{title}  {line}")
    if saved.problem:
        warn([f"onnx.checker objects: {saved.problem}"])
    else:
        say("onnx.checker, full checks: fine")
