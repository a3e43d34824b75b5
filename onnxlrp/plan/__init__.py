"""Plan: one decision per layer, printable before anything is built."""

from onnxlrp.plan.decisions import Decision, Inside, Plan, Region
from onnxlrp.plan.planner import Chooser, make_plan
from onnxlrp.plan.user_rules import Rules

__all__ = ["Chooser", "Decision", "Inside", "Plan", "Region", "Rules", "make_plan"]
