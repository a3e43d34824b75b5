"""`onnxlrp explain`: files in, heatmaps, relevance and explain.json out."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import click

from onnxlrp.data import expand, walked
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.heatmap import REDUCTIONS
from onnxlrp.report.gallery import Entry, Found, Gallery
from onnxlrp.report.maps import ROBUST
from onnxlrp.report.sheet import Style
from onnxlrp.report.summary import spoken

from .application import COMMANDS
from .options import (
    Choices,
    batch_option,
    json_option,
    model_argument,
    picture_options,
    plan_options_of_methods,
    provider_option,
    read_model,
)
from .printing import note, print_json, print_shown, print_table, progress, say, warn
from .spelling import Choice

MOST_ROWS, MOST_VIEWS = 40, 3


@click.command("explain", short_help=COMMANDS["explain"])
@model_argument
@click.argument("files", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="Where everything is written.",
)
@click.option(
    "--target",
    metavar="T",
    help="Class index, label, contrast 'cat-dog', full index '3,10,12', all; of maps box:L,T,R,B[:CLASS] or "
    "mask:FILE[:CLASS]; of detections detection:N[:CLASS], detection:best.  [default: the largest]",
)
@plan_options_of_methods
@provider_option
@batch_option
@click.option(
    "--reduce",
    "how",
    type=Choice(list(REDUCTIONS)),
    help="Over channels.  [default: sum; abs-sum for magnitudes]",
)
@click.option(
    "--percentile",
    type=float,
    metavar="P",
    default=ROBUST,
    show_default=True,
    help="Of all magnitudes: the one that gets the full colour; 100 is the largest.",
)
@click.option(
    "--scale",
    type=Choice(["image", "shared"]),
    default="image",
    show_default=True,
    help="One colour scale per file, or one for all.",
)
@click.option("--format", "suffix", type=Choice(["png", "svg"]), default="png", show_default=True)
@click.option(
    "--figure/--no-figure", default=True, show_default=True, help="A titled figure with colour bars per file."
)
@picture_options
@json_option
def command(model: Path, files: tuple[str, ...], folder: Path, target: str | None, as_json: bool, **given: Any) -> None:
    """Explain what the predictions of MODEL for each INPUT rest on.

    INPUT is any number of files of the model's kind (pictures, texts, tables, series, sound, videos), .npy and .npz
    files, folders, and globs in quotes. For each, DIR gets heatmap (of a text: its words; of a table: bars; of a
    series: its traces), overlay (of pictures), figure and relevance (.npz); and one explain.json for all. A file that
    does not fit is skipped, the others are done, and the exit code is 2.

    \b
    Example:
      onnxlrp explain model.onnx cat.jpg -o explained
      onnxlrp explain model.onnx photos/ -o explained --method lrp --method sensitivity --target tabby
      onnxlrp explain model.onnx "photos/*.jpg" -o explained --preset epsilon-gamma-box --rule "/stem/*=flat"
    """
    choices = Choices.of(given)
    read, meaning = read_model(model, choices)
    paths = expand(files, meaning.sidecar.kind)
    if not as_json:
        note(walked(files, meaning.sidecar.kind))
    methods = list(dict.fromkeys(given["methods"]))
    explainers = choices.explainers(read, methods, meaning)
    style = Style(given["how"], given["percentile"], given["scale"], given["suffix"], given["figure"])
    with progress("explaining") as report:
        found = Gallery(explainers, meaning, folder, style).explain(paths, _target(target), report)
    if not as_json:
        note(found.notes)
        warn(found.warnings)
    if not found.entries:
        raise InputError("\n".join(one.reason for one in found.skipped) + "\nNothing was written.")
    if as_json:
        print_json(found.document)
    else:
        _print(found, folder)
    for one in found.skipped:
        click.echo(f"error: skipped: {one.reason}", err=True)
    if found.skipped:
        raise click.exceptions.Exit(InputError.exit_code)


def _target(text: str | None) -> Any:
    """Full indices are written with commas; labels that hold some stay labels."""
    if text is None or "," not in text:
        return text
    try:
        index = ast.literal_eval(f"({text})")
    except (ValueError, SyntaxError):
        return text
    if not all(isinstance(entry, int) for entry in index):
        raise ChoiceError(f"--target '{text}': a full index holds whole numbers, such as 3,10,12.")
    return tuple(index)


def _print(found: Found, folder: Path) -> None:
    rows = [row for entry in found.entries[:MOST_ROWS] for row in _rows(entry)]
    print_table(rows, ("input", "predicted", "method", "target", "score", "arrived"), numbers=(4, 5))
    if len(found.entries) > MOST_ROWS:
        say(f"… and {len(found.entries) - MOST_ROWS} more, in explain.json")
    if any(one["conservation"] and one["conservation"]["cancels"] for entry in found.entries for one in entry.results):
        say("x of y arrived: the score y is a small rest of parts for and against it, so a share of it says little.")
    for shown in (shown for entry in found.entries[:MOST_VIEWS] for shown in entry.shown):
        print_shown(shown)
    unseen = sum(any(True for _ in one.spans()) for entry in found.entries[MOST_VIEWS:] for one in entry.shown[:1])
    if unseen:
        say(f"\n… and {unseen} more inputs like these, in the files and explain.json")
    count = sum(len(entry.files) for entry in found.entries)
    document = found.document
    seconds, provider = document["seconds"], str(document["provider"]).removesuffix("ExecutionProvider")
    done = f"{len(found.entries)} explained" + (f", {len(found.skipped)} skipped" if found.skipped else "")
    say(f"\n{done} in {seconds:.1f} s on {provider}. {count} files and explain.json in {folder}.")


def _rows(entry: Entry) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for number, result in enumerate(entry.results):
        kept = result["conservation"]
        told = "" if kept is None else _arrived(kept)
        score = f"{result['score']:.4g}" if isinstance(result["score"], float) else "…"
        method = " ".join(filter(None, (result["method"], result["preset"])))
        head = (entry.name, spoken(entry.predictions[:1])) if number == 0 else ("", "")
        rows.append((*head, method, str(result["label"]), score, told))
    return rows


def _arrived(kept: dict[str, Any]) -> str:
    """The share, or the amounts where a share would mislead."""
    if kept["cancels"] or not kept["seeded"]:
        return f"{kept['arrived']:.3g} of {kept['seeded']:.3g}"
    return f"{100 * kept['ratio']:.3g}%"
