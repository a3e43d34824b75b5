"""What README and docs say runs: their Python is executed, their commands and names exist."""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from onnxlrp_cli import main

import onnxlrp
from onnxlrp.rules import registry

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def beside_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds the demo model as model.onnx."""
    shutil.copy(str(files("onnxlrp.demo") / "shapes.onnx"), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_of_the_readme_and_the_explainer_page_runs(beside_a_model: Path) -> None:
    blocks = code_blocks(README, "python") + code_blocks((ROOT / "docs/explainer-file.md").read_text("utf-8"), "python")
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["relevance"].shape == (2, 3, 64, 64)  # type: ignore[attr-defined]
    assert (beside_a_model / "explainer.onnx").is_file()


def test_a_users_own_operator_and_rule_run(beside_a_model: Path) -> None:
    block = next(b for b in code_blocks((ROOT / "docs/extending.md").read_text("utf-8"), "python") if "class Half" in b)
    names: dict[str, object] = {}
    try:
        exec(block, names)
        assert "half" in str(names["explainer"].plan)  # type: ignore[attr-defined]
        assert registry.lookup("Swoosh", "com.example") is not None
    finally:
        registry._OPERATORS.pop(("com.example", "Swoosh"), None)


def test_every_command_of_the_readme_exists_and_every_command_is_in_the_readme() -> None:
    shown = set(re.findall(r"^(?:\S*/)?onnxlrp (\w+)", "\n".join(code_blocks(README, "sh")), re.MULTILINE))
    shown |= set(re.findall(r"bin/onnxlrp (\w+)", README))
    assert shown == set(main.list_commands(click.Context(main)))
    for command in shown:
        result = CliRunner().invoke(main, [command, "--help"])
        assert result.exit_code == 0
        assert "Example" in result.output


def test_rules_presets_and_methods_are_documented() -> None:
    page = (ROOT / "docs/rules.md").read_text("utf-8")
    for name in [*onnxlrp.METHODS, *onnxlrp.PRESETS]:
        family = name.removesuffix("-flat")
        assert f"`{name}`" in page or f"`{family}`, `…-flat`" in page, f"{name} is not in docs/rules.md"
    for name in ("epsilon", "gamma", "alpha-beta", "z-plus", "z-box", "w-square", "flat", "pass", "stop"):
        assert f"`{name}" in page


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
