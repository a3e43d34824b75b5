"""A model exported for one batch size becomes one for any, where its graph allows it.

Whether it does is decided by running it: a batch of two must give what its two samples give one by one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxlrp.errors import InputError, ModelError
from onnxlrp.graph import a_category, operands
from onnxlrp.prepare.inside import infer_inside
from onnxlrp.reading.storage import array_of
from onnxlrp.session import Arrays, Session

BATCH = "batch"

MOST_ELEMENTS = 1 << 28
"""Of one made-up input; a declared size above that is a mistake of the file, or not worth a trial."""


def make_batch_dynamic(model: ir.Model) -> str:
    """Give axis 0 of every input a symbolic size, in place, if all of them share one fixed size.

    Reshapes to a literal batch size are rewritten to keep whatever batch arrives.
    returns: what was done, in words; "" when the batch is dynamic already or has to stay fixed.
    """
    size = fixed_batch(model.graph)
    if size is None:
        return ""
    trial = model.clone()
    _rewrite(trial, size)
    if not _agrees(model, trial, size):
        return f"The batch stays {size}: with another one the model does not run, or mixes its samples."
    _rewrite(model, size)
    _forget_moved_batches(model, size)
    _infer_inside_again(model)
    return f"The batch of {size} is made dynamic; two samples at once give what they give one by one."


def fixed_batch(graph: ir.Graph) -> int | None:
    """The size that axis 0 of every input has, if it is one fixed size and outputs have it too."""
    shapes = [v.shape for v in graph.inputs]
    if not shapes or any(shape is None or len(shape) < 2 or not isinstance(shape[0], int) for shape in shapes):
        return None
    sizes = {shape[0] for shape in shapes if shape is not None}
    outputs = [v.shape for v in graph.outputs]
    fits = all(shape is not None and len(shape) and shape[0] in sizes for shape in outputs)
    return next(iter(sizes)) if len(sizes) == 1 and fits else None  # type: ignore[return-value]


def _rewrite(model: ir.Model, size: int) -> None:
    graph = model.graph
    computed = _from_values(graph)
    inputs = [value for inside in (graph, *graph.subgraphs()) for value in inside.inputs]
    for value in [*inputs, *graph.outputs, *(o for node in graph.all_nodes() for o in node.outputs)]:
        if value.shape is None or not len(value.shape) or value.shape[0] != size:
            continue
        if not _is_shape_math(value):
            value.shape = ir.Shape([BATCH, *value.shape[1:]])
        elif value in computed:
            value.shape = ir.Shape([None])
    rewritten: dict[str, ir.Value] = {}
    for node in list(graph.all_nodes()):
        if node.op_type == "Reshape" and not node.domain and node.inputs[1] is not None:
            _free_reshape(graph, node, size, rewritten)


def _forget_moved_batches(model: ir.Model, size: int) -> None:
    """Where the batch stands on a later axis (time first, say), its size becomes unknown.

    A later axis keeps that size where shape inference, from the inputs alone, says so as well.
    """
    trial = model.clone()
    for value in (output for node in trial.graph for output in node.outputs if not output.is_graph_output()):
        value.shape = None
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(trial)
    inferred = {value.name: value.shape for node in trial.graph for value in node.outputs}
    for value in (output for node in model.graph for output in node.outputs):
        found, shape = inferred.get(value.name), value.shape
        if found is not None and shape is not None and len(found) == len(shape) and not _is_shape_math(value):
            doubtful = [
                a > 0 and d == size and not isinstance(f, int)
                for a, (d, f) in enumerate(zip(shape, found, strict=True))
            ]
            value.shape = ir.Shape([None if gone else d for d, gone in zip(shape, doubtful, strict=True)])


def _infer_inside_again(model: ir.Model) -> None:
    """What stands in subgraphs was inferred for the fixed size."""
    for inside in model.graph.subgraphs():
        for value in [*inside.inputs, *(output for node in inside for output in node.outputs)]:
            value.shape = None
    infer_inside(model)


def _from_values(graph: ir.Graph) -> set[ir.Value]:
    """What is computed from values of the inputs, not from their shapes alone: the positions of winners, say."""
    found = set(graph.inputs)
    for node in graph:
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(operands(node)):
            found.update(node.outputs)
    return found


def _is_shape_math(value: ir.Value) -> bool:
    """Vectors of whole numbers hold sizes, not samples."""
    return value.shape is not None and len(value.shape) < 2 and value.dtype in (ir.DataType.INT64, ir.DataType.INT32)


def _free_reshape(graph: ir.Graph, node: ir.Node, size: int, rewritten: dict[str, ir.Value]) -> None:
    wanted = _constant(node.inputs[1])
    if wanted is None or wanted.ndim != 1 or not len(wanted) or wanted[0] != size:
        return
    dims = wanted.copy()
    if (dims[1:] == -1).any():
        operand = node.inputs[0]
        keeps_axis = operand is not None and operand.shape is not None and str(operand.shape[0]) == BATCH
        if not keeps_axis or node.attributes.get_int("allowzero", default=False):
            return
        dims[0] = 0
    else:
        dims[0] = -1
    key = str(dims.tolist())
    if key not in rewritten:
        name = f"onnxlrp/any_batch{len(rewritten)}"
        value = ir.Value(name=name, const_value=ir.tensor(dims, name=name))
        value.type, value.shape = ir.TensorType(ir.DataType.INT64), ir.Shape(dims.shape)
        graph.register_initializer(value)
        rewritten[key] = value
    node.replace_input_with(1, rewritten[key])


def _constant(value: ir.Value | None) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    if value is None:
        return None
    if value.const_value is not None:
        return array_of(value.const_value).astype(np.int64)
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        return array_of(producer.attributes["value"].value).astype(np.int64)
    return None


def _agrees(model: ir.Model, trial: ir.Model, size: int) -> bool:
    """Run both: two batches one after the other, and joined."""
    random = np.random.default_rng(0)
    try:
        alone, together = Session(model, "cpu", optimise=False), Session(trial, "cpu", optimise=False)
        first, second = (random_feeds(model, random) for _ in range(2))
        separate = [alone.run(first), alone.run(second)]
        joined = together.run({name: np.concatenate([first[name], second[name]]) for name in first})
    except (InputError, ModelError):
        return False
    if any(isinstance(array, list) for array in joined.values()):
        return False
    for name, array in joined.items():
        expected = np.concatenate([part[name] for part in separate])
        if array.shape != expected.shape or not _are_close(array, expected):
            return False
    return True


def _are_close(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    if found.dtype.kind not in "fiub":
        return bool((found == expected).all())
    return np.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


def random_feeds(model: ir.Model, random: np.random.Generator) -> Arrays:
    """Numbers of the declared type and shape; symbolic sizes are 8.  Errors: InputError above `MOST_ELEMENTS`."""
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        shape = [d if isinstance(d, int) else 8 for d in value.shape]
        if math.prod(shape) > MOST_ELEMENTS:
            raise InputError(f"No made-up numbers for the input '{value.name}' of shape {shape}: it is too large.")
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        if dtype.kind == "O":
            feeds[value.name or ""] = np.full(shape, a_category(value), object)
            continue
        is_float = dtype.kind == "f"
        feeds[value.name or ""] = (random.random(shape) if is_float else random.integers(0, 2, shape)).astype(dtype)
    return feeds
