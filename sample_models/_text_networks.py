"""What the networks on 20 Newsgroups share: training that begins with a bag of words, the export, the sidecar.

Needs: pip install torch==2.13.0 onnxscript onnx onnxruntime numpy pillow
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from _common import HERE, accuracy_of, strip_machine_metadata
from _newsgroups import Texts, encode, load_newsgroups, vocabulary_of, write_texts_sidecar
from onnx import helper, numpy_helper
from torch import Tensor, nn

SEED = 0
FORGOTTEN = 0.25
"""Share of the words that training hides, so that no prediction hangs on one of them."""


@dataclass(frozen=True)
class Recipe:
    """How one of the networks is made.

    network : number of classes → the network, its embedding called `embedding`
    name    : of the folder and, as make_NAME.py, of the script        exporter : of PyTorch, for the sidecar
    words   : in the vocabulary        length : tokens of a text in training and test        wide : of the embedding
    rate    : of learning, at first        own : the sidecar's further fields
    """

    name: str
    network: Callable[[int], nn.Module]
    export: Callable[[nn.Module, Path], None]
    exporter: str
    words: int
    length: int
    wide: int
    epochs: int
    rate: float
    bag_epochs: int = 5
    own: tuple[tuple[str, Any], ...] = ()


def make(recipe: Recipe) -> None:
    """Train on the posts that the command line names, export, measure, and write the sidecar and the vocabulary."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    train_texts, test_texts, names = load_newsgroups(Path(sys.argv[1]))
    vocabulary = vocabulary_of(train_texts.texts, recipe.words)
    network = train(recipe, train_texts, vocabulary, len(names))
    path = HERE / recipe.name / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    recipe.export(network, path)
    accuracy = measure(path, encode(test_texts.texts, vocabulary, recipe.length), test_texts.labels)
    script = f"sample_models/make_{recipe.name}.py"
    about = {"accuracy": accuracy, "test_samples": len(test_texts.labels), "script": script}
    exporter = f"PyTorch {torch.__version__.split('+')[0]}, {recipe.exporter}"
    write_texts_sidecar(path, vocabulary, names, {**about, "exporter": exporter}, **dict(recipe.own))
    print(f"{path.relative_to(HERE.parent)}: {path.stat().st_size} bytes, accuracy {accuracy:.1%}")


def train(recipe: Recipe, texts: Texts, vocabulary: list[str], classes: int) -> nn.Module:
    """Bag of words first: its embedding is where the network begins."""
    tokens, labels = torch.from_numpy(encode(texts.texts, vocabulary, recipe.length)), torch.from_numpy(texts.labels)
    bag, network = Bag(classes, recipe.words, recipe.wide), recipe.network(classes)
    fit(bag, tokens, labels, recipe.bag_epochs, 1e-2)
    network.embedding.weight.data.copy_(bag.embedding.weight.data)
    network.embedding.weight.data[0] = 0
    fit(network, tokens, labels, recipe.epochs, recipe.rate)
    return network


class Bag(nn.Module):
    """The mean of the embedding and a Linear behind it."""

    def __init__(self, classes: int, words: int, wide: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(words, wide, mode="mean", padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.classifier, self.drop = nn.Linear(wide, classes), nn.Dropout(0.3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classifier(self.drop(self.embedding(tokens)))


def fit(network: nn.Module, tokens: Tensor, labels: Tensor, epochs: int, rate: float) -> None:
    """Adam over batches of texts of similar length; leaves the network in evaluation mode."""
    optimiser = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    lengths = (tokens != 0).sum(1)
    for epoch in range(epochs):
        network.train()
        batches = torch.argsort(lengths + 30 * torch.rand(len(tokens))).split(64)
        for number in torch.randperm(len(batches)).tolist():
            rows = tokens[batches[number]]
            rows = rows[:, : max(2, int((rows != 0).sum(1).max()))]
            rows = torch.where(torch.rand(rows.shape) < FORGOTTEN, torch.zeros_like(rows), rows)
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(rows), labels[batches[number]], label_smoothing=0.05)
            loss.backward()
            optimiser.step()
        schedule.step()
        print(f"  epoch {epoch + 1} of {epochs}, last loss {loss.item():.3f}", flush=True)
    network.eval()


def export_with_dynamo(network: nn.Module, path: Path) -> None:
    """'tokens' → 'logits', both axes of the tokens dynamic; the embedding in half precision."""
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)}
    torch.onnx.export(
        network,
        (torch.ones(2, 7, dtype=torch.int64),),
        path,
        dynamo=True,
        opset_version=20,
        external_data=False,
        input_names=["tokens"],
        output_names=["logits"],
        dynamic_shapes=(sizes,),
    )
    strip_machine_metadata(path)
    model = onnx.load(path)
    halve(model, max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data)).name)
    onnx.save(model, path)


def halve(model: onnx.ModelProto, name: str) -> None:
    """Store one float32 weight as float16 behind a Cast."""
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half")
    weight.CopyFrom(half)
    model.graph.node.insert(0, helper.make_node("Cast", [half.name], [name], "widen", to=onnx.TensorProto.FLOAT))


def measure(path: Path, tokens: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Accuracy of the exported file, text by text and without padding."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = [row[: max(2, np.count_nonzero(row))] for row in tokens]
    scores = [session.run(["logits"], {"tokens": row[None]})[0] for row in rows]
    return accuracy_of(np.concatenate(scores), labels)
