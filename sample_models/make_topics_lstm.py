"""Train a small bidirectional LSTM on 20 Newsgroups and export it: the recurrent twin of make_topics_textcnn.py.

    pip install torch==2.13.0 onnxscript onnx onnxruntime numpy pillow
    python sample_models/make_topics_lstm.py 20news-bydate.jsonl.gz

Made with torch 2.13.0 (CPU), the TorchScript exporter and onnx 1.23.2. The embedding begins where a bag of words ends;
the classes are read from the mean of the states of both directions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import torch
from _common import HERE, strip_machine_metadata
from _newsgroups import Texts, encode, load_newsgroups, vocabulary_of, write_texts_sidecar
from make_topics_textcnn import Bag, fit, halve, measure
from torch import Tensor, nn

SCRIPT = "sample_models/make_topics_lstm.py"
FOLDER = HERE / "topics_lstm"
SEED = 0
WORDS, LENGTH, WIDE, HIDDEN = 6000, 160, 48, 64
BAG_EPOCHS, EPOCHS = 5, 8


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


def train(texts: Texts, vocabulary: list[str], classes: int) -> TextLstm:
    """Bag of words first: its embedding is where the LSTM begins."""
    tokens, labels = torch.from_numpy(encode(texts.texts, vocabulary, LENGTH)), torch.from_numpy(texts.labels)
    bag, network = Bag(classes, WORDS, WIDE), TextLstm(classes)
    fit(bag, tokens, labels, BAG_EPOCHS, 1e-2)
    network.embedding.weight.data.copy_(bag.embedding.weight.data)
    network.embedding.weight.data[0] = 0
    fit(network, tokens, labels, EPOCHS, 2e-3)
    return network


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
    exporter = f"PyTorch {torch.__version__.split('+')[0]}, torchscript"
    write_texts_sidecar(path, vocabulary, names, {**about, "exporter": exporter})
    print(f"{path.relative_to(HERE.parent)}: {path.stat().st_size} bytes, accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
