"""What a file gives away before anything runs: what it is, what would be explained, and the rule of each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxlrp.data import Meaning
from onnxlrp.errors import ChoiceError, NoRule, Unsupported
from onnxlrp.explain import Explainer
from onnxlrp.model import Model, describe
from onnxlrp.plan import Plan
from onnxlrp.report.summary import preprocessing_as_dict

WHY_PRESET = {
    "attnlrp": "Softmax and MatMul: attention",
    "lrp-lstm": "recurrent layers",
    "epsilon-gamma": "convolutions",
    "epsilon": "neither convolutions, attention nor recurrent layers",
}
"""What in a model makes `default_preset` choose it."""


@dataclass(frozen=True)
class PlanRow:
    """One layer of the plan. source : of the rule, a paper        conserves : its promise"""

    node: str
    operator: str
    rule: str
    because: str
    source: str
    conserves: str


@dataclass(frozen=True)
class Inspection:
    """Everything `onnxlrp inspect` says.

    problem       : why the model cannot be explained so; empty where it can
    without_rule  : operator → its nodes between the explained inputs and the target
    """

    model: dict[str, Any]
    inputs: list[str]
    outputs: list[str]
    operators: dict[str, int]
    weights: dict[str, int]
    preprocessing: dict[str, Any]
    explained: dict[str, Any] = field(default_factory=dict)
    method: str = "lrp"
    preset: str | None = None
    preset_because: str = ""
    plan: list[PlanRow] = field(default_factory=list)
    without_effect: list[str] = field(default_factory=list)
    without_rule: dict[str, list[str]] = field(default_factory=dict)
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_model(
    model: Model, meaning: Meaning, make: Callable[[], Explainer], *, preset: str | None = None
) -> tuple[Inspection, Plan | None]:
    """Describe a model and the plan that `make` would follow; the plan is None where there is none.

    preset : as the caller chose it; None = by default
    Errors: ChoiceError where the caller's choices do not fit.
    """
    found = _described(model, meaning)
    try:
        explainer = make()
    except NoRule as error:
        return Inspection(**found, without_rule=error.missing, problem=str(error)), None
    except Unsupported as error:
        return Inspection(**found, problem=str(error)), None
    output = explainer.output
    explained = {"tensor": output.tensor.name, "because": output.because, "inputs": explainer.explained}
    because = "" if explainer.preset is None else "as asked" if preset else WHY_PRESET.get(explainer.preset, "")
    plan = _plan_of(explainer)
    rows = [
        PlanRow("  " * depth + d.unit.name, d.unit.described_type, str(d.rule), d.source, d.rule.source, d.conserves)
        for depth, d in (plan.levels() if plan is not None else ())
    ]
    without_effect = list(plan.without_effect) if plan is not None else []
    found |= {"explained": explained, "method": explainer.method.name, "preset": explainer.preset}
    return Inspection(**found, preset_because=because, plan=rows, without_effect=without_effect), plan


def _plan_of(explainer: Explainer) -> Plan | None:
    try:
        return explainer.plan
    except ChoiceError:
        return None


def _described(model: Model, meaning: Meaning) -> dict[str, Any]:
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    nodes = list(model.graph.all_nodes())
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes)
    return {
        "model": {
            "name": model.name,
            "path": str(model.path) if model.path is not None else None,
            "sha256": model.sha256,
            "exporter": model.exporter,
            "opset": model.original_opset,
            "read_as_opset": model.opset,
            "nodes": len(nodes),
            "notes": list(model.notes),
        },
        "inputs": [describe(value) for value in model.graph.inputs],
        "outputs": [describe(value) for value in model.graph.outputs],
        "operators": dict(operators.most_common()),
        "weights": {
            "tensors": len(tensors),
            "parameters": sum(tensor.size for tensor in tensors),
            "bytes": sum(tensor.nbytes for tensor in tensors),
        },
        "preprocessing": preprocessing_as_dict(meaning),
    }
