"""Recurrent operators: relevance against a dense float64 twin, gradients against finite differences.

The twin walks one sequence at a time, step by step, and never calls the implementation. It is as long as the sample is,
so padding and reversal are checked as well.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from gradient_check import check_gradient
from node_cases import FED
from node_cases import Case as NodeCase
from onnx import TensorProto, helper, numpy_helper
from parity import GRADIENTS, Case
from shared import SHARED

import onnxlrp
from onnxlrp.errors import Unsupported
from onnxlrp.rules.activations import Function

Array = np.ndarray[Any, Any]

STEPS, BATCH, WIDE, HIDDEN = 5, 3, 4, 6
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FORWARD, REVERSE, BOTH = "forward", "reverse", "bidirectional"
EPS = 1e-3


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def stabilised(z: Array, eps: float = EPS) -> Array:
    return z + eps * np.where(z >= 0, 1.0, -1.0)


class Net:
    """One recurrent node with random weights, everything fed, every size symbolic; its output behind an axis of one.

    output : "Y", "Y_h" or "Y_c"
    """

    def __init__(self, op_type: str, direction: str, output: str, *, lengths: bool = False, **attributes: Any) -> None:
        random = np.random.default_rng(len(op_type) + len(direction))
        count, gates = (2 if direction == BOTH else 1), GATES[op_type]
        self.op_type, self.direction, self.output, self.attributes = op_type, direction, output, attributes
        shapes = {
            "X": (STEPS, BATCH, WIDE),
            "W": (count, gates * HIDDEN, WIDE),
            "R": (count, gates * HIDDEN, HIDDEN),
            "B": (count, 2 * gates * HIDDEN),
            "sequence_lens": None,
            "initial_h": (count, BATCH, HIDDEN),
        }
        if op_type == "LSTM":
            shapes |= {"initial_c": (count, BATCH, HIDDEN), "P": (count, 3 * HIDDEN)}
        self.feeds = {n: random.normal(size=s).astype(np.float32) * 0.7 for n, s in shapes.items() if s is not None}
        self.lengths = np.array([STEPS, 2, 4], np.int32) if lengths else np.full(BATCH, STEPS, np.int32)
        names = [n if n != "sequence_lens" or lengths else "" for n in shapes]
        self.model = self._model(names, lengths, ["Y", "Y_h", "Y_c"][: 3 if op_type == "LSTM" else 2])

    def _model(self, names: list[str], lengths: bool, outputs: list[str]) -> onnx.ModelProto:
        given = {"direction": self.direction, "hidden_size": HIDDEN} | self.attributes
        node = helper.make_node(self.op_type, names, outputs, name="cell", **given)
        front = helper.make_node("Unsqueeze", [self.output, "zero"], ["out"])
        constants = [numpy_helper.from_array(np.zeros(1, np.int64), "zero")]
        if lengths:
            constants.append(numpy_helper.from_array(self.lengths, "sequence_lens"))
        inputs = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"{n}{i}" for i in range(a.ndim)])
            for n, a in self.feeds.items()
        ]
        axes = [f"out{axis}" for axis in range(4 if self.output == "Y" else 3)]
        result = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, *axes])
        graph = helper.make_graph([node, front], "net", inputs, [result], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def explainer(self, inputs: list[str], **choices: Any) -> onnxlrp.Explainer:
        return onnxlrp.Explainer(self.model, inputs=inputs, output="out", providers="cpu", batch_size=10**9, **choices)

    @functools.cached_property
    def y(self) -> Array:
        return self.explainer(["X"], method="gradient").predict(self.feeds)["out"]

    def relevance(self, inputs: list[str], seed: Array, **choices: Any) -> dict[str, Array]:
        """Starting from seed ⊙ y."""
        choices = {"method": "lrp", "preset": "lrp-lstm"} | choices
        return self.explainer(inputs, **choices).explain(self.feeds, target=seed).relevance


# --- the twin --------------------------------------------------------------------------------------------------------


def twin(net: Net, seed: Array) -> dict[str, Array]:
    """Relevance of X and of the initial states, one sequence of one direction at a time."""
    found = {name: np.zeros(net.feeds[name].shape) for name in net.feeds if name[0] in "Xi"}
    relevance = (seed.astype(float) * net.y.astype(float))[0]
    for direction, sample in itertools.product(range(len(net.feeds["W"])), range(BATCH)):
        backwards = net.direction == REVERSE or direction == 1
        order = list(range(net.lengths[sample]))[:: -1 if backwards else 1]
        states = [net.feeds[n][direction, sample].astype(float) for n in ("initial_h", "initial_c") if n in net.feeds]
        trace = []
        for time in order:
            x = net.feeds["X"][time, sample].astype(float)
            trace.append((x, *STEP[net.op_type](net, direction, x, states)))
            states = trace[-1][-1]
        at_states = [np.zeros(HIDDEN) for _ in states]
        if net.output in ("Y_h", "Y_c"):
            at_states[net.output == "Y_c"] = relevance[direction, sample]
        for time, (x, before, parts, after) in zip(order[::-1], trace[::-1], strict=True):
            if net.output == "Y":
                at_states[0] = at_states[0] + relevance[time, direction, sample]
            at_x, at_states = BACK[net.op_type](net, direction, x, before, parts, after, at_states)
            found["X"][time, sample] += at_x
        for name, value in zip(("initial_h", "initial_c"), at_states, strict=False):
            found[name][direction, sample] = value
    return found


def weights(net: Net, direction: int) -> tuple[Array, Array, Array, Array]:
    w, r, b = (net.feeds[name][direction].astype(float) for name in ("W", "R", "B"))
    return w, r, *np.split(b, 2)


def rnn_step(net: Net, direction: int, x: Array, states: list[Array]) -> tuple[Any, ...]:
    w, r, wb, rb = weights(net, direction)
    z = w @ x + wb + r @ states[0] + rb
    return states, z, [np.tanh(z)]


def rnn_back(net: Net, direction: int, x: Array, before: Any, z: Any, after: Any, arrived: Any) -> tuple[Array, Any]:
    w, r, *_ = weights(net, direction)
    s = arrived[0] / stabilised(z)
    return x * (w.T @ s), [before[0] * (r.T @ s)]


def gru_step(net: Net, direction: int, x: Array, states: list[Array]) -> tuple[Any, ...]:
    w, r, wb, rb = weights(net, direction)
    (wz, wr, wn), (bz, br, bn) = np.split(w, 3), np.split(wb, 3)
    (hz, hr, hn), (cz, cr, cn) = np.split(r, 3), np.split(rb, 3)
    h = states[0]
    update, reset = sigmoid(wz @ x + bz + hz @ h + cz), sigmoid(wr @ x + br + hr @ h + cr)
    after_reset = net.attributes.get("linear_before_reset")
    z = wn @ x + bn + (reset * (hn @ h + cn) if after_reset else hn @ (reset * h) + cn)
    return states, (update, reset, z), [(1 - update) * np.tanh(z) + update * h]


def gru_back(net: Net, direction: int, x: Array, before: Any, parts: Any, after: Any, arrived: Any) -> tuple[Any, Any]:
    w, r, *_ = weights(net, direction)
    update, reset, z = parts
    wn, hn = np.split(w, 3)[2], np.split(r, 3)[2]
    share = arrived[0] / stabilised(after[0])
    s = (1 - update) * np.tanh(z) * share / stabilised(z)
    through = hn.T @ (reset * s) if net.attributes.get("linear_before_reset") else reset * (hn.T @ s)
    return x * (wn.T @ s), [before[0] * (update * share + through)]


def lstm_step(net: Net, direction: int, x: Array, states: list[Array]) -> tuple[Any, ...]:
    w, r, wb, rb = weights(net, direction)
    h, c = states
    to_i, to_o, to_f = np.split(net.feeds["P"][direction].astype(float), 3)
    zi, zo, zf, zg = np.split(w @ x + wb + r @ h + rb, 4)
    i, f, g = sigmoid(zi + to_i * c), sigmoid(zf + to_f * c), np.tanh(zg)
    f = 1 - i if net.attributes.get("input_forget") else f
    new = f * c + i * g
    return states, (i, f, zg), [sigmoid(zo + to_o * new) * np.tanh(new), new]


def lstm_back(net: Net, direction: int, x: Array, before: Any, parts: Any, after: Any, arrived: Any) -> tuple[Any, Any]:
    w, r, *_ = weights(net, direction)
    i, f, zg = parts
    share = (arrived[0] + arrived[1]) / stabilised(after[1])
    s = i * np.tanh(zg) * share / stabilised(zg)
    wg, rg = np.split(w, 4)[3], np.split(r, 4)[3]
    return x * (wg.T @ s), [before[0] * (rg.T @ s), f * before[1] * share]


STEP = {"RNN": rnn_step, "GRU": gru_step, "LSTM": lstm_step}
BACK = {"RNN": rnn_back, "GRU": gru_back, "LSTM": lstm_back}

NETS = [
    *itertools.product(("RNN", "GRU", "LSTM"), (FORWARD, REVERSE, BOTH), ("Y", "Y_h"), (False, True), ({},)),
    *itertools.product(("GRU",), (BOTH,), ("Y",), (False, True), ({"linear_before_reset": 1},)),
    ("LSTM", FORWARD, "Y_c", True, {}),
    ("LSTM", BOTH, "Y_c", False, {"input_forget": 1}),
]


def named(net: tuple[Any, ...]) -> str:
    op_type, direction, output, lengths, attributes = net
    return "-".join([op_type, direction, output, *(["lengths"] if lengths else []), *attributes])


@pytest.mark.parametrize("described", NETS, ids=named)
def test_relevance_equals_the_twin(described: Any) -> None:
    op_type, direction, output, lengths, attributes = described
    net = Net(op_type, direction, output, lengths=lengths, **attributes)
    seed = np.random.default_rng(3).normal(size=net.y.shape).astype(np.float32)
    theirs = twin(net, seed)
    ours = net.relevance(list(theirs), seed)
    for name, expected in theirs.items():
        assert np.abs(ours[name] - expected).max() <= 1e-4 * np.abs(expected).max(), name


@pytest.mark.parametrize("op_type", GATES)
def test_nothing_lands_behind_the_end_of_a_sample(op_type: str) -> None:
    net = Net(op_type, BOTH, "Y", lengths=True)
    for method in ("lrp", "gradient"):
        preset = {"preset": "lrp-lstm"} if method == "lrp" else {"preset": None}
        found = net.relevance(["X"], np.ones_like(net.y), method=method, **preset)["X"]
        for sample, length in enumerate(net.lengths):
            assert np.abs(found[:length, sample]).min() > 0
            assert not found[length:, sample].any()


# --- gradients: what the standard's cases leave out ------------------------------------------------------------------

EVERY = [
    *("Affine", "Relu", "LeakyRelu", "ThresholdedRelu", "Tanh", "ScaledTanh"),
    *("Sigmoid", "HardSigmoid", "Elu", "Softsign", "Softplus"),
]
OTHERS: list[tuple[str, str, str, bool, dict[str, Any]]] = [
    ("LSTM", FORWARD, "Y", False, {"clip": 0.4}),
    ("GRU", FORWARD, "Y", False, {"clip": 0.4}),
    ("RNN", FORWARD, "Y", False, {"clip": 0.4}),
    ("LSTM", BOTH, "Y_h", True, {"activations": ["Sigmoid", "Softsign", "Tanh", "HardSigmoid", "Tanh", "Softsign"]}),
    ("GRU", BOTH, "Y_h", False, {"activations": ["HardSigmoid", "Tanh", "Sigmoid", "Softsign"]}),
    *(
        ("RNN", FORWARD, "Y", False, {"activations": [name], "activation_alpha": [0.3], "activation_beta": [0.6]})
        for name in EVERY
    ),
]


@pytest.mark.parametrize("described", [*NETS, *OTHERS], ids=lambda d: named(d) + str(d[4].get("activations", "")))
def test_gradient_agrees_with_finite_differences(described: Any) -> None:
    """For all floating-point operands at once, along random directions."""
    op_type, direction, output, lengths, attributes = described
    net = Net(op_type, direction, output, lengths=lengths, **attributes)
    check_gradient(NodeCase(named(described), FED, net.model, net.feeds, tuple(net.feeds)), "out")


def test_length_and_batch_may_change_from_call_to_call() -> None:
    net = Net("LSTM", BOTH, "Y_h")
    explainer = net.explainer(["X"], method="lrp", preset="lrp-lstm")
    for steps in (1, 3, STEPS):
        feeds = net.feeds | {"X": net.feeds["X"][:steps]}
        assert explainer.explain(feeds, target=np.ones_like(net.y)).relevance["X"].shape == (steps, BATCH, WIDE)


def test_samples_of_a_batch_do_not_mix() -> None:
    net = Net("GRU", BOTH, "Y_h")
    seed = np.random.default_rng(2).normal(size=net.y.shape).astype(np.float32)
    together = net.relevance(["X"], seed)["X"]
    for sample in range(BATCH):
        only = np.zeros_like(seed)
        only[:, :, sample] = seed[:, :, sample]
        alone = net.relevance(["X"], only)["X"]
        np.testing.assert_allclose(alone[:, sample], together[:, sample], rtol=1e-4, atol=1e-5)
        assert not np.delete(alone, sample, axis=1).any()


# --- conservation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", GATES)
def test_relevance_is_conserved_without_bias_and_stabiliser(op_type: str) -> None:
    net = Net(op_type, BOTH, "Y_h")
    net.feeds["B"] = np.zeros_like(net.feeds["B"])
    seed = np.random.default_rng(5).random(net.y.shape).astype(np.float32)
    inputs = [name for name in ("X", "initial_h", "initial_c") if name in net.feeds]
    found = net.relevance(inputs, seed, preset="epsilon", rules={"cell": "epsilon(0)"})
    arrived = sum(float(array.sum(dtype=float)) for array in found.values())
    size = sum(float(np.abs(array).sum(dtype=float)) for array in found.values())
    assert abs(arrived - float(np.sum(seed * net.y, dtype=float))) <= 1e-4 * size


@pytest.mark.parametrize("op_type", GATES)
def test_a_bias_that_is_distributed_is_not_lost(op_type: str) -> None:
    net = Net(op_type, BOTH, "Y_h")
    seed = np.random.default_rng(5).random(net.y.shape).astype(np.float32)
    inputs = [name for name in ("X", "initial_h", "initial_c") if name in net.feeds]
    found = net.relevance(inputs, seed, preset="epsilon", rules={"cell": "epsilon(0)"}, bias="distribute")
    arrived = sum(float(array.sum(dtype=float)) for array in found.values())
    size = sum(float(np.abs(array).sum(dtype=float)) for array in found.values())
    assert abs(arrived - float(np.sum(seed * net.y, dtype=float))) <= 1e-4 * size


@pytest.mark.parametrize("name", ["test_lstm_batchwise", "test_gru_batchwise", "test_simple_rnn_batchwise"])
def test_layout_1_runs_with_time_in_front(name: str) -> None:
    """onnxruntime refuses it; the outputs are those of the standard's own cases."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        case = next(case for case in collect_testcases(None) if case.name == name)
    ((feeds, expected),) = case.data_sets
    inputs = dict(zip((value.name for value in case.model.graph.input), feeds, strict=True))
    case.model.ir_version = 10
    case.model.opset_import[0].version = 17
    explainer = onnxlrp.Explainer(case.model, output="Y", providers="cpu", inputs=["X"], method="gradient")
    found = explainer.predict(inputs)
    for value, theirs in zip(case.model.graph.output, expected, strict=True):
        np.testing.assert_allclose(found[value.name], theirs, rtol=1e-5, atol=1e-6)
    seed = np.ones_like(found["Y"])
    relevance = explainer.explain(inputs, target=seed).relevance["X"]
    moved = [np.sum(explainer.predict(inputs | {"X": inputs["X"] + t})["Y"], dtype=float) for t in (-1e-2, 1e-2)]
    np.testing.assert_allclose(relevance.sum(dtype=float), (moved[1] - moved[0]) / 2e-2, rtol=1e-3)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(Unsupported, match="'Gelu' is none of"):
        Function.named("Gelu", 0.0, 0.0)


# --- the peers' numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm_bidi_arras", "lstm_uni_dense", "gru"])
def test_numbers_of_the_peers(name: str) -> None:
    """Arras et al.'s own code with bias_factor 0, PyTorch's gradients, captum's integrated gradients and occlusion."""
    folder = SHARED / "parity" / name
    if not folder.is_dir():
        pytest.skip("../shared/parity is not there")
    case = Case.read(folder)
    asked = {method: dict(choices) for method, choices in GRADIENTS.items() if method in case.methods}
    if "lrp_arras_bf0" in case.description["methods"]:
        asked["lrp_arras_bf0"] = {"method": "lrp", "preset": "lrp-lstm"}
    asked["occlusion"] = case.choices("occlusion")
    assert len(asked) >= 5
    for method, choices in asked.items():
        assert case.deviation(method, choices) <= case.tolerance(method), method
