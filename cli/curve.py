"""`onnxlrp curve`: how fast predictions fall when what a heatmap points at is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from onnxlrp import Explainer
from onnxlrp.curves import measure_curves
from onnxlrp.data import Sample, expand
from onnxlrp.errors import CheckFailed, ChoiceError, InputError
from onnxlrp.files import require_writable
from onnxlrp.metric_table import measure_metrics
from onnxlrp.perturbation.objects import read_objects
from onnxlrp.perturbation.protocol import ORDERS, RANDOM, Protocol
from onnxlrp.perturbation.regions import LARGEST_EDGE
from onnxlrp.perturbation.replacements import REPLACEMENTS
from onnxlrp.perturbation.samples import Skipped, read_classes, samples_of
from onnxlrp.perturbation.statistics import SCORES, Band, Curves
from onnxlrp.perturbation.words import embedding_of
from onnxlrp.report.curve_files import document_of, write_curves, write_table

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
from .printing import note, print_json, print_table, progress, say, warn
from .protocol import protocol_of
from .spelling import Choice

RESULTS = "curve-samples.jsonl"
METRIC_SAMPLES = 8
"""Files that --metrics looks at: each takes some 250 forward passes per method."""


@click.command("curve", short_help=COMMANDS["curve"])
@model_argument
@click.argument("files", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o", "--out", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True, help="Where results go."
)
@click.option("--target", metavar="T", help="Class index or label that is watched.  [default: the largest]")
@click.option("--steps", type=click.IntRange(1), default=50, show_default=True, help="Regions that are replaced.")
@click.option(
    "--region",
    metavar="N",
    help="Edge of a patch or length of a window; per axis as in T=1 or H=8,W=8,T=4.  [default: 9, of small inputs a "
    "seventh of the shorter edge]",
)
@click.option("--mask", metavar="FILE", type=click.Path(path_type=Path), help="Regions as an .npy of whole numbers.")
@click.option(
    "--order",
    "orders",
    type=Choice([*ORDERS, RANDOM]),
    multiple=True,
    default=["morf"],
    help="Most (default) or least relevant first; random is always drawn, alone with `random`. Repeatable.",
)
@click.option(
    "--replace",
    type=Choice(list(REPLACEMENTS)),
    help="What takes a region's place.  [default: uniform; 0 for embeddings of texts]",
)
@click.option("--value", type=float, default=0.0, show_default=True, help="Of constant; the unknown or padding token.")
@click.option(
    "--background",
    metavar="PATH",
    multiple=True,
    help="Samples for --replace permutation, and mean of columns. Repeatable.",
)
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Replacements drawn per sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of replacements and random order.")
@click.option(
    "--score",
    type=Choice(list(SCORES)),
    help="What the figure and the gate show.  [default: log-probability; logit without classes]",
)
@click.option(
    "--labels-file",
    metavar="TSV",
    type=click.Path(path_type=Path),
    help="True classes for --score accuracy: file name, tab, class index or label.",
)
@click.option(
    "--metrics",
    is_flag=True,
    help="Also the field's other measures of the first 8 files, into metrics.csv.",
)
@click.option(
    "--objects",
    metavar="TSV",
    type=click.Path(path_type=Path),
    help="Where the object is, for --metrics: file name, tab, box L,T,R,B in pixels of the input, or a mask file.",
)
@click.option(
    "--min-over-random",
    metavar="X",
    type=float,
    help="Exit 1 unless the first method's area exceeds that of random order by X.",
)
@click.option("--resume", is_flag=True, help="Go on where a killed run with the same settings stopped.")
@click.option("--format", "suffix", type=Choice(["png", "svg"]), default="png", show_default=True)
@plan_options_of_methods
@provider_option
@batch_option
@picture_options
@json_option
def command(model: Path, files: tuple[str, ...], folder: Path, as_json: bool, **given: Any) -> None:
    """Measure how good the heatmaps of MODEL are: replace regions by relevance, watch the prediction fall.

    DIR gets curve.csv, areas.csv, samples.csv, curve.json and a figure with random order as baseline. A file that does
    not fit is skipped, and the exit code is 2.

    \b
    Example:
      onnxlrp curve model.onnx photos/ -o curve --method lrp --method sensitivity
      onnxlrp curve model.onnx photos/ -o curve --order morf --order lerf --score logit --resume
      onnxlrp curve model.onnx photos/ -o curve --min-over-random 0.5
    """
    _check(given)
    choices = Choices.of(given)
    read, meaning = read_model(model, choices)
    if meaning.sidecar.kind == "text" and not choices.inputs and (embedding := embedding_of(read)):
        choices = replace(choices, inputs=[embedding])
    paths = expand(files, meaning.sidecar.kind)
    methods = [name for name in dict.fromkeys(given["methods"]) if name != RANDOM] or ["lrp"]
    explainers = choices.explainers(read, methods, meaning)
    require_writable(folder)
    named = {_name(explainer): explainer for explainer in explainers}
    protocol = protocol_of(given, explainers[0], meaning)
    if not given["region"] and protocol.labels is None and protocol.region != LARGEST_EDGE and not as_json:
        note([f"Regions have an edge of {protocol.region}, a seventh of the input's; --region takes another."])
    classes = read_classes(given["labels_file"], meaning.sidecar.labels) if given["labels_file"] else None
    heard: dict[str, str] = {}
    with progress("measuring") as report:
        curves = measure_curves(
            named,
            _listened(samples_of(paths, read, meaning), heard),
            protocol,
            target=given["target"],
            label=classes,
            store=folder / RESULTS,
            resume=given["resume"],
            progress=lambda done: report(done, max(len(paths), done)),
        )
    score = given["score"] or ("log-probability" if curves.head else "logit")
    title = f"{model.stem}: {len(curves.records)} samples, {given['replace'] or protocol.replace}"
    names = write_curves(curves, folder, score, title, given["suffix"])
    gap = _gap(curves, score)
    holds = _holds(gap, given["min_over_random"])
    warnings = [*filter(None, [meaning.warning]), *heard.values(), *curves.warnings]
    document = document_of(curves, score) | {"warnings": warnings}
    document |= {"holds": holds, "minimum": given["min_over_random"]}
    if given["metrics"]:
        document["metrics"] = _measured(
            named, samples_of(paths[:METRIC_SAMPLES], read, meaning), protocol, folder, given
        )
        names.append("metrics.csv")
    if as_json:
        print_json(document)
    else:
        warn(warnings)
        _print(curves, score, folder, names, document.get("metrics"))
    _leave(curves, gap, score, holds, given["min_over_random"])


def _check(given: dict[str, Any]) -> None:
    """What can be refused before hours are spent."""
    if given["score"] == "accuracy" and given["labels_file"] is None:
        raise ChoiceError("--score accuracy needs the true class of every sample: give --labels-file.")
    if given["objects"] is not None:
        if not given["metrics"]:
            raise ChoiceError("--objects is for --metrics: give both.")
        read_objects(given["objects"])
    if given["min_over_random"] is not None and "morf" not in given["orders"]:
        raise ChoiceError("--min-over-random compares most relevant first with random: leave --order morf in.")


def _listened(samples: Iterable[Sample | Skipped], heard: dict[str, str]) -> Iterator[Sample | Skipped]:
    """Passes samples on and keeps what their files have to say, once per sentence."""
    for sample in samples:
        if isinstance(sample, Sample):
            for text in sample.warnings:
                told = f"{sample.name}: {text}"
                heard[text] = heard.get(text, told)
        yield sample


def _name(explainer: Explainer) -> str:
    return " ".join(filter(None, (explainer.method.name, explainer.preset)))


def _measured(
    explainers: dict[str, Explainer], samples: Any, protocol: Protocol, folder: Path, given: dict[str, Any]
) -> list[dict[str, Any]]:
    def tell(one: Skipped) -> None:
        click.echo(f"error: not in metrics.csv: {one.reason}", err=True)

    objects = read_objects(given["objects"]) if given["objects"] else None
    rows = measure_metrics(explainers, samples, protocol, given["target"], objects, tell)
    write_table(folder / "metrics.csv", list(rows[0]), (list(row.values()) for row in rows))
    return rows


def _gap(curves: Curves, score: str) -> Band | None:
    """How far the first method's area lies above that of random order."""
    first = next((area for area in curves.areas(score) if area.series.order == "morf"), None)
    return None if first is None else first.minus_random


def _holds(gap: Band | None, minimum: float | None) -> bool:
    return minimum is None or gap is None or bool(gap.mean >= minimum)


def _print(curves: Curves, score: str, folder: Path, names: list[str], metrics: Any) -> None:
    say(f"{SCORES[score]}; {len(curves.records)} samples, {curves.steps} regions each\n")
    rows = [
        (
            area.series.method,
            area.series.order,
            f"{area.aopc.mean:.4g}",
            _interval(area.aopc),
            "" if area.minus_random is None else f"{area.minus_random.mean:.4g}",
            "" if area.minus_random is None else _interval(area.minus_random),
        )
        for area in curves.areas(score)
    ]
    print_table(rows, ("method", "order", "AOPC", "95 %", "over random", "95 %"), numbers=(2, 4))
    between = curves.between(score)
    if between:
        say()
        print_table(
            [(name, f"{band.mean:.4g}", _interval(band)) for name, band in between.items()],
            ("method", "ABPC", "95 %"),
            numbers=(1,),
        )
    if metrics:
        say()
        print_table(
            [(row["method"], row["metric"], f"{row['mean']:.4g}", row["samples"]) for row in metrics],
            ("method", "metric", "mean", "samples"),
            numbers=(2, 3),
        )
    if not any(np.any(curves.band(series, score).mean) for series in curves.series):
        warn(["The score never moved: an untrained model with constant weights, or regions that it does not look at."])
    skipped = f", {len(curves.skipped)} skipped" if curves.skipped else ""
    share = curves.seconds["onnxruntime"] / max(curves.seconds["total"], 1e-9)
    say(f"\n{len(curves.records)} measured{skipped} in {curves.seconds['total']:.1f} s ({share:.0%} in onnxruntime).")
    say(f"{', '.join(names)} in {folder}.")


def _interval(band: Band) -> str:
    return f"{band.low:.4g} … {band.high:.4g}"


def _leave(curves: Curves, gap: Band | None, score: str, holds: bool, minimum: float | None) -> None:
    for one in curves.skipped:
        click.echo(f"error: skipped: {one.reason}", err=True)
    if not holds and gap is not None:
        first = next(series for series in curves.series if series.order == "morf")
        click.echo(
            f"error: the area of '{first.method}' lies {gap.mean:.4g} above that of random order ({_interval(gap)}; "
            f"{score}), and --min-over-random asks for {minimum:g}.",
            err=True,
        )
        raise click.exceptions.Exit(CheckFailed.exit_code)
    if curves.skipped:
        raise click.exceptions.Exit(InputError.exit_code)
