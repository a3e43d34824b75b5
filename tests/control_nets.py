"""Models with If, Loop, Scan, lists and optional tensors, by what they try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxlrp

Array = np.ndarray[Any, Any]

TIME, BATCH, WIDE, HIDDEN = 5, 2, 3, 4


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def tensor(name: str, *dims: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def truth(name: str) -> onnx.ValueInfoProto:
    return tensor(name, kind=TensorProto.BOOL)


def whole(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return tensor(name, *dims, kind=TensorProto.INT64)


node = helper.make_node


def graph(nodes: Sequence[onnx.NodeProto], inputs: Sequence[Any], outputs: Sequence[Any]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "inside", inputs, outputs)


@dataclass
class Net:
    """A model with control flow.  feeds : float ones are explained, all at once"""

    nodes: Sequence[onnx.NodeProto]
    inputs: Sequence[onnx.ValueInfoProto]
    outputs: Sequence[onnx.ValueInfoProto]
    feeds: dict[str, Array]
    constants: dict[str, Array] = field(default_factory=dict)
    opset: int = 17
    conserves: float = 1e-4

    @property
    def model(self) -> onnx.ModelProto:
        weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in self.constants.items()]
        proto = helper.make_model(
            helper.make_graph(self.nodes, "net", self.inputs, self.outputs, weights),
            opset_imports=[
                helper.make_opsetid(domain, version)
                for domain, version in {"": self.opset, "com.microsoft": 1, "of.elsewhere": 1}.items()
            ],
            ir_version=8,
        )
        onnx.checker.check_model(proto)
        return proto

    @property
    def explained(self) -> list[str]:
        return [name for name, array in self.feeds.items() if array.dtype.kind == "f"]

    def explainer(self, method: str, output: str, **choices: Any) -> onnxlrp.Explainer:
        return onnxlrp.Explainer(
            self.model,
            method=method,
            output=output,
            inputs=self.explained,
            providers="cpu",
            batch_size=10**9,
            **choices,
        )

    def relevance(self, output: str, cotangent: Array, method: str = "lrp", **choices: Any) -> dict[str, Array]:
        return dict(self.explainer(method, output, **choices).explain(self.feeds, target=cotangent).relevance)


# --- the nets --------------------------------------------------------------------------------------------------------

W, R, BIAS = numbers(WIDE, HIDDEN), 0.5 * numbers(HIDDEN, HIDDEN), numbers(HIDDEN)

RNN_CELL = [
    node("MatMul", ["x_now", "W"], ["from_x"]),
    node("MatMul", ["h_before", "R"], ["from_h"]),
    node("Add", ["from_x", "from_h"], ["unbiased"]),
    node("Add", ["unbiased", "bias"], ["z"]),
    node("Tanh", ["z"], ["h"]),
    node("Identity", ["h"], ["y"]),
]
RNN_FEEDS = {"x": numbers(TIME, BATCH, WIDE), "h0": numbers(BATCH, HIDDEN)}
RNN_INPUTS = [tensor("x", "time", BATCH, WIDE), tensor("h0", BATCH, HIDDEN)]
RNN_OUTPUTS = [tensor("Y", "time", BATCH, HIDDEN), tensor("last", BATCH, HIDDEN)]


def rnn_as_scan(**attributes: Any) -> Net:
    body = graph(
        RNN_CELL,
        [tensor("h_before", BATCH, HIDDEN), tensor("x_now", BATCH, WIDE)],
        [tensor("h", BATCH, HIDDEN), tensor("y", BATCH, HIDDEN)],
    )
    scan = node("Scan", ["h0", "x"], ["last", "Y"], body=body, num_scan_inputs=1, **attributes)
    return Net([scan], RNN_INPUTS, RNN_OUTPUTS, RNN_FEEDS, {"W": W, "R": R, "bias": BIAS})


def rnn_with_fed_weights() -> Net:
    net = rnn_as_scan()
    net.inputs = [*RNN_INPUTS, tensor("W", WIDE, HIDDEN), tensor("R", HIDDEN, HIDDEN), tensor("bias", HIDDEN)]
    net.feeds, net.constants = RNN_FEEDS | net.constants, {}
    return net


def scan_along_other_axes() -> Net:
    body = graph(
        [node("Add", ["s", "a"], ["t"]), node("Mul", ["t", "b"], ["kept"])],
        [tensor("s", 2), tensor("a", 2), tensor("b", 2)],
        [tensor("t", 2), tensor("kept", 2)],
    )
    scan = node(
        "Scan",
        ["s0", "A", "B"],
        ["last", "Y"],
        body=body,
        num_scan_inputs=2,
        scan_input_axes=[1, -1],
        scan_input_directions=[0, 1],
        scan_output_axes=[1],
        scan_output_directions=[1],
    )
    feeds = {"s0": numbers(2), "A": numbers(2, 4), "B": numbers(2, 4, seed=1)}
    inputs = [tensor("s0", 2), tensor("A", 2, "time"), tensor("B", 2, "time")]
    return Net([scan], inputs, [tensor("Y", 2, "time"), tensor("last", 2)], feeds)


def scan_without_state() -> Net:
    body = graph([node("Mul", ["a", "scale"], ["kept"])], [tensor("a", 3)], [tensor("kept", 3)])
    scan = node("Scan", ["x"], ["Y"], body=body, num_scan_inputs=1)
    feeds = {"x": numbers(4, 3), "scale": numbers(3)}
    return Net([scan], [tensor("x", "time", 3), tensor("scale", 3)], [tensor("Y", "time", 3)], feeds)


TURNS = [node("Shape", ["x"], ["sizes"]), node("Gather", ["sizes", "zero"], ["turns"])]
ZERO = np.array(0, np.int64)


def rnn_as_loop() -> Net:
    """As torch.jit.script writes it: x[t] by Gather, outputs stacked."""
    body = graph(
        [node("Gather", ["x", "t"], ["x_now"], axis=0), *RNN_CELL, node("Identity", ["go"], ["go_on"])],
        [whole("t"), truth("go"), tensor("h_before", BATCH, HIDDEN)],
        [truth("go_on"), tensor("h", BATCH, HIDDEN), tensor("y", BATCH, HIDDEN)],
    )
    nodes = [*TURNS, node("Loop", ["turns", "", "h0"], ["last", "Y"], body=body)]
    return Net(nodes, RNN_INPUTS, RNN_OUTPUTS, RNN_FEEDS, {"W": W, "R": R, "bias": BIAS, "zero": ZERO})


def loop_until_large() -> Net:
    """h ← h·A + x until Σ|h| > 3: how many turns is known at run time alone."""
    body = graph(
        [
            node("MatMul", ["h_before", "A"], ["product"]),
            node("Add", ["product", "x"], ["h"]),
            node("Abs", ["h"], ["sizes"]),
            node("ReduceSum", ["sizes"], ["size"], keepdims=0),
            node("Less", ["size", "three"], ["go_on"]),
            node("Identity", ["h"], ["y"]),
        ],
        [whole("t"), truth("go"), tensor("h_before", 1, 3)],
        [truth("go_on"), tensor("h", 1, 3), tensor("y", 1, 3)],
    )
    feeds = {"x": numbers(1, 3), "h0": 0.1 * numbers(1, 3), "A": 0.7 * numbers(3, 3)}
    return Net(
        [node("Loop", ["most", "", "h0"], ["last", "Y"], body=body)],
        [tensor("x", 1, 3), tensor("h0", 1, 3), tensor("A", 3, 3)],
        [tensor("last", 1, 3), tensor("Y", "turns", 1, 3)],
        feeds,
        {"most": np.array(50, np.int64), "three": np.float32(6.0)},
    )


def loop_that_grows() -> Net:
    """A state that every turn makes longer, and whose length matters."""
    body = graph(
        [
            node("Gather", ["x", "t"], ["row"], axis=0),
            node("Unsqueeze", ["row", "zeros"], ["one"]),
            node("ReduceSum", ["s", "zeros"], ["so_far"], keepdims=1),
            node("Add", ["one", "so_far"], ["new"]),
            node("Concat", ["s", "new"], ["longer"], axis=0),
            node("Identity", ["go"], ["go_on"]),
        ],
        [whole("t"), truth("go"), tensor("s", "length", 3)],
        [truth("go_on"), tensor("longer", "longer", 3)],
    )
    nodes = [*TURNS, node("Loop", ["turns", "", "s0"], ["y"], body=body)]
    feeds = {"x": numbers(3, 3), "s0": numbers(1, 3)}
    constants = {"zero": ZERO, "zeros": np.zeros(1, np.int64)}
    return Net(nodes, [tensor("x", "time", 3), tensor("s0", 1, 3)], [tensor("y", "length", 3)], feeds, constants)


def branches(sign: float) -> Net:
    then = graph([node("MatMul", ["x", "W"], ["a"])], [], [tensor("a", "batch", HIDDEN)])
    other = graph(
        [node("Mul", ["h", "h"], ["e"]), node("Add", ["e", "bias"], ["f"])], [], [tensor("f", "batch", HIDDEN)]
    )
    nodes = [
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    feeds = {"x": sign * np.abs(numbers(BATCH, WIDE)), "h": numbers(BATCH, HIDDEN), "W": W}
    inputs = [tensor("x", "batch", WIDE), tensor("h", "batch", HIDDEN), tensor("W", WIDE, HIDDEN)]
    constants = {"zero": np.float32(0), "bias": BIAS}
    return Net(nodes, inputs, [tensor("y", "batch", HIDDEN)], feeds, constants)


def turn_as_a_vector() -> Net:
    """The number of the turn is declared as a vector of one, as tf2onnx writes CropAndResize."""
    inside = [
        node("Identity", ["go"], ["more"]),
        node("Gather", ["x", "i"], ["row"], axis=0),
        node("MatMul", ["row", "W"], ["a"]),
        node("Tanh", ["a"], ["b"]),
        node("Squeeze", ["b", "zeros"], ["out"]),
    ]
    body = graph(inside, [whole("i", 1), truth("go")], [truth("more"), tensor("out", HIDDEN)])
    nodes = [node("Loop", ["turns", "yes"], ["y"], body=body)]
    constants = {"W": W, "zeros": np.zeros(1, np.int64), "turns": np.int64(BATCH), "yes": np.bool_(True)}
    return Net(nodes, [tensor("x", BATCH, WIDE)], [tensor("y", "n", HIDDEN)], {"x": numbers(BATCH, WIDE)}, constants)


def branch_that_is_a_constant() -> Net:
    """The branch not taken has no nodes: its weight is what it gives, as PyTorch writes an empty bag of embeddings."""
    weight = helper.make_tensor("nothing", TensorProto.FLOAT, [1, HIDDEN], [0.5] * HIDDEN)
    then = helper.make_graph([], "then", [], [tensor("nothing", 1, HIDDEN)], [weight])
    other = graph([node("MatMul", ["row", "W"], ["a"])], [], [tensor("a", 1, HIDDEN)])
    inside = [
        node("Identity", ["go"], ["more"]),
        node("Slice", ["x", "i1", "i2"], ["row"]),
        node("ReduceSum", ["row"], ["total"], keepdims=0),
        node("Less", ["total", "little"], ["empty"]),
        node("If", ["empty"], ["out"], then_branch=then, else_branch=other),
    ]
    inside[1:1] = [node("Unsqueeze", ["i", "zeros"], ["i1"]), node("Add", ["i1", "one"], ["i2"])]
    body = graph(
        inside,
        [whole("i"), truth("go")],
        [truth("more"), tensor("out", 1, HIDDEN)],
    )
    nodes = [node("Loop", ["turns", "yes"], ["rows"], body=body), node("Squeeze", ["rows", "one"], ["y"])]
    constants = {
        "W": W,
        "little": np.float32(-100),
        "zeros": np.zeros(1, np.int64),
        "one": np.ones(1, np.int64),
        "turns": np.int64(BATCH),
        "yes": np.bool_(True),
    }
    return Net(nodes, [tensor("x", BATCH, WIDE)], [tensor("y", "n", HIDDEN)], {"x": numbers(BATCH, WIDE)}, constants)


def branch_inside_scan_inside_loop() -> Net:
    """Tensors of all levels are read at the deepest one."""
    then = graph([node("Mul", ["s_new", "deep"], ["p"])], [], [tensor("p", 3)])
    other = graph([node("Sub", ["s_new", "level"], ["q"])], [], [tensor("q", 3)])
    scan_body = graph(
        [
            node("Add", ["s", "row"], ["s_new"]),
            node("ReduceSum", ["row"], ["total"], keepdims=0),
            node("Greater", ["total", "none"], ["positive"]),
            node("If", ["positive"], ["chosen"], then_branch=then, else_branch=other),
            node("Add", ["chosen", "s"], ["s_next"]),
        ],
        [tensor("s", 3), tensor("row", 3)],
        [tensor("s_next", 3)],
    )
    loop_body = graph(
        [
            node("Mul", ["state", "deep"], ["level"]),
            node("Scan", ["state", "x"], ["after"], body=scan_body, num_scan_inputs=1),
            node("Mul", ["after", "tenth"], ["smaller"]),
            node("Identity", ["go"], ["go_on"]),
        ],
        [whole("t"), truth("go"), tensor("state", 3)],
        [truth("go_on"), tensor("smaller", 3)],
    )
    nodes = [node("Loop", ["three", "", "s0"], ["y"], body=loop_body)]
    feeds = {"x": numbers(4, 3), "s0": numbers(3), "deep": numbers(3, seed=2)}
    constants = {"three": np.array(3, np.int64), "none": np.float32(0), "tenth": np.float32(0.1)}
    inputs = [tensor("x", "time", 3), tensor("s0", 3), tensor("deep", 3)]
    return Net(nodes, inputs, [tensor("y", 3)], feeds, constants)


def fused_in_a_loop(taken: bool) -> Net:
    """Fused operators one behind the other, in a body and in a branch inside it; nothing between them has a shape."""
    then = graph([node("FastGelu", ["z", "bias"], ["a"], domain="com.microsoft")], [], [tensor("a", BATCH, HIDDEN)])
    other = graph([node("Gelu", ["z"], ["b"])], [], [tensor("b", BATCH, HIDDEN)])
    body = graph(
        [
            node("FusedGemm", ["h_before", "R", "bias"], ["g"], activation="Tanh", domain="com.microsoft"),
            node("FusedMatMul", ["g", "R"], ["m"], alpha=0.5, transB=1, domain="com.microsoft"),
            node("Add", ["m", "x"], ["z"]),
            node("If", ["c"], ["chosen"], then_branch=then, else_branch=other),
            node("QuickGelu", ["chosen"], ["h"], domain="com.microsoft"),
            node("Identity", ["go"], ["go_on"]),
        ],
        [whole("t"), truth("go"), tensor("h_before", BATCH, HIDDEN)],
        [truth("go_on"), tensor("h", BATCH, HIDDEN)],
    )
    feeds = {"x": numbers(BATCH, HIDDEN), "h0": numbers(BATCH, HIDDEN, seed=1), "R": R, "bias": BIAS}
    floats = [tensor(name, *array.shape) for name, array in feeds.items()]
    return Net(
        [node("Loop", ["three", "", "h0"], ["y"], body=body)],
        [*floats, truth("c")],
        [tensor("y", BATCH, HIDDEN)],
        feeds | {"c": np.array(taken)},
        {"three": np.array(3, np.int64)},
        opset=20,
    )


# --- lists and optional tensors --------------------------------------------------------------------------------------

PLACES = {"two": np.array(2, np.int64), "last": np.array(-1, np.int64), "first": np.array(0, np.int64)}


def edited_list(**attributes: Any) -> Net:
    """Every operator on lists, positions from both ends, a list that is read twice."""
    nodes = [
        node("Mul", ["a", "b"], ["c"]),
        node("SequenceConstruct", ["a", "c", "a"], ["l0"]),
        node("SequenceInsert", ["l0", "b"], ["l1"]),
        node("SequenceInsert", ["l1", "c", "last"], ["l2"]),
        node("SequenceErase", ["l2", "first"], ["l3"]),
        node("SequenceErase", ["l3"], ["l4"]),
        node("SequenceAt", ["l4", "last"], ["d"]),
        node("SequenceAt", ["l2", "two"], ["e"]),
        node("Mul", ["d", "e"], ["f"]),
        node("SequenceInsert", ["l4", "f", "first"], ["l5"]),
        node("ConcatFromSequence", ["l5"], ["y"], **attributes),
    ]
    feeds = {"a": numbers(2, 3), "b": numbers(2, 3, seed=1)}
    dims = ("long", 3) if not attributes.get("new_axis") else (2, "long", 3)
    return Net(nodes, [tensor("a", 2, 3), tensor("b", 2, 3)], [tensor("y", *dims)], feeds, PLACES)


def pieces(sizes: Array | None, **attributes: Any) -> Net:
    nodes = [
        node("SplitToSequence", ["x", "" if sizes is None else "sizes"], ["l"], axis=1, **attributes),
        node("SequenceAt", ["l", "first"], ["a"]),
        node("SequenceErase", ["l", "first"], ["rest"]),
        node("Mul", ["a", "w"], ["b"]),
        node("SequenceInsert", ["rest", "b"], ["turned"]),
        node("ConcatFromSequence", ["turned"], ["y"], axis=1, new_axis=int(attributes.get("keepdims") == 0)),
    ]
    feeds = {"x": numbers(2, 4, 3), "w": numbers(3)}
    constants = PLACES | ({} if sizes is None else {"sizes": sizes})
    return Net(nodes, [tensor("x", 2, "t", 3), tensor("w", 3)], [tensor("y", 2, "t", 3)], feeds, constants)


def list_in_a_branch(taken: bool) -> Net:
    then = graph(
        [node("Neg", ["x"], ["n"]), node("SequenceInsert", ["l", "n"], ["l_then"])], [], [listed("l_then", "b", 3)]
    )
    other = graph([node("SequenceConstruct", ["w", "x"], ["l_else"])], [], [listed("l_else", "b", 3)])
    nodes = [
        node("SequenceConstruct", ["x", "w"], ["l"]),
        node("If", ["c"], ["chosen"], then_branch=then, else_branch=other),
        node("ConcatFromSequence", ["chosen"], ["y"], axis=0),
    ]
    feeds = {"x": numbers(2, 3), "w": numbers(1, 3), "c": np.array(taken)}
    return Net(nodes, [tensor("x", "b", 3), tensor("w", 1, 3), truth("c")], [tensor("y", "n", 3)], feeds)


def listed(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, dims)


def list_filled_by_a_loop() -> Net:
    """As torch writes `for …: outputs.append(h)` and `torch.stack(outputs, 1)`; every turn reads another list."""
    body = graph(
        [
            node("SequenceAt", ["rows", "t"], ["row"]),
            node("Mul", ["row", "h_before"], ["product"]),
            node("Add", ["product", "row"], ["h"]),
            node("SequenceInsert", ["l", "h"], ["longer"]),
            node("Identity", ["go"], ["go_on"]),
        ],
        [whole("t"), truth("go"), tensor("h_before", "b", 3), listed("l", "b", 3)],
        [truth("go_on"), tensor("h", "b", 3), listed("longer", "b", 3)],
    )
    nodes = [
        node("SplitToSequence", ["x"], ["rows"], axis=1, keepdims=0),
        node("SequenceLength", ["rows"], ["turns"]),
        node("SequenceEmpty", [], ["none"]),
        node("Loop", ["turns", "", "h0", "none"], ["last", "l_all"], body=body),
        node("ConcatFromSequence", ["l_all"], ["y"], axis=1, new_axis=1),
    ]
    feeds = {"x": numbers(2, 4, 3), "h0": numbers(2, 3)}
    inputs = [tensor("x", "b", "t", 3), tensor("h0", "b", 3)]
    return Net(nodes, inputs, [tensor("y", "b", "t", 3), tensor("last", "b", 3)], feeds)


def map_of_a_list() -> Net:
    body = graph(
        [node("Mul", ["piece", "scale"], ["p"]), node("Tanh", ["p"], ["q"])],
        [tensor("piece", 2, "k", 3), tensor("scale", 3)],
        [tensor("q", 2, "k", 3)],
    )
    nodes = [
        node("SplitToSequence", ["x", "sizes"], ["l"], axis=1),
        node("SequenceMap", ["l", "w"], ["mapped"], body=body),
        node("ConcatFromSequence", ["mapped"], ["y"], axis=1),
    ]
    feeds = {"x": numbers(2, 4, 3), "w": numbers(3)}
    constants = {"sizes": np.array([1, 3], np.int64)}
    return Net(nodes, [tensor("x", 2, 4, 3), tensor("w", 3)], [tensor("y", 2, "t", 3)], feeds, constants)


def optional_tensor(given: bool) -> Net:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["b", 3]))
    then = graph([node("Tanh", ["x"], ["t"]), node("Optional", ["t"], ["some"])], [], [_of("some", kind)])
    other = graph([node("Optional", [], ["none"], type=kind.optional_type.elem_type)], [], [_of("none", kind)])
    used = graph(
        [node("OptionalGetElement", ["o"], ["t2"]), node("Mul", ["t2", "x"], ["p"])], [], [tensor("p", "b", 3)]
    )
    unused = graph([node("Mul", ["x", "x"], ["q"])], [], [tensor("q", "b", 3)])
    nodes = [
        node("If", ["c"], ["o"], then_branch=then, else_branch=other),
        node("OptionalHasElement", ["o"], ["has"]),
        node("If", ["has"], ["y"], then_branch=used, else_branch=unused),
    ]
    feeds = {"x": numbers(2, 3), "c": np.array(given)}
    return Net(nodes, [tensor("x", "b", 3), truth("c")], [tensor("y", "b", 3)], feeds, opset=18)


def _of(name: str, kind: onnx.TypeProto) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, kind)


NETS: dict[str, Callable[[], Net]] = {
    "an RNN as Scan": rnn_as_scan,
    "an RNN as Scan with fed weights": rnn_with_fed_weights,
    "an RNN as Scan from the end": lambda: rnn_as_scan(scan_input_directions=[1], scan_output_directions=[1]),
    "a Scan along other axes": scan_along_other_axes,
    "a Scan without state": scan_without_state,
    "an RNN as Loop": rnn_as_loop,
    "a Loop until a condition": loop_until_large,
    "a Loop whose state grows": loop_that_grows,
    "a branch, taken": lambda: branches(1.0),
    "the other branch": lambda: branches(-1.0),
    "a turn that is a vector of one": turn_as_a_vector,
    "a branch that is a constant": branch_that_is_a_constant,
    "a branch in a Scan in a Loop": branch_inside_scan_inside_loop,
    "fused operators in a branch in a Loop": lambda: fused_in_a_loop(True),
    "fused operators in the other branch": lambda: fused_in_a_loop(False),
    "a list, edited and joined": lambda: edited_list(axis=0),
    "a list, edited and stacked": lambda: edited_list(axis=1, new_axis=1),
    "pieces of one size": lambda: pieces(np.array(1, np.int64)),
    "pieces of many sizes": lambda: pieces(np.array([1, 2, 1], np.int64)),
    "slices": lambda: pieces(None, keepdims=0),
    "slices of one, as torch writes them": lambda: pieces(np.array(1, np.int64), keepdims=0),
    "a list from a branch": lambda: list_in_a_branch(True),
    "a list from the other branch": lambda: list_in_a_branch(False),
    "a list filled by a loop": list_filled_by_a_loop,
    "a map of a list": map_of_a_list,
    "an optional tensor": lambda: optional_tensor(True),
    "no optional tensor": lambda: optional_tensor(False),
}

EDITED = ["a list, edited and joined", "a list, edited and stacked"]
TRIED_BY = {
    "If": ["a branch, taken", "a branch in a Scan in a Loop"],
    "Loop": ["an RNN as Loop", "a Loop until a condition", "a Loop whose state grows"],
    "Scan": ["an RNN as Scan", "a Scan along other axes", "a Scan without state"],
    "SequenceConstruct": EDITED,
    "SequenceInsert": EDITED,
    "SequenceErase": EDITED,
    "SequenceAt": EDITED,
    "ConcatFromSequence": EDITED,
    "SplitToSequence": ["pieces of one size", "pieces of many sizes", "slices"],
    "Optional": ["an optional tensor"],
    "OptionalGetElement": ["an optional tensor"],
}
"""Operator → the nets that try it."""


def cases() -> dict[str, list[tuple[str, onnx.ModelProto, dict[str, Array]]]]:
    """(name, model, feeds) per operator, for the table of all operators."""
    return {op: [(name, NETS[name]().model, NETS[name]().feeds) for name in names] for op, names in TRIED_BY.items()}
