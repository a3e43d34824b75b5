"""`Explainer` joins the stages: read → prepare → plan → reverse → run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.compile import Compiled, Request, compile_model, find_inputs, plan_for
from onnxlrp.cut import cut_model
from onnxlrp.errors import ChoiceError, InputError, Unsupported
from onnxlrp.explanation import Conservation, Explanation
from onnxlrp.methods import METHODS, Averaged, Pass, Probe, find_method
from onnxlrp.methods.forward import Random
from onnxlrp.model import Model, Source, read
from onnxlrp.plan import Plan, Rules
from onnxlrp.prepare import prepare
from onnxlrp.presets import Box, default_preset, find_preset
from onnxlrp.rules.decompositions import ZBox
from onnxlrp.session import Arrays, Session, run_batched
from onnxlrp.storage import write_model
from onnxlrp.target import EVERYTHING, LARGEST, Output, Resolved, Target, find_output, resolve
from onnxlrp.version import VERSION

BIASES = ("absorb", "drop", "distribute")
DEFAULT_BATCH = 16
Progress = Callable[[int, int], None]
"""(done, total)."""


class Explainer:
    """Explains the predictions of one model.

    model     : path, bytes, ModelProto, or a `Model` already read
    method    : "lrp", "gradient", "sensitivity", "gradient-x-input", "integrated-gradients", "smoothgrad",
                "guided-backprop", "deconvnet", "deeplift", "occlusion", "finite-difference" or "random"
    preset    : of LRP; None chooses from the model's own operators (`explainer.preset` says which)
    rules     : {node name, glob or operator type: rule}, stronger than the preset
    target    : what is explained in each sample; `explain` can override it
    output    : tensor that is explained; None = the first float output, stepped back to its logits
    inputs    : tensors that get relevance; None = every input that reaches the output
    bias      : "absorb" (the bias takes its share), "drop" (left out of the denominator) or "distribute"
    providers : "auto", "cpu", "cuda" or onnxruntime's own names
    batch_size: samples per run; None = 16
    box       : (low, high) of the preprocessed input, for z-box rules
    labels    : class names, for targets by label
    logits    : tensor that holds the logits, where stepping back does not find them
    options   : of the method, such as steps=50 or window=(3, 8, 8)

    Errors: ModelError, ChoiceError, NoRule and Unsupported before anything runs.
    """

    def __init__(
        self,
        model: Source | Model,
        method: str = "lrp",
        preset: str | None = None,
        rules: Rules | None = None,
        target: Target = None,
        output: str | None = None,
        inputs: Sequence[str] | None = None,
        bias: str = "absorb",
        providers: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        *,
        box: Box | None = None,
        labels: Sequence[str] | None = None,
        logits: str | None = None,
        layout: str | None = None,
        **options: Any,
    ) -> None:
        self.model = prepare(model if isinstance(model, Model) else read(model))
        self.method = find_method(method, options)
        self.target = target
        self.labels = tuple(labels) if labels is not None else None
        self.layout = layout
        if bias not in BIASES:
            raise ChoiceError(f"There is no bias handling '{bias}'; there are {', '.join(BIASES)}.")
        if batch_size is not None and batch_size < 1:
            raise ChoiceError(f"batch_size={batch_size}: at least one sample per run is needed.")
        self.bias = bias
        self.providers = providers
        self.batch_size = batch_size or DEFAULT_BATCH
        self.rules = dict(rules or {})
        self._check_preset(preset)
        self.preset = self._preset_name(preset)
        self.box = box
        self._options = options
        self._output, self._logits, self._inputs = output, logits, list(inputs) if inputs is not None else None
        if not isinstance(self.method, Pass):
            self._resolve_early()
        else:
            _ = self._planned

    # --- what was decided --------------------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """One decision per layer, printable.  Errors: ChoiceError for methods that only run the model forward."""
        if isinstance(self.method, Probe):
            raise ChoiceError(f"The method '{self.method.name}' only runs the model forward: it has no plan.")
        return self._planned[1]

    @property
    def output(self) -> Output:
        return self._planned[2] if isinstance(self.method, Pass) else self._early[0]

    @property
    def explained(self) -> list[str]:
        """Names of the tensors that get relevance."""
        values = self._planned[1].explained if isinstance(self.method, Pass) else self._early[1]
        return [value.name or "" for value in values]

    @cached_property
    def compiled(self) -> Compiled:
        """The joint model of the backward pass."""
        if isinstance(self.method, Probe):
            raise ChoiceError(f"The method '{self.method.name}' only runs the model forward: nothing is compiled.")
        return compile_model(self._cut_model, self.request())

    def request(self) -> Request:
        """What `compile_model` is asked for."""
        method = self.method.gradient if isinstance(self.method, Averaged) else self.method
        assert isinstance(method, Pass)
        chooser = method.chooser
        title = method.name
        if chooser is None:
            assert self.preset is not None
            preset = find_preset(self.preset, self.box, self._options.get("epsilon"))
            chooser, title = preset.choose, f"lrp {preset.name}"
        return Request(
            title,
            chooser,
            method.merge,
            method.times_output,
            method.reduce,
            self._output,
            self._logits,
            self._inputs,
            self.rules,
            self.bias,
            self._options.get("baseline", 0.0) if method.reference else None,
            self._metadata(),
        )

    def save(self, path: str | Path) -> None:
        """Write the explainer: a plain ONNX file with the model's outputs, one relevance output per explained input,
        and `target` and `seed` as inputs with defaults.

        Errors: Unsupported for methods of several passes; InputError when the folder cannot be written.
        """
        if not isinstance(self.method, Pass):
            passes = ", ".join(name for name, method in METHODS.items() if isinstance(method, Pass))
            raise Unsupported(
                f"The method '{self.method.name}' is not one pass, so it cannot be saved as one model; these can: {passes}."
            )
        model = self.compiled.model.clone()
        kept = [value for value in model.graph.outputs if value.name != self.compiled.score]
        del model.graph.outputs[:]
        model.graph.outputs.extend(kept)
        write_model(model, Path(path))

    # --- running -----------------------------------------------------------------------------------------------------

    def explain(self, x: Any, target: Target = None, progress: Progress | None = None) -> Explanation:
        """Explain one batch.

        x      : array, or {input name: array}, in the model's own layout, batch axis included where the model has one
        target : overrides the constructor's: None = largest element per sample; int = index on axis 1; tuple = full
                 index; list = one per sample; label; "a-b" = contrast; "all" = a class axis in front; float array = seed
        Errors: InputError for arrays that do not fit; ChoiceError for a target that does not exist.
        """
        started = time.perf_counter()
        target = self.target if target is None else target
        feeds = self._feeds(x)
        samples = self._sample_count(feeds)
        if isinstance(target, str) and target == "all":
            return self._explain_all(feeds, samples, progress)
        resolved = resolve(target, self._output_shape(), self.output.batched, samples, self.labels)
        found = self._run(feeds, resolved, samples, progress)
        return self._explanation(feeds, resolved, found, time.perf_counter() - started)

    def predict(self, x: Any) -> Arrays:
        """The original model's outputs.

        x : array, or {input name: array}
        """
        feeds = self._feeds(x)
        names = [value.name or "" for value in self.model.graph.outputs]
        return self._in_batches(lambda piece: self._forward.run(piece, names), feeds, self._sample_count(feeds))

    def forward_value(self, x: Any) -> np.ndarray[Any, Any]:
        """The explained tensor itself (the logits), in the shape of the output it stands for.

        x : array, or {input name: array}
        """
        feeds = self._feeds(x)
        found = self._forward_pass(feeds, self._sample_count(feeds))
        value = found[self.output.tensor.name or ""]
        asked = found.get(self.output.asked.name or "")
        return value if asked is None else value.reshape(asked.shape)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _check_preset(self, preset: str | None) -> None:
        if preset is not None and self.method.name != "lrp":
            raise ChoiceError(f"A preset belongs to LRP; the method here is '{self.method.name}'.")
        if self.rules and not isinstance(self.method, Pass):
            raise ChoiceError(f"Rules belong to a backward pass; the method '{self.method.name}' takes none.")

    def _preset_name(self, preset: str | None) -> str | None:
        if self.method.name != "lrp":
            return None
        types = {node.op_type for node in self.model.graph}
        return preset if preset is not None else default_preset(lambda op_type: op_type in types)

    @cached_property
    def _planned(self) -> tuple[ir.Model, Plan, Output]:
        return plan_for(self.model, self.request())

    @cached_property
    def _early(self) -> tuple[Output, list[ir.Value]]:
        output = find_output(self.model.graph, self._output, self._logits)
        return output, find_inputs(self.model.graph, self._inputs, output.tensor)

    def _resolve_early(self) -> None:
        if self.method.name == "random":
            return
        for value in self._early[1]:
            if value.dtype is not None and not value.dtype.is_floating_point():
                raise ChoiceError(
                    f"The method '{self.method.name}' moves its input by small amounts, and '{value.name}' holds "
                    f"{value.dtype.name.lower()}. Name the float tensor behind it (an embedding) with inputs=[…]."
                )

    @cached_property
    def _cut_model(self) -> Model:
        """The model itself; for methods that feed inner tensors, cut there."""
        if isinstance(self.method, Pass):
            return self.model
        return cut_model(self.model, self.explained)

    @cached_property
    def _inner(self) -> list[str]:
        inputs = {value.name for value in self.model.graph.inputs}
        return [name for name in self.explained if name not in inputs]

    @cached_property
    def _session(self) -> Session:
        return Session(self.compiled.model, self.providers)

    @cached_property
    def _forward(self) -> Session:
        """The original model, with the explained tensor and the inner tensors visible."""
        model = self.model.copy()
        visible = {value.name for value in model.graph.outputs}
        for node in model.graph:
            for value in node.outputs:
                if value.name in {self.output.tensor.name, *self._inner} - visible:
                    model.graph.outputs.append(value)
        return Session(model, self.providers)

    @cached_property
    def _cut_forward(self) -> Session:
        """The cut model with the explained tensor as its only output."""
        model = self._cut_model.copy()
        value = find_output(model.graph, self.output.tensor.name).tensor
        del model.graph.outputs[:]
        model.graph.outputs.append(value)
        return Session(model, self.providers)

    @property
    def takes_batches(self) -> bool:
        """Whether axis 0 of the explained output and of every input counts samples."""
        return self.output.batched and all(self._is_batched_input(v.name or "") for v in self.model.graph.inputs)

    @property
    def used_providers(self) -> tuple[str, ...]:
        for name in ("_session", "_forward", "_cut_forward"):
            if name in self.__dict__:
                return tuple(self.__dict__[name].providers)
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What sessions had to say about their providers."""
        return tuple(n for name in ("_session", "_forward") if name in self.__dict__ for n in self.__dict__[name].notes)

    def _output_shape(self) -> list[Any]:
        shape = self.output.asked.shape
        return [d if isinstance(d, int) else d.value for d in shape] if shape is not None else []

    def _run(self, feeds: Arrays, resolved: Resolved, samples: int, progress: Progress | None) -> Arrays:
        """Relevance under the explained names, the model's outputs, and the score."""
        if isinstance(self.method, Pass):
            return self._run_compiled(self._session, self.compiled, feeds, resolved, samples, progress)
        if isinstance(self.method, Averaged):
            return self._run_averaged(feeds, resolved, samples, progress)
        return self._run_probe(feeds, resolved, samples, progress)

    def _run_compiled(
        self,
        session: Session,
        compiled: Compiled,
        feeds: Arrays,
        resolved: Resolved,
        samples: int,
        progress: Progress | None = None,
    ) -> Arrays:
        seed = _as_fed(resolved.seed, compiled, self.output)
        extra = {compiled.target: resolved.target, compiled.seed: seed}
        shared = [name for name, array in extra.items() if len(array) != samples or samples == 1]
        done = 0

        def count(amount: int) -> None:
            nonlocal done
            done += amount
            if progress is not None:
                progress(done, samples)

        found = self._in_batches(session.run, feeds | extra, samples, shared, count)
        return {_source_name(name, compiled): array for name, array in found.items()}

    def _run_averaged(self, feeds: Arrays, resolved: Resolved, samples: int, progress: Progress | None) -> Arrays:
        assert isinstance(self.method, Averaged)
        outputs = self._forward_pass(feeds, samples)
        points = {name: outputs.get(name, feeds.get(name)) for name in self.explained}
        rest = {n: a for n, a in feeds.items() if n not in points and n in self._session.inputs}
        resolved = self._frozen(resolved, outputs, samples)
        score = self._score_of(outputs, resolved)

        def gradients(values: Arrays) -> Arrays:
            found = self._run_compiled(self._session, self.compiled, values | rest, resolved, samples)
            return {name: found[_key(name)] for name in values}

        done = 0

        def count(amount: int) -> None:
            nonlocal done
            done += amount
            if progress is not None:
                progress(done, self.method.runner.passes)  # type: ignore[union-attr]

        relevance = self.method.runner.run({n: a for n, a in points.items() if a is not None}, gradients, count)
        return {_key(name): array for name, array in relevance.items()} | outputs | {_SCORE: score}

    def _run_probe(self, feeds: Arrays, resolved: Resolved, samples: int, progress: Progress | None) -> Arrays:
        assert isinstance(self.method, Probe)
        outputs = self._forward_pass(feeds, samples)
        resolved = self._frozen(resolved, outputs, samples)
        points = {name: np.asarray(outputs.get(name, feeds.get(name))) for name in self.explained}
        rest = {name: array for name, array in feeds.items() if name not in points}
        runner = self.method.runner
        if isinstance(runner, Random):
            relevance = runner.run(points)
        else:
            total, done = runner.count(points), 0

            def count(amount: int) -> None:
                nonlocal done
                done += amount
                if progress is not None:
                    progress(done, total)

            relevance = runner.run(points, lambda values: self._probe(values, rest, resolved, samples), self.batch_size, count)
        found = {_key(name): array for name, array in relevance.items()}
        return found | outputs | {_SCORE: self._score_of(outputs, resolved)}

    def _probe(self, values: Arrays, rest: Arrays, resolved: Resolved, samples: int) -> np.ndarray[Any, Any]:
        """The explained score per row of perturbed copies; copies come in whole repetitions of the batch."""
        rows = len(next(iter(values.values())))
        repeats = rows // samples
        feeds = values | {name: np.concatenate([array] * repeats) for name, array in rest.items()}
        feeds = {name: array for name, array in feeds.items() if name in self._cut_forward.inputs}
        found = self._in_batches(self._cut_forward.run, feeds, rows)
        logits = next(iter(found.values()))
        return _weighted_sum(logits, resolved, self.output, repeats, self._output_shape())

    def _forward_pass(self, feeds: Arrays, samples: int) -> Arrays:
        """Original outputs, the explained tensor and inner tensors."""
        return self._in_batches(self._forward.run, feeds, samples)

    def _frozen(self, resolved: Resolved, outputs: Arrays, samples: int) -> Resolved:
        """The largest class of the unperturbed input, so that a perturbation cannot change what is explained."""
        if resolved.target[0] != LARGEST:
            return resolved
        y = _as_samples(outputs[self.output.tensor.name or ""], self.output)
        flat = y.reshape(len(y), -1)
        seed = np.zeros(flat.shape, np.float32)
        seed[np.arange(len(flat)), flat.argmax(axis=1)] = 1.0
        shape = outputs[self.output.tensor.name or ""].shape
        return Resolved(np.array([EVERYTHING], np.int64), seed.reshape(shape), resolved.shown)

    def _score_of(self, outputs: Arrays, resolved: Resolved) -> np.ndarray[Any, Any]:
        return _weighted_sum(outputs[self.output.tensor.name or ""], resolved, self.output, 1, self._output_shape())

    def _explanation(self, feeds: Arrays, resolved: Resolved, found: Arrays, seconds: float) -> Explanation:
        relevance = {name: found[_key(name)] for name in self.explained}
        outputs = {v.name or "": found[v.name or ""] for v in self.model.graph.outputs}
        score = np.atleast_1d(found[_SCORE]).astype(np.float64)
        conservation = None
        if self.method.name == "lrp":
            total = sum(_sum_per_sample(array, len(score)) for array in relevance.values())
            conservation = Conservation(score, np.asarray(total))
        return Explanation(
            self.method.name,
            self.preset,
            relevance,
            outputs,
            self._target_found(resolved, outputs),
            score,
            conservation,
            feeds,
            self.method.signed,
            seconds,
            self.used_providers,
            self.labels,
            self.layout,
            tuple(self._warnings(feeds, relevance)),
        )

    def _target_found(self, resolved: Resolved, outputs: Arrays) -> Any:
        """The class per sample where one is explained, else the words for it."""
        first = int(resolved.target[0])
        if first == EVERYTHING:
            return resolved.shown
        samples = len(next(iter(outputs.values()))) if self.output.batched else 1
        if first != LARGEST:
            targets = [int(t) for t in resolved.target]
            return targets * samples if len(targets) == 1 else targets
        asked = outputs.get(self.output.asked.name or "")
        if asked is None:
            return resolved.shown
        y = _as_samples(asked, self.output)
        best = y.reshape(len(y), -1).argmax(axis=1)
        shape = y.shape[1:]
        if int(np.prod(shape[1:], dtype=np.int64)) == 1:
            return [int(i) for i in best]
        return [tuple(int(i) for i in np.unravel_index(b, shape)) for b in best]

    def _explain_all(self, feeds: Arrays, samples: int, progress: Progress | None) -> Explanation:
        """One pass per class; a class axis in front of every relevance."""
        shape = self._output_shape()
        axis = 1 if self.output.batched else 0
        count = shape[axis] if len(shape) > axis else 1
        if not isinstance(count, int):
            raise ChoiceError(f"target='all' needs a known number of classes; the output is {shape}.")
        started, parts = time.perf_counter(), []
        for index in range(count):
            resolved = Resolved(np.array([index], np.int64), np.ones(1, np.float32))
            parts.append(self._explanation(feeds, resolved, self._run(feeds, resolved, samples, None), 0.0))
            if progress is not None:
                progress(index + 1, count)
        relevance = {name: np.stack([part.relevance[name] for part in parts]) for name in parts[0].relevance}
        scores = np.stack([part.score for part in parts])
        kept = [part.conservation for part in parts if part.conservation is not None]
        conservation = Conservation(scores, np.stack([c.arrived for c in kept])) if kept else None
        fields = {**parts[0].__dict__, "relevance": relevance, "score": scores, "conservation": conservation}
        return Explanation(**(fields | {"target": "all", "seconds": time.perf_counter() - started}))

    # --- feeding -----------------------------------------------------------------------------------------------------

    def _feeds(self, x: Any) -> Arrays:
        """Check arrays against the model's inputs.  Errors: InputError naming input, expected and met."""
        inputs = {value.name or "": value for value in self.model.graph.inputs}
        if not isinstance(x, Mapping):
            if len(inputs) != 1:
                raise InputError(f"The model has {len(inputs)} inputs ({', '.join(inputs)}): give {{name: array}}.")
            x = {next(iter(inputs)): x}
        unknown = [name for name in x if name not in inputs]
        missing = [name for name in inputs if name not in x]
        if unknown or missing:
            problem = f"unknown: {', '.join(map(str, unknown))}; " if unknown else ""
            problem += f"missing: {', '.join(missing)}; " if missing else ""
            raise InputError(f"The inputs do not fit ({problem}the model has: {', '.join(inputs)}).")
        fitting = self._accepts_nonfinite
        return {name: check_array(np.asarray(x[name]), value, self._fixed_batch, name in fitting) for name, value in inputs.items()}

    @cached_property
    def _accepts_nonfinite(self) -> frozenset[str]:
        """Inputs whose every consumer is defined on NaN or infinity."""
        return frozenset(
            value.name or ""
            for value in self.model.graph.inputs
            if value.uses() and all(use.node.op_type in _DEFINED_ON_NAN for use in value.uses())
        )

    @cached_property
    def _fixed_batch(self) -> int | None:
        """The batch that the model was exported for, where it could not be made dynamic."""
        sizes = {v.shape[0] for v in self.model.graph.inputs if v.shape is not None and len(v.shape)}
        fixed = {size for size in sizes if isinstance(size, int)}
        return next(iter(fixed)) if len(sizes) == 1 and fixed else None

    def _sample_count(self, feeds: Arrays) -> int:
        if not self.output.batched:
            return 1
        counts = {name: len(array) for name, array in feeds.items() if array.ndim}
        batched = {n: c for n, c in counts.items() if self._is_batched_input(n)}
        if len(set(batched.values())) > 1:
            raise InputError(f"The inputs hold different numbers of samples: {batched}.")
        return next(iter(batched.values()), 1)

    def _is_batched_input(self, name: str) -> bool:
        value = next(v for v in self.model.graph.inputs if v.name == name)
        first = self.model.graph.inputs[0]
        if value.shape is None or first.shape is None or not len(value.shape) or not len(first.shape):
            return False
        return str(value.shape[0]) == str(first.shape[0]) or len(self.model.graph.inputs) == 1

    def _in_batches(
        self,
        run: Callable[[Arrays], Arrays],
        feeds: Arrays,
        samples: int,
        shared: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> Arrays:
        """Run in slices of the batch size, or of the model's fixed batch (padded at the end)."""
        unbatched = [n for n in feeds if n in {v.name for v in self.model.graph.inputs} and not self._is_batched_input(n)]
        size = self._fixed_batch or self.batch_size
        if not self.output.batched or samples <= size and self._fixed_batch in (None, samples) or len(unbatched) == len(feeds):
            found = run(feeds)
            if progress is not None:
                progress(samples)
            return found
        whole = [*shared, *unbatched]
        padded = feeds
        short = -samples % size if self._fixed_batch is not None else 0
        if short:
            padded = {n: a if n in whole else np.concatenate([a, np.repeat(a[-1:], short, axis=0)]) for n, a in feeds.items()}
        found = run_batched(run, padded, size, whole, progress)
        return {name: array[:samples] for name, array in found.items()} if short else found

    def _warnings(self, feeds: Arrays, relevance: Arrays) -> list[str]:
        warnings = list(self.notes)
        if isinstance(self.method, Pass):
            warnings += [text for text in map(self._outside_box, feeds.items()) if text]
        broken = [name for name, array in relevance.items() if not np.isfinite(array).all()]
        return warnings + [f"The relevance of '{name}' holds NaN or infinity." for name in broken]

    def _outside_box(self, item: tuple[str, np.ndarray[Any, Any]]) -> str:
        """Measured elsewhere: a violated box turned a heatmap's correlation to −0.91, so it is worth a sentence."""
        name, array = item
        boxes = [d.rule for d in self.plan.decisions if isinstance(d.rule, ZBox) and any(v is not None and v.name == name for v in d.unit.inputs)]
        for box in boxes:
            tolerance = 1e-4 * float(np.max(np.abs(np.asarray(box.high) - np.asarray(box.low))))
            outside = (array < np.asarray(box.low) - tolerance) | (array > np.asarray(box.high) + tolerance)
            if outside.any():
                return (
                    f"{outside.mean():.1%} of '{name}' lies outside the box of {box} "
                    f"(met: {array.min():.4g} to {array.max():.4g}); z-box is not valid there."
                )
        return ""

    def _metadata(self) -> dict[str, str]:
        return {
            "onnxlrp.version": VERSION,
            "onnxlrp.source_sha256": self.model.sha256,
            "onnxlrp.source": self.model.name,
            "onnxlrp.method": self.method.name,
            "onnxlrp.preset": self.preset or "",
            "onnxlrp.bias": self.bias,
        }


def explain(model: Source | Model, x: Any, **choices: Any) -> Explanation:
    """Explain one batch in one call; the choices are `Explainer`'s."""
    return Explainer(model, **choices).explain(x)


def check_array(
    array: np.ndarray[Any, Any], value: ir.Value, fixed_batch: int | None, nonfinite_is_fine: bool
) -> np.ndarray[Any, Any]:
    """One input's array, checked against what the model declares; safe casts (float64 → float32) are made.

    Errors: InputError for type, rank, shape, NaN.
    """
    name = value.name
    wanted = value.dtype.numpy() if value.dtype is not None else array.dtype
    if array.dtype != wanted:
        same_kind = array.dtype.kind == np.dtype(wanted).kind or (np.dtype(wanted).kind == "f" and array.dtype.kind in "iub")
        if not same_kind or array.dtype.kind == "O":
            raise InputError(f"The input '{name}' takes {np.dtype(wanted)}, and got {array.dtype}.")
        array = array.astype(wanted)
    if value.shape is not None:
        dims = [d if isinstance(d, int) else d.value for d in value.shape]
        if array.ndim != len(dims):
            raise InputError(
                f"The input '{name}' has {len(dims)} axes {dims}, and got {array.ndim}: {list(array.shape)}. "
                "Arrays keep the model's rank; add the batch axis yourself (x[None])."
            )
        for axis, (d, s) in enumerate(zip(dims, array.shape, strict=True)):
            if isinstance(d, int) and d != s and not (axis == 0 and fixed_batch is not None):
                raise InputError(f"The input '{name}' has shape {dims}, and got {list(array.shape)} (axis {axis}: {s}, not {d}).")
    if 0 in array.shape:
        raise InputError(f"The input '{name}' is empty: shape {list(array.shape)}.")
    if array.dtype.kind == "f" and not nonfinite_is_fine and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"The input '{name}' holds {array[where]} at {list(where)}; NaN and infinity have no relevance.")
    return array


_SCORE = "score"
_DEFINED_ON_NAN = frozenset({"Imputer", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble", "IsNaN"})


def _key(name: str) -> str:
    return f"relevance of {name}"


def _source_name(output: str, compiled: Compiled) -> str:
    """An output of the compiled model under the name that the caller looks for."""
    if output == compiled.score:
        return _SCORE
    return next((_key(source) for source, name in compiled.relevance.items() if name == output), output)


def _as_fed(seed: np.ndarray[Any, Any], compiled: Compiled, output: Output) -> np.ndarray[Any, Any]:
    """The seed with the output's rank."""
    rank = max(len(output.asked.shape) if output.asked.shape is not None else seed.ndim, 1)
    return seed.reshape([1] * (rank - seed.ndim) + list(seed.shape)) if seed.ndim < rank else seed


def _as_samples(y: np.ndarray[Any, Any], output: Output) -> np.ndarray[Any, Any]:
    return y if output.batched and y.ndim else y[None]


def _weighted_sum(
    logits: np.ndarray[Any, Any], resolved: Resolved, output: Output, repeats: int, asked_shape: Sequence[Any]
) -> np.ndarray[Any, Any]:
    """Σ seed ⊙ y over what the target selects, per row."""
    rows = len(logits) if output.batched and logits.ndim else 1
    y = logits.reshape(rows, -1).astype(np.float64)
    if int(resolved.target[0]) == EVERYTHING:
        seed = np.broadcast_to(resolved.seed, (rows // repeats, *resolved.seed.shape[1:])) if output.batched else resolved.seed[None]
        weights = np.broadcast_to(seed.reshape(len(seed), -1), (rows // repeats, y.shape[1])) if seed.size > 1 else seed.reshape(1, -1)
        weights = np.concatenate([weights] * repeats) if len(weights) * repeats == rows else weights
        return np.asarray((y * weights).sum(axis=1))
    classes = asked_shape[1] if output.batched and len(asked_shape) > 1 else (asked_shape[0] if not output.batched and asked_shape else 1)
    by_class = y.reshape(rows, classes if isinstance(classes, int) else y.shape[1], -1)
    targets = np.concatenate([np.broadcast_to(resolved.target, (rows // repeats,))] * repeats)
    return np.asarray(by_class[np.arange(rows), targets].sum(axis=-1))


def _sum_per_sample(array: np.ndarray[Any, Any], samples: int) -> np.ndarray[Any, Any]:
    if array.ndim and len(array) == samples:
        return np.asarray(array.astype(np.float64).reshape(samples, -1).sum(axis=1))
    return np.full(samples, array.astype(np.float64).sum())
