"""onnxlrp explains the predictions of any exported ONNX model.

explainer = onnxlrp.Explainer("model.onnx", method="lrp", preset="epsilon-plus")
result = explainer.explain(x)
result.relevance["input"]
"""

from onnxlrp import rules
from onnxlrp.errors import (
    CheckFailed,
    ChoiceError,
    Defect,
    InputError,
    ModelError,
    NeedsShape,
    NoRule,
    OnnxlrpError,
    Unsupported,
)
from onnxlrp.explain import Explainer, explain
from onnxlrp.explanation import Conservation, Explanation
from onnxlrp.methods import METHODS
from onnxlrp.model import Model, read
from onnxlrp.plan import Plan
from onnxlrp.presets import PRESETS
from onnxlrp.version import VERSION as __version__

__all__ = [
    "METHODS",
    "PRESETS",
    "CheckFailed",
    "ChoiceError",
    "Conservation",
    "Defect",
    "Explainer",
    "Explanation",
    "InputError",
    "Model",
    "ModelError",
    "NeedsShape",
    "NoRule",
    "OnnxlrpError",
    "Plan",
    "Unsupported",
    "__version__",
    "explain",
    "read",
    "rules",
]
