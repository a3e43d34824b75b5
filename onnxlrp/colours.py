"""The two colour maps, as tables from value to red, green, blue.

Signed relevance: blue (against) over white (nothing) to red (for). Magnitudes such as sensitivity: white over orange
and purple to black, which no one mistakes for "for" and "against". Both have an entry that is exactly white for zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 256

_AGAINST = ((255, 255, 255), (190, 215, 240), (110, 165, 225), (40, 95, 200), (20, 35, 130))
_FOR = ((255, 255, 255), (250, 205, 190), (245, 135, 115), (220, 35, 35), (125, 0, 15))
_MAGNITUDE = ((255, 255, 255), (253, 220, 140), (245, 145, 45), (175, 45, 100), (85, 20, 120), (20, 5, 40))


def _ramp(anchors: tuple[tuple[int, int, int], ...]) -> NDArray[np.float64]:
    places = np.linspace(0, len(anchors) - 1, STEPS)
    return np.stack([np.interp(places, range(len(anchors)), channel) for channel in zip(*anchors, strict=True)], axis=1)


TABLES: dict[str, NDArray[np.uint8]] = {
    "signed": np.rint(np.concatenate([_ramp(_AGAINST)[:0:-1], _ramp(_FOR)])).astype(np.uint8),
    "positive": np.rint(_ramp(_MAGNITUDE)).astype(np.uint8),
}


def paint(values: NDArray[np.floating[Any]], kind: str) -> NDArray[np.uint8]:
    """Colour values in −1…1 ("signed") or 0…1 ("positive"); beyond, the end's colour. Adds an axis of three."""
    table = TABLES[kind]
    place = (values + 1) / 2 if kind == "signed" else values
    return table[np.rint(np.clip(place, 0, 1) * (len(table) - 1)).astype(np.intp)]
