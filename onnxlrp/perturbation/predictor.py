"""A model as a function from some tensors to scores: they are fed (also inner ones), all other inputs stay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import ChoiceError
from onnxlrp.explain import Explainer
from onnxlrp.explain.cut import cut_model
from onnxlrp.explain.feeding import Feeding
from onnxlrp.explain.running import Forward
from onnxlrp.output import find_tensor
from onnxlrp.session import Arrays, Session
from onnxlrp.target import Target, frozen, resolve, weights_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """Of rows.

    value           : Σ target ⊙ y, the logit where a class is explained
    log_probability : of the target; NaN where the output is no vector of classes
    best            : index of the largest class; −1 where there are no classes
    """

    value: NDArray[np.float64]
    log_probability: NDArray[np.float64]
    best: NDArray[np.int64]


class Predictor:
    """Runs one explainer's model on values of its explained tensors.

    tensors : those that are fed; None = the explained ones that hold floats, or the first where none does
    seconds : spent inside onnxruntime so far        runs : rows so far
    """

    def __init__(self, explainer: Explainer, tensors: Sequence[str] | None = None) -> None:
        self.explainer = explainer
        self.tensors = list(tensors) if tensors is not None else moved_tensors(explainer)
        unknown = [name for name in self.tensors if name not in explainer.explained]
        if unknown:
            raise ChoiceError(f"'{unknown[0]}' is not explained; explained are {', '.join(explainer.explained)}.")
        self.output, self.model = explainer.output, explainer.model
        self.batch_size = explainer.batch_size if self.output.batched else 1
        self.seconds, self.runs = 0.0, 0
        self._head: str | None = None

    @cached_property
    def _inner(self) -> list[str]:
        inputs = {value.name for value in self.model.graph.inputs}
        return [name for name in self.tensors if name not in inputs]

    @cached_property
    def _forward(self) -> Forward:
        feeding = Feeding(self.model.graph.inputs, self.output, self.batch_size)
        return Forward(self.model, self.output, self._inner, feeding, self.explainer.providers)

    @cached_property
    def _cut(self) -> tuple[Session, Feeding]:
        """The model cut at the tensors, with the explained tensor as its only output."""
        if not self._inner:
            return self._forward.session, self._forward.feeding
        model = cut_model(self.model, self.tensors).copy()
        value = find_tensor(model.graph, self.output.tensor.name or "", "tensor")
        model.graph.outputs.clear()
        model.graph.outputs.append(value)
        return Session(model, self.explainer.providers), Feeding(model.graph.inputs, self.output, self.batch_size)

    def first(self, feeds: Arrays) -> tuple[Arrays, Array]:
        """The tensors' own values and the explained output, batch axis in front, for what a user feeds."""
        feeds = self.explainer.checked(feeds)
        started = time.perf_counter()
        found = self._forward(feeds, self._forward.feeding.samples(feeds))
        self.seconds += time.perf_counter() - started
        values = {name: found[name] if name in found else feeds[name] for name in self.tensors}
        y = self._forward.explained_value(found)
        asked = found.get(self.output.asked.name or "")
        if not self.output.batched:
            values, y, asked = {n: a[None] for n, a in values.items()}, y[None], None if asked is None else asked[None]
        if self._head is None:
            self._head = head_of(_flat(y), None if asked is None else _flat(asked))
        return values, y

    def __call__(self, values: Arrays, rest: Arrays) -> Array:
        """The explained output of rows.

        values : of the tensors, (row, …) each        rest : the other inputs, likewise
        """
        session, feeding = self._cut
        feeds = {n: a for n, a in (values | rest).items() if n in session.inputs}
        rows = len(next(iter(values.values())))
        name = self.output.tensor.name or ""
        started = time.perf_counter()
        if self.output.batched:
            y = feeding.run(lambda piece: session.run(piece, [name]), feeds, rows)[name]
        else:
            y = np.stack([session.run({n: a[i] for n, a in feeds.items()}, [name])[name] for i in range(rows)])
        self.seconds += time.perf_counter() - started
        self.runs += rows
        return y

    def weights(self, target: Target, y: Array) -> Array:
        """What is explained of each sample as an array over the output, frozen at these unperturbed values."""
        asked = y if self.output.batched else y[0]
        explainer = self.explainer
        resolved = resolve(target, asked.shape, self.output, len(y), explainer.labels, lambda: asked, explainer.layout)
        weights = weights_of(frozen(resolved, asked, self.output), asked.shape, self.output)
        return np.asarray(weights, np.float64).reshape(len(y), -1)

    def scores(self, y: Array, weights: Array) -> Scores:
        """y : (row, …)        weights : (row, elements), see `weights`"""
        flat = _flat(y)
        value = (flat * weights).sum(axis=1)
        if not self.has_classes:
            return Scores(value, np.full(len(flat), np.nan), np.full(len(flat), -1, np.int64))
        target = weights.argmax(axis=1)
        logs = log_probabilities(flat, self._head or "softmax")[np.arange(len(flat)), target]
        return Scores(value, logs, flat.argmax(axis=1))

    @property
    def has_classes(self) -> bool:
        """Whether the output is one number per class, so that probability and accuracy mean something."""
        shape = self.output.asked.shape
        dims = list(shape) if shape is not None else []
        rest = dims[2:] if self.output.batched else dims[1:]
        return len(dims) > int(self.output.batched) and all(d == 1 for d in rest)

    @property
    def head(self) -> str:
        """How the explained output becomes a probability; known after the first run."""
        return self._head or "softmax"


def moved_tensors(explainer: Explainer) -> list[str]:
    """What a curve perturbs by itself: masks and positions, which are whole numbers beside an embedding, stay."""
    kinds = {value.name: value.dtype for value in explainer.tensors}
    floats = [name for name, dtype in kinds.items() if name and dtype is not None and dtype.is_floating_point()]
    return floats or explainer.explained[:1]


def head_of(y: NDArray[np.float64], asked: NDArray[np.float64] | None) -> str:
    """Whichever of softmax, sigmoid and shares of sigmoids gives the model's own output; or "probability"."""
    if asked is not None and asked.shape == y.shape:
        for head in ("softmax", "sigmoid", "shares"):
            if np.allclose(np.exp(log_probabilities(y, head)), asked, rtol=1e-2, atol=1e-4):
                return head
    if y.shape[1] == 1:
        return "sigmoid"
    is_probability = bool((y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-3))
    return "probability" if is_probability else "softmax"


def log_probabilities(y: NDArray[np.float64], head: str) -> NDArray[np.float64]:
    """y : (row, class)"""
    if head in ("sigmoid", "shares"):
        logs = np.asarray(-np.logaddexp(0, -y))
        return logs if head == "sigmoid" else logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
    if head == "probability":
        return np.asarray(np.log(np.maximum(y, np.finfo(np.float32).tiny)))
    top = y.max(axis=1, keepdims=True)
    return np.asarray(y - top - np.log(np.exp(y - top).sum(axis=1, keepdims=True)))


def _flat(y: Array) -> NDArray[np.float64]:
    return np.asarray(y, np.float64).reshape(len(y), -1)
