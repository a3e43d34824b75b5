"""The error tree. Every message says what, where, the value met, and what to do next.

OnnxlrpError
├── ModelError        the file is broken, or not a model: fix the file              exit 2
├── InputError        the call or its data does not fit: change the call            exit 2
│   └── OutOfMemory       too much at once: smaller batches, or a larger machine
├── ChoiceError       an unknown or contradictory choice: change the choice         exit 2
├── Unsupported       the model is valid, but cannot be explained so                exit 3
│   ├── NoRule            operators without a rule: choose a stand-in
│   └── NeedsShape        a rank that nobody could infer: give it
├── CheckFailed       a check did not hold; carries the numbers                     exit 1
└── Defect            a mistake of ours: please report it                           exit 4
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class OnnxlrpError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code = 4


class ModelError(OnnxlrpError):
    """The file cannot be read as a valid model."""

    exit_code = 2


class InputError(OnnxlrpError):
    """The data or the call does not fit the model."""

    exit_code = 2


class OutOfMemory(InputError):
    """onnxruntime could not get the memory that a call needs."""


class ChoiceError(OnnxlrpError):
    """A preset, rule, method, target or name that does not exist or contradicts another."""

    exit_code = 2


class Unsupported(OnnxlrpError):
    """The model is valid, but cannot be explained in the way that was asked for."""

    exit_code = 3


class NoRule(Unsupported):
    """Operators on the way from the explained inputs to the target have no rule; `missing`: operator → node names."""

    def __init__(self, message: str, missing: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.missing = missing or {}


class NeedsShape(Unsupported):
    """A rule needs the rank or a dimension of a tensor that nobody could infer."""


class CheckFailed(OnnxlrpError):
    """A check of the compiled explainer did not hold; `findings` carries the numbers."""

    exit_code = 1

    def __init__(self, message: str, findings: object = None) -> None:
        super().__init__(message)
        self.findings = findings


class Defect(OnnxlrpError):
    """A mistake of this package."""

    exit_code = 4


def no_such(what: str, name: str, known: Iterable[str], others: str = "") -> ChoiceError:
    """ "There is no preset 'epsilon-pluss'. Did you mean 'epsilon-plus'? …", with everything that there is.

    others : instead of the whole list, where that is too long to read
    """
    names = [known_name for known_name in known if known_name]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.65)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    there_are = others or f"There are: {', '.join(names)}."
    return ChoiceError(f"There is no {what} '{name}'.{hint} {there_are}")


def missing_package(what: str, package: str, extra: str, otherwise: str) -> Unsupported:
    """What needs a package that is not installed, how to get it from the index or from a clone, and what else works."""
    return Unsupported(
        f"{what} the package {package}, which is not installed. It comes with the extra '{extra}': "
        f"pip install 'onnxlrp[{extra}]', or in a clone pip install '.[{extra}]'; pip install {package} does, too. "
        f"Or {otherwise}."
    )


@contextmanager
def at_node(where: str) -> Iterator[None]:
    """Add *where* to an error on its way out: the code that detects knows only *what*."""
    try:
        yield
    except OnnxlrpError as error:
        if getattr(error, "where", None) is None:
            error.where = where  # type: ignore[attr-defined]
            error.args = (f"{error.args[0]}\n  at {where}", *error.args[1:])
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError, NotImplementedError) as error:
        raise Defect(
            f"{type(error).__name__} while writing the relevance graph: {error}\n  at {where}\n"
            "This is a mistake of onnxlrp: please report it with the model."
        ) from error
