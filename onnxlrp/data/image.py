"""Photos: read, brought to the size and the numbers a model wants, and back to a picture to show."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from onnxlrp.data.pixels import CHANNEL_ORDERS
from onnxlrp.data.sample import Dimension, Input, Sample, fit, loader, only_input
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
CROP_SHARE = 0.875

Picture = NDArray[np.uint8]


@loader("image", SUFFIXES)
def load_photo(path: Path, sidecar: Sidecar, inputs: Sequence[Input]) -> Sample:
    """Read a photo and preprocess it for the model's image input. Raises InputError where it does not fit."""
    entry = only_input(inputs, path)
    values = preprocess(load_image(path), sidecar, entry.shape)
    if np.dtype(entry.dtype).kind in "iu":
        limits = np.iinfo(entry.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max).astype(entry.dtype)
    fitted = fit(values, entry, sidecar, path)
    return Sample(path.stem, {entry.name: fitted}, unprocess(fitted, sidecar))


def load_image(path: str | os.PathLike[str]) -> Picture:
    """Read a picture as uint8 (height, width, 3), red first, upright.

    EXIF orientation is applied, transparency lies on white, 16 bits become 8, an animation gives its first frame.
    Raises InputError where the file is missing, truncated or no picture.
    """
    path = Path(path)
    try:
        with Image.open(path) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Check the path.") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable picture ({error}). Give a whole PNG, JPEG, TIFF… file.") from error
    return np.asarray(_opaque(_eight_bit(picture, path)).convert("RGB"))


def preprocess(image: Picture, sidecar: Sidecar, shape: Sequence[Dimension]) -> NDArray[np.float32]:
    """Turn a picture into the model's input: resize, reorder channels, (pixel · scale − mean) / std, lay out the axes.

    image   : uint8 (height, width, 3)
    shape   : of the model's input; dimensions that are not fixed are names or None
    returns : float32 in the sidecar's layout with a batch of one; (1, pixels) where a model takes flattened pictures
    Raises InputError where sidecar and shape contradict each other.
    """
    layout = image_layout(sidecar, shape)
    axes = dict(zip(layout, shape, strict=True)) if len(shape) == len(layout) else {}
    channel_count = _channel_count(axes, sidecar, shape, layout)
    pixels = sidecar.pixels(channel_count)
    sized = _resized(image, _target_size(sidecar, axes, shape), sidecar.resize or "shorter-side")
    channels = _in_order(sized, pixels.channels or "RGB")
    values = _laid_out(pixels.forward(channels), layout)
    return values if axes else values.reshape(1, -1)


def unprocess(array: NDArray[Any], sidecar: Sidecar) -> Picture:
    """The picture behind the first sample of a model's input: uint8 (height, width, 3), red first.

    The inverse of `preprocess` but for what resizing dropped. Raises InputError where the values are not a picture's.
    """
    values = unflatten(array, sidecar)
    channels_last = _channels_last(values, image_layout(sidecar, values.shape))
    pixels = sidecar.pixels(channels_last.shape[-1])
    # NaN is the explainer's business, not the picture's: it shows as black.
    levels = np.clip(np.nan_to_num(np.rint(pixels.backward(channels_last))), 0, 255)
    shown = np.asarray(levels, np.uint8)
    order = np.argsort(CHANNEL_ORDERS[pixels.channels or "RGB"])
    return shown.repeat(3, axis=-1) if len(order) == 1 else shown[..., order]


def unflatten(array: NDArray[Any], sidecar: Sidecar) -> NDArray[Any]:
    """Give (batch, pixels) the axes of the sidecar's layout and size; what has its axes already stays as it is."""
    if array.ndim != 2 or sidecar.size is None or "N" not in (layout := sidecar.layout or "NCHW"):
        return array
    height, width = sidecar.size
    sizes = {"N": len(array), "H": height, "W": width, "C": array[0].size // (height * width)}
    return array.reshape([sizes[letter] for letter in layout])


def image_layout(sidecar: Sidecar, shape: Sequence[Dimension]) -> str:
    """The axes of an image input: what the sidecar says, else what the shape gives away."""
    flattened = len(shape) == 2 and sidecar.size is not None
    layout = sidecar.layout or _layout_by_shape(shape, flattened)
    if not {"H", "W"} <= set(layout) <= set("NCHW"):
        raise InputError(
            f'{sidecar.where}: layout "{layout}" is no picture\'s. Say one with H and W, such as "NCHW", or give .npy.'
        )
    if len(layout) != len(shape) and not flattened:
        raise InputError(
            f'{sidecar.where}: layout "{layout}" does not fit the model\'s input of shape {list(shape)}. '
            "Say a layout with one letter per axis."
        )
    return layout


def _layout_by_shape(shape: Sequence[Dimension], flattened: bool) -> str:
    if len(shape) == 4:
        return "NHWC" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "NCHW"
    if len(shape) == 3:
        return "CHW" if shape[0] in (1, 3) else "HWC" if shape[2] in (1, 3) else "NHW"
    if len(shape) == 2:
        return "NCHW" if flattened else "HW"
    raise InputError(
        f"preprocessing: an input of shape {list(shape)} gives no picture's layout away. "
        'Say layout (and size for flattened pictures) in the sidecar, such as layout = "NCHW", or give an .npy file.'
    )


def _channel_count(axes: dict[str, Dimension], sidecar: Sidecar, shape: Sequence[Dimension], layout: str) -> int | None:
    if not axes and sidecar.size and isinstance(shape[1], int):
        return shape[1] // (sidecar.size[0] * sidecar.size[1])
    channel_count = axes.get("C") if "C" in layout else 1
    return channel_count if isinstance(channel_count, int) else None


def _target_size(sidecar: Sidecar, axes: dict[str, Dimension], shape: Sequence[Dimension]) -> tuple[int, int] | None:
    """(height, width) that the model wants; None where it takes any."""
    height, width = axes.get("H"), axes.get("W")
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    if fixed and sidecar.size and fixed != sidecar.size:
        raise InputError(
            f"{sidecar.where}: size = {list(sidecar.size)} contradicts the model's input {list(shape)}. "
            f"Say size = {list(fixed)} or leave it out."
        )
    return sidecar.size or fixed


def _eight_bit(picture: Image.Image, path: Path) -> Image.Image:
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture).astype(np.float64)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < 0 or high > 65535:
        raise InputError(f"{path}: gray values from {low:g} to {high:g}; a picture has 0…65535. Give an .npy file.")
    top = 1.0 if picture.mode == "F" and high <= 1 else 65535.0 if picture.mode != "F" or high > 255 else 255.0
    return Image.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))


def _opaque(picture: Image.Image) -> Image.Image:
    """Lay what is transparent on white."""
    if not picture.has_transparency_data:
        return picture
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _resized(image: Picture, size: tuple[int, int] | None, how: str) -> Picture:
    """Bring a picture to (height, width). One that has it stays untouched: digits must not lose their border."""
    if size is None or image.shape[:2] == size:
        return image
    picture = Image.fromarray(image)
    if how == "stretch":
        return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    share = CROP_SHARE if how == "shorter-side" else 1.0
    grown = _covering(image.shape[:2], size, share)
    scaled = np.asarray(picture.resize((grown[1], grown[0]), Image.Resampling.BILINEAR))
    top, left = round((grown[0] - size[0]) / 2), round((grown[1] - size[1]) / 2)
    return scaled[top : top + size[0], left : left + size[1]]


def _covering(met: tuple[int, ...], size: tuple[int, int], share: float) -> tuple[int, int]:
    """The smallest size of the picture's proportions whose centre, `share` of it, covers the wanted one."""
    factor = max(size[0] / share / met[0], size[1] / share / met[1])
    height, width = (max(wanted, int(side * factor + 1e-6)) for side, wanted in zip(met, size, strict=False))
    return height, width


def _in_order(image: Picture, channels: str) -> NDArray[np.float64]:
    if channels == "GRAY":
        return np.asarray(Image.fromarray(image).convert("L"), np.float64)[..., None]
    return image[..., CHANNEL_ORDERS[channels]].astype(np.float64)


def _laid_out(values: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
    """(height, width, channel) → the layout; an axis N of one where the layout has it."""
    axes = [letter for letter in layout if letter != "N"]
    ordered = values[..., 0] if "C" not in axes else values
    ordered = ordered.transpose(["HWC".index(letter) for letter in axes])
    return np.ascontiguousarray(np.expand_dims(ordered, layout.index("N")) if "N" in layout else ordered)


def _channels_last(values: NDArray[Any], layout: str) -> NDArray[Any]:
    """The first sample of the layout as (height, width, channel)."""
    if "N" in layout:
        values = values.take(0, axis=layout.index("N"))
    axes = [letter for letter in layout if letter != "N"]
    values = values if "C" in axes else values[..., None]
    axes = axes if "C" in axes else [*axes, "C"]
    return values.transpose([axes.index(letter) for letter in "HWC"])
