"""Train a small bidirectional LSTM on 20 Newsgroups and export it: the recurrent twin of make_topics_textcnn.py.

    pip install torch==2.13.0 onnxscript onnx onnxruntime numpy pillow
    python sample_models/make_topics_lstm.py 20news-bydate.jsonl.gz

Made with torch 2.13.0 (CPU), the TorchScript exporter and onnx 1.23.2. The embedding begins where a bag of words ends;
the classes are read from the mean of the states of both directions.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from _common import strip_machine_metadata
from _text_networks import Recipe, halve, make
from torch import Tensor, nn

WORDS, WIDE, HIDDEN = 6000, 48, 64


class TextLstm(nn.Module):
    """Embedding, bidirectional LSTM, the mean of its states over the text, Linear: (batch, length) → (batch, 20)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDE, padding_idx=0)
        self.lstm = nn.LSTM(WIDE, HIDDEN, bidirectional=True)
        self.classifier, self.drop = nn.Linear(2 * HIDDEN, classes), nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens).transpose(0, 1))
        return self.classifier(self.drop(states.mean(0)))


def export(network: nn.Module, path: Path) -> None:
    """'tokens' → 'logits', both axes of the tokens dynamic; the embedding in half precision."""
    torch.onnx.export(
        network,
        (torch.ones(2, 7, dtype=torch.int64),),
        path,
        dynamo=False,
        opset_version=17,
        input_names=["tokens"],
        output_names=["logits"],
        dynamic_axes={"tokens": {0: "batch", 1: "length"}, "logits": {0: "batch"}},
    )
    strip_machine_metadata(path)
    model = onnx.load(path)
    halve(model, "embedding.weight")
    onnx.save(model, path)


RECIPE = Recipe("topics_lstm", TextLstm, export, "torchscript", words=WORDS, length=160, wide=WIDE, epochs=8, rate=2e-3)

if __name__ == "__main__":
    make(RECIPE)
