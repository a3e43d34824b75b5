"""A check that cannot fail proves nothing: for each of them a deliberately wrong rule that it has to catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
import test_adjoints
import test_decompositions
import test_parity
import test_where_relevance_lands as lands
from nets import must
from parity import PRESETS, Case
from twins import LAYERS

from onnxlrp.emit import Emit
from onnxlrp.rules import (
    AlphaBeta,
    Gamma,
    convolution,
    crossing,
    decompositions,
    linear,
    parts,
    pooling,
    registry,
    simple,
)
from onnxlrp.rules.registry import Operator, lookup

Patch = pytest.MonkeyPatch


def decomposition(layer: str, *rule: Any, bias: str = "absorb") -> Callable[[], None]:
    found = next(candidate for candidate in LAYERS if candidate.name == layer)
    return lambda: test_decompositions.check_layer(found, rule, bias)


def adjoint(layer: str) -> Callable[[], None]:
    return lambda: test_adjoints.check_adjoint(next(candidate for candidate in LAYERS if candidate.name == layer))


def gradient_times_input(model: Any, *shape: int) -> Callable[[], None]:
    return lambda: lands.check_small_epsilon_is_gradient_times_input(model, lands.data(*shape))


def parity(case: str, method: str) -> Callable[[], None]:
    found = Case.read(test_parity.HERE / case)
    choices = {method: {"method": "lrp", "preset": PRESETS[method]}}
    return lambda: must(not test_parity.complaints(found, choices), f"{case}, {method} differs from the peers")


# --- the wrong rules -------------------------------------------------------------------------------------------------


def epsilon_without_bias_in_z(patch: Patch) -> None:
    real = crossing.denominator

    def wrong(step: Any, linear_map: Any, bracket: Any, parts: Any, bias: Any) -> ir.Value:
        z = real(step, linear_map, bracket, parts, bias)
        return z if bias is None else z - bias

    patch.setattr(crossing, "denominator", wrong)


def zero_has_no_sign(patch: Patch) -> None:
    """z + ε·sign(z) with sign(0) = 0: a dead unit divides by zero."""
    patch.setattr(Emit, "stabilise", lambda emit, z, eps, **_: emit.Add(z, emit.Mul(emit.Sign(z), eps)))


def quotient_of_zero_by_zero(patch: Patch) -> None:
    patch.setattr(Emit, "quotient", lambda emit, r, z, eps, **_: emit.Div(r, z))


def mirrored_gamma(patch: Patch) -> None:
    real = Gamma.brackets

    def wrong(rule: Gamma, step: Any, linear_map: Any) -> Any:
        first, second = real(rule, step, linear_map)
        swap = {"z > 0": "z < 0", "z < 0": "z > 0"}
        return [replace(bracket, where=swap[bracket.where]) for bracket in (first, second)]

    patch.setattr(Gamma, "brackets", wrong)


def gamma_of_one_sign_of_input(patch: Patch) -> None:
    """The formula for inputs that are not negative, used on all."""
    real = Gamma.brackets
    patch.setattr(Gamma, "brackets", lambda *a: [replace(b, terms=b.terms[:1]) for b in real(*a)])


def alpha_beta_with_one_denominator(patch: Patch) -> None:
    real = AlphaBeta.brackets

    def wrong(rule: AlphaBeta, step: Any, linear_map: Any) -> Any:
        return [replace(bracket, unmodified=True) for bracket in real(rule, step, linear_map)]

    patch.setattr(AlphaBeta, "brackets", wrong)


def alpha_beta_with_the_whole_bias(patch: Patch) -> None:
    real = AlphaBeta.brackets
    patch.setattr(AlphaBeta, "brackets", lambda *a: [replace(b, bias=parts.same) for b in real(*a)])


def z_box_that_forgets_the_upper_bound(patch: Patch) -> None:
    real = decompositions.ZBox.brackets
    patch.setattr(decompositions.ZBox, "brackets", lambda *a: [replace(b, terms=b.terms[:2]) for b in real(*a)])


def w_square_without_its_bias(patch: Patch) -> None:
    real, nothing = decompositions.WSquare.brackets, parts.none
    patch.setattr(decompositions.WSquare, "brackets", lambda *a: [replace(b, bias=nothing) for b in real(*a)])


def flat_that_keeps_the_weights(patch: Patch) -> None:
    patch.setattr(decompositions, "all_one", parts.same)


def distribute_that_loses_the_bias(patch: Patch) -> None:
    patch.setattr(crossing, "spread_bias", lambda step, linear_map, share: step.emit.zeros_like(linear_map.x))


def alpha_left_out_of_the_weights(patch: Patch) -> None:
    patch.setattr(registry.Bilinear, "scaled", lambda declared, factor: factor)


def scale_of_batch_norm_left_out(patch: Patch) -> None:
    operator = lookup("Conv")
    assert operator is not None
    _replace(patch, operator, scale_outputs=lambda step, weight, scale: weight)


def transposed_convolution_with_the_wrong_padding(patch: Patch) -> None:
    def wrong(step: Any, window: Any, s: ir.Value, w: ir.Value) -> ir.Value:
        pads = {"pads": [*window.ends, *window.begins]}
        return step.emit.ConvTranspose(s, w, output_shape=list(step.dims(0)[2:]), **(window.attributes | pads))

    patch.setattr(linear, "conv_adjoint", wrong)


def flipped_convolution_that_does_not_flip(patch: Patch) -> None:
    patch.setattr(convolution, "flip_space", lambda emit, w, axes: w)


def groups_that_are_not_swapped(patch: Patch) -> None:
    def wrong(emit: Emit, w: ir.Value, window: Any) -> ir.Value:
        axes = list(range(2, 2 + window.axes))
        rows = emit.Mul(emit.dim(w, 1), emit.constant([window.group]))
        shape = emit.Concat(rows, emit.constant([-1, *window.kernel]), axis=0)
        return emit.Reshape(emit.Transpose(w, perm=[1, 0, *axes]), shape)

    patch.setattr(convolution, "swap_channels", wrong)


def average_that_divides_by_the_whole_kernel(patch: Patch) -> None:
    patch.setattr(pooling, "_has_edges", lambda step, window: False)


def crop_at_the_wrong_end(patch: Patch) -> None:
    real = pooling.crop_to_input
    zero = {"begins": "ends", "ends": "begins"}

    def wrong(step: Any, window: Any, full: ir.Value) -> ir.Value:
        return real(step, replace(window, **{a: getattr(window, b) for a, b in zero.items()}), full)

    patch.setattr(pooling, "crop_to_input", wrong)


def max_pool_that_overwrites(patch: Patch) -> None:
    def wrong(emit: Emit, values: ir.Value, positions: ir.Value, like: ir.Value) -> ir.Value:
        zeros = emit.Expand(0.0, emit.Reshape(emit.Size(like), [1]))
        flat = emit.ScatterElements(zeros, emit.Reshape(positions, [-1]), emit.Reshape(values, [-1]), axis=0)
        return emit.Reshape(flat, emit.Shape(like))

    patch.setattr(pooling, "scatter_flat", wrong)


def add_that_copies_to_both(patch: Patch) -> None:
    real = crossing.in_proportion

    def wrong(operator: Operator, step: Any, relevance: ir.Value, eps: float) -> Any:
        return operator.vjp(step, relevance) if operator.op_type == "Add" else real(operator, step, relevance, eps)

    patch.setattr(decompositions, "in_proportion", wrong)
    patch.setattr(simple, "in_proportion", wrong)


def walk_that_keeps_only_the_last_arrival(patch: Patch) -> None:
    patch.setattr("onnxlrp.backward._collect", lambda emit, arrived, value: (arrived.get(value) or [None])[-1])


def gate_that_takes_half(patch: Patch) -> None:
    patch.setattr(
        simple.Gate,
        "__call__",
        lambda rule, operator, step, relevance: crossing.in_proportion(operator, step, relevance, 1e-6),
    )


def activation_that_takes_its_slope(patch: Patch) -> None:
    patch.setattr(simple.Pass, "__call__", lambda rule, operator, step, relevance: operator.vjp(step, relevance))


def relu_that_drops_relevance_of_large_values(patch: Patch) -> None:
    operator = lookup("Relu")
    assert operator is not None
    half = lambda step, g: [g * step.emit.mask(step.emit.Less(step.x(), 1.0))]  # noqa: E731
    _replace(patch, operator, vjp=half)
    patch.setattr(simple.Pass, "__call__", lambda rule, operator, step, relevance: operator.vjp(step, relevance))


BROKEN: list[tuple[Callable[[Patch], None], Callable[[], None]]] = [
    (epsilon_without_bias_in_z, decomposition("gemm", "epsilon", 0.25, bias="absorb")),
    (mirrored_gamma, decomposition("conv-2d", "gamma", 0.25)),
    (mirrored_gamma, decomposition("average-pool", "gamma", 0.25)),
    (gamma_of_one_sign_of_input, decomposition("conv-2d", "gamma", 0.25)),
    (alpha_beta_with_one_denominator, decomposition("conv-2d-no-bias", "alpha-beta", 2.0, 1.0)),
    (alpha_beta_with_the_whole_bias, decomposition("gemm", "alpha-beta", 2.0, 1.0)),
    (alpha_beta_with_the_whole_bias, decomposition("gemm", "z-plus")),
    (z_box_that_forgets_the_upper_bound, decomposition("conv-2d", "z-box", -1.5, 2.0)),
    (w_square_without_its_bias, decomposition("gemm", "w-square")),
    (flat_that_keeps_the_weights, decomposition("matmul-2d", "flat")),
    (distribute_that_loses_the_bias, decomposition("gemm", "epsilon", 0.25, bias="distribute")),
    (alpha_left_out_of_the_weights, decomposition("gemm-no-bias", "z-plus")),
    (alpha_left_out_of_the_weights, adjoint("gemm-trans-b")),
    (scale_of_batch_norm_left_out, decomposition("conv+bn", "epsilon", 1e-6)),
    (transposed_convolution_with_the_wrong_padding, adjoint("conv-2d-strides")),
    (transposed_convolution_with_the_wrong_padding, decomposition("conv-2d-strides", "epsilon", 1e-6)),
    (flipped_convolution_that_does_not_flip, adjoint("conv-1d")),
    (groups_that_are_not_swapped, adjoint("conv-2d-groups")),
    (average_that_divides_by_the_whole_kernel, adjoint("average-pool-pads")),
    (crop_at_the_wrong_end, adjoint("average-pool-pads")),
    (max_pool_that_overwrites, lands.check_overlapping_windows_add),
    (max_pool_that_overwrites, lambda: test_adjoints.check_every_size("max-pool")),
    (add_that_copies_to_both, lands.check_residual_is_in_proportion),
    (add_that_copies_to_both, gradient_times_input(lands.convolutional(0), 2, 2, 9, 9)),
    (walk_that_keeps_only_the_last_arrival, lands.check_fan_out_sums),
    (walk_that_keeps_only_the_last_arrival, lands.check_gradient_is_that_of_finite_differences),
    (flipped_convolution_that_does_not_flip, lands.check_gradient_is_that_of_finite_differences),
    (gate_that_takes_half, lands.check_gate_gets_nothing),
    (add_that_copies_to_both, parity("resnet_basic", "epsilon_plus")),
    (scale_of_batch_norm_left_out, parity("resnet_basic", "epsilon_plus_flat")),
    (max_pool_that_overwrites, parity("cnn_maxpool_overlap", "epsilon_plus")),
    (flipped_convolution_that_does_not_flip, parity("resnet_basic", "epsilon_alpha2_beta1")),
    (activation_that_takes_its_slope, parity("act_silu", "epsilon_plus")),
    (epsilon_without_bias_in_z, gradient_times_input(lands.mlp(0), 2, 6)),
    (zero_has_no_sign, lands.check_dead_units_stay_finite),
    (quotient_of_zero_by_zero, lands.check_dead_units_stay_finite),
    (relu_that_drops_relevance_of_large_values, lands.check_relevance_adds_up),
]


NAMES = [f"{number}-{break_it.__name__}" for number, (break_it, _) in enumerate(BROKEN)]


@pytest.mark.parametrize(("break_it", "check"), BROKEN, ids=NAMES)
def test_broken_rule_is_caught(break_it: Callable[[Patch], None], check: Callable[[], None]) -> None:
    check()
    with pytest.MonkeyPatch.context() as patch:
        break_it(patch)
        with pytest.raises(AssertionError):
            check()
    check()


def _replace(patch: Patch, operator: Operator, **changes: Any) -> None:
    """Another record in place of the operator's, for the time of the patch."""
    patch.setitem(registry._OPERATORS, (operator.domain, operator.op_type), replace(operator, **changes))
