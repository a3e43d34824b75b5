"""`onnxlrp verify`: the compiled explainer against the model, and where relevance went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxlrp.checks import verify
from onnxlrp.data import Sidecar, expand, inputs_of, load
from onnxlrp.errors import CheckFailed, ChoiceError, InputError
from onnxlrp.findings import LedgerRow, Verdict
from onnxlrp.model import Model
from onnxlrp.report.summary import as_json as as_document

from .application import COMMANDS
from .options import Choices, json_option, model_argument, picture_options, plan_options, provider_option, read_model
from .printing import print_json, print_table, progress, say
from .spelling import Choice

MOST_ROWS = 12
"""Rows of `--ledger top`: the layers that kept most."""

VISIBLE = 1e-5
"""Share of a layer's relevance below which an amount is float32 rounding, and not worth a reader's time."""


@click.command("verify", short_help=COMMANDS["verify"])
@model_argument
@click.argument("file", metavar="[INPUT]", required=False)
@plan_options
@provider_option
@click.option(
    "--ledger",
    type=Choice(["top", "all", "none"]),
    default="top",
    show_default=True,
    help="Layers that are shown.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the made-up input where none is given.")
@picture_options
@json_option
def command(model: Path, file: str | None, method: str, ledger: str, seed: int, as_json: bool, **given: Any) -> None:
    """Check that the explainer of MODEL does what it promises, and show where relevance went, layer by layer.

    Without INPUT (a file as for `onnxlrp explain`) the model gets standard-normal numbers. Exit code 1 when a check
    fails.

    \b
    Example:
      onnxlrp verify model.onnx
      onnxlrp verify model.onnx cat.jpg --preset epsilon-plus --ledger all
    """
    if method.strip().lower() != "lrp":
        raise ChoiceError(f"--method '{method}': verify checks LRP, and the gradient along with it.")
    choices = Choices.of(given)
    if choices.options:
        raise ChoiceError(
            f"--option '{next(iter(choices.options))}': verify takes no method options; say --rule or --preset."
        )
    read, meaning = read_model(model, choices)
    feeds = None if file is None else _feeds(file, read, meaning.sidecar)
    with progress("verifying"):
        verdict = verify(
            model,
            feeds,
            preset=choices.preset,
            rules=choices.rules or None,
            output=choices.output,
            inputs=choices.inputs,
            bias=choices.bias,
            compat=choices.compat,
            providers=choices.provider,
            box=choices.box or meaning.box(),
            labels=meaning.sidecar.labels,
            logits=None if choices.output else meaning.sidecar.logits,
            seed=seed,
        )
    if as_json:
        print_json(as_document(verdict.as_dict()))
    else:
        _print(verdict, ledger)
        given_by = (
            file if file is not None else f"made-up numbers (seed {seed}); give a file to see a real prediction's"
        )
        say(f"\n{_conclusion(verdict)} Input: {given_by}.")
    if not verdict.holds:
        raise click.exceptions.Exit(CheckFailed.exit_code)


def _feeds(file: str, model: Model, sidecar: Sidecar) -> Any:
    paths = expand([file], sidecar.kind)
    if len(paths) != 1:
        raise InputError(f"{file}: {len(paths)} files; verify takes one picture, .npy or .npz.")
    return load(paths[0], sidecar, inputs_of(model)).arrays


def _print(verdict: Verdict, ledger: str) -> None:
    rows = [
        (
            "holds" if f.holds else "FAILS",
            f.check,
            "" if f.measured is None else f"{f.measured:.2g}",
            "" if f.tolerance is None else f"{f.tolerance:.2g}",
            f.unit,
            f.detail,
        )
        for f in verdict.findings
    ]
    print_table(rows, ("", "check", "measured", "allowed", "unit", ""), numbers=(2, 3))
    share = verdict.arrived / verdict.seeded if verdict.seeded else float("nan")
    say(f"\nrelevance: {verdict.seeded:.4g} seeded, {verdict.arrived:.4g} arrived ({share:.2%})")
    if ledger != "none" and verdict.ledger:
        shown = verdict.ledger if ledger == "all" else _largest(verdict.ledger)
        say(f"\nledger, {'all' if ledger == 'all' else f'{len(shown)} of'} {len(verdict.ledger)} layers:\n")
        print_table(
            map(_ledger_row, shown), ("layer", "operator", "rule", "arrived", "handed on", "taken by"), numbers=(3, 4)
        )


def _conclusion(verdict: Verdict) -> str:
    failed = sum(not finding.holds for finding in verdict.findings)
    untold = sum(finding.measured is None for finding in verdict.findings if finding.holds)
    if failed:
        return f"{failed} of {len(verdict.findings)} checks FAIL: do not trust this explainer."
    return f"All {len(verdict.findings)} checks hold" + (f", {untold} of them not applicable." if untold else ".")


def _largest(rows: tuple[LedgerRow, ...]) -> list[LedgerRow]:
    """The layers that kept most, in the graph's order."""
    kept = sorted(rows, key=lambda row: -abs(row.arrived - row.handed_on))[:MOST_ROWS]
    return [row for row in rows if row in kept]


def _ledger_row(row: LedgerRow) -> tuple[str, ...]:
    visible = VISIBLE * max(abs(row.arrived), abs(row.handed_on))
    taken = ", ".join(f"{who} {amount:.3g}" for who, amount in row.taken.items() if abs(amount) > visible)
    return row.layer, row.operator, row.rule, f"{row.arrived:.4g}", f"{row.handed_on:.4g}", taken
