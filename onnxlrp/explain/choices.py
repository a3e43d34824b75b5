"""Choices: what may be asked of an explainer, and what is taken where nothing is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxlrp.compile import output_in
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.deployed import float_view
from onnxlrp.errors import ChoiceError
from onnxlrp.graph import upstream
from onnxlrp.methods import Method, Pass
from onnxlrp.model import Model
from onnxlrp.output import Output
from onnxlrp.plan import Rules
from onnxlrp.presets import Box, default_preset
from onnxlrp.rules.registry import inflows

BIASES = ("absorb", "drop", "distribute")
DEFAULT_BATCH = 16


def no_explainer(model: Model) -> Model:
    """Errors: ChoiceError for a file that `onnxlrp compile` wrote."""
    if "onnxlrp.version" in model.proto.metadata_props:
        source = model.proto.metadata_props.get("onnxlrp.source") or "the original"
        raise ChoiceError(
            f"'{model.name}' is itself an explainer, compiled from '{source}'. Give that model; "
            "the explainer is run by onnxruntime alone (docs/explainer-file.md)."
        )
    return model


def known_bias(bias: str) -> str:
    """Errors: ChoiceError for a word that is none of `BIASES`."""
    if bias not in BIASES:
        raise ChoiceError(f"There is no bias handling '{bias}'; there are {', '.join(BIASES)}.")
    return bias


def at_least_one(batch_size: int | None) -> int:
    """Samples per run.  Errors: ChoiceError for none or fewer."""
    if batch_size is not None and batch_size < 1:
        raise ChoiceError(f"batch_size={batch_size}: at least one sample per run is needed.")
    return batch_size or DEFAULT_BATCH


def known_box(sidecar: Sidecar) -> Box | None:
    """The box that a sidecar gives or its preprocessing implies; None where it says nothing of either."""
    if sidecar.box is None and sidecar.preprocessing is None and sidecar.scale is None:
        return None
    return sidecar.bounds()


def require_fitting(method: Method, preset: str | None, rules: Rules) -> None:
    """Errors: ChoiceError for a preset, or for rules, that the method does not take."""
    if preset is not None and method.name != "lrp":
        raise ChoiceError(f"A preset belongs to LRP; the method here is '{method.name}'.")
    if rules and not isinstance(method, Pass):
        raise ChoiceError(f"Rules belong to a backward pass; the method '{method.name}' takes none.")


def moves_its_input(method: Method) -> bool:
    """Whether a method changes its input by small amounts, or compares it with another."""
    return method.reference if isinstance(method, Pass) else method.name != "random"


def require_floats(method: Method, explained: Sequence[ir.Value]) -> None:
    """Errors: ChoiceError for a tensor that a method cannot move."""
    for value in explained:
        compares_numbers = isinstance(method, Pass) and value.dtype != ir.DataType.STRING
        if value.dtype is not None and not value.dtype.is_floating_point() and not compares_numbers:
            raise ChoiceError(
                f"The method '{method.name}' moves its input, or compares it, and '{value.name}' holds "
                f"{value.dtype.name.lower()}. Name the float tensor behind it (an embedding) with inputs=[…]."
            )


def suited_preset(model: Model, output: Output) -> str:
    """The preset that suits the operators which the output is computed with."""
    tensor = output_in(float_view(model).graph, output).tensor
    makers = (value.producer() for value in upstream(tensor, reads=inflows))
    types = {node.op_type for node in makers if node is not None}
    return default_preset(lambda op_type: op_type in types)


def box_fits(box: Box | None, explained: Sequence[ir.Value]) -> bool:
    """Whether a box is that of every explained tensor: the model's inputs, to which its bounds broadcast."""
    return box is not None and all(value.is_graph_input() and _spans(box, value) for value in explained)


def _spans(box: Box, value: ir.Value) -> bool:
    if value.shape is None:
        return False
    bounds = np.broadcast_shapes(np.shape(box[0]), np.shape(box[1]))
    pairs = list(zip(bounds[::-1], list(value.shape)[::-1], strict=False))
    return len(bounds) <= len(value.shape) and all(b == 1 or b == d for b, d in pairs)
