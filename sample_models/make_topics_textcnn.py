"""Train a small word-embedding CNN on 20 Newsgroups and export it: which of twenty groups was a post written to?

    pip install torch==2.13.0 onnxscript onnx onnxruntime numpy pillow
    python sample_models/make_topics_textcnn.py 20news-bydate.jsonl.gz

Made with torch 2.13.0 (CPU), onnxscript 0.7.2, onnx 1.23.2. First the embedding is fitted as a bag of words, then the
whole network. The embedding is stored in half precision behind a Cast: that halves the file and moves no prediction.
The posts are not part of this project; `_newsgroups.py` says where they are from and what is removed from them.
"""

from __future__ import annotations

import torch
from _text_networks import Recipe, export_with_dynamo, make
from torch import Tensor, nn

WORDS, WIDE, FILTERS = 8000, 64, 400


class TextCnn(nn.Module):
    """Embedding, Conv over pairs of words, ReLU, the maximum over the text, Linear: (batch, length) → (batch, 20)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDE, padding_idx=0)
        self.convolution = nn.Conv1d(WIDE, FILTERS, 2, padding=1)
        self.classifier = nn.Linear(FILTERS, classes)
        self.hide, self.drop = nn.Dropout(0.2), nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.hide(self.embedding(tokens)).transpose(1, 2)
        return self.classifier(self.drop(torch.relu(self.convolution(embedded)).amax(2)))


RECIPE = Recipe(
    "topics_textcnn", TextCnn, export_with_dynamo, "dynamo", words=WORDS, length=256, wide=WIDE, epochs=7, rate=1e-3
)

if __name__ == "__main__":
    make(RECIPE)
