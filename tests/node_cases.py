"""Single-operator cases: the standard's own suite and, for what it leaves out, a few of ours, each in two forms.

*fixed* : shapes are static, everything but the explained inputs is a constant, as exporters write it
*fed*   : dimensions of the explained inputs are symbolic and all inputs are fed, so that rules have to work at run time
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import control_nets
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

FIXED, FED = "fixed", "fed"

EARLIER_OPSETS = (21, 20, 18, 16)
"""Where a case is tried as well, when onnxruntime has no kernel for the opset that it is written in."""

NOT_DIFFERENTIABLE: Mapping[str, tuple[int, ...]] = {
    "CastLike": (1,),
    "Dropout": (1,),
    "OneHot": (0, 1),
    "Resize": (1, 2),
    "Upsample": (1,),
}
"""Floating-point operands that are sizes, rates or positions, not values."""

WEIGHTED = frozenset({"Conv", "ConvTranspose"})
"""Operators whose kernel has a size that is known even where that of the image is not."""


TIME_FIRST = frozenset({"RNN", "GRU", "LSTM"})
"""Operators of whose tensors no axis 0 counts samples: an axis of one is put in front of what they give."""


@dataclass(frozen=True)
class Case:
    """One node as a model.  feeds : every graph input, the explained ones first in `explained`"""

    name: str
    form: str
    model: onnx.ModelProto
    feeds: dict[str, Array]
    explained: tuple[str, ...]

    @property
    def node(self) -> onnx.NodeProto:
        return self.model.graph.node[0]

    @property
    def float_outputs(self) -> list[str]:
        return [value.name for value in self.model.graph.output if _element_type(value) in _FLOATS]

    def session(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        return ort.InferenceSession(self.model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __str__(self) -> str:
        return f"{self.name} ({self.form})"


_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE}


class NotUsable(Exception):
    """Why a case of the suite is left out."""


def cases_of(op_type: str) -> Iterator[Case | tuple[str, str]]:
    """Every usable case in its forms, and (name, reason) for those that are not."""
    for name, model, feeds in [*_standard_cases().get(op_type, []), *_own_cases().get(op_type, [])]:
        for form in (FIXED, FED):
            try:
                yield _in_form(name, form, model, feeds)
            except NotUsable as reason:
                yield name, str(reason)


def has_cases(op_type: str) -> bool:
    return op_type in _standard_cases() or op_type in _own_cases()


@functools.cache
def _standard_cases() -> dict[str, list[tuple[str, onnx.ModelProto, dict[str, Array]]]]:
    """The generator of the `onnx` package, by operator; cases of one node that take tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        collected = collect_testcases(None)
    found: dict[str, list[tuple[str, onnx.ModelProto, dict[str, Array]]]] = {}
    for case in collected:
        if case.model is None or len(case.model.graph.node) != 1 or not case.data_sets:
            continue
        values = case.data_sets[0][0]
        feeds = dict(zip((i.name for i in case.model.graph.input), values, strict=False))
        if all(isinstance(value, np.ndarray | np.generic) for value in feeds.values()):
            arrays = {name: np.asarray(value) for name, value in feeds.items()}
            found.setdefault(case.model.graph.node[0].op_type, []).append((case.name, case.model, arrays))
    return found


# --- one case in one form --------------------------------------------------------------------------------------------


def _in_form(name: str, form: str, original: onnx.ModelProto, feeds: dict[str, Array]) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(original)
    _take_to_loadable_opset(model)
    node = model.graph.node[0]
    skipped = {node.input[i] for i in NOT_DIFFERENTIABLE.get(node.op_type, ()) if i < len(node.input)}
    explained = tuple(
        value.name for value in model.graph.input if _element_type(value) in _FLOATS and value.name not in skipped
    )
    _require(bool(explained), "no input in float32 or float64")
    _require(all(np.isfinite(feeds[name]).all() for name in explained), "NaN or infinity in its data")
    _require(all(feeds[name].size for name in explained), "empty input")
    outputs = [value for value in model.graph.output if _element_type(value) in _FLOATS]
    _require(bool(outputs), "no output in float32 or float64")
    _require(form == FIXED or all(array.size for array in feeds.values()), "an empty list is fed")
    if form == FIXED:
        kept = _fold_inputs(model, feeds, explained)
    else:
        kept = feeds
        _make_symbolic(model, explained[:1] if node.op_type in WEIGHTED else explained)
    if node.op_type in TIME_FIRST:
        _put_axis_in_front(model)
    case = Case(name, form, model, dict(kept), explained)
    _require_finite_outputs(case)
    return case


def _require_finite_outputs(case: Case) -> None:
    try:
        results = case.session().run(case.float_outputs, case.feeds)
    except Exception as error:
        raise NotUsable(f"onnxruntime does not run it: {str(error).splitlines()[0][:120]}") from error
    _require(all(result.size for result in results), "empty result")
    _require(all(np.isfinite(result).all() for result in results), "NaN or infinity in its result")


def _fold_inputs(model: onnx.ModelProto, feeds: dict[str, Array], explained: Sequence[str]) -> dict[str, Array]:
    """Turn every other input into an initialiser."""
    constants = {name: array for name, array in feeds.items() if name not in explained}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    model.ir_version = max(model.ir_version, 4)
    return {name: feeds[name] for name in feeds if name not in constants}


def _make_symbolic(model: onnx.ModelProto, names: Sequence[str]) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim if value.name in names or value in model.graph.output else []
        for axis, dim in enumerate(dims):
            dim.dim_param = f"{value.name}_{axis}"


def _put_axis_in_front(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "first_axis"))
    for value in model.graph.output:
        names = [f"{name}/given" if name == value.name else name for name in model.graph.node[0].output]
        model.graph.node[0].output[:] = names
        model.graph.node.append(helper.make_node("Unsqueeze", [f"{value.name}/given", "first_axis"], [value.name]))
        value.type.tensor_type.shape.dim.insert(0, onnx.TensorShapeProto.Dimension(dim_value=1))


def _take_to_loadable_opset(model: onnx.ModelProto) -> None:
    """State a case of a later opset in the highest one that onnxruntime has a kernel for, if it is one there."""
    model.ir_version = min(model.ir_version, 11)
    default = next(entry for entry in model.opset_import if not entry.domain)
    given, reason = min(default.version, highest_opset()), ""
    for version in (given, *(opset for opset in EARLIER_OPSETS if opset < given)):
        default.version = version
        try:
            onnx.checker.check_model(model)
            Case("", "", model, {}, ()).session()
            return
        except Exception as error:
            reason = reason or str(error).splitlines()[0][:120]
    raise NotUsable(f"onnxruntime does not run it: {reason}")


@functools.cache
def highest_opset() -> int:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [value], [result])
    for opset in range(onnx.defs.onnx_opset_version(), 17, -1):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        try:
            Case("", "", model, {}, ()).session()
        except Exception:
            continue
        return opset
    return 18


def _element_type(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise NotUsable(reason)


# --- cases of our own ------------------------------------------------------------------------------------------------


def _own(
    name: str, op_type: str, inputs: Sequence[Array | None], outputs: int = 1, opset: int = 18, **attributes: Any
) -> tuple[str, onnx.ModelProto, dict[str, Array]]:
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    feeds = {key: np.asarray(array) for key, array in zip(names, inputs, strict=True) if array is not None}
    results = [f"y{i}" for i in range(outputs)]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op_type, names, results, **attributes)],
            name,
            [
                helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for key, array in feeds.items()
            ],
            [onnx.ValueInfoProto(name=result) for result in results],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    computed = Case(name, "", model, {}, ()).session().run(None, feeds)
    for value, array in zip(model.graph.output, computed, strict=True):
        value.CopyFrom(
            helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        )
    return name, model, feeds


def _floats(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def _ints(*values: Any) -> Array:
    return np.array(values, np.int64)


def _image() -> Array:
    return _floats(2, 3, 6, 7)


def _boxes() -> Array:
    """One that reaches beyond the image, one that is smaller than a pixel on one side."""
    return np.array([[-1.3, 0.7, 8.4, 5.1], [1.1, 2.2, 3.3, 2.9]], np.float32)


_table: dict[str, Any] = {"output_height": 3, "output_width": 2, "spatial_scale": 0.9}


@functools.cache
def _own_cases() -> dict[str, list[tuple[str, onnx.ModelProto, dict[str, Array]]]]:
    """What the standard has no case for, or none that distinguishes a right rule from a wrong one."""
    x = _floats(3, 5, 4)
    repeated = _ints([1, 1], [0, 1], [1, 1])
    with_zeros = np.array([[2.0, 0.0], [1.5, 0.0], [0.5, 3.0]], np.float32)
    cases = [
        _own("cast_to_double", "Cast", [x], to=TensorProto.DOUBLE),
        _own("cast_to_float", "Cast", [x.astype(np.float64)], to=TensorProto.FLOAT),
        _own("cast_like_double", "CastLike", [x, np.zeros(1)]),
        _own("stft_without_a_part_axis", "STFT", [_floats(2, 20), np.array(4, np.int64), _floats(8)]),
        _own("clip_only_upper_bound", "Clip", [x, None, np.float32(0.3)]),
        _own("concat_same_tensor_sizes", "Concat", [x, _floats(3, 1, 4), _floats(3, 2, 4)], axis=-2),
        _own("slice_step_1_clamped", "Slice", [x, _ints(-9, 1), _ints(2, 99), _ints(-2, 0)]),
        _own("slice_default_axes", "Slice", [x, _ints(1, -3), _ints(3, -1)]),
        _own("gather_row", "Gather", [x, np.array(-2, np.int64)], axis=1),
        _own("gather_one_index", "Gather", [x, _ints(3)], axis=1),
        _own("gather_repeated", "Gather", [x, _ints([0, -1, 0], [2, 2, -5])], axis=1),
        _own("gather_nd_repeated", "GatherND", [x, _ints([0, -1], [0, 4], [2, 2])]),
        _own("gather_elements_repeated", "GatherElements", [_floats(3, 2), repeated], axis=0),
        _own("pad_negative", "Pad", [x, _ints(0, -1, 2, 1, 2, -1), np.float32(0.7)], mode="constant"),
        _own("pad_wrap", "Pad", [x, _ints(1, 2, 0, 0, 1, 3)], mode="wrap", opset=19),
        _own("pad_edge_axes", "Pad", [x, _ints(2, 1), None, _ints(-2)], mode="edge"),
        _own("center_crop_pad_odd", "CenterCropPad", [_floats(5, 4, 7), _ints(2, 7, 4)]),
        _own("center_crop_pad_axes", "CenterCropPad", [_floats(5, 4, 7), _ints(8, 3)], axes=[0, -1]),
        _own("unique_distinct", "Unique", [x], sorted=0),
        _own("unique_axis", "Unique", [x], axis=1),
        _own("scatter_elements_mul_zeros", "ScatterElements", [_floats(3, 2), repeated, with_zeros], reduction="mul"),
        _own(
            "scatter_elements_add_repeated", "ScatterElements", [_floats(3, 2), repeated, with_zeros], reduction="add"
        ),
        _own("scatter_elements_overwritten", "ScatterElements", [_floats(3, 2), repeated, _floats(3, 2)]),
        _own("scatter_nd_overwritten", "ScatterND", [_floats(3, 2), _ints([1], [-2], [0]), _floats(3, 2)]),
        _own("scatter_elements_max", "ScatterElements", [_floats(3, 2), repeated, _floats(3, 2)], reduction="max"),
        _own("scatter_nd_mul_zeros", "ScatterND", [_floats(3, 2), _ints([1], [2]), with_zeros[:2]], reduction="mul"),
        _own("one_hot_axis", "OneHot", [_ints([0, 3], [-1, 2]), _ints(4), np.array([-0.5, 2], np.float32)], axis=1),
        _own("top_k_smallest", "TopK", [x, _ints(2)], outputs=2, axis=1, largest=0),
        _own("where_broadcast", "Where", [x > 0, _floats(5, 1), _floats(1)]),
        _own("tile_once_and_thrice", "Tile", [x, _ints(1, 3, 2)]),
        _own("split_uneven", "Split", [x, _ints(1, 4)], outputs=2, axis=1),
        _own("prelu_slope_per_channel", "PRelu", [x, _floats(5, 1)]),
        _own("mod_float", "Mod", [_floats(6) * 10, np.full(6, 1.7, np.float32)], fmod=1),
        _own("expand_new_axes", "Expand", [_floats(5, 1), _ints(2, 1, 4)]),
        _own(
            "col2im_overlap", "Col2Im", [_floats(2, 12, 9), _ints(5, 5), _ints(2, 2)], strides=[2, 2], pads=[1, 1, 0, 0]
        ),
        _own("einsum_diagonals", "Einsum", [_floats(3, 3, 2, 2), _floats(2, 4)], equation="iijj,jk->ki", opset=16),
        _own("einsum_three", "Einsum", [_floats(2, 3), _floats(3, 4, 3), _floats(4, 5)], equation="ij,jkj,kl->li"),
        _own(
            "einsum_four_with_ellipsis",
            "Einsum",
            [_floats(2, 3), _floats(6, 2), _floats(3), _floats(6, 4)],
            equation="...a,b...,a,bc->c...",
        ),
        _own("einsum_trace_and_sum", "Einsum", [_floats(3, 3, 4)], equation="iij->"),
        _own("global_lp_pool", "GlobalLpPool", [_floats(2, 3, 4, 4)], p=3),
        _own("roi_align_adaptive", "RoiAlign", [_image(), _boxes(), _ints(1, 0)], opset=16, **_table),
        _own("roi_align_max", "RoiAlign", [_image(), _boxes(), _ints(1, 0)], opset=16, mode="max", **_table),
        _own(
            "roi_align_pixel_corners",
            "RoiAlign",
            [_image(), _boxes(), _ints(1, 1)],
            opset=16,
            coordinate_transformation_mode="output_half_pixel",
            sampling_ratio=1,
            **_table,
        ),
        _own(
            "max_roi_pool_overlap",
            "MaxRoiPool",
            [_image(), np.concatenate([[[1], [0]], _boxes()], axis=1).astype(np.float32)],
            opset=16,
            pooled_shape=[2, 3],
        ),
        _own("trilu_upper", "Trilu", [x]),
        _own("trilu_lower", "Trilu", [x, np.array(-1, np.int64)], upper=0),
    ]
    found: dict[str, list[tuple[str, onnx.ModelProto, dict[str, Array]]]] = {}
    for case in cases:
        found.setdefault(case[1].graph.node[0].op_type, []).append(case)
    return found | control_nets.cases()
