"""Run: the only importer of onnxruntime. Providers, sessions over weights that stay in their file, batches."""

from __future__ import annotations

import importlib.metadata
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from onnxlrp.errors import ChoiceError, InputError, ModelError, OutOfMemory, Unsupported
from onnxlrp.reading.storage import array_of, split_weights

Arrays = dict[str, np.ndarray[Any, Any]]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PROVIDERS = {"cpu": [CPU], "cuda": [CUDA, CPU]}

_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation", "out of memory", "CUDA failure 2")
"""How onnxruntime's allocators, the standard library and CUDA say that there is none left."""

ort.set_default_logger_severity(4)


class Session:
    """A model, loaded.

    providers : the execution providers it really runs on, the preferred one first
    notes     : what the choice of provider has to say
    seconds   : spent inside onnxruntime by all sessions of this process
    """

    seconds: ClassVar[float] = 0.0

    def __init__(
        self,
        model: ir.Model,
        providers: str | Sequence[str] | None = None,
        threads: int = 0,
        *,
        optimise: bool = True,
    ) -> None:
        wanted, self.notes = choose_providers(providers)
        proto, weights = split_weights(model)
        options = _options(threads, optimise)
        names = list(weights)
        self._kept = [ort.OrtValue.ortvalue_from_numpy(array_of(weights[name])) for name in names]
        if names:
            options.add_external_initializers(names, self._kept)
        self._start(proto.SerializeToString(), options, wanted)

    def _start(self, model: str | bytes, options: ort.SessionOptions, wanted: Sequence[str]) -> None:
        try:
            self._session = ort.InferenceSession(model, options, providers=wanted)
        except Exception as error:
            if locale := re.search(r"Failed to construct locale with name:([\w.@-]+?):", str(error)):
                raise Unsupported(
                    f"A StringNormalizer of the model wants the locale '{locale[1]}', which this machine lacks. "
                    f"Install it (on Debian: the package locales, then `locale-gen {locale[1]}`), or export "
                    "the model with a locale that is there."
                ) from error
            _raise_if_out_of_memory(error, "load the model")
            raise ModelError(f"onnxruntime cannot load the model: {_first_line(error)}") from error
        self.providers = tuple(self._session.get_providers())
        if CUDA in wanted and CUDA not in self.providers:
            self.notes = (*self.notes, "CUDA was asked for, but onnxruntime fell back to the CPU.")
        self.inputs = {value.name: value for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    @classmethod
    def of_file(
        cls, source: str | Path | bytes | onnx.ModelProto, providers: str | Sequence[str] | None = None
    ) -> Session:
        """The model exactly as it is, with no stage of ours in between."""
        session = cls.__new__(cls)
        wanted, session.notes = choose_providers(providers)
        given = str(source) if isinstance(source, str | Path) else source
        data = given if isinstance(given, str | bytes) else given.SerializeToString()
        session._start(data, _options(0), wanted)
        return session

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None) -> Arrays:
        """Errors: InputError with onnxruntime's reason; OutOfMemory."""
        names = list(outputs) if outputs is not None else self.outputs
        started = time.perf_counter()
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:
            shapes = ", ".join(f"'{name}' {array.dtype}{list(array.shape)}" for name, array in feeds.items())
            _raise_if_out_of_memory(error, f"run on {shapes}")
            raise InputError(f"The model does not run on {shapes}: {_first_line(error)}") from error
        finally:
            Session.seconds += time.perf_counter() - started


def choose_providers(providers: str | Sequence[str] | None) -> tuple[list[str], tuple[str, ...]]:
    """Names of onnxruntime's providers for "auto", "cpu", "cuda" or a list of names; and notes.

    auto : CUDA where onnxruntime has it and a device answers, else CPU
    Errors: ChoiceError for a provider that is not there.
    """
    available = ort.get_available_providers()
    notes = tuple(filter(None, [side_by_side()]))
    if providers is None or providers == "auto":
        return (PROVIDERS["cuda"] if cuda_works() else PROVIDERS["cpu"]), notes
    if isinstance(providers, str) and providers.lower() == "cuda" and not cuda_works():
        raise ChoiceError(
            f"CUDA was asked for, but {_why_no_cuda(available)} Use --provider cpu, or auto to take what is there."
        )
    wanted = PROVIDERS.get(providers.lower(), [providers]) if isinstance(providers, str) else list(providers)
    missing = [name for name in wanted if name not in available]
    if missing:
        raise ChoiceError(f"onnxruntime has no provider '{missing[0]}' here; it has: {', '.join(available)}.")
    return wanted, notes


@cache
def cuda_works() -> bool:
    """Whether onnxruntime was built for CUDA and a device answers: it is listed, or takes a number."""
    if CUDA not in ort.get_available_providers():
        return False
    listed: Sequence[Any] = getattr(ort, "get_ep_devices", list)()
    return any("cuda" in device.ep_name.lower() for device in listed) or _takes_a_number()


def _takes_a_number() -> bool:
    try:
        ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", 0)
    except Exception:  # onnxruntime and the driver raise types of their own; each means that no device answers
        return False
    return True


def _why_no_cuda(available: Sequence[str]) -> str:
    if CUDA not in available:
        return "this onnxruntime is built without it (install onnxruntime-gpu)."
    return "no CUDA device, driver or matching CUDA and cuDNN libraries were found."


def side_by_side() -> str:
    """A warning where onnxruntime and onnxruntime-gpu are both installed: they overwrite each other's files."""
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(found) < 2:
        return ""
    return (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
        "uninstall both, then install onnxruntime-gpu alone."
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def run_batched(
    run: Callable[[Arrays], Arrays],
    feeds: Mapping[str, np.ndarray[Any, Any]],
    batch_size: int,
    shared: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Arrays:
    """Run in slices of `batch_size` along axis 0 and join the results.

    shared : inputs that go into every slice whole
    """
    total = max(len(array) for name, array in feeds.items() if name not in shared)
    parts: list[Arrays] = []
    for start in range(0, total, batch_size):
        piece = {n: a if n in shared else a[start : start + batch_size] for n, a in feeds.items()}
        parts.append(run(piece))
        if progress is not None:
            progress(min(batch_size, total - start))
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}


def run_in_own_batch(session: Session, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
    """Run a model in slices of the batch that all its inputs fix, where the arrays hold several of them."""
    declared = [value.shape for value in session.inputs.values()]
    sizes = {shape[0] if shape else None for shape in declared}
    held = {len(array) for array in feeds.values() if array.ndim}
    if len(sizes) != 1 or len(held) != 1 or held == sizes or not isinstance(size := next(iter(sizes)), int) or size < 1:
        return session.run(feeds)
    count = held.pop()
    full = {name: np.concatenate([a, np.repeat(a[-1:], -count % size, axis=0)]) for name, a in feeds.items()}
    return {name: array[:count] for name, array in run_batched(session.run, full, size).items()}


def _options(threads: int, optimise: bool = True) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Measured on MobileNetV2 at batch 16: from the second run on patterns keep 4.2 GB, not 2.3, and save no time.
    options.enable_mem_pattern = False
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return options


def _raise_if_out_of_memory(error: Exception, doing: str) -> None:
    if any(sign in str(error) for sign in _OUT_OF_MEMORY):
        raise OutOfMemory(
            f"onnxruntime has not enough memory to {doing}. Run fewer samples at once (--batch-size 1), feed a smaller "
            "input, or take a machine with more memory."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


__all__ = ["CPU", "CUDA", "Arrays", "Session", "choose_providers", "run_batched", "run_in_own_batch"]
