"""Train a small 3-D CNN on the pixels of the clips that `actions_fisher` reads as motion vectors, and export it.

    pip install torch==2.13.0 onnxscript onnxruntime scikit-learn '.[video]'
    python sample_models/make_actions_cnn3d.py CLIPS

CLIPS is a folder for the training and test clips; they are made where they are missing. The network reads 24 of a
clip's 48 frames, in gray, at 64×48 pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _clips import ACTIONS, FRAMES, HEIGHT, TEST, TRAIN, WIDTH, Clip, clips_in
from _common import HERE, accuracy_of, licence_line, run_model, strip_machine_metadata, write_sidecar
from numpy.typing import NDArray
from torch import nn

from onnxlrp.data import ModelInput, Sidecar, load

SCRIPT = "sample_models/make_actions_cnn3d.py"
SEED, EPOCHS, BATCH_SIZE = 0, 30, 16
SHAPE = (1, 24, 48, 64)
MODEL = HERE / "actions_cnn3d" / "model.onnx"
FIELDS: dict[str, Any] = {
    "kind": "video",
    "name": "actions_cnn3d",
    "layout": "NCTHW",
    "size": [48, 64],
    "resize": "stretch",
    "channels": "GRAY",
    "scale": 1 / 255,
    "mean": [0.4],
    "std": [0.2],
    "box": [-2.0, 3.0],
    "labels": [*ACTIONS],
    "logits": "logits",
}


def build_network() -> nn.Sequential:
    """Three Conv3d-BN-ReLU; per frame what is largest anywhere, the mean of that over time, Linear."""
    widths, strides = (1, 8, 16, 32), ((1, 2, 2), (2, 2, 2), (1, 2, 2))
    layers: list[nn.Module] = []
    for inside, outside, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [nn.Conv3d(inside, outside, 3, stride, padding=1, bias=False), nn.BatchNorm3d(outside), nn.ReLU()]
    pool = [nn.MaxPool3d((1, SHAPE[2] // 8, SHAPE[3] // 8)), nn.AdaptiveAvgPool3d(1), nn.Flatten()]
    return nn.Sequential(*layers, *pool, nn.Linear(widths[-1], len(ACTIONS)))


def pixels(found: Iterable[tuple[Path, Clip]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The clips as the exported model is fed them, by the sidecar's own loader."""
    sidecar, entry = Sidecar().replace(**FIELDS), ModelInput("clip", np.dtype(np.float32), ("batch", *SHAPE))
    pairs = [(load(path, sidecar, [entry]).arrays["clip"][0], clip.label) for path, clip in found]
    return np.stack([x for x, _ in pairs]), np.array([label for _, label in pairs])


def train(network: nn.Sequential, x: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Fit the network to clips that are shifted by up to four pixels and mirrored by chance."""
    clips, classes = torch.from_numpy(x), torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 6e-3, epochs=EPOCHS, steps_per_epoch=-(-len(x) // BATCH_SIZE)
    )
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(clips)).split(BATCH_SIZE):
            down, right = (int(shift) for shift in torch.randint(-4, 5, (2,)))
            batch = clips[rows].roll((down, right), (3, 4))
            batch = batch.flip(4) if torch.rand(1) < 0.5 else batch
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(batch), classes[rows])
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}: loss {total / len(clips):.3f}", flush=True)
    network.eval()


def export(network: nn.Sequential, path: Path) -> None:
    """Through the TorchScript tracer, opset 17, dynamic batch."""
    torch.onnx.export(
        network,
        (torch.zeros(1, *SHAPE),),
        path,
        dynamo=False,
        opset_version=17,
        input_names=["clip"],
        output_names=["logits"],
        dynamic_axes={"clip": {0: "batch"}, "logits": {0: "batch"}},
    )
    strip_machine_metadata(path)


def main(folder: Path) -> None:
    torch.manual_seed(SEED)
    network = build_network()
    train(network, *pixels(clips_in(folder, TRAIN)))
    MODEL.parent.mkdir(exist_ok=True)
    export(network, MODEL)
    test, labels = pixels(clips_in(folder, TEST))
    about = {
        "licence": licence_line(SCRIPT),
        "data": f"{len(TRAIN) * len(ACTIONS)} generated clips in H.264, {FRAMES} frames of {WIDTH}x{HEIGHT}: _clips.py",
        "accuracy": accuracy_of(run_model(MODEL, test, "logits"), labels),
        "test_samples": len(labels),
        "script": SCRIPT,
        "exporter": f"PyTorch {torch.__version__.split('+')[0]}, torchscript",
    }
    write_sidecar(MODEL, FIELDS, about)
    print(f"{MODEL.relative_to(HERE.parent)}: {MODEL.stat().st_size} bytes; {about}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
