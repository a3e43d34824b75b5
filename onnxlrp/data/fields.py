"""What a value in a sidecar may be, and how it is written as TOML.

A check takes the value as TOML gives it and returns it in the form the library keeps (lists become tuples).
A value that does not fit is a ValueError whose text continues the sentence "expected …": the caller adds file and key.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any

Check = Callable[[object], Any]
Levels = float | tuple[float, ...]

AXES = "NCHWTDLF"


def one_of(*allowed: str) -> Check:
    """One of a few words."""

    def check(value: object) -> str:
        if value not in allowed:
            close = difflib.get_close_matches(str(value).lower(), allowed, n=1)
            hint = f' (did you mean "{close[0]}"?)' if close else ""
            raise ValueError("one of " + ", ".join(f'"{word}"' for word in allowed) + hint)
        return str(value)

    return check


def text(value: object) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a text in quotes")
    return value


def positive(value: object) -> float:
    """A number above zero."""
    if not _is_number(value) or float(value) <= 0:  # type: ignore[arg-type]
        raise ValueError("a number above 0")
    return float(value)  # type: ignore[arg-type]


def whole(value: object) -> int:
    """A whole number above zero."""
    if not isinstance(value, int) or not _is_whole(value) or value <= 0:
        raise ValueError("a whole number above 0")
    return value


def axis_letters(value: object) -> str:
    """The input's axes in order, a letter each: batch, channel, height, width, time, depth, length, feature."""
    if not isinstance(value, str) or not value or set(value) - set(AXES) or len(set(value)) < len(value):
        raise ValueError(f'each of the letters {" ".join(AXES)} at most once, such as "NCHW", "NHWC", "CHW", "NF"')
    return value


def height_width(value: object) -> tuple[int, int]:
    """[height, width] in pixels; one number stands for a square."""
    pair = (value, value) if _is_whole(value) else value
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(_is_whole(n) and n > 0 for n in pair):
        raise ValueError("[height, width] in pixels, such as [224, 224]")
    return int(pair[0]), int(pair[1])


def levels(value: object) -> Levels:
    """A number for all channels, or a list with one number per channel."""
    if _is_number(value):
        return float(value)  # type: ignore[arg-type]
    if isinstance(value, Sequence) and not isinstance(value, str) and value and all(map(_is_number, value)):
        return tuple(float(number) for number in value)
    raise ValueError("a number, or a list with one number per channel")


def levels_not_zero(value: object) -> Levels:
    """Like `levels`, for what is divided by or inverted."""
    checked = levels(value)
    if 0.0 in (checked if isinstance(checked, tuple) else (checked,)):
        raise ValueError("a number other than 0, or a list with one such number per channel")
    return checked


def box(value: object) -> tuple[Levels, Levels]:
    """[low, high], each a number or one number per channel, in the units of the model's input."""
    wanted = "[low, high] with low < high, each a number or a list with one number per channel"
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ValueError(wanted)
    try:
        low, high = levels(value[0]), levels(value[1])
    except ValueError as error:
        raise ValueError(wanted) from error
    if not all(lowest < highest for lowest, highest in _pairs(low, high)):
        raise ValueError(wanted)
    return low, high


def names(value: object) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(n, str) for n in value):
        raise ValueError("a list of texts")
    return tuple(value)


def table(value: object) -> dict[str, object]:
    """A TOML table, kept as it is."""
    if not isinstance(value, Mapping):
        raise ValueError("a table, such as [about] with one key per line")
    return dict(value)


def patches(value: object) -> dict[str, int]:
    """How descriptors of motion are cut: {size = pixels, frames = a number, bins = directions}."""
    wanted = "{size = a multiple of 8, frames = an even number, bins = at least 2}, or some of these"
    if not isinstance(value, Mapping) or not all(map(_is_whole, value.values())):
        raise ValueError(wanted)
    fits = {"size": lambda n: n % 8 == 0, "frames": lambda n: n % 2 == 0, "bins": lambda n: n > 1}
    if not all(key in fits and number > 0 and fits[key](number) for key, number in value.items()):
        raise ValueError(wanted)
    return dict(value)


def toml(value: object) -> str:
    """Write one value as TOML; tables inside become inline tables."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(key)} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _toml_list([toml(entry) for entry in value])
    # JSON's escapes are TOML's, but for DEL, which JSON leaves bare and TOML forbids.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(key: str) -> str:
    """A bare key where TOML allows one, else a quoted key."""
    bare = key.isascii() and key.replace("_", "a").replace("-", "a").isalnum()
    return key if bare else toml(key)


def _toml_list(entries: list[str]) -> str:
    line = "[" + ", ".join(entries) + "]"
    return line if len(line) < 100 else "[\n" + "".join(f"    {entry},\n" for entry in entries) + "]"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _pairs(low: Levels, high: Levels) -> list[tuple[float, float]]:
    lows = low if isinstance(low, tuple) else (low,)
    highs = high if isinstance(high, tuple) else (high,)
    if len(lows) > 1 and len(highs) > 1 and len(lows) != len(highs):
        return [(1.0, 0.0)]
    width = max(len(lows), len(highs))
    return list(zip(lows * (width // len(lows)), highs * (width // len(highs)), strict=True))
