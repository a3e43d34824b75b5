"""Options that several commands share, and how they become choices of the library."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxlrp import Explainer, Model, read
from onnxlrp.compat import COMPATS
from onnxlrp.data import Meaning, meaning_of
from onnxlrp.data.labels import read_labels
from onnxlrp.data.sidecar import KEYS
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.explain import BIASES
from onnxlrp.methods import METHODS, method_options
from onnxlrp.presets import PRESETS

from .spelling import Choice

Command = TypeVar("Command", bound=Callable[..., Any])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


model_argument = click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
provider_option = click.option(
    "--provider",
    type=Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run; auto takes CUDA where it answers.",
)
method_option = click.option(
    "--method",
    "methods",
    metavar="M",
    multiple=True,
    default=["lrp"],
    help=f"Default lrp. One of {_listed(list(METHODS))}.",
)
batch_option = click.option("--batch-size", type=click.IntRange(1), help="Samples per run.  [default: 16]")
_one_method = click.option(
    "--method", metavar="M", default="lrp", show_default=True, help=f"One of {_listed(list(METHODS))}."
)

_PLAN = (
    click.option(
        "--preset", metavar="P", help=f"Of LRP; default by the model's operators. One of {_listed(list(PRESETS))}."
    ),
    click.option(
        "--rule",
        "rules",
        metavar="NODE=RULE",
        multiple=True,
        help="A rule by node name, glob or operator type, such as '/stem/*=z-box(-3, 3)' or Gelu=pass. Repeatable.",
    ),
    click.option(
        "--output", metavar="NAME", help="Tensor that is explained.  [default: logits of the first float output]"
    ),
    click.option(
        "--input",
        "inputs",
        metavar="NAME",
        multiple=True,
        help="Tensor that gets relevance. Repeatable.  [default: every input]",
    ),
    click.option(
        "--bias",
        type=Choice(BIASES),
        default="absorb",
        show_default=True,
        help="What biases do with their share.",
    ),
    click.option(
        "--compat",
        type=Choice(tuple(COMPATS)),
        help="Stabiliser, bias and sign conventions of another tool (docs/parity.md).",
    ),
    click.option(
        "--box",
        nargs=2,
        type=float,
        metavar="LOW HIGH",
        help="Lowest and highest value of the preprocessed input, for z-box.",
    ),
    click.option("--logits", metavar="NAME", help="Tensor that holds the logits."),
    click.option("--labels", metavar="FILE", type=click.Path(path_type=Path), help="Class names, one per line."),
    click.option(
        "--option",
        "options",
        metavar="KEY=VALUE",
        multiple=True,
        help="Of the method, such as steps=20 or window=(3,16,16). Repeatable.",
    ),
)

_PICTURES = (
    click.option(
        "--preprocessing", metavar="NAME", help="How pictures are scaled: imagenet, caffe-bgr, 0-1, -1-1 or 0-255."
    ),
    click.option("--mean", metavar="R,G,B", help="Subtracted per channel, after --pixel-scale."),
    click.option("--std", metavar="R,G,B", help="Divided by per channel, after --mean."),
    click.option("--pixel-scale", metavar="S", help="Pixels 0…255 times this come first, such as 0.00392."),
    click.option("--channels", type=Choice(["RGB", "BGR", "GRAY"]), help="Order of the channels."),
    click.option("--kind", metavar="KIND", help="What the input is: image, tabular, series…"),
    click.option("--layout", metavar="AXES", help="Axes of the input, such as NCHW or NHWC."),
    click.option("--size", nargs=2, type=int, metavar="HEIGHT WIDTH", help="Of the picture that the model sees."),
    click.option("--resize", type=Choice(["shorter-side", "crop", "stretch"]), help="How photos get that size."),
)


def plan_options(command: Command) -> Command:
    """What decides on a plan, with one method."""
    return _one_method(_stacked(command, _PLAN))


def plan_options_of_methods(command: Command) -> Command:
    """What decides on a plan, with any number of methods."""
    return method_option(_stacked(command, _PLAN))


def picture_options(command: Command) -> Command:
    """What overrides the sidecar."""
    return _stacked(command, _PICTURES)


@dataclass(frozen=True)
class Choices:
    """The options of a command, read.

    said : keys of the sidecar that were given as flags
    """

    preset: str | None
    rules: dict[str, str]
    output: str | None
    inputs: list[str] | None
    bias: str
    box: tuple[float, float] | None
    logits: str | None
    options: dict[str, Any]
    said: dict[str, object]
    provider: str = "auto"
    batch_size: int | None = None
    compat: str | None = None

    @classmethod
    def of(cls, given: dict[str, Any]) -> Choices:
        """From click's parameters.  Errors: ChoiceError for pairs without "="; InputError for labels and numbers."""
        picture = {key: given.get(key) for key in ("kind", "layout", "preprocessing", "channels", "resize", "logits")}
        numbers = {"mean": given.get("mean"), "std": given.get("std"), "scale": given.get("pixel_scale")}
        said = picture | {key: _levels(key, text) for key, text in numbers.items() if text}
        said |= {"size": given.get("size") or None, "labels": _labels(given.get("labels"))}
        return cls(
            given.get("preset"),
            dict(_pair(text, "--rule", "NODE=RULE") for text in given.get("rules", ())),
            given.get("output"),
            list(given["inputs"]) if given.get("inputs") else None,
            given.get("bias", "absorb"),
            given.get("box") or None,
            given.get("logits"),
            {
                key: _value(value)
                for key, value in (_pair(t, "--option", "KEY=VALUE") for t in given.get("options", ()))
            },
            {key: _checked(key, value) for key, value in said.items() if value is not None},
            given.get("provider", "auto"),
            given.get("batch_size"),
            given.get("compat"),
        )

    def explainers(self, model: Model, methods: Sequence[str], meaning: Meaning) -> list[Explainer]:
        """One per method.  Errors: ChoiceError also for an option that none of several methods knows."""
        unknown = [key for key in self.options if not any(key in method_options(method) for method in methods)]
        if unknown and len(methods) > 1:
            raise ChoiceError(f"--option '{unknown[0]}': none of the methods {', '.join(methods)} has such an option.")
        return [self.explainer(model, method, meaning, only=len(methods) == 1) for method in methods]

    def explainer(self, model: Model, method: str, meaning: Meaning, *, only: bool = True) -> Explainer:
        """only : whether this is the single method; of several, each takes the choices that it knows"""
        is_lrp = method.strip().lower() == "lrp"
        known = None if only else method_options(method)
        return Explainer(
            model,
            method,
            self.preset if is_lrp or only else None,
            self.rules if is_lrp or only else None,
            output=self.output,
            inputs=self.inputs,
            bias=self.bias,
            providers=self.provider,
            batch_size=self.batch_size,
            box=self.box or meaning.box(),
            labels=meaning.sidecar.labels,
            logits=None if self.output else meaning.sidecar.logits,
            layout=meaning.sidecar.layout,
            compat=self.compat if is_lrp or only else None,
            **{key: value for key, value in self.options.items() if known is None or key in known},
        )


def read_model(path: Path, choices: Choices) -> tuple[Model, Meaning]:
    """The model and what its numbers mean."""
    model = read(path)
    return model, meaning_of(model, choices.said)


def _stacked(command: Command, options: Sequence[Callable[[Any], Any]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def _pair(text: str, flag: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        raise ChoiceError(f"{flag} '{text}' is not of the form {form}.")
    return key.strip(), value.strip()


def _value(text: str) -> Any:
    """A number, tuple or list as Python writes it; anything else is a text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _levels(key: str, text: str) -> float | list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{_flag(key)} '{text}': expected a number, or one per channel as in 0.485,0.456,0.406."
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


def _flag(key: str) -> str:
    """The option that says a key of the sidecar."""
    return "--pixel-scale" if key == "scale" else f"--{key}"


def _checked(key: str, value: Any) -> Any:
    """Errors: InputError that names the option, before a sidecar's own would name the key."""
    try:
        KEYS[key](value)
    except ValueError as error:
        shown = " ".join(map(str, value)) if isinstance(value, tuple | list) else value
        raise InputError(f"{_flag(key)} '{shown}': expected {error}.") from None
    return value


def _labels(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        return read_labels(path)
    except ValueError as error:
        raise InputError(f"--labels: expected {error}.") from error
