"""Back from final probabilities to the logits: the tensor that is explained in place of an output that was squashed."""

from __future__ import annotations

import onnx_ir as ir

from onnxlrp.graph import FLOATS, READ_AS

PROBABILITIES = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_SAME_ELEMENTS = frozenset(
    {"Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Dropout", "Cast", "QuantizeLinear"}
)


def find_logits(value: ir.Value) -> ir.Value:
    """Step back from final probabilities, also behind Reshape, Flatten, Identity, to the logits.

    Of probabilities that are divided by their sum, as one-against-rest classifiers do, the logits are those before the
    division: the scores of the single classifiers, in the same order.
    """
    found, divided = value, False
    while True:
        node = _before_rounding(found.producer())
        if node is not None and (shown := _integer_logits(node)) is not None:
            return shown
        if node is not None and (spelled_out := _softmax_in_pieces(node)) is not None:
            return spelled_out
        if node is not None and (parts := _shares_of(node)) is not None:
            found, divided = parts, True
            continue
        if node is None or not node.inputs or node.inputs[0] is None or _holds_no_floats(node):
            return value
        if node.domain and node.op_type != "QuantizeLinear":
            return value
        if node.op_type in PROBABILITIES:
            return value if divided and node.op_type == "LogSoftmax" else node.inputs[0]
        if node.op_type == "Where" and READ_AS in node.metadata_props and node.inputs[2] is not None:
            found = node.inputs[2]
            continue
        if node.op_type == "Exp" and (before := _before_exp(node, value)) is not None:
            return before
        if node.op_type == "Mul" and (same := _rescaled(node)) is not None:
            found = same
            continue
        if node.op_type not in _SAME_ELEMENTS:
            return value
        found = node.inputs[0]


def _before_exp(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Log-probabilities, or the one score of a regression with a logarithmic link (Poisson, gamma, Tweedie)."""
    x = node.inputs[0]
    spelled_out = _log_softmax_in_pieces(x.producer()) if x is not None else None
    one_score = value.shape is not None and (len(value.shape) == 1 or list(value.shape)[1:] == [1])
    return spelled_out if spelled_out is not None or not one_score else x


def _rescaled(node: ir.Node) -> ir.Value | None:
    """x of x · 1, and of x · c behind an Exp: so onnxmltools ends LightGBM's probabilities, and XGBoost's counts."""
    for x, factor in (node.inputs, node.inputs[::-1]):
        known = factor.const_value if factor is not None else None
        maker = x.producer() if x is not None else None
        if known is None or known.size != 1 or maker is None:
            continue
        number = float(known.numpy().reshape(-1)[0])
        return x if number == 1.0 or (number > 0.0 and maker.op_type == "Exp") else None
    return None


def _shares_of(node: ir.Node) -> ir.Value | None:
    """p of p / Σ p along a table's rows; to both a guard may be added that only counts where all of p is 0."""
    if not node.inputs or not _is_a_table(node.outputs[0]):
        return None
    if (node.domain, node.op_type) == ("ai.onnx.ml", "Normalizer"):
        return node.inputs[0] if node.attributes.get_string("norm", "MAX") == "L1" else None
    if (node.domain, node.op_type) == ("", "LpNormalization"):
        by_sum = node.attributes.get_int("p", 2) == 1 and node.attributes.get_int("axis", -1) in (-1, 1)
        return node.inputs[0] if by_sum else None
    if (node.domain, node.op_type) != ("", "Div"):
        return None
    totals = [total.producer() for total in _unguarded(node.inputs[1])]
    summed = [total.inputs[0] for total in totals if total is not None and _adds_up_rows(total)]
    return next((parts for parts in _unguarded(node.inputs[0]) if parts in summed), None)


def _is_a_table(value: ir.Value) -> bool:
    return value.shape is None or len(value.shape) == 2


def _unguarded(value: ir.Value | None) -> list[ir.Value]:
    """A tensor, and what it is the sum of."""
    node = value.producer() if value is not None else None
    added = node.inputs if node is not None and node.op_type == "Add" and not node.domain else ()
    return [found for found in (value, *added) if found is not None]


def _adds_up_rows(node: ir.Node) -> bool:
    if node.op_type != "ReduceSum" or node.domain:
        return False
    axes = node.attributes.get_ints("axes", ())
    if len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        axes = node.inputs[1].const_value.numpy().reshape(-1).tolist()
    return list(axes) in ([1], [-1])


def _holds_no_floats(node: ir.Node) -> bool:
    operand = node.inputs[2] if READ_AS in node.metadata_props and len(node.inputs) > 2 else node.inputs[0]
    return operand is None or operand.dtype not in FLOATS


def _before_rounding(node: ir.Node | None) -> ir.Node | None:
    """The QuantizeLinear in front of a DequantizeLinear: together they give the same elements, rounded."""
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return node
    rounding = node.inputs[0].producer()
    return rounding if rounding is not None and rounding.op_type == "QuantizeLinear" else node


def _integer_logits(node: ir.Node) -> ir.Value | None:
    """What a softmax or sigmoid in integers reads, dequantised; `node` dequantises what it gives."""
    squashing = node.inputs[0].producer() if node.op_type == "DequantizeLinear" and node.inputs[0] is not None else None
    if squashing is None or squashing.op_type not in ("QLinearSoftmax", "QLinearSigmoid"):
        return None
    x = squashing.inputs[0]
    readers = [] if x is None else [use.node for use in x.uses() if use.node.op_type == "DequantizeLinear"]
    return readers[0].outputs[0] if readers else None


def _softmax_in_pieces(node: ir.Node) -> ir.Value | None:
    """x of exp(x − max x) / Σ exp(x − max x), as TensorFlow and JAX exporters spell a softmax out."""
    if node.op_type != "Div" or node.domain:
        return None
    numerator, denominator = node.inputs
    exponential = numerator.producer() if numerator is not None else None
    total = _behind_movement(denominator)
    if exponential is None or exponential.op_type != "Exp" or total is None or total.op_type != "ReduceSum":
        return None
    if total.inputs[0] is not numerator or exponential.inputs[0] is None:
        return None
    shifted = exponential.inputs[0].producer()
    if shifted is None or shifted.op_type != "Sub":
        return exponential.inputs[0]
    largest = _behind_movement(shifted.inputs[1])
    return shifted.inputs[0] if largest is not None and largest.op_type == "ReduceMax" else exponential.inputs[0]


def _log_softmax_in_pieces(node: ir.Node | None) -> ir.Value | None:
    """x of x − log Σ exp x, as skl2onnx spells out a softmax of log-likelihoods."""
    if node is None or node.op_type != "Sub" or node.domain:
        return None
    total = _behind_movement(node.inputs[1])
    return (
        node.inputs[0]
        if total is not None and total.op_type == "ReduceLogSumExp" and total.inputs[0] is node.inputs[0]
        else None
    )


def _behind_movement(value: ir.Value | None) -> ir.Node | None:
    """The node that computed a tensor, seen through what only reshapes or bounds it."""
    for _ in range(8):
        node = value.producer() if value is not None else None
        if node is None or node.op_type not in _SAME_ELEMENTS | {"Expand", "Max", "Where"}:
            return node
        value = next((o for o in node.inputs if o is not None and o.producer() is not None), None)
    return None
