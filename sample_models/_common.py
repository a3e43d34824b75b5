"""What every make_*.py script shares: the digits data, sidecars, sample inputs and the check through onnxruntime.

Needs: pip install numpy pillow onnx onnxruntime scikit-learn
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
DIGIT_LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DIGITS_DATA = (
    "scikit-learn's digits (load_digits): the test set of 'Optical Recognition of Handwritten Digits', "
    "E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, doi:10.24432/C50P49, CC BY 4.0"
)
SAMPLE_DIGITS = (3, 7)

# What exporters leave behind about the machine they ran on: nobody needs it, and it differs from machine to machine.
MACHINE_METADATA = "pkg.torch.onnx.stack_trace"


@dataclass(frozen=True)
class Digits:
    """The digits, split: images as 8-bit gray pixels (sample, 8, 8), labels as (sample,) integers 0..9."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    def sample(self, digit: int) -> NDArray[np.uint8]:
        """Return the first test image of `digit`, shape (8, 8)."""
        return self.test_images[int(np.argmax(self.test_labels == digit))]


def load_digits_split() -> Digits:
    """Load the 1797 digits, stretch their values 0..16 to 0..255, and keep a quarter (450) for the test."""
    from sklearn.datasets import load_digits  # here, so that scripts without digits do without scikit-learn
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        pixels, labels, test_size=0.25, stratify=labels, random_state=0
    )
    return Digits(train_images, train_labels, test_images, test_labels)


def write_digit_images(folder: Path, digits: Digits) -> list[Path]:
    """Write a test image of each of SAMPLE_DIGITS as 8-bit gray PNG of 8 by 8 pixels, and return the paths."""
    paths = [folder / f"{DIGIT_LABELS[digit]}.png" for digit in SAMPLE_DIGITS]
    for digit, path in zip(SAMPLE_DIGITS, paths, strict=True):
        Image.fromarray(digits.sample(digit)).save(path)
    return paths


def licence_line(script: str) -> str:
    """Return the sidecar's licence of a model that `script` made; the data's own licence stands in its `data`."""
    return f"Apache-2.0 (made by {script} for this project)"


def write_sidecar(model_path: Path, fields: dict[str, Any], about: dict[str, Any]) -> None:
    """Write `model_path` with suffix .toml: the flat `fields`, then the table [about]."""
    lines = [f"{key} = {_toml_value(value)}" for key, value in fields.items()]
    lines += ["", "[about]"] + [f"{key} = {_toml_value(value)}" for key, value in about.items()]
    model_path.with_suffix(".toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml_value(value: object) -> str:
    """Spell a string, number or list as TOML."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"a sidecar holds strings, numbers and lists, not {type(value).__name__}: {value!r}")


def read_sidecar(model_path: Path) -> dict[str, Any]:
    """Read the .toml beside `model_path`."""
    return tomllib.loads(model_path.with_suffix(".toml").read_text(encoding="utf-8"))


def preprocess(pixels: NDArray[np.uint8], sidecar: dict[str, Any]) -> NDArray[np.float32]:
    """Turn 8-bit images into the model's input: x = (pixel·scale - mean) / std, in the sidecar's layout.

    pixels: (batch, height, width) gray, or (batch, height, width, channel)
    returns: (batch, channel, height, width) for NCHW, (batch, height, width, channel) for NHWC
    """
    if sidecar.get("preprocessing", "0-1") != "0-1":
        raise ValueError(f"these scripts use '0-1' or scale, mean and std, not {sidecar['preprocessing']!r}")
    scaled = pixels.astype(np.float32) * np.float32(sidecar.get("scale", 1 / 255))
    if scaled.ndim == 3:
        scaled = scaled[..., np.newaxis]
    normalised = (scaled - np.float32(sidecar.get("mean", 0))) / np.float32(sidecar.get("std", 1))
    return normalised.transpose(0, 3, 1, 2) if sidecar["layout"] == "NCHW" else normalised


def load_sample(path: Path, sidecar: dict[str, Any]) -> NDArray[np.float32]:
    """Load a sample input as the model's input: a PNG through the sidecar's preprocessing, a .npy as it is."""
    if path.suffix == ".npy":
        return np.load(path)
    return preprocess(np.asarray(Image.open(path))[np.newaxis], sidecar)


def run_model(model_path: Path, batch: NDArray[np.float32], output: str) -> NDArray[np.float32]:
    """Run the exported file on the CPU and return its output called `output`, shape (batch, class)."""
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    return session.run([output], {session.get_inputs()[0].name: batch})[0]


def accuracy_of(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the share of rows of `scores` (sample, class) whose largest value is at the label, to four digits."""
    return round(float(np.mean(scores.argmax(axis=1) == labels)), 4)


def strip_machine_metadata(model_path: Path) -> None:
    """Rewrite the file without source paths and stack traces of the exporting machine."""
    model = onnx.load(model_path)
    for described in [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]:
        described.doc_string = ""
        kept = [entry for entry in described.metadata_props if entry.key != MACHINE_METADATA]
        del described.metadata_props[:]
        described.metadata_props.extend(kept)
    onnx.save(model, model_path)


def report(model_path: Path, sample_paths: list[Path], output: str) -> None:
    """Check the file, run every sample through its sidecar, and print what was made."""
    model = onnx.load(model_path)
    onnx.checker.check_model(model, full_check=True)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    print(f"{model_path.relative_to(HERE.parent)}: {model_path.stat().st_size} bytes, opsets {opsets}")
    print(f"  operators: {dict(Counter(node.op_type for node in model.graph.node))}")
    sidecar = read_sidecar(model_path)
    print(f"  about: {sidecar['about']}")
    for path in sample_paths:
        scores = run_model(model_path, load_sample(path, sidecar), output)[0]
        print(f"  {path.name}: {sidecar['labels'][int(scores.argmax())]}, {output} {[f'{x:.2f}' for x in scores]}")
