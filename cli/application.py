"""The group of all commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import click

from .spelling import hint

COMMANDS = {
    "demo": "Explain a bundled classifier that learned to read a watermark.",
    "explain": "Explain predictions: heatmaps, relevance and explain.json.",
    "inspect": "Show what a model is, what is explained, and the rule of each layer.",
    "verify": "Check the compiled explainer against the model; exit 1 when a check fails.",
    "compile": "Write the explainer as one ONNX file that any onnxruntime runs.",
    "curve": "Measure how good heatmaps are: replace regions by relevance, watch the prediction fall.",
}

INTERRUPTED = 130
"""What shells give a program that ended by Ctrl-C: 128 + SIGINT."""

REPORT_IT = (
    "This is a defect of onnxlrp, not of your model: please report it, with this command and the model if you can."
)


class Commands(click.Group):
    """Loads a command's module when it is called, so that `--help` does not wait for onnxruntime."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f".{name}", __package__).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in COMMANDS or name.startswith("-"):
            return super().resolve_command(ctx, args)
        meant = f" To explain it: onnxlrp explain {name} INPUT... -o DIR" if name.endswith(".onnx") else ""
        known = f" There are: {', '.join(COMMANDS)}."
        raise click.UsageError(f"There is no command '{name}'.{meant or hint(name, COMMANDS) + known}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; every error becomes one message on stderr and its exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            code = INTERRUPTED
        except BrokenPipeError:
            raise
        except Exception as error:
            code = _say(error, debug=bool(ctx.params.get("debug")) or bool(os.environ.get("ONNXLRP_DEBUG")))
        raise click.exceptions.Exit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="onnxlrp", prog_name="onnxlrp", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks; also by the environment variable ONNXLRP_DEBUG.")
def main(debug: bool) -> None:
    """Explain the predictions of any exported ONNX model by layer-wise relevance propagation.

    \b
    Example:
      onnxlrp demo
      onnxlrp explain model.onnx photos/ -o explained
    """
    del debug


def _say(error: Exception, *, debug: bool) -> int:
    from onnxlrp.errors import Defect, OnnxlrpError

    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, OnnxlrpError):
        click.echo(f"error: {error}", err=True)
        if isinstance(error, Defect) and "report" not in str(error):
            click.echo(REPORT_IT, err=True)
        return error.exit_code
    click.echo(f"error: {type(error).__name__}: {error}\n{REPORT_IT} --debug shows where it happened.", err=True)
    return Defect.exit_code
