"""The export through torch.export that the PyTorch scripts share.

Needs: pip install torch==2.13.0 onnxscript
"""

from __future__ import annotations

from pathlib import Path

import torch
from _common import strip_machine_metadata
from torch import nn


def export_with_dynamo(network: nn.Module, image_shape: tuple[int, int, int], path: Path) -> None:
    """Export a network of images shaped `image_shape` (channel, height, width): 'image' → 'logits', dynamic batch."""
    torch.onnx.export(
        network,
        (torch.zeros(2, *image_shape),),  # a batch of 2: torch.export would take a batch of 1 for a constant
        path,
        dynamo=True,
        opset_version=20,
        external_data=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    strip_machine_metadata(path)
