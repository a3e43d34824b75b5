"""Einsum: a sum of products over letters, linear in each operand; any number of them.

The adjoint swaps an operand's letters with the result's. Letters that only the operand has are spread, letters that it
repeats are put on their diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxlrp.rules.linear import DENSE
from onnxlrp.rules.registry import Contribution, Family, LinearMap, Operator, register
from onnxlrp.rules.step import Step

MANY = tuple(range(26))
"""Every operand is a factor."""


def _vjp(step: Step, g: ir.Value) -> list[Contribution]:
    """The operand's letters from the result's and those of all others."""
    terms, result = equation_of(step)
    contributions: list[Contribution] = [None] * step.count
    for index in step.signals:
        others = [i for i in range(step.count) if i != index]
        back = _back(step, result, [terms[i] for i in others], terms[index], index)
        contributions[index] = back(g, *(step.x(i) for i in others))
    return contributions


def _linear_map(step: Step, operand: int) -> LinearMap:
    """z = Einsum(x, w) with w the product of all others, over the letters that x or the result has."""
    emit = step.emit
    terms, result = equation_of(step)
    own = terms[operand]
    others = [i for i in range(step.count) if i != operand]
    weight, letters = _product(step, [terms[i] for i in others], others, own + result)

    def forward(x: ir.Value, w: Contribution) -> ir.Value:
        factors = [x] if w is None else [x, w]
        return emit.Einsum(*factors, equation=",".join([own, letters][: len(factors)]) + f"->{result}")

    back = _back(step, result, [letters] if others else [], own, operand)
    return LinearMap(
        operand,
        step.x(operand),
        weight,
        None,
        forward,
        lambda s, w: back(s) if w is None else back(s, w),
        step.y(),
    )


def _product(step: Step, terms: Sequence[str], operands: Sequence[int], wanted: str) -> tuple[Contribution, str]:
    """Several operands as one, and its letters; a single one as it is."""
    if not operands:
        return None, ""
    if len(operands) == 1:
        return step.x(operands[0]), terms[0]
    letters = "".join(dict.fromkeys(c for term in terms for c in term if c in wanted))
    return step.emit.Einsum(*(step.x(i) for i in operands), equation=",".join(terms) + "->" + letters), letters


register(
    Operator(
        "Einsum", Family.LINEAR, _vjp, factors=MANY, linear_map=_linear_map, conserves="up to epsilon", layer=DENSE
    )
)


def equation_of(step: Step) -> tuple[list[str], str]:
    """Operand terms and result of the equation, the ellipsis spelled out in upper-case letters."""
    text = step.attribute("equation").replace(" ", "")
    left, _, result = text.partition("->")
    terms = left.split(",")
    unused = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in text]
    widths = [step.rank(i) - len(term.replace("...", "")) if "..." in term else 0 for i, term in enumerate(terms)]
    letters = "".join(unused[: max(widths, default=0)])
    if "->" not in text:
        once = sorted(c for c in set("".join(terms)) if c.isalpha() and "".join(terms).count(c) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    spelled = [t.replace("...", letters[len(letters) - w :] if w else "") for t, w in zip(terms, widths, strict=True)]
    return spelled, result.replace("...", letters)


def _back(step: Step, result: str, others: Sequence[str], own: str, index: int) -> Callable[..., ir.Value]:
    """s, others → the operand's cotangent: contract, then spread over letters that only the operand has."""
    emit = step.emit
    letters = "".join(dict.fromkeys(own))
    present = "".join(c for c in letters if c in result or any(c in other for other in others))
    missing = [axis for axis, c in enumerate(letters) if c not in present]

    def back(s: ir.Value, *factors: Contribution) -> ir.Value:
        equation = ",".join([result, *others]) + "->" + present
        spread = emit.Einsum(s, *factors, equation=equation)
        if missing:
            shape = emit.Gather(step.shape(index), [own.index(c) for c in letters])
            spread = emit.Expand(emit.Unsqueeze(spread, missing), shape)
        return spread if letters == own else _onto_diagonal(step, spread, own, index)

    return back


def _onto_diagonal(step: Step, x: ir.Value, own: str, index: int) -> ir.Value:
    """A tensor with one axis per different letter, put where the indices of equal letters are equal."""
    emit = step.emit
    repeats = [axis for axis, c in enumerate(own) if c in own[:axis]]
    x = emit.Unsqueeze(x, repeats)
    for axis in repeats:
        places = emit.Range(0, emit.Squeeze(emit.dim(step.raw(index), axis), [0]), 1)
        here, there = (
            emit.Reshape(places, [-1 if i == at else 1 for i in range(len(own))]) for at in (axis, own.index(own[axis]))
        )
        x = emit.Where(emit.Equal(here, there), x, 0.0)
    return x
