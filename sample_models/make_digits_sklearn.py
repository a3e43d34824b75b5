"""Train a scikit-learn multilayer perceptron on the digits as a table of 64 columns, and export it through skl2onnx.

    pip install scikit-learn skl2onnx onnx onnxruntime pillow
    python sample_models/make_digits_sklearn.py

Made with scikit-learn 1.9.1, skl2onnx 1.20.0, onnx 1.23.2. The columns are the digits' values 0..16 divided by 16
before the model: a StandardScaler in a pipeline would be exported as Scaler of ai.onnx.ml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import skl2onnx
import sklearn
from _common import (
    DIGIT_LABELS,
    DIGITS_DATA,
    HERE,
    SAMPLE_DIGITS,
    accuracy_of,
    licence_line,
    load_digits_split,
    report,
    run_model,
    write_sidecar,
)
from numpy.typing import NDArray
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier

SCRIPT = "sample_models/make_digits_sklearn.py"
SEED = 0
MODEL_PATH = HERE / "digits_sklearn" / "model.onnx"
FIELDS: dict[str, Any] = {
    "kind": "tabular",
    "name": "digits_sklearn",
    "box": [0.0, 1.0],
    "labels": DIGIT_LABELS,
    "features": [f"pixel_{row}_{column}" for row in range(8) for column in range(8)],
}


def as_table(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return 8-bit images (sample, 8, 8) as columns pixel_0_0 … pixel_7_7 (sample, 64), multiples of 1/16 in 0..1."""
    return (np.rint(images.reshape(-1, 64) * (16 / 255)) / 16).astype(np.float32)


def export(classifier: MLPClassifier, path: Path) -> None:
    """Export with a dynamic batch and plain arrays as outputs: 'label' and 'probabilities'."""
    model = skl2onnx.to_onnx(
        classifier,
        initial_types=[("features", FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=17,
    )
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())


def write_rows(folder: Path, rows: dict[str, NDArray[np.float32]]) -> list[Path]:
    """Write each row as `folder`/<name>.npy and return the paths."""
    for name, row in rows.items():
        np.save(folder / f"{name}.npy", row)
    return [folder / f"{name}.npy" for name in rows]


def main() -> None:
    """Train, export, measure, and write sidecar and samples."""
    digits = load_digits_split()
    classifier = MLPClassifier((64, 32), max_iter=400, alpha=1e-2, random_state=SEED)
    classifier.fit(as_table(digits.train_images), digits.train_labels)
    export(classifier, MODEL_PATH)
    probabilities = run_model(MODEL_PATH, as_table(digits.test_images), "probabilities")
    about = {
        "licence": licence_line(SCRIPT),
        "data": DIGITS_DATA,
        "accuracy": accuracy_of(probabilities, digits.test_labels),
        "test_samples": len(digits.test_labels),
        "script": SCRIPT,
        "exporter": f"skl2onnx {skl2onnx.__version__}, scikit-learn {sklearn.__version__}",
    }
    write_sidecar(MODEL_PATH, FIELDS, about)
    rows = {DIGIT_LABELS[digit]: as_table(digits.sample(digit)[np.newaxis]) for digit in SAMPLE_DIGITS}
    report(MODEL_PATH, write_rows(MODEL_PATH.parent, rows), "probabilities")


if __name__ == "__main__":
    main()
