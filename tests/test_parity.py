"""Parity with zennit 0.5.1 and captum 0.9.0: rule by rule as their listings have it, and again by our presets.

Five small cases stand in parity_cases/ (its README says whose numbers they are); the others are beside the repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parity import LATER_CASES, PRESETS, Case
from shared import SHARED

HERE = Path(__file__).parent / "parity_cases"
ELSEWHERE = SHARED / "parity"

COMMITTED = sorted(folder for folder in HERE.iterdir() if folder.is_dir())
OTHERS = sorted(
    folder
    for folder in (ELSEWHERE.iterdir() if ELSEWHERE.exists() else [])
    if folder.is_dir() and folder.name not in {f.name for f in COMMITTED} | LATER_CASES
)
BOX = (-3.0, 3.0)
"""What zennit's EpsilonGammaBox was made with."""

FOLDERS = [pytest.param(folder, id=folder.name) for folder in [*COMMITTED, *OTHERS]]
if not OTHERS:
    FOLDERS.append(pytest.param(None, id="others", marks=pytest.mark.skip(reason="../shared/parity is not there")))


def complaints(case: Case, choices: dict[str, dict[str, Any]]) -> list[str]:
    """The methods whose max|ours − theirs| / max|theirs| is above the case's own tolerance for float32."""
    found = {method: case.deviation(method, asked) for method, asked in choices.items()}
    return [f"{method}: {off:.2e}" for method, off in found.items() if not off <= case.tolerance(method)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_method_agrees_rule_by_rule(folder: Path) -> None:
    case = Case.read(folder)
    assert len(case.methods) >= 7, "a case that checks nothing agrees with everything"
    assert not complaints(case, {method: case.choices(method) for method in case.methods})


@pytest.mark.parametrize("folder", FOLDERS)
def test_composites_agree_through_our_presets(folder: Path) -> None:
    case = Case.read(folder)
    asked = {name: {"method": "lrp", "preset": PRESETS[name]} for name in case.methods if name in PRESETS}
    if "epsilon_gamma_box" in asked:
        asked["epsilon_gamma_box"]["box"] = BOX
    assert not complaints(case, asked)


def test_all_families_are_among_the_committed_cases() -> None:
    """Dense, overlapping maxima, residual with BatchNormalization, a map as output, an activation in pieces."""
    names = {folder.name for folder in COMMITTED}
    assert names == {"act_silu", "cnn_maxpool_overlap", "mlp", "resnet_basic", "segmenter"}
    for folder in COMMITTED:
        families = {method["family"] for method in Case.read(folder).description["methods"].values()}
        assert families >= {"gradient", "integrated_gradients", "lrp"}


@pytest.mark.skipif(not ELSEWHERE.exists(), reason="../shared/parity is not there")
@pytest.mark.parametrize("name", ["bert_block", "vit_tiny", "vit_tiny_op13", "vit_tiny_op20"])
def test_attention_agrees_with_lxt(name: str) -> None:
    """AttnLRP and CP-LRP as LXT computes them, LayerNorm and GELU in one node or in nine.

    Its ε of 1e-12 makes the form of the stabiliser irrelevant, and float32's rounding show: hence twice its tolerance.
    """
    case = Case.read(ELSEWHERE / name)
    for method, preset in (("attnlrp_eps1e-12", "attnlrp"), ("cp_lrp_eps1e-12", "cp-lrp")):
        assert case.deviation(method, {"preset": preset, "epsilon": 1e-12}) <= 2 * case.tolerance(method)
    assert case.deviation("gradient", {"method": "gradient"}) <= case.tolerance("gradient")
