"""Prepare: one rewrite per file that makes a model easier to reverse and leaves its output as it was.

What layers are merged (a linear operator with its bias and BatchNormalization, an activation in pieces) is no rewrite:
see `onnxlrp.layers`, which leaves every node as it is.
"""

from __future__ import annotations

from dataclasses import replace

from onnxlrp.model import Model
from onnxlrp.prepare.columns import write_columns
from onnxlrp.prepare.confirm_shapes import forget_doubtful_sizes
from onnxlrp.prepare.dynamic_batch import make_batch_dynamic
from onnxlrp.prepare.inside import infer_inside
from onnxlrp.prepare.integer_ends import show_integer_ends
from onnxlrp.prepare.lower import lower
from onnxlrp.prepare.masked import mark_masked
from onnxlrp.prepare.observe import observe_unknown
from onnxlrp.prepare.one_by_one import drop_axis_as_run
from onnxlrp.prepare.sigmoids import write_sigmoids
from onnxlrp.prepare.take_branches import take_known_branches
from onnxlrp.prepare.time_first import put_time_first
from onnxlrp.prepare.unsigned import make_unsigned
from onnxlrp.prepare.widen import widen

PREPARED = "prepared"


def prepare(model: Model) -> Model:
    """Apply every rewrite, in order, to a copy; a prepared model is returned as it is."""
    if PREPARED in model.proto.meta:
        return model
    proto = model.copy()
    done = [
        put_time_first(proto),
        take_known_branches(proto),
        drop_axis_as_run(proto),
        infer_inside(proto),
        observe_unknown(proto),
        infer_inside(proto),
        forget_doubtful_sizes(proto, model.opset),
        make_batch_dynamic(proto),
        widen(proto),
        lower(proto),
        write_sigmoids(proto),
        write_columns(proto),
        observe_unknown(proto),
        make_unsigned(proto),
        show_integer_ends(proto),
        mark_masked(proto),
    ]
    proto.meta[PREPARED] = True
    return replace(model, proto=proto, notes=(*model.notes, *filter(None, done)), as_read=model.proto)
