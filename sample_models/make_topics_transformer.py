"""Train a tiny transformer on 20 Newsgroups and export it: the attentive twin of make_topics_textcnn.py.

    pip install torch==2.13.0 onnxscript onnx onnxruntime numpy pillow
    python sample_models/make_topics_transformer.py 20news-bydate.jsonl.gz

Made with torch 2.13.0 (CPU), the dynamo exporter, onnxscript 0.7.2 and onnx 1.23.2. The embedding begins where a bag of
words ends; the classes are read from the mean of the words' states behind two blocks of attention.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from _common import HERE
from _newsgroups import Texts, encode, load_newsgroups, vocabulary_of, write_texts_sidecar
from make_topics_textcnn import Bag, export, fit, measure
from torch import Tensor, nn

SCRIPT = "sample_models/make_topics_transformer.py"
FOLDER = HERE / "topics_transformer"
SEED = 0
WORDS, LENGTH, WIDE, HEADS, BLOCKS = 6000, 160, 48, 4, 2
BAG_EPOCHS, EPOCHS = 5, 8
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


def train(texts: Texts, vocabulary: list[str], classes: int) -> TextTransformer:
    """Bag of words first: its embedding is where the transformer begins."""
    tokens, labels = torch.from_numpy(encode(texts.texts, vocabulary, LENGTH)), torch.from_numpy(texts.labels)
    bag, network = Bag(classes, WORDS, WIDE), TextTransformer(classes)
    fit(bag, tokens, labels, BAG_EPOCHS, 1e-2)
    network.embedding.weight.data.copy_(bag.embedding.weight.data)
    network.embedding.weight.data[0] = 0
    fit(network, tokens, labels, EPOCHS, 1e-3)
    return network


def main() -> None:
    """Train, export, measure, and write the sidecar and the vocabulary."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    train_texts, test_texts, names = load_newsgroups(Path(sys.argv[1]))
    vocabulary = vocabulary_of(train_texts.texts, WORDS)
    network = train(train_texts, vocabulary, len(names))
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "model.onnx"
    export(network, path)
    accuracy = measure(path, encode(test_texts.texts, vocabulary, LENGTH), test_texts.labels)
    about = {"accuracy": accuracy, "test_samples": len(test_texts.labels), "script": SCRIPT}
    exporter = f"PyTorch {torch.__version__.split('+')[0]}, dynamo"
    write_texts_sidecar(path, vocabulary, names, {**about, "exporter": exporter}, longest=LENGTH)
    print(f"{path.relative_to(HERE.parent)}: {path.stat().st_size} bytes, accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
