"""The tree keeps to the table of docs/architecture.md: a module imports only from rows above it, and from its own."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx.defs
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "onnxlrp"
PAGE = ROOT / "docs" / "architecture.md"

DATA_ONLY = {"demo"}
"""Packages that hold files and no code, so they stand on no row."""


def rows_of_the_page() -> list[list[str]]:
    """The table's second column: the modules of each row, without ending."""
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("|")]
    return [re.findall(r"`(\w+)(?:\.py|/)`", cells[2]) for cells in rows[2:]]


ROW = {module: number for number, row in enumerate(rows_of_the_page()) for module in row}

ON_DEMAND = {("explanation", "report")}
"""Imports inside a function that go down the page: an `Explanation` shows itself in a notebook."""

ONLY_IN = {
    "onnxruntime": {"session"},
    "matplotlib": {"figure", "report"},
    "PIL": {"heatmap", "data", "report"},
    "networkx": {"graph", "report"},
    "pydot": {"report"},
    "av": {"data"},
    "click": set[str](),
    "rich": set[str](),
}
"""Who may import what; the command line's own libraries stay out of the package."""

IMPORTED_AS = {
    "onnx-ir": "onnx_ir",
    "onnxruntime-gpu": "onnxruntime",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""Names in the package index that differ from the import's."""

NEVER = {"torch", "tensorflow", "keras", "jax", "zennit", "captum"}
"""Nothing of a training framework is needed, and no peer."""


@dataclass(frozen=True)
class Import:
    """What `file` imports.  target : dotted        on_demand : inside a function"""

    file: Path
    target: str
    line: int
    on_demand: bool

    @property
    def part(self) -> str:
        """The module of onnxlrp that imports: its file's name, or its package's."""
        return self.file.relative_to(PACKAGE).parts[0].removesuffix(".py")

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


def imports_of(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text())
    inside = {child for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for child in ast.walk(f)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are written in full"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "onnxlrp" else [module]
        yield from (Import(file, name, node.lineno, node in inside) for name in names)


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [found for file in FILES for found in imports_of(file)]
OURS = [found for found in IMPORTS if found.target.startswith("onnxlrp.")]


def test_every_module_stands_in_the_table() -> None:
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    there -= {"__init__", "__pycache__"} | DATA_ONLY
    assert there == ROW.keys() - {"cli"}, "docs/architecture.md names each module once, on the row of its stage"
    named = [module for row in rows_of_the_page() for module in row]
    assert sorted(named) == sorted(set(named))


def test_packages_without_a_row_hold_no_code() -> None:
    for package in DATA_ONLY:
        for file in (PACKAGE / package).rglob("*.py"):
            assert len(ast.parse(file.read_text()).body) == 1, f"{file.name} is more than its docstring"


def test_a_module_imports_only_from_rows_above_it() -> None:
    down = []
    for found in OURS:
        if found.part == "__init__":
            continue
        wanted = found.target.split(".")[1]
        allowed = wanted == found.part or ROW.get(wanted, len(ROW)) <= ROW.get(found.part, -1)
        if not allowed and not (found.on_demand and (found.part, wanted) in ON_DEMAND):
            down.append(str(found))
    assert not down, "\n".join(down)


def test_every_exception_is_still_needed() -> None:
    assert {(found.part, found.target.split(".")[1]) for found in OURS if found.on_demand} >= ON_DEMAND


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_in_its_own_place(library: str) -> None:
    users = {found.part for found in IMPORTS if found.target.split(".")[0] == library}
    assert users <= ONLY_IN[library], f"{library} is imported by {users - ONLY_IN[library]}"


def test_pictures_and_reports_know_no_onnx() -> None:
    """Arrays and findings in, pictures and pages out."""
    show = next(row for row in rows_of_the_page() if "heatmap" in row)
    libraries = ("onnx", "onnx_ir", "onnxruntime")
    assert not [str(f) for f in IMPORTS if f.part in show and f.target.split(".")[0] in libraries]


def test_nothing_else_is_needed() -> None:
    """The package imports the standard library and the dependencies of pyproject.toml, and no framework."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in declared}
    known = set(sys.stdlib_module_names) | {"onnxlrp", "onnxlrp_cli"} | {IMPORTED_AS.get(name, name) for name in names}
    strange = [str(found) for found in IMPORTS if found.target.split(".")[0] not in known]
    assert not strange, "\n".join(strange)
    tests = [found for file in sorted((ROOT / "tests").glob("*.py")) for found in imports_of(file)]
    assert not [str(found) for found in tests if found.target.split(".")[0] in NEVER]


def test_the_walk_knows_no_operator_by_name() -> None:
    operators = {schema.name for schema in onnx.defs.get_all_schemas()}
    tree = ast.parse((PACKAGE / "backward.py").read_text())
    written = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not written & operators


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_types_are_replaced_and_never_changed(file: Path) -> None:
    """A copy of a model shares its tensors' types, and `value.dtype = …` changes the type for all who share it."""
    assigned = [
        target.lineno
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assign)
        for part in node.targets
        for target in (part.elts if isinstance(part, ast.Tuple) else [part])
        if isinstance(target, ast.Attribute) and target.attr == "dtype"
    ]
    assert not assigned, f"lines {assigned}: give the value a type of its own"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for(file: Path) -> None:
    said = ast.get_docstring(ast.parse(file.read_text()))
    assert said, f"{file.name} has no docstring"
