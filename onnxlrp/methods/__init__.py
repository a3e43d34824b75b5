"""Methods: a seed, passes and a reduction each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxlrp.errors import ChoiceError, no_such
from onnxlrp.methods.compiled import PASSES, Pass, rescale_as_captum
from onnxlrp.methods.forward import FiniteDifference, Occlusion, Random
from onnxlrp.methods.path import IntegratedGradients, SmoothGrad


@dataclass(frozen=True)
class Averaged:
    """Averages the gradient over several inputs."""

    name: str
    summary: str
    make: Callable[..., IntegratedGradients | SmoothGrad]
    signed: bool = True
    runner: Any = None

    @property
    def gradient(self) -> Pass:
        return PASSES["gradient"]


@dataclass(frozen=True)
class Probe:
    """Only runs the model forward."""

    name: str
    summary: str
    make: Callable[..., Occlusion | FiniteDifference | Random]
    signed: bool = True
    runner: Any = None


Method = Pass | Averaged | Probe

METHODS: Mapping[str, Method] = {
    **PASSES,
    "integrated-gradients": Averaged("integrated-gradients", "mean gradient from a baseline to x", IntegratedGradients),
    "smoothgrad": Averaged("smoothgrad", "mean gradient under noise", SmoothGrad),
    "occlusion": Probe("occlusion", "drop of the score when a window is replaced", Occlusion),
    "finite-difference": Probe("finite-difference", "central differences, per element or patch", FiniteDifference),
    "random": Probe("random", "uniform noise: the baseline to beat", Random, signed=False),
}

_PASS_OPTIONS = {"deeplift": {"baseline", "activations"}, "lrp": {"epsilon"}}


def find_method(name: str, options: Mapping[str, Any]) -> Method:
    """A method by name, with its options.  Errors: ChoiceError for an unknown name or option."""
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in METHODS:
        raise no_such("method", name, METHODS)
    method = METHODS[wanted]
    allowed = method_options(wanted)
    unknown = sorted(set(options) - allowed)
    if unknown:
        takes = f"takes {', '.join(sorted(allowed))}" if allowed else "takes no options"
        raise ChoiceError(f"The method '{wanted}' has no option '{unknown[0]}'; it {takes}.")
    if options.get("activations", "rescale") not in ("rescale", "captum"):
        raise ChoiceError(f"deeplift: activations='{options['activations']}'; there are 'rescale' and 'captum'.")
    if options.get("activations") == "captum" and isinstance(method, Pass):
        method = replace(method, chooser=rescale_as_captum)
    return method if isinstance(method, Pass) else replace(method, runner=method.make(**options))


def method_options(name: str) -> frozenset[str]:
    """The options that a method knows; none for an unknown method."""
    method = METHODS.get(name.strip().lower().replace("_", "-"))
    if method is None or isinstance(method, Pass):
        return frozenset(_PASS_OPTIONS.get(method.name, ())) if method is not None else frozenset()
    return frozenset(inspect.signature(method.make).parameters)


__all__ = ["METHODS", "Averaged", "Method", "Pass", "Probe", "find_method", "method_options"]
