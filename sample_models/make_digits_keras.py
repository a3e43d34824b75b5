"""Train a small Keras CNN on the digits and export it, NHWC as TensorFlow thinks, through tf2onnx.

    pip install tensorflow-cpu==2.21.0 keras==3.15.1 tf2onnx==1.17.0 onnx onnxruntime scikit-learn pillow
    python sample_models/make_digits_keras.py

Made with tensorflow-cpu 2.21.0, keras 3.15.1, tf2onnx 1.17.0, onnx 1.23.2, numpy 2.4.6. `model.export(format="onnx")`
of the same keras gives the same graph with less readable names; `tf2onnx.convert.from_keras` fails on Keras 3
(KeyError: 'keras_tensor_7'), so the model goes through a tf.function. A second run gives the same weights and graph;
only a few names that tf2onnx makes up (Const__58) change.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from pathlib import Path
from typing import Any

import keras
import onnx
import tensorflow as tf
import tf2onnx
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
    write_digit_images,
    write_sidecar,
)
from keras import layers

SCRIPT = "sample_models/make_digits_keras.py"
SEED = 0
EPOCHS = 30
BATCH_SIZE = 64
MODEL_PATH = HERE / "digits_keras" / "model.onnx"
FIELDS: dict[str, Any] = {
    "kind": "image",
    "name": "digits_keras",
    "layout": "NHWC",
    "size": [8, 8],
    "channels": "GRAY",
    "preprocessing": "0-1",
    "box": [0.0, 1.0],
    "labels": DIGIT_LABELS,
}


def build_network() -> keras.Sequential:
    """Return Conv-BN-ReLU, MaxPool, Dense on the channels, Conv, Dense, Softmax: (batch, 8, 8, 1) → (batch, 10).

    The Dense in the middle works on the last axis, so the export must transpose before and after it.
    """
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Dense(24, activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def train(network: keras.Sequential, digits: Digits) -> None:
    """Fit `network` to the training digits."""
    steps = EPOCHS * (len(digits.train_labels) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    network.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy")
    images = preprocess(digits.train_images, FIELDS)
    network.fit(images, digits.train_labels, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)


def export(network: keras.Sequential, path: Path) -> None:
    """Export at opset 15 with input 'image' and output 'probabilities'."""
    signature = [tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")]

    @tf.function(input_signature=signature)
    def classify(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": network(image, training=False)}

    tf2onnx.convert.from_function(classify, signature, opset=15, output_path=str(path))


def logits_name(path: Path) -> str:
    """Return the tensor that the final Softmax reads."""
    (softmax,) = (node for node in onnx.load(path).graph.node if node.op_type == "Softmax")
    return softmax.input[0]


def main() -> None:
    """Train, export, measure, and write sidecar and samples."""
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    digits = load_digits_split()
    network = build_network()
    train(network, digits)
    MODEL_PATH.parent.mkdir(exist_ok=True)
    export(network, MODEL_PATH)
    probabilities = run_model(MODEL_PATH, preprocess(digits.test_images, FIELDS), "probabilities")
    about = {
        "licence": licence_line(SCRIPT),
        "data": DIGITS_DATA,
        "accuracy": accuracy_of(probabilities, digits.test_labels),
        "test_samples": len(digits.test_labels),
        "script": SCRIPT,
        "exporter": f"tf2onnx {tf2onnx.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}",
    }
    write_sidecar(MODEL_PATH, {**FIELDS, "logits": logits_name(MODEL_PATH)}, about)
    report(MODEL_PATH, write_digit_images(MODEL_PATH.parent, digits), "probabilities")


if __name__ == "__main__":
    main()
