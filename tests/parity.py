"""The peers' numbers: reads a parity case and runs one of its methods with our names for its rules."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import onnxlrp

LATER = ("attnlrp", "cp_lrp", "lrp_arras")
NOT_MEANT = ("__stock", "__no_bn_merge", "captum_lrp", "lrp_toolbox", "sensitivity_sq", "_trapezoid")
GRADIENTS = {
    "gradient": {"method": "gradient"},
    "sensitivity_abs": {"method": "sensitivity"},
    "gradient_x_input": {"method": "gradient-x-input"},
    "guided_backprop": {"method": "guided-backprop"},
    "deconvnet": {"method": "deconvnet"},
    "deeplift_rescale": {"method": "deeplift", "activations": "captum"},
    "integrated_gradients_gausslegendre50": {"method": "integrated-gradients", "steps": 50},
}
PRESETS = {
    "epsilon_plus": "epsilon-plus",
    "epsilon_plus_flat": "epsilon-plus-flat",
    "epsilon_alpha2_beta1": "epsilon-alpha2-beta1",
    "epsilon_alpha2_beta1_flat": "epsilon-alpha2-beta1-flat",
    "epsilon_gamma_box": "epsilon-gamma-box",
    "excitation_backprop": "excitation-backprop",
}


@dataclass(frozen=True)
class Case:
    """One model with its references."""

    folder: Path
    description: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Case:
        return cls(folder, json.loads((folder / "case.json").read_text()))

    @property
    def methods(self) -> list[str]:
        """Every method that is a target of ours."""
        return [
            name
            for name, method in self.description["methods"].items()
            if not method.get("informational") and not any(part in name for part in (*LATER, *NOT_MEANT))
        ]

    def deviation(self, method: str, choices: dict[str, Any]) -> float:
        """max|ours − theirs| / max|theirs|."""
        theirs = np.load(self.folder / "reference.npz")[method]
        ours = self.explain(choices)
        return float(np.abs(ours - theirs).max() / np.abs(theirs).max())

    def tolerance(self, method: str) -> float:
        return float(self.description["methods"][method]["tol_float32"])

    def explain(self, choices: dict[str, Any]) -> np.ndarray[Any, Any]:
        where = self.description["relevance_at"]
        quoted = re.search(r'"([^"]+)"', where)
        name = quoted.group(1) if quoted else where
        explainer = onnxlrp.Explainer(self.folder / "model.onnx", inputs=[name], providers="cpu", **choices)
        feeds = dict(np.load(self.folder / "input.npz"))
        return explainer.explain(feeds, target=self._seed(explainer, feeds)).relevance[name]

    def _seed(self, explainer: onnxlrp.Explainer, feeds: dict[str, Any]) -> np.ndarray[Any, Any]:
        shape = next(iter(explainer.predict(feeds).values())).shape
        seed = np.zeros(shape, np.float32)
        for entry in self.description["target"]:
            seed[(entry["batch"], *entry["index"])] = 1.0
        return seed

    def choices(self, method: str) -> dict[str, Any]:
        """What to ask of `Explainer` for a method of the case."""
        if method in GRADIENTS:
            return dict(GRADIENTS[method])
        described = self.description["methods"][method]
        if method == "occlusion":
            return {"method": "occlusion", "window": described["window"], "stride": described["stride"]}
        listing = self.description["node_rule_listings"][described["node_rules"]]
        return {"method": "lrp", "preset": "epsilon", "rules": dict(filter(None, map(self._rule, listing)))}

    def _rule(self, entry: list[str]) -> tuple[str, onnxlrp.rules.Rule | str] | None:
        node, _, written = entry
        rule = written.split("[")[0].strip()
        if rule.startswith("merged") or not rule:
            return None
        return node, self.our_rule(rule)

    def our_rule(self, rule: str) -> onnxlrp.rules.Rule | str:
        numbers = [float(n) for n in re.findall(r"=(-?[0-9.e-]+)", rule)]
        name = rule.split("(")[0]
        if name == "zbox":
            if "params.npz" in rule:
                return onnxlrp.rules.ZBox(*self.box)
            return onnxlrp.rules.ZBox(numbers[0], numbers[1])
        named = {"lrp0": "epsilon(0)", "norm0": "epsilon(0)", "vjp": "gradient", "pass": "pass"}
        named |= {"zplus": "z-plus", "wsquare": "w-square", "flat": "flat"}
        named |= {"relu_guided": "guided", "relu_deconv": "deconvnet"}
        if name in named:
            return named[name]
        return {
            "epsilon": lambda: f"epsilon({numbers[0]})",
            "norm": lambda: f"epsilon({numbers[0]})",
            "gamma": lambda: f"gamma({numbers[0]})",
            "alphabeta": lambda: f"alpha-beta({numbers[0]}, {numbers[1]})",
        }[name]()

    @property
    def box(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        params = np.load(self.folder / "params.npz")
        return params["zbox_low"].astype(np.float32), params["zbox_high"].astype(np.float32)
