"""Broken and odd models: every outcome is a right result or one of our errors, never another exception or a crash.

A mutation takes a valid model apart in one of the ways that files are damaged by hand, by tools and by transfer. What
still runs in onnxruntime must come back with the outputs that onnxruntime gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import must

import onnxlrp
from onnxlrp.checks import verify
from onnxlrp.errors import Defect, OnnxlrpError
from onnxlrp.judging.made_up import sample_input

Model = onnx.ModelProto

RANDOM = np.random.default_rng(7)


def net(signature: str, body: str, opset: int = 17, **weights: tuple[int, ...] | np.ndarray[Any, Any]) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')
    for name, given_weight in weights.items():
        is_shape = isinstance(given_weight, tuple)
        array = RANDOM.standard_normal(given_weight).astype(np.float32) if is_shape else given_weight
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


BASES: dict[str, Model] = {
    "mlp": net(
        "(float[N, 4] x) => (float[N, 3] y)",
        "a = Gemm (x, w, b) h = Relu (a) c = MatMul (h, v) y = Softmax <axis = -1> (c)",
        w=(4, 5), b=(5,), v=(5, 3),
    ),
    "cnn": net(
        "(float[N, 2, 6, 6] x) => (float[N, 3] y)",
        "a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b) n = BatchNormalization (a, s, t, m, r) "
        "h = Relu (n) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h) g = GlobalAveragePool (p) "
        "f = Flatten (g) y = Gemm <transB = 1> (f, v)",
        w=(4, 2, 3, 3), b=(4,), s=(4,), t=(4,), m=(4,), r=np.ones(4, np.float32), v=(3, 4),
    ),
    "residual": net(
        "(float[N, 4] x, float[N, 4] z) => (float[N, 2] y, int64[N] k)",
        "a = Add (x, z) t = Tanh (a) c = Concat <axis = 1> (t, x) p, q = Split <axis = 1, num_outputs = 2> (c) "
        "m = Mul (p, q) r = Transpose <perm = [1, 0]> (m) u = Transpose <perm = [1, 0]> (r) y = MatMul (u, w) "
        "k = ArgMax <axis = 1, keepdims = 0> (y)",
        18, w=(4, 2),
    ),
    "tokens": net(
        "(int64[N, 3] x) => (float[N, 3] y)",
        "e = Gather (w, x) n = LayerNormalization (e, s) m = ReduceMean <keepdims = 0> (n, a) y = MatMul (m, v)",
        18, w=(6, 4), s=(4,), v=(4, 3), a=np.array([1]),
    ),
    "old": net(
        "(float[1, 2, 4, 4] x) => (float[1, 6] y)",
        'a = Upsample <mode = "nearest"> (x, s) p = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (a) '
        "q = AveragePool <kernel_shape = [5, 5], strides = [5, 5]> (p) c = Clip <min = -1.0, max = 1.0> (q) "
        "k = Slice <axes = [1], starts = [0], ends = [2]> (c) r = Reshape (k, d) y = Dropout (r)",
        9, s=np.array([1, 1, 2, 2], np.float32), d=np.array([1, -1]),
    ),
    "branch": net(
        "(float[N, 4] x) => (float[N, 4] y)",
        "s = ReduceSum <keepdims = 0> (x) p = Greater (s, o) y = If (p) <then_branch = a () => (float[N, 4] u) "
        "{ u = Relu (x) }, else_branch = b () => (float[N, 4] v) { v = Neg (x) }>",
        o=np.array(0, np.float32),
    ),
}  # fmt: skip

# --- mutations -------------------------------------------------------------------------------------------------------

Mutation = Callable[[Model, Random], None]

SIZES = (0, -1, 1, 2, 3, 7, 2**31, 2**40, -(2**40))
TYPES = (0, 1, 2, 3, 7, 8, 9, 10, 11, 14, 16, 17, 21, 99)


def drop_a_node(model: Model, random: Random) -> None:
    del model.graph.node[random.randrange(len(model.graph.node))]


def repeat_a_node(model: Model, random: Random) -> None:
    model.graph.node.append(copy.deepcopy(random.choice(model.graph.node)))


def reverse_the_nodes(model: Model, random: Random) -> None:
    nodes = [copy.deepcopy(node) for node in model.graph.node][::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def name_nodes_alike(model: Model, random: Random) -> None:
    for node in model.graph.node:
        node.name = "same"


def rename_an_output(model: Model, random: Random) -> None:
    node = random.choice(model.graph.node)
    node.output[random.randrange(len(node.output))] = random.choice(["nowhere", "x", "y", ""])


def rewire_an_input(model: Model, random: Random) -> None:
    node = random.choice([n for n in model.graph.node if n.input])
    names = [*_all_names(model), "nowhere", ""]
    node.input[random.randrange(len(node.input))] = random.choice(names)


def swap_inputs(model: Model, random: Random) -> None:
    node = random.choice(model.graph.node)
    names = list(node.input)
    random.shuffle(names)
    node.input[:] = names


def drop_an_input(model: Model, random: Random) -> None:
    node = random.choice([n for n in model.graph.node if n.input])
    del node.input[random.randrange(len(node.input))]


def add_an_input(model: Model, random: Random) -> None:
    random.choice(model.graph.node).input.extend([random.choice(_all_names(model))] * random.randint(1, 3))


def close_a_circle(model: Model, random: Random) -> None:
    first, last = model.graph.node[0], model.graph.node[-1]
    if first.input:
        first.input[0] = last.output[0]


def another_operator(model: Model, random: Random) -> None:
    random.choice(model.graph.node).op_type = random.choice(
        [
            "Relu",
            "Add",
            "Softmax",
            "Concat",
            "Reshape",
            "LSTM",
            "Loop",
            "If",
            "Split",
            "Nonsense",
            "",
            "SequenceAt",
            "Conv",
        ]
    )


def another_domain(model: Model, random: Random) -> None:
    domain = random.choice(["com.example", "com.microsoft", "ai.onnx.ml", "ai.onnx", " "])
    random.choice(model.graph.node).domain = domain
    if random.random() < 0.5:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))


def another_opset(model: Model, random: Random) -> None:
    model.opset_import[0].version = random.choice([0, -3, 1, 6, 7, 10, 13, 15, 16, 21, 23, 99, 2**40])


def no_opset(model: Model, random: Random) -> None:
    del model.opset_import[:]


def another_ir_version(model: Model, random: Random) -> None:
    model.ir_version = random.choice([0, 1, 2, 3, 4, 7, 11, 13, 99, -1])


def another_weight_type(model: Model, random: Random) -> None:
    _weight(model, random).data_type = random.choice(TYPES)


def another_weight_shape(model: Model, random: Random) -> None:
    dims = _weight(model, random).dims
    dims[:] = [random.choice(SIZES) for _ in range(random.randint(0, 4))]


def cut_a_weight(model: Model, random: Random) -> None:
    tensor = _weight(model, random)
    tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]


def spoil_a_weight(model: Model, random: Random) -> None:
    tensor = _weight(model, random)
    array = onnx.numpy_helper.to_array(tensor).copy()
    if array.dtype.kind == "f":
        array.reshape(-1)[:1] = random.choice([np.nan, np.inf, -np.inf, 3e38, 1e-40])
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def send_a_weight_outside(model: Model, random: Random) -> None:
    tensor = _weight(model, random)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", random.choice(["nowhere.bin", "../../etc/passwd", "", "/dev/zero"])


def repeat_a_weight(model: Model, random: Random) -> None:
    model.graph.initializer.append(copy.deepcopy(_weight(model, random)))


def drop_a_weight(model: Model, random: Random) -> None:
    del model.graph.initializer[random.randrange(len(model.graph.initializer))]


def list_a_weight_as_input(model: Model, random: Random) -> None:
    tensor = _weight(model, random)
    dims = [random.choice(SIZES), *tensor.dims] if random.random() < 0.3 else list(tensor.dims)
    model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, dims))


def another_input_type(model: Model, random: Random) -> None:
    random.choice(model.graph.input).type.tensor_type.elem_type = random.choice(TYPES)


def another_input_shape(model: Model, random: Random) -> None:
    shape = random.choice(model.graph.input).type.tensor_type.shape
    if random.random() < 0.3:
        shape.dim.add().dim_value = random.choice(SIZES)
    elif shape.dim:
        random.choice(shape.dim).dim_value = random.choice(SIZES)


def an_input_without_shape(model: Model, random: Random) -> None:
    random.choice(model.graph.input).type.tensor_type.ClearField("shape")


def an_input_that_is_no_tensor(model: Model, random: Random) -> None:
    value = random.choice(model.graph.input)
    kind = onnx.helper.make_tensor_type_proto(1, [2])
    value.type.CopyFrom(
        random.choice([onnx.helper.make_sequence_type_proto, onnx.helper.make_optional_type_proto])(kind)
    )


def drop_a_graph_input(model: Model, random: Random) -> None:
    del model.graph.input[random.randrange(len(model.graph.input))]


def drop_an_output(model: Model, random: Random) -> None:
    del model.graph.output[random.randrange(len(model.graph.output))]


def another_output(model: Model, random: Random) -> None:
    name = random.choice([*_all_names(model), "nowhere", ""])
    model.graph.output.insert(0, onnx.helper.make_tensor_value_info(name, random.choice([0, 1, 7]), None))


def a_wrong_declaration(model: Model, random: Random) -> None:
    name = random.choice(_all_names(model))
    dims = [random.choice(SIZES) for _ in range(random.randint(0, 4))]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, random.choice(TYPES), dims))


def another_attribute(model: Model, random: Random) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    attribute = random.choice(random.choice(nodes).attribute)
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = random.choice([-99, -3, -2, -1, 0, 1, 2, 3, 99, 2**40])
    elif attribute.type == onnx.AttributeProto.INTS:
        attribute.ints[:] = [random.choice([-1, 0, 1, 2, 3, 99]) for _ in range(random.randint(0, 5))]
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = random.choice([np.nan, np.inf, -1.0, 0.0])
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = random.choice([b"", b"nearest", b"reflect", b"\xff\xfe"])


def an_attribute_of_another_type(model: Model, random: Random) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if nodes:
        random.choice(random.choice(nodes).attribute).type = random.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 99])


def drop_an_attribute(model: Model, random: Random) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if nodes:
        node = random.choice(nodes)
        del node.attribute[random.randrange(len(node.attribute))]


def add_an_attribute(model: Model, random: Random) -> None:
    name, value = random.choice(
        [("axis", 9), ("axis", "one"), ("nonsense", 1.0), ("group", 3), ("keepdims", 7), ("to", 99)]
    )
    random.choice(model.graph.node).attribute.append(onnx.helper.make_attribute(name, value))


MUTATIONS: dict[str, Mutation] = {
    f.__name__: f
    for f in (
        drop_a_node, repeat_a_node, reverse_the_nodes, name_nodes_alike, rename_an_output, rewire_an_input, swap_inputs,
        drop_an_input, add_an_input, close_a_circle, another_operator, another_domain, another_opset, no_opset,
        another_ir_version, another_weight_type, another_weight_shape, cut_a_weight, spoil_a_weight,
        send_a_weight_outside, repeat_a_weight, drop_a_weight, list_a_weight_as_input, another_input_type,
        another_input_shape, an_input_without_shape, an_input_that_is_no_tensor, drop_a_graph_input, drop_an_output,
        another_output, a_wrong_declaration, another_attribute, an_attribute_of_another_type, drop_an_attribute,
        add_an_attribute,
    )
}  # fmt: skip


def garbled(data: bytes, random: Random) -> bytes:
    """Cut short, or with a few bytes changed, inserted or lost."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(changed))
        how = random.randrange(4)
        if how == 0:
            changed[place] = random.randrange(256)
        elif how == 1:
            changed[place:place] = bytes(random.randrange(256) for _ in range(random.randint(1, 8)))
        elif how == 2:
            del changed[place : place + random.randint(1, 8)]
        else:
            del changed[place:]
        if not changed:
            break
    return bytes(changed)


def _all_names(model: Model) -> list[str]:
    made = [name for node in model.graph.node for name in node.output]
    return sorted({*made, *(v.name for v in model.graph.input), *(t.name for t in model.graph.initializer)})


def _weight(model: Model, random: Random) -> onnx.TensorProto:
    return random.choice(model.graph.initializer)


# --- outcomes --------------------------------------------------------------------------------------------------------


def outcome(source: bytes) -> str:
    """Gives "right" or the name of our error; AssertionError for a wrong number, and whatever else escapes."""
    try:
        model = onnxlrp.read(source)
        explainer = onnxlrp.Explainer(model)
        result = explainer.explain(sample_input(explainer.model, 0))
    except Defect:
        raise
    except OnnxlrpError as error:
        must(bool(str(error).strip()), "an error without a word")
        return type(error).__name__
    for name, expected in original(source, result.inputs).items():
        found = result.outputs[name]
        if isinstance(expected, np.ndarray) and expected.dtype.kind in "fiub":
            assert found.shape == expected.shape, name
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, err_msg=name)
    finite = all(np.isfinite(array).all() for array in result.relevance.values())
    must(finite or any("NaN or infinity" in warning for warning in result.warnings), "NaN without a word")
    return "right"


def original(source: bytes, feeds: Any) -> dict[str, Any]:
    """What onnxruntime makes of the file itself; nothing where it refuses it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(source, options)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception:  # onnxruntime's errors have no common class
        return {}


# --- what is asked of all of them ------------------------------------------------------------------------------------

BOUNDED = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
"""The same cases everywhere; `max_examples` keeps it to half a minute."""

IMPOSSIBLE = (IndexError, ValueError, TypeError, AttributeError)
"""What a second mutation raises on a model that the first one has taken apart."""


def damaged(base: str, names: list[str], random: Random) -> bytes:
    model = Model()
    model.CopyFrom(BASES[base])
    for name in names:
        with suppress(*IMPOSSIBLE):
            MUTATIONS[name](model, random)
    return model.SerializeToString()


@BOUNDED
@given(
    base=st.sampled_from(sorted(BASES)),
    names=st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=1, max_size=3),
    random=st.randoms(use_true_random=False),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_damaged_model_ends_in_a_right_result_or_one_of_our_errors(
    base: str, names: list[str], random: Random
) -> None:
    outcome(damaged(base, names, random))


@BOUNDED
@given(base=st.sampled_from(sorted(BASES)), random=st.randoms(use_true_random=False))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_garbled_bytes_end_in_a_right_result_or_one_of_our_errors(base: str, random: Random) -> None:
    outcome(garbled(BASES[base].SerializeToString(), random))


@pytest.mark.parametrize("base", BASES)
def test_the_models_that_are_damaged_are_right_as_they_are(base: str) -> None:
    assert outcome(BASES[base].SerializeToString()) == "right"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("close_a_circle", "wait for each other"),
        ("drop_a_weight", "which no node, input or weight gives"),
        ("repeat_a_node", "made more than once"),
        ("drop_a_graph_input", "which no node, input or weight gives"),
    ],
)
def test_a_broken_graph_is_a_model_error_that_says_what_is_broken(name: str, said: str) -> None:
    with pytest.raises(OnnxlrpError, match=said):
        onnxlrp.Explainer(damaged("mlp", [name], Random(1)))


IF = "s = ReduceSum <keepdims = 0> (x) p = Greater (s, o) y = If (p) <then_branch = a () => "
LOOP = "y = Loop (m, , x) <body = a (int64 t, bool g, "
MISDECLARED = {
    "outputs of branches": f"{IF} (float[N, 5] u) {{ u = Relu (x) }}, "
    "else_branch = b () => (float[7] v) { v = Neg (x) }>",
    "inside a branch": f"{IF} (float[N, 4] u) <float[2, 3, 4] i> {{ i = Relu (x) u = Neg (i) }}, "
    "else_branch = b () => (float[N, 4] v) { v = Neg (x) }>",
    "the rank of a state": f"{LOOP} float[3, 3, 4] h) => (bool n, float[3, 3, 4] k) "
    "{ i = MatMul (h, w) k = Tanh (i) n = Identity (g) }>",
    "the size of a state": f"{LOOP} float[N, 5] h) => (bool n, float[N, 5] k) "
    "{ i = MatMul (h, w) j = Softmax <axis = -1> (i) k = Mul (h, j) n = Identity (g) }>",
}


@pytest.mark.parametrize("place", MISDECLARED)
def test_shapes_declared_in_branches_and_bodies_are_not_believed_against_the_nodes(place: str) -> None:
    weights = {"o": np.array(0, np.float32), "m": np.array(2), "w": (4, 4)}
    made = net("(float[N, 4] x) => (float[N, 4] y)", MISDECLARED[place], **weights)  # type: ignore[arg-type]
    assert outcome(made.SerializeToString()) == "right"
    assert any("are not believed" in note for note in onnxlrp.read(made).notes)


# --- random graphs ---------------------------------------------------------------------------------------------------

STEPS = (
    "{y} = Relu ({a})", "{y} = Tanh ({a})", "{y} = Sigmoid ({a})", "{y} = Softplus ({a})", "{y} = Add ({a}, {b})",
    "{y} = Mul ({a}, {b})", "{y} = Sub ({a}, {b})", "{y} = Max ({a}, {b})", "{y} = MatMul ({a}, w)",
    "{y} = Gemm <alpha = 0.5> ({a}, w, c)", "{y} = Neg ({a})", "{y} = Abs ({a})", "{y} = Softmax <axis = -1> ({a})",
    "{y} = LayerNormalization ({a}, c)", "{y} = Erf ({a})", "{y} = LeakyRelu ({a})",
    "{y}t = Transpose <perm = [1, 0]> ({a}) {y} = Transpose <perm = [1, 0]> ({y}t)",
    "{y}p, {y}q = Split <axis = 1, num_outputs = 2> ({a}) {y} = Concat <axis = 1> ({y}q, {y}p)",
    "{y}m = ReduceMean ({a}, one) {y} = Add ({b}, {y}m)", "{y} = Where (mask, {a}, {b})",
)  # fmt: skip


@settings(BOUNDED, max_examples=25)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=10), random=st.randoms(use_true_random=False))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_random_graph_agrees_with_finite_differences(steps: list[str], random: Random) -> None:
    names, body = ["x", "z"], ""
    for index, step in enumerate(steps):
        body += " " + step.format(y=f"v{index}", a=random.choice(names[-3:]), b=random.choice(names))
        names.append(f"v{index}")
    made = net(
        "(float[N, 4] x, float[N, 4] z) => (float[N, 4] y)",
        f"{body} y = Add ({names[-1]}, x)",
        18,
        w=(4, 4),
        c=(4,),
        one=np.array([1]),
        mask=np.array([True, False, True, False]),
    )
    verdict = verify(made)
    assert verdict.holds, f"{body}\n{verdict}"
