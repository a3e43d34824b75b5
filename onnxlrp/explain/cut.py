"""Cut a model at inner tensors, so that they can be fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxlrp.model import Model
from onnxlrp.output import find_tensor


def cut_model(model: Model, names: Sequence[str]) -> Model:
    """The model with every named inner tensor turned into an input; what only computed it is dropped.

    Inputs that nothing reads any more are dropped too.
    """
    inputs = {value.name for value in model.graph.inputs}
    inner = [name for name in names if name not in inputs]
    if not inner:
        return model
    cut = model.copy()
    graph = cut.graph
    for name in inner:
        old = find_tensor(graph, name, "tensor")
        fed = ir.Value(name=name, shape=old.shape, type=old.type)
        outputs = [index for index, value in enumerate(graph.outputs) if value is old]
        old.replace_all_uses_with(fed, replace_graph_outputs=bool(outputs))
        old.name = f"{name}/uncut"
        graph.inputs.append(fed)
    passes.RemoveUnusedNodesPass()(cut)
    for value in list(graph.inputs):
        if not value.uses() and not value.is_graph_output():
            graph.inputs.remove(value)
    return replace(model, proto=cut)
