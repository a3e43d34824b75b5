"""Feeding: arrays checked against what the model declares, and a call cut into runs of the batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlrp.errors import InputError
from onnxlrp.output import Output
from onnxlrp.session import Arrays, run_batched

Count = Callable[[int], None]
"""Told how many samples are done."""

DEFINED_ON_NAN = frozenset(
    {"Imputer", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble", "LabelEncoder", "IsNaN"}
)

MOVES_ONLY = frozenset({"Identity", "Cast", "Concat", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}) | {
    "ArrayFeatureExtractor",
    "FeatureVectorizer",
    "Gather",
    "Slice",
    "Split",
}


class Feeding:
    """What a model's inputs take.

    inputs     : of the graph        output : the explained one, which knows whether axis 0 counts samples
    batch_size : samples per run, where the model does not fix it
    """

    def __init__(self, inputs: Sequence[ir.Value], output: Output, batch_size: int) -> None:
        self.inputs = {value.name or "": value for value in inputs}
        self.batched, self.counted = output.batched, output.counted
        self.batch_size = batch_size

    def check(self, x: Any) -> Arrays:
        """Arrays under their inputs' names.  Errors: InputError naming input, expected and met."""
        if not isinstance(x, Mapping):
            if len(self.inputs) != 1:
                raise InputError(
                    f"The model has {len(self.inputs)} inputs ({', '.join(self.inputs)}): give {{name: array}}."
                )
            x = {next(iter(self.inputs)): x}
        unknown = [name for name in x if name not in self.inputs]
        missing = [name for name in self.inputs if name not in x]
        if unknown or missing:
            problem = f"unknown: {', '.join(map(str, unknown))}; " if unknown else ""
            problem += f"missing: {', '.join(missing)}; " if missing else ""
            raise InputError(f"The inputs do not fit ({problem}the model has: {', '.join(self.inputs)}).")
        return {name: self._checked(np.asarray(x[name]), value) for name, value in self.inputs.items()}

    def _checked(self, array: np.ndarray[Any, Any], value: ir.Value) -> np.ndarray[Any, Any]:
        array = check_array(array, value, self.fixed_batch, takes_missing(value))
        if 0 in array.shape and not self._may_be_empty(array, value):
            raise InputError(f"The input '{value.name}' is empty: shape {list(array.shape)}.")
        return array

    def _may_be_empty(self, array: np.ndarray[Any, Any], value: ir.Value) -> bool:
        """A size of 0 is declared; or it is left open and not the batch, beside other inputs: no past steps, say."""
        dims = list(value.shape or ())
        batch_is_empty = bool(array.ndim) and len(array) == 0 and dims[:1] != [0]
        return 0 in dims or (len(self.inputs) > 1 and not batch_is_empty)

    @cached_property
    def fixed_batch(self) -> int | None:
        """The batch that the model was exported for, where it could not be made dynamic."""
        sizes = {v.shape[0] for v in self.inputs.values() if v.shape is not None and len(v.shape)}
        fixed = {size for size in sizes if isinstance(size, int)}
        return next(iter(fixed)) if self.batched and len(sizes) == 1 and fixed else None

    def samples(self, feeds: Arrays) -> int:
        """How many samples these arrays hold.  Errors: InputError when they disagree."""
        if not self.batched:
            return 1
        counts = {name: len(array) for name, array in feeds.items() if array.ndim and self._is_batched(name)}
        if len(set(counts.values())) > 1:
            raise InputError(f"The inputs hold different numbers of samples: {counts}.")
        return next(iter(counts.values()), 1)

    def _batch_is_declared(self) -> bool:
        """Whether axis 0 of the first input has one size, and axis 0 of others another one, so that none is free."""
        shape = next(iter(self.inputs.values())).shape
        return self.fixed_batch is None and shape is not None and bool(len(shape)) and isinstance(shape[0], int)

    def _is_batched(self, name: str) -> bool:
        """Whether axis 0 of an input counts samples, as that of the first input does."""
        if name not in self.inputs:
            return False
        value, first = self.inputs[name], next(iter(self.inputs.values()))
        if value.shape is None or first.shape is None or not len(value.shape) or not len(first.shape):
            return False
        return str(value.shape[0]) == str(first.shape[0])

    def run(
        self,
        run: Callable[[Arrays], Arrays],
        feeds: Arrays,
        samples: int,
        shared: Sequence[str] = (),
        count: Count | None = None,
    ) -> Arrays:
        """Run in slices of the batch size, or of the model's fixed batch (filled up at the end).

        A call is only cut where axis 0 of input and output are certainly the same.

        shared : feeds that go into every slice whole
        """
        unbatched = [name for name in feeds if name in self.inputs and not self._is_batched(name)]
        size = self.fixed_batch or self.batch_size
        may_be_cut = self.counted and not self._batch_is_declared()
        at_once = self.fixed_batch in (None, samples) and (samples <= size or not may_be_cut)
        if not self.batched or at_once or len(unbatched) == len(feeds):
            found = run(feeds)
            if count is not None:
                count(samples)
            return found
        whole = [*shared, *unbatched]
        short = -samples % size if self.fixed_batch is not None else 0
        if short:
            feeds = {
                n: a if n in whole else np.concatenate([a, np.repeat(a[-1:], short, axis=0)]) for n, a in feeds.items()
            }
        found = run_batched(run, feeds, size, whole, count)
        return {name: array[:samples] for name, array in found.items()} if short else found


def check_array(
    array: np.ndarray[Any, Any], value: ir.Value, fixed_batch: int | None, nonfinite_is_fine: bool
) -> np.ndarray[Any, Any]:
    """One input's array, checked against what the model declares; safe casts (float64 → float32) are made.

    Errors: InputError for type, rank, shape, NaN.
    """
    name = value.name
    wanted = value.dtype.numpy() if value.dtype is not None else array.dtype
    if value.dtype == ir.DataType.STRING:
        array, wanted = _texts(array, value), np.dtype(object)
    if array.dtype != wanted:
        same_kind = array.dtype.kind == np.dtype(wanted).kind or (
            np.dtype(wanted).kind == "f" and array.dtype.kind in "iub"
        )
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
                raise InputError(
                    f"The input '{name}' has shape {dims}, and got {list(array.shape)} (axis {axis}: {s}, not {d})."
                )
    if array.dtype.kind == "f" and not nonfinite_is_fine and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(
            f"The input '{name}' holds {array[where]} at {list(where)}; NaN and infinity have no relevance."
        )
    return array


def _texts(array: np.ndarray[Any, Any], value: ir.Value) -> np.ndarray[Any, Any]:
    """Texts as onnxruntime takes them.  Errors: InputError where there are others."""
    texts = array.astype(object)
    strange = [item for item in texts.reshape(-1).tolist() if not isinstance(item, str)]
    if strange:
        raise InputError(f"The input '{value.name}' takes texts, and got {strange[0]!r} ({type(strange[0]).__name__}).")
    return texts


def takes_missing(value: ir.Value) -> bool:
    """Whether everything that reads a tensor, through what only moves its values, is defined on missing ones."""
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        uses = list(current.uses())
        if not uses and not current.is_graph_output():
            return False
        for use in uses:
            if use.node.op_type in DEFINED_ON_NAN:
                continue
            if use.node.op_type not in MOVES_ONLY:
                return False
            fresh = [output for output in use.node.outputs if output not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return True
