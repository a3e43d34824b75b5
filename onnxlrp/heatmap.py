"""Relevance → pictures: channels reduced, scaled, coloured, laid over the input. Arrays in, arrays out.

Red speaks for the target, blue against it, white is nothing; magnitudes such as sensitivity run from white to dark.

    heatmap = render(reduce_channels(relevance)[0])
    laid = overlay(reduce_channels(relevance)[0], picture)
"""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxlrp.colours import TABLES, paint
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.files import atomic_write

Map = NDArray[np.floating[Any]]
Picture = NDArray[np.uint8]

REDUCTIONS = {
    "sum": lambda values, axis: values.sum(axis),
    "abs-sum": lambda values, axis: np.abs(values).sum(axis),
    "l2": lambda values, axis: np.sqrt(np.square(values).sum(axis)),
    "max": lambda values, axis: np.abs(values).max(axis),
}
RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


def reduce_channels(relevance: Map, layout: str = "NCHW", how: str = "sum") -> Map:
    """One number per pixel: drop the axis C of the layout.

    how : "sum" for signed relevance, which keeps the total; for magnitudes "abs-sum" Σ|·|, "l2" √Σ·², "max" max|·|
    Returns float64 of one axis less; a layout without C keeps all axes (and takes |·| where `how` would).
    """
    if len(layout) != np.ndim(relevance):
        raise InputError(
            f'relevance of shape {np.shape(relevance)} does not have the axes "{layout}". '
            "Give a layout with one letter per axis."
        )
    _choose("how", how, REDUCTIONS)
    values = np.asarray(relevance, np.float64)
    axis = layout.find("C")
    return np.asarray(REDUCTIONS[how](values[..., None] if axis < 0 else values, axis))


def limit_of(heatmap: Map, percentile: float | None = None) -> float:
    """The magnitude that gets the full colour: the largest, or a percentile of all, which extremes cannot spoil."""
    values = np.abs(_finite(heatmap))
    if not values.size:
        return 0.0
    if percentile is None:
        return float(values.max())
    if not 0 < percentile <= 100:
        raise ChoiceError(f"percentile = {percentile:g} does not fit. Choose one above 0 and up to 100, such as 99.")
    # Sparse maps are zero nearly everywhere: fall back from a percentile of zero, or the whole map would stay white.
    return float(np.percentile(values, percentile)) or float(values.max())


def normalise(heatmap: Map, percentile: float | None = None, scale: str = "image") -> Map:
    """Divide by the largest magnitude, so that values lie in −1…1 and zero stays zero.

    heatmap    : (height, width), or (batch, …)
    percentile : take this percentile for the largest and clip what is beyond
    scale      : "image", each of the batch by its own largest; "shared", all by one, so that they can be compared
    """
    _choose("scale", scale, ("image", "shared"))
    values = _finite(heatmap)
    if scale == "image" and values.ndim > 2:
        return np.stack([normalise(value, percentile, "shared") for value in values]) if len(values) else values
    limit = limit_of(values, percentile)
    return np.clip(values / limit, -1, 1) if limit else np.zeros_like(values)


def render(
    heatmap: Map,
    kind: str = "signed",
    *,
    limit: float | None = None,
    percentile: float | None = None,
    size: tuple[int, int] | None = None,
    resample: str = "nearest",
) -> Picture:
    """Colour a map (height, width): uint8 (height, width, 3). Zero is white, whatever the scale.

    kind  : "signed", centred at zero: red for, blue against; "positive", for magnitudes: white to dark
    limit : the magnitude that gets the full colour; default: the map's own largest, or its `percentile`
    size  : (height, width) to bring it to, by `resample` "nearest" or "bilinear"
    Raises InputError on values that are not finite, and on negative ones where the kind is "positive".
    """
    return paint(_scaled(heatmap, kind, limit, percentile, size, resample), kind)


def overlay(
    heatmap: Map,
    picture: Picture,
    kind: str = "signed",
    *,
    limit: float | None = None,
    percentile: float | None = None,
    alpha: float = 0.9,
    resample: str = "bilinear",
) -> Picture:
    """Lay a map over the picture it explains: uint8 (height, width, 3), the picture's size.

    The picture is gray and light underneath; colour covers it the more, the larger the magnitude, by `alpha` at most.
    picture : uint8 (height, width), (height, width, 1) or (height, width, 3); other arguments as in `render`
    """
    gray = _gray(picture)
    values = _scaled(heatmap, kind, limit, percentile, gray.shape, resample)
    # Weak relevance would fade twice, by its cover and into white: the shift gives it a hue, the power more cover.
    magnitude = np.abs(values)
    cover = alpha * magnitude[..., None] ** 0.7
    hue = np.sign(values) * (0.35 + 0.65 * magnitude)
    paper = (90 + 0.6 * gray)[..., None]
    return np.rint(cover * paint(hue, kind) + (1 - cover) * paper).astype(np.uint8)


def outlined(picture: Picture, inside: NDArray[np.bool_]) -> Picture:
    """The border of a mask (height, width), of any size, drawn on a picture: dark, between two light lines."""
    drawn = np.asarray(picture).copy()
    size = (drawn.shape[1], drawn.shape[0])
    cells = np.asarray(Image.fromarray(inside.astype(np.uint8)).resize(size, Image.Resampling.NEAREST), np.bool_)
    wide = max(1, round(min(drawn.shape[:2]) / 160))
    for reach, colour in ((2 * wide, 255), (wide, 0)):
        drawn[_grown(cells, reach) & ~_shrunk(cells, reach)] = colour
    return drawn


def enlarge(picture: Picture, least: int = 224) -> Picture:
    """Repeat pixels until the shorter side has `least`: an 8×8 digit becomes visible and stays crisp."""
    factor = -(-least // max(1, min(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def png(picture: Picture) -> bytes:
    """A picture as the bytes of a PNG file, for pages and notebooks."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def save_picture(path: str | os.PathLike[str], picture: Picture) -> None:
    """Write a picture (height, width, 3) as .png or .svg, whole or not at all. SVG keeps the pixels crisp."""
    path = Path(path)
    _choose("suffix", path.suffix.lower(), (".png", ".svg"))
    content = png(picture) if path.suffix.lower() == ".png" else _svg(picture).encode()
    with atomic_write(path) as draft:
        draft.write_bytes(content)


def save_heatmap(
    path: str | os.PathLike[str],
    heatmap: Map,
    kind: str = "signed",
    *,
    picture: Picture | None = None,
    limit: float | None = None,
    percentile: float | None = None,
    resample: str = "nearest",
    inside: NDArray[np.bool_] | None = None,
) -> None:
    """Write a map as .png or .svg, laid over `picture` where one is given; small ones are enlarged. See `render`.

    inside : a mask of any size whose border is drawn on top
    """
    if picture is None:
        drawn = render(heatmap, kind, limit=limit, percentile=percentile)
    else:
        drawn = overlay(heatmap, picture, kind, limit=limit, percentile=percentile, resample=resample)
    drawn = enlarge(drawn) if min(drawn.shape[:2]) < 224 else drawn
    save_picture(path, drawn if inside is None else outlined(drawn, inside))


def check_kind(heatmap: Map, kind: str) -> Map:
    """The map as float64, checked: finite, and not negative where the kind is "positive"; InputError otherwise."""
    _choose("kind", kind, TABLES)
    values = _finite(heatmap)
    if kind == "positive" and values.size and values.min() < 0:
        raise InputError(f'heatmap: kind "positive" met the negative value {values.min():g}. Take kind "signed".')
    return values


def _scaled(
    heatmap: Map, kind: str, limit: float | None, percentile: float | None, size: tuple[int, ...] | None, resample: str
) -> Map:
    values = check_kind(heatmap, kind)
    if values.ndim != 2:
        raise InputError(f"heatmap: expects (height, width), met {values.shape}. Reduce channels, take one sample.")
    largest = limit_of(values, percentile) if limit is None else limit
    scaled = values / largest if largest > 0 else np.zeros_like(values)
    return np.clip(_resampled(scaled, size, resample), -1, 1)


def _resampled(values: Map, size: tuple[int, ...] | None, how: str) -> Map:
    _choose("resample", how, RESAMPLING)
    if size is None or values.shape == size:
        return values
    drawn = Image.fromarray(values.astype(np.float32)).resize((size[1], size[0]), RESAMPLING[how])
    return np.asarray(drawn, np.float64)


def _grown(cells: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Every cell within `reach` of one that is set, along rows and columns."""
    for axis in (0, 1):
        padded = np.pad(cells, [(reach, reach) if i == axis else (0, 0) for i in (0, 1)])
        cells = np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis).any(axis=-1))
    return cells


def _shrunk(cells: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    return ~_grown(~cells, reach)


def _gray(picture: Picture) -> NDArray[np.float64]:
    values = np.asarray(picture)
    flat = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.dtype != np.uint8 or flat.ndim not in (2, 3) or (flat.ndim == 3 and flat.shape[-1] != 3):
        raise InputError(
            f"picture: expects uint8 (height, width) or (height, width, 3), met {values.dtype} {values.shape}. "
            "Convert it."
        )
    return np.asarray(Image.fromarray(flat).convert("L"), np.float64)


def _finite(heatmap: Map) -> Map:
    values = np.asarray(heatmap, np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        place = tuple(int(axis[0]) for axis in np.nonzero(wrong))
        raise InputError(
            f"heatmap: {int(wrong.sum())} of {values.size} values are not finite, first {values[place]} at {place}. "
            "Look where the relevance comes from: `onnxlrp verify` names the node."
        )
    return values


def _choose(what: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise ChoiceError(f'{what} = "{value}" does not exist. Choose one of {", ".join(allowed)}.')


def _svg(picture: Picture) -> str:
    height, width = picture.shape[:2]
    data = base64.b64encode(png(picture)).decode()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<image width="{width}" height="{height}" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{data}"/></svg>\n'
    )
