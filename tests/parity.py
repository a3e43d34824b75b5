"""The peers' numbers: reads a parity case and runs one of its methods with our names for its rules."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import onnxlrp

LATER = ("attnlrp", "cp_lrp", "lrp_arras")
LATER_CASES = {"bert_block", "gru", "lstm_bidi_arras", "lstm_uni_dense", "vit_tiny", "vit_tiny_op13", "vit_tiny_op20"}
"""Cases of a later piece of work: recurrent nets and transformers."""
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
        return explainer.explain(self._feeds, target=self._seed).relevance[name]

    @cached_property
    def _feeds(self) -> dict[str, np.ndarray[Any, Any]]:
        return dict(np.load(self.folder / "input.npz"))

    @cached_property
    def _seed(self) -> np.ndarray[Any, Any]:
        """1 at each target."""
        explainer = onnxlrp.Explainer(self.folder / "model.onnx", method="gradient", providers="cpu")
        seed = np.zeros(next(iter(explainer.predict(self._feeds).values())).shape, np.float32)
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
        """Bounds of the input per channel."""
        params = np.load(self.folder / "params.npz")
        return params["zbox_low"].astype(np.float32), params["zbox_high"].astype(np.float32)


# --- the committed cases ---------------------------------------------------------------------------------------------

KEPT = ("name", "family", "description", "peer", "exporter", "opset", "relevance_at", "target", "metric")
KEPT_OF_METHODS = ("family", "rule", "node_rules", "window", "stride", "tol_float32")


def trim(case: Case, folder: Path) -> None:
    """Copy what the tests use of a case: the methods that are targets of ours, the reference in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.onnx", "input.npz", "params.npz"):
        if (case.folder / name).exists():
            (folder / name).write_bytes((case.folder / name).read_bytes())
    described = {method: case.description["methods"][method] for method in case.methods}
    methods = {name: {k: v for k, v in one.items() if k in KEPT_OF_METHODS} for name, one in described.items()}
    listings = {one["node_rules"] for one in methods.values() if "node_rules" in one}
    kept = {key: case.description[key] for key in KEPT if key in case.description} | {"methods": methods}
    kept["node_rule_listings"] = {k: v for k, v in case.description["node_rule_listings"].items() if k in listings}
    (folder / "case.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    reference = np.load(case.folder / "reference.npz")
    np.savez_compressed(folder / "reference.npz", **{m: reference[m].astype(np.float32) for m in case.methods})


if __name__ == "__main__":
    for source in map(Path, sys.argv[1:]):
        trim(Case.read(source), Path(__file__).parent / "parity_cases" / source.name)
