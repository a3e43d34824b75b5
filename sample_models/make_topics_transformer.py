"""Train a tiny transformer on 20 Newsgroups and export it: the attentive twin of make_topics_textcnn.py.

    pip install torch==2.13.0 onnxscript onnx onnxruntime numpy pillow
    python sample_models/make_topics_transformer.py 20news-bydate.jsonl.gz

Made with torch 2.13.0 (CPU), the dynamo exporter, onnxscript 0.7.2 and onnx 1.23.2. The embedding begins where a bag of
words ends; the classes are read from the mean of the words' states behind two blocks of attention.
"""

from __future__ import annotations

import torch
from _text_networks import Recipe, export_with_dynamo, make
from torch import Tensor, nn

WORDS, LENGTH, WIDE, HEADS, BLOCKS = 6000, 160, 48, 4, 2
MASKED = -1e4
"""What is added to the score of a padding token; −inf would have no softmax where a whole text is hidden."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + GELU network(norm(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDE), nn.LayerNorm(WIDE)
        self.projection, self.back = nn.Linear(WIDE, 3 * WIDE), nn.Linear(WIDE, WIDE)
        self.network = nn.Sequential(nn.Linear(WIDE, 2 * WIDE), nn.GELU(), nn.Linear(2 * WIDE, WIDE))
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self._heads(part) for part in self.projection(self.before(x)).split(WIDE, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, mask)
        x = x + self.drop(self.back(mixed.transpose(1, 2).flatten(2)))
        return x + self.drop(self.network(self.between(x)))

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, length, wide) → (batch, head, length, part)."""
        return x.unflatten(-1, (HEADS, WIDE // HEADS)).transpose(1, 2)


class TextTransformer(nn.Module):
    """Embedding and position, blocks, the mean over the words, Linear: (batch, length) → (batch, 20)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDE, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, WIDE))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.classifier, self.drop = nn.Linear(WIDE, classes), nn.Dropout(0.3)

    def forward(self, tokens: Tensor) -> Tensor:
        words = (tokens != 0).to(torch.float32)
        x = self.drop(self.embedding(tokens) + self.position[: tokens.shape[1]])
        mask = ((1 - words) * MASKED)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        mean = (x * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1)
        return self.classifier(self.drop(mean))


RECIPE = Recipe(
    "topics_transformer",
    TextTransformer,
    export_with_dynamo,
    "dynamo",
    words=WORDS,
    length=LENGTH,
    wide=WIDE,
    epochs=8,
    rate=1e-3,
    own=(("longest", LENGTH),),
)

if __name__ == "__main__":
    make(RECIPE)
