"""Train a linear SVM on bags of words (TF-IDF) of 20 Newsgroups, and export it through skl2onnx, tokens to scores.

    pip install scikit-learn skl2onnx onnx onnxruntime
    python sample_models/make_topics_svm.py 20news-bydate.jsonl.gz

Made with scikit-learn 1.9.1, skl2onnx 1.20.0, onnx 1.23.2. TF-IDF weights and the SVM are exported by skl2onnx; the
counting of words in front of them is one TfIdfVectorizer over token numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import skl2onnx
import sklearn
from _common import HERE, accuracy_of
from _newsgroups import encode, load_newsgroups, vocabulary_of, words_of, write_texts_sidecar
from onnx import helper
from scipy.sparse import csr_matrix
from skl2onnx.common.data_types import FloatTensorType
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

SCRIPT = "sample_models/make_topics_svm.py"
WORDS, SPECIAL = 8000, 2
PATH = HERE / "topics_svm" / "model.onnx"


def counts_of(texts: list[str], vocabulary: list[str]) -> csr_matrix:
    """(text, word) how often each word of the vocabulary stands in each text."""
    place = {word: number - SPECIAL for number, word in enumerate(vocabulary) if number >= SPECIAL}
    cells = [(row, place[word]) for row, text in enumerate(texts) for word in words_of(text) if word in place]
    rows, columns = zip(*cells, strict=True)
    return csr_matrix((np.ones(len(cells), np.float32), (rows, columns)), (len(texts), len(place)))


def export(pipeline: Pipeline, words: int) -> onnx.ModelProto:
    """tokens (batch, length) → counts → TF-IDF → scores."""
    counts = [("counts", FloatTensorType([None, words]))]
    options = {id(pipeline[-1]): {"raw_scores": True}}
    model = skl2onnx.to_onnx(pipeline, initial_types=counts, options=options, target_opset=17)
    numbers = list(range(words))
    counting = helper.make_node(
        "TfIdfVectorizer",
        ["tokens"],
        ["counts"],
        name="count_words",
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=numbers,
        pool_int64s=[number + SPECIAL for number in numbers],
    )
    model.graph.node.insert(0, counting)
    scores = model.graph.output[-1].name
    for node in model.graph.node:
        node.output[:] = ["logits" if name == scores else name for name in node.output]
    model.graph.output[-1].name = "logits"
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, ["batch", "length"]))
    return model


def measure(path: Path, texts: list[str], vocabulary: list[str], labels: np.ndarray) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[-1].name
    rows = [encode([text], vocabulary, max(len(words_of(text)), 1)) for text in texts]
    return accuracy_of(np.concatenate([session.run([output], {"tokens": row})[0] for row in rows]), labels)


def main() -> None:
    """Train, export, measure, and write the sidecar and the vocabulary."""
    parser = argparse.ArgumentParser(description="TF-IDF and a linear SVM on 20 Newsgroups.")
    parser.add_argument("data", type=Path, help="JSON lines, gzip: split, label, text")
    train, test, names = load_newsgroups(parser.parse_args().data)
    vocabulary = vocabulary_of(train.texts, WORDS + SPECIAL)
    pipeline = make_pipeline(TfidfTransformer(), LinearSVC(C=0.2))
    pipeline.fit(counts_of(train.texts, vocabulary), train.labels)
    PATH.parent.mkdir(exist_ok=True)
    onnx.save(export(pipeline, WORDS), PATH)
    accuracy = measure(PATH, test.texts, vocabulary, test.labels)
    about = {"accuracy": accuracy, "test_samples": len(test.texts), "script": SCRIPT}
    exporter = f"skl2onnx {skl2onnx.__version__}, scikit-learn {sklearn.__version__}"
    write_texts_sidecar(PATH, vocabulary, names, {**about, "exporter": exporter})
    print(f"{PATH.parent.name}: accuracy {accuracy}, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
