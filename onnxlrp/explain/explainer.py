"""`Explainer` joins the stages: read → prepare → plan → reverse → run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.compat import find_compat
from onnxlrp.compile import Compiled, Request, compile_model, find_inputs, plan_for
from onnxlrp.data.class_names import class_names, label_output, names_for
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.errors import ChoiceError, Unsupported
from onnxlrp.explain.caveats import caveats, other_label
from onnxlrp.explain.choices import (
    at_least_one,
    box_fits,
    known_bias,
    known_box,
    moves_its_input,
    no_explainer,
    require_fitting,
    require_floats,
    suited_preset,
)
from onnxlrp.explain.cut import cut_model
from onnxlrp.explain.feeding import Feeding
from onnxlrp.explain.results import arrived, stacked, target_found
from onnxlrp.explain.running import AveragedRun, CompiledRun, Forward, ForwardRun, Found, Progress, Run
from onnxlrp.explanation import Explanation
from onnxlrp.methods import METHODS, Averaged, Pass, Probe, find_method
from onnxlrp.model import Model, Source, read
from onnxlrp.output import Output, find_output
from onnxlrp.plan import Plan, Rules
from onnxlrp.prepare import prepare
from onnxlrp.presets import Box, find_preset
from onnxlrp.reading.storage import write_model
from onnxlrp.rules.named import parse_rule
from onnxlrp.session import Arrays
from onnxlrp.target import LARGEST, Resolved, Target, resolve
from onnxlrp.version import VERSION


class Explainer:
    """Explains the predictions of one model.

    model     : path, bytes, ModelProto, or a `Model` already read
    method    : "lrp", "gradient", "sensitivity", "gradient-x-input", "integrated-gradients", "smoothgrad",
                "guided-backprop", "deconvnet", "deeplift", "occlusion", "finite-difference" or "random"
    preset    : of LRP; None takes the sidecar's, else one that suits the model's operators (see `explainer.preset`)
    rules     : {node name, glob or operator type: rule}, stronger than the preset
    target    : what is explained in each sample; `explain` can override it
    output    : tensor that is explained; None = the first float output, stepped back to its logits
    inputs    : tensors that get relevance; None = every input that reaches the output
    bias      : "absorb" (the bias takes its share), "drop" (left out of the denominator) or "distribute"
    providers : "auto", "cpu", "cuda" or onnxruntime's own names
    batch_size: samples per run; None = 16
    box       : (low, high) of the preprocessed input, for z-box rules
    labels    : class names, for targets by label; None = the sidecar's, else those in a scikit-learn classifier's file
                (of two names for one score the second stays: the score speaks for it)
    logits    : tensor that holds the logits, where stepping back does not find them
    layout    : axes of the input, such as "NCHW", for pictures of the result
                (box, labels, logits and layout come from the sidecar beside the file where they are not given)
    compat    : another tool's stabiliser, bias and sign conventions: "zennit", "lxt", "innvestigate", "toolbox" or
                "captum"
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
        compat: str | None = None,
        **options: Any,
    ) -> None:
        self.compat = find_compat(compat) if compat is not None else None
        if self.compat is not None:
            options = self.compat.method_options(method.strip().lower().replace("_", "-"), options)
        self.model = prepare(no_explainer(model if isinstance(model, Model) else read(model)))
        self.method = find_method(method, options)
        self.target = target
        sidecar = Sidecar.beside(self.model.path) if self.model.path is not None else Sidecar()
        self.labels = tuple(labels) if labels is not None else sidecar.labels or class_names(self.model)
        self.layout = layout or sidecar.layout
        logits = logits or sidecar.logits
        box = box if box is not None else known_box(sidecar)
        self.bias = known_bias(bias)
        self.providers = providers
        self.batch_size = at_least_one(batch_size)
        self.rules = dict(rules or {})
        if self.compat is not None:
            self.rules = {key: self.compat.rule(parse_rule(rule)) for key, rule in self.rules.items()}
        self.box = box
        self._options = options
        self._output, self._logits, self._inputs = output, logits, list(inputs) if inputs is not None else None
        require_fitting(self.method, preset, self.rules)
        self.preset = preset if preset is not None else self._default_preset(sidecar.preset)
        if isinstance(self.method, Pass):
            _ = self._planned
        if moves_its_input(self.method):
            require_floats(self.method, self._endpoints[1])
        self.labels = names_for(self.output.classes, self.labels)

    def __repr__(self) -> str:
        method = " ".join(filter(None, (self.method.name, self.preset)))
        return f"Explainer({self.model.name}: {method} of '{self.output.tensor.name}' to {', '.join(self.explained)})"

    def on(self, model: Source | Model) -> Explainer:
        """The same choices on another model, such as this one with other weights."""
        return Explainer(
            model,
            self.method.name,
            self.preset,
            self.rules,
            self.target,
            bias=self.bias,
            batch_size=self.batch_size,
            box=self.box,
            logits=self._logits,
            layout=self.layout,
            compat=self.compat.name if self.compat is not None else None,
            **self._what_is_explained(),
            **self._options,
        )

    def over(self, model: Model, method: str, batch_size: int) -> Explainer:
        """Another method on another form of the same model, which explains the same tensors."""
        logits = self.output.tensor.name if self._output is None else None
        return Explainer(model, method, batch_size=batch_size, logits=logits, **self._what_is_explained())

    def _what_is_explained(self) -> dict[str, Any]:
        return {"output": self._output, "inputs": self._inputs, "labels": self.labels, "providers": self.providers}

    # --- what was decided --------------------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """One decision per layer, printable.  Errors: ChoiceError for methods that only run the model forward."""
        if isinstance(self.method, Probe):
            raise ChoiceError(f"The method '{self.method.name}' only runs the model forward: it has no plan.")
        return self._planned[1]

    @property
    def output(self) -> Output:
        return self._planned[2] if isinstance(self.method, Pass) else self._endpoints[0]

    @property
    def explained(self) -> list[str]:
        """Names of the tensors that get relevance."""
        return [value.name or "" for value in self.tensors]

    @property
    def tensors(self) -> Sequence[ir.Value]:
        """The tensors that get relevance."""
        return self._planned[1].explained if isinstance(self.method, Pass) else self._endpoints[1]

    @cached_property
    def compiled(self) -> Compiled:
        """The joint model of the backward pass; for methods that feed inner tensors, of the model cut there."""
        if isinstance(self.method, Probe):
            raise ChoiceError(f"The method '{self.method.name}' only runs the model forward: nothing is compiled.")
        model = self.model if isinstance(self.method, Pass) else cut_model(self.model, self.explained)
        return compile_model(model, self.request())

    def request(self) -> Request:
        """What `compile_model` is asked for."""
        method = self.method.gradient if isinstance(self.method, Averaged) else self.method
        assert isinstance(method, Pass)
        chooser, title = method.chooser, method.name
        if chooser is None:
            assert self.preset is not None
            fits = box_fits(self.box, self._endpoints[1])
            preset = find_preset(self.preset, self.box, self._options.get("epsilon"), fits=fits)
            chooser, title = preset.choose, f"lrp {preset.name}"
            if self.compat is not None:
                chooser, title = self.compat.chooser(chooser, preset.name), f"{title} as {self.compat.name}"
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
            self.compat is None or self.compat.signed,
        )

    def save(self, path: str | Path) -> None:
        """Write the explainer: a plain ONNX file with the model's outputs, one relevance output per explained input,
        and `target` and `seed` as inputs with defaults.

        Errors: Unsupported for methods of several passes; InputError when the folder cannot be written.
        """
        if not isinstance(self.method, Pass):
            passes = ", ".join(name for name, method in METHODS.items() if isinstance(method, Pass))
            raise Unsupported(
                f"The method '{self.method.name}' is not one pass, so it cannot be saved as one model. These can: "
                f"{passes}."
            )
        model = self.compiled.model.clone()
        kept = [value for value in model.graph.outputs if value.name != self.compiled.score]
        model.graph.outputs.clear()
        model.graph.outputs.extend(kept)
        write_model(model, Path(path))

    # --- running -----------------------------------------------------------------------------------------------------

    def explain(self, x: Any, target: Target = None, progress: Progress | None = None) -> Explanation:
        """Explain one batch.

        x      : array, or {input name: array}, in the model's own layout, batch axis included where the model has one
        target : overrides the constructor's: None = largest element per sample; int = index on axis 1; tuple = full
                 index; list = one per sample; label; "a-b" = contrast; "all" = a class axis in front; a box, mask or
                 detection of the output (`onnxlrp.places`); float array = seed
        Errors: InputError for arrays that do not fit; ChoiceError for a target that does not exist.
        """
        started = time.perf_counter()
        target = self.target if target is None else target
        feeds = self._feeding.check(x)
        samples = self._feeding.samples(feeds)
        if isinstance(target, str) and target == "all":
            return self._explain_all(feeds, samples, progress)
        value = partial(self.forward_value, feeds)
        resolved = resolve(target, self._output_shape(), self.output, samples, self.labels, value, self.layout)
        found = self._run(feeds, resolved, samples, progress)
        return self._explanation(feeds, resolved, found, time.perf_counter() - started)

    def predict(self, x: Any) -> Arrays:
        """The original model's outputs.

        x : array, or {input name: array}
        """
        feeds = self._feeding.check(x)
        return self._forward.outputs(self._forward(feeds, self._feeding.samples(feeds)))

    def forward_value(self, x: Any) -> np.ndarray[Any, Any]:
        """The explained tensor itself (the logits), in the shape of the output it stands for.

        x : array, or {input name: array}
        """
        feeds = self._feeding.check(x)
        return self._forward.explained_value(self._forward(feeds, self._feeding.samples(feeds)))

    def checked(self, x: Any) -> Arrays:
        """The arrays of a call under their inputs' names.  Errors: InputError for arrays that do not fit."""
        return self._feeding.check(x)

    @property
    def takes_batches(self) -> bool:
        """Whether a call may hold several samples that are explained side by side."""
        return self.output.batched

    @property
    def used_providers(self) -> tuple[str, ...]:
        """Of the sessions that have run."""
        sessions = self._run.sessions if "_run" in self.__dict__ else []
        return sessions[0].providers if sessions else ()

    # --- choices -----------------------------------------------------------------------------------------------------

    def _default_preset(self, of_the_sidecar: str | None) -> str | None:
        if self.method.name != "lrp":
            return None
        if self.compat is not None and self.compat.preset is not None:
            return self.compat.preset
        if of_the_sidecar is not None:
            return of_the_sidecar
        return suited_preset(self.model, self._endpoints[0])

    def _metadata(self) -> dict[str, str]:
        return {
            "onnxlrp.version": VERSION,
            "onnxlrp.source_sha256": self.model.sha256,
            "onnxlrp.source": self.model.name,
            "onnxlrp.method": self.method.name,
            "onnxlrp.preset": self.preset or "",
            "onnxlrp.bias": self.bias,
            **({"onnxlrp.compat": self.compat.name} if self.compat is not None else {}),
        }

    # --- stages, each made when first needed -------------------------------------------------------------------------

    @cached_property
    def _planned(self) -> tuple[ir.Model, Plan, Output]:
        return plan_for(self.model, self.request())

    @cached_property
    def _endpoints(self) -> tuple[Output, list[ir.Value]]:
        output = find_output(self.model.graph, self._output, self._logits)
        return output, find_inputs(self.model.graph, self._inputs, output.tensor)

    @cached_property
    def _feeding(self) -> Feeding:
        return Feeding(self.model.graph.inputs, self.output, self.batch_size)

    @cached_property
    def _forward(self) -> Forward:
        inputs = {value.name for value in self.model.graph.inputs}
        inner = [name for name in self.explained if name not in inputs]
        return Forward(self.model, self.output, inner, self._feeding, self.providers)

    @cached_property
    def _run(self) -> Run:
        if isinstance(self.method, Probe):
            return ForwardRun(self.method.runner, self._forward, self.explained, self.batch_size)
        outputs = [value.name or "" for value in self.model.graph.outputs]
        asked = self.output.asked.name or ""
        compiled = CompiledRun(self.model, self.compiled, self._feeding, outputs, asked, self.providers)
        if isinstance(self.method, Pass):
            return compiled
        inputs = [value for value in self.compiled.model.graph.inputs if value.const_value is None]
        compiled.feeding = Feeding(inputs, self.output, self.batch_size)
        return AveragedRun(self.method.runner, compiled, self._forward, self.explained)

    @cached_property
    def _labelled(self) -> tuple[str, Sequence[str]] | None:
        """The output that names the predicted class, where it has a name for each score."""
        found = label_output(self.model)
        return found if found is not None and len(found[1]) == self.output.classes else None

    def _output_shape(self) -> list[Any]:
        shape = self.output.asked.shape
        return [d if isinstance(d, int) else d.value for d in shape] if shape is not None else []

    # --- results -----------------------------------------------------------------------------------------------------

    def _explanation(self, feeds: Arrays, resolved: Resolved, found: Found, seconds: float) -> Explanation:
        plan = None if isinstance(self.method, Probe) else self.compiled.plan
        conservation = arrived(found) if self.method.name == "lrp" else None
        notes = [note for session in self._run.sessions for note in session.notes]
        target = target_found(resolved, found, self.output)
        if int(resolved.target[0]) == LARGEST and self._labelled is not None:
            notes.extend(other_label(target, found, self._labelled))
        return Explanation(
            self.method.name,
            self.preset,
            found.relevance,
            found.outputs,
            target,
            found.score,
            conservation,
            feeds,
            self.method.signed,
            seconds,
            self.used_providers,
            self.labels,
            self.layout,
            (*notes, *caveats(found, feeds, self.output, plan, conservation)),
            resolved.inside,
        )

    def _explain_all(self, feeds: Arrays, samples: int, progress: Progress | None) -> Explanation:
        """One pass per class; a class axis in front of every relevance."""
        shape, axis = self._output_shape(), 1 if self.output.batched else 0
        count = shape[axis] if len(shape) > axis else 1
        if not isinstance(count, int):
            raise ChoiceError(f"target='all' needs a known number of classes; the output is {shape}.")
        started, classes = time.perf_counter(), []
        for index in range(count):
            resolved = Resolved(np.array([index], np.int64), np.ones(1, np.float32))
            classes.append(self._explanation(feeds, resolved, self._run(feeds, resolved, samples, None), 0.0))
            if progress is not None:
                progress(index + 1, count)
        return stacked(classes, time.perf_counter() - started)


def explain(model: Source | Model, x: Any, **choices: Any) -> Explanation:
    """Explain one batch in one call; the choices are `Explainer`'s."""
    return Explainer(model, **choices).explain(x)
