"""Quantise the digits CNN to 8 bits with onnxruntime's static quantiser: an int8 twin of `digits_cnn_dynamo`.

    pip install onnxruntime onnx scikit-learn pillow
    python sample_models/make_digits_cnn_int8.py

Made with onnxruntime 1.31, onnx 1.23. Activations are uint8, weights int8 per channel, ranges those of all
training digits: a range that is too small saturates the logits of sure digits, and then their gradient is 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
from _common import (
    DIGITS_DATA,
    HERE,
    accuracy_of,
    licence_line,
    load_digits_split,
    preprocess,
    read_sidecar,
    report,
    run_model,
    strip_machine_metadata,
    write_digit_images,
    write_sidecar,
)
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

SCRIPT = "sample_models/make_digits_cnn_int8.py"
FLOAT_TWIN = HERE / "digits_cnn_dynamo" / "model.onnx"


class Digits(CalibrationDataReader):  # type: ignore[misc]
    """Batches that the quantiser reads the ranges of activations from."""

    def __init__(self, images: NDArray[np.float32], name: str) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(np.array_split(images, 8))
        self._name = name

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def main() -> None:
    """Calibrate, quantise, measure."""
    logging.getLogger().setLevel(logging.ERROR)
    digits, fields = load_digits_split(), read_sidecar(FLOAT_TWIN)
    about = fields.pop("about")
    folder = HERE / "digits_cnn_int8"
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    (name,) = [value.name for value in onnxruntime.InferenceSession(FLOAT_TWIN).get_inputs()]
    quantize_static(
        FLOAT_TWIN,
        path,
        Digits(preprocess(digits.train_images, fields), name),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    strip_machine_metadata(path)
    logits = run_model(path, preprocess(digits.test_images, fields), "logits")
    about |= {
        "licence": licence_line(SCRIPT),
        "data": DIGITS_DATA,
        "accuracy": accuracy_of(logits, digits.test_labels),
        "script": SCRIPT,
        "exporter": f"onnxruntime {onnxruntime.__version__} quantiser (QDQ) on {about['exporter']}",
    }
    write_sidecar(path, {**fields, "name": folder.name}, about)
    report(path, write_digit_images(folder, digits), "logits")


if __name__ == "__main__":
    main()
