"""Train one small PyTorch CNN on the digits and export it twice: TorchScript exporter and dynamo exporter.

    pip install torch==2.13.0 onnxscript onnx onnxruntime scikit-learn pillow
    python sample_models/make_digits_cnn_torch.py

Made with torch 2.13.0 (CPU), onnxscript 0.7.2, onnx 1.23.2. Both files hold the same weights, so whatever explains
them must explain them alike. The TorchScript export is told to preserve BatchNormalization as a node of its own
(its default folds it into the Conv); the dynamo export folds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from _common import (
    DIGIT_LABELS,
    DIGITS_DATA,
    HERE,
    Digits,
    accuracy_of,
    licence_line,
    load_digits_split,
    preprocess,
    report,
    run_model,
    strip_machine_metadata,
    write_digit_images,
    write_sidecar,
)
from _torch_export import export_with_dynamo
from torch import nn

SCRIPT = "sample_models/make_digits_cnn_torch.py"
SEED = 0
EPOCHS = 30
BATCH_SIZE = 64
FIELDS: dict[str, Any] = {
    "kind": "image",
    "name": "digits_cnn",
    "layout": "NCHW",
    "size": [8, 8],
    "channels": "GRAY",
    "scale": 1 / 255,
    "mean": [0.3],
    "std": [0.4],
    "box": [-0.75, 1.75],
    "labels": DIGIT_LABELS,
    "logits": "logits",
}


def build_network() -> nn.Sequential:
    """Return Conv-BN-ReLU, MaxPool, Conv-ReLU, Linear: (batch, 1, 8, 8) → (batch, 10) logits; 13,890 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 3, padding=1),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 40, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(40 * 4 * 4, 10),
    )


def train(network: nn.Sequential, digits: Digits) -> None:
    """Fit `network` to the training digits and leave it in evaluation mode."""
    images = torch.from_numpy(preprocess(digits.train_images, FIELDS))
    labels = torch.from_numpy(digits.train_labels)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
        schedule.step()
    network.eval()


def export_with_torchscript(network: nn.Sequential, path: Path) -> None:
    """Export through the TorchScript tracer, opset 17, with BatchNormalization kept."""
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 8, 8),),
        path,
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    strip_machine_metadata(path)


def complete_sample_model(model_path: Path, exporter: str, digits: Digits) -> None:
    """Measure the exported file on the test digits, and write its sidecar and samples."""
    logits = run_model(model_path, preprocess(digits.test_images, FIELDS), "logits")
    about = {
        "licence": licence_line(SCRIPT),
        "data": DIGITS_DATA,
        "accuracy": accuracy_of(logits, digits.test_labels),
        "test_samples": len(digits.test_labels),
        "script": SCRIPT,
        "exporter": f"PyTorch {torch.__version__.split('+')[0]}, {exporter}",
    }
    write_sidecar(model_path, {**FIELDS, "name": model_path.parent.name}, about)
    report(model_path, write_digit_images(model_path.parent, digits), "logits")


def main() -> None:
    """Train once, export twice."""
    torch.manual_seed(SEED)
    digits = load_digits_split()
    network = build_network()
    train(network, digits)
    torchscript_path = HERE / "digits_cnn_torchscript" / "model.onnx"
    dynamo_path = HERE / "digits_cnn_dynamo" / "model.onnx"
    for path in (torchscript_path, dynamo_path):
        path.parent.mkdir(exist_ok=True)
    export_with_torchscript(network, torchscript_path)
    export_with_dynamo(network, (1, 8, 8), dynamo_path)
    complete_sample_model(torchscript_path, "torchscript", digits)
    complete_sample_model(dynamo_path, "dynamo", digits)


if __name__ == "__main__":
    main()
