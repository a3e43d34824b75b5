"""Marks: what rewrites write on a node for the stages behind them."""

FROM_NODE, FROM_TYPE = "onnxlrp.from_node", "onnxlrp.from_type"
"""Written on a node: name and operator type of the file's node that it is a part of."""

NOT_LOWERED = "onnxlrp.not_lowered"
"""Written on a fused node that could not be written out: the reason."""

MASKED = "onnxlrp.masked"
"""Mark of a node whose output may be undefined where something downstream leaves it out (see `prepare.masked`)."""

KEPT, READ_AS = "onnxlrp.kept", "onnxlrp.read_as"
"""Written on a node: nothing flows through it; or the operator of ours whose record it has."""
