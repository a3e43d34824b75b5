"""Running: the three ways a method gets its relevance, each over sessions that are opened when first needed.

CompiledRun   one pass of the joint model
AveragedRun   many passes of a compiled gradient
ForwardRun    the model alone, on perturbed copies
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from onnxlrp.blame import ours
from onnxlrp.compile import Compiled
from onnxlrp.explain.cut import cut_model
from onnxlrp.explain.feeding import Feeding
from onnxlrp.methods.forward import FiniteDifference, Occlusion, Random
from onnxlrp.methods.path import IntegratedGradients, SmoothGrad
from onnxlrp.model import Model
from onnxlrp.output import Output, find_tensor
from onnxlrp.session import Arrays, Session
from onnxlrp.target import Resolved, frozen, score_of, weights_of

Progress = Callable[[int, int], None]
"""(done, total)."""

Providers = str | Sequence[str] | None

FORM = "prepared form"
"""What messages call the model itself after `prepare`."""


@dataclass(frozen=True)
class Found:
    """relevance : per explained tensor        outputs : the model's own        score : explained value per sample
    asked : the explained output, or its logits; None where the joint model of a quantised file has no such tensor
    """

    relevance: Arrays
    outputs: Arrays
    score: np.ndarray[Any, Any]
    asked: np.ndarray[Any, Any] | None


class Run(Protocol):
    """What `Explainer` asks of each way."""

    def __call__(self, feeds: Arrays, resolved: Resolved, samples: int, progress: Progress | None) -> Found: ...

    @property
    def sessions(self) -> list[Session]: ...


class Forward:
    """The original model, with some inner tensors visible."""

    def __init__(
        self, model: Model, output: Output, inner: Sequence[str], feeding: Feeding, providers: Providers
    ) -> None:
        self.model, self.output, self.inner, self.feeding, self.providers = model, output, inner, feeding, providers

    @cached_property
    def session(self) -> Session:
        model = self.model.copy()
        visible = {value.name for value in model.graph.outputs}
        for name in dict.fromkeys([self.output.tensor.name or "", *self.inner]):
            if name not in visible:
                model.graph.outputs.append(find_tensor(model.graph, name, "tensor"))
        with ours(self.model, self.providers, what=FORM):
            return Session(model, self.providers)

    def __call__(self, feeds: Arrays, samples: int) -> Arrays:
        with ours(self.model, self.providers, feeds, FORM):
            return self.feeding.run(self.session.run, feeds, samples)

    def explained_value(self, found: Arrays) -> np.ndarray[Any, Any]:
        """The explained tensor, in the shape of the output it stands for."""
        value, asked = found[self.output.tensor.name or ""], found.get(self.output.asked.name or "")
        return value if asked is None else value.reshape(asked.shape)

    def outputs(self, found: Arrays) -> Arrays:
        names = [value.name or "" for value in self.model.graph.outputs]
        return {name: found[name] for name in names}


class CompiledRun:
    """One pass of the joint model per slice of the batch.

    asked : the explained output's name in the file, which in the joint model of a quantised file is the deployed copy's
    """

    def __init__(
        self,
        model: Model,
        compiled: Compiled,
        feeding: Feeding,
        outputs: Sequence[str],
        asked: str,
        providers: Providers,
    ) -> None:
        self.model, self.compiled, self.feeding = model, compiled, feeding
        self.outputs, self.asked, self.providers = outputs, asked, providers

    @cached_property
    def session(self) -> Session:
        """Over the joint model; where an inner tensor is explained, it is an output too."""
        model = self.compiled.model
        if self.asked not in {value.name for value in model.graph.outputs}:
            model = model.clone()
            made = (value for node in model.graph for value in node.outputs)
            model.graph.outputs.extend([value for value in made if value.name == self.asked])
        with ours(self.model, self.providers):
            return Session(model, self.providers)

    @property
    def sessions(self) -> list[Session]:
        return [self.session] if "session" in self.__dict__ else []

    def __call__(self, feeds: Arrays, resolved: Resolved, samples: int, progress: Progress | None) -> Found:
        compiled = self.compiled
        extra = {compiled.target: resolved.target, compiled.seed: self._with_rank(resolved.seed)}
        shared = [name for name, array in extra.items() if len(array) != samples or samples == 1]
        session = self.session
        with ours(self.model, self.providers, feeds):
            found = self.feeding.run(session.run, feeds | extra, samples, shared, _counter(progress, samples))
        relevance = {source: found[name] for source, name in compiled.relevance.items()}
        outputs = {name: found[name] for name in self.outputs if name in found}
        score = np.atleast_1d(found[compiled.score]).astype(np.float64)
        return Found(relevance, outputs, score, found.get(self.asked))

    def _with_rank(self, seed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The seed with the output's rank, as the compiled model declares it."""
        shape = self.compiled.output.asked.shape
        rank = max(len(shape) if shape is not None else seed.ndim, 1)
        return seed.reshape([1] * (rank - seed.ndim) + list(seed.shape)) if seed.ndim < rank else seed


class AveragedRun:
    """Gradients at many points, averaged."""

    def __init__(
        self,
        runner: IntegratedGradients | SmoothGrad,
        gradient: CompiledRun,
        forward: Forward,
        explained: Sequence[str],
    ) -> None:
        self.runner, self.gradient, self.forward, self.explained = runner, gradient, forward, explained

    @property
    def sessions(self) -> list[Session]:
        return self.gradient.sessions

    def __call__(self, feeds: Arrays, resolved: Resolved, samples: int, progress: Progress | None) -> Found:
        found = self.forward(feeds, samples)
        y = self.forward.explained_value(found)
        resolved = frozen(resolved, y, self.forward.output)
        points = {name: found[name] if name in found else feeds[name] for name in self.explained}
        rest = {n: a for n, a in feeds.items() if n not in points and n in self.gradient.session.inputs}
        batched = self.forward.output.batched
        # Runners speak of (sample, …): what has no batch axis is one sample, and not one per row.
        points = points if batched else {name: array[None] for name, array in points.items()}

        def gradients(values: Arrays) -> Arrays:
            given = values if batched else {name: array[0] for name, array in values.items()}
            slopes = self.gradient(given | rest, resolved, samples, None).relevance
            return slopes if batched else {name: array[None] for name, array in slopes.items()}

        relevance = self.runner.run(points, gradients, _counter(progress, self.runner.passes))
        relevance = relevance if batched else {name: array[0] for name, array in relevance.items()}
        score = score_of(y, weights_of(resolved, y.shape, self.forward.output), self.forward.output)
        return Found(relevance, self.forward.outputs(found), score, y)


class ForwardRun:
    """Scores of perturbed copies; the model is cut at explained inner tensors, so that these can be fed."""

    def __init__(
        self,
        runner: Occlusion | FiniteDifference | Random,
        forward: Forward,
        explained: Sequence[str],
        batch_size: int,
    ) -> None:
        self.runner, self.forward, self.explained, self.batch_size = runner, forward, explained, batch_size

    @property
    def sessions(self) -> list[Session]:
        return [self.forward.session] if "session" in self.forward.__dict__ else []

    @cached_property
    def _cut(self) -> tuple[Session, Feeding]:
        """The cut model with the explained tensor as its only output, and how it is fed."""
        model = cut_model(self.forward.model, self.explained).copy()
        value = find_tensor(model.graph, self.forward.output.tensor.name or "", "tensor")
        model.graph.outputs.clear()
        model.graph.outputs.append(value)
        feeding = Feeding(model.graph.inputs, self.forward.output, self.batch_size)
        return Session(model, self.forward.providers), feeding

    def __call__(self, feeds: Arrays, resolved: Resolved, samples: int, progress: Progress | None) -> Found:
        output = self.forward.output
        found = self.forward(feeds, samples)
        y = self.forward.explained_value(found)
        resolved = frozen(resolved, y, output)
        weights = weights_of(resolved, y.shape, output)
        points = {name: found[name] if name in found else feeds[name] for name in self.explained}
        score = score_of(y, weights, output)
        if isinstance(self.runner, Random):
            return Found(self.runner.run(points), self.forward.outputs(found), score, y)
        rest = {name: array for name, array in feeds.items() if name not in points}

        def scores(values: Arrays) -> np.ndarray[Any, Any]:
            return score_of(self._probe(values, rest, samples), weights, output)

        def scores_one_by_one(values: Arrays) -> np.ndarray[Any, Any]:
            copies = [{name: array[i] for name, array in values.items()} for i in range(_rows(values))]
            return np.concatenate([score_of(self._probe(copy, rest, _rows(copy)), weights, output) for copy in copies])

        count = _counter(progress, self.runner.count(points))
        if output.batched:
            relevance = self.runner.run(points, scores, self.batch_size, count)
        else:
            lone = {name: array[None] for name, array in points.items()}
            relevance = self.runner.run(lone, scores_one_by_one, self.batch_size, count)
            relevance = {name: array[0] for name, array in relevance.items()}
        return Found(relevance, self.forward.outputs(found), score, y)

    def _probe(self, values: Arrays, rest: Arrays, samples: int) -> np.ndarray[Any, Any]:
        """The explained tensor on perturbed copies, which come in whole repetitions of the batch."""
        session, feeding = self._cut
        rows = _rows(values)
        feeds = values | {name: np.concatenate([array] * (rows // samples)) for name, array in rest.items()}
        feeds = {name: array for name, array in feeds.items() if name in session.inputs}
        return next(iter(feeding.run(session.run, feeds, rows).values()))


def _rows(values: Arrays) -> int:
    return len(np.atleast_1d(next(iter(values.values()))))


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Adds up what is done and tells it with the total."""
    done = 0

    def count(amount: int) -> None:
        nonlocal done
        done += amount
        if progress is not None:
            progress(done, total)

    return count
