"""Whose mistake it is: a graph of ours that onnxruntime refuses is our defect, a file that it refuses is the file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner
from onnxlrp_cli import main

import onnxlrp
from onnxlrp.blame import ours
from onnxlrp.checks import verify
from onnxlrp.errors import Defect, InputError, ModelError, OutOfMemory
from onnxlrp.rules.decompositions import Rule
from onnxlrp.session import Session

X = np.ones((2, 4), np.float32)


def model(operator: str = "Relu", domain: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "nobody" : 1]> g (float[N, 4] x) => (float[N, 4] y) {{
            y = {f"{domain}." * bool(domain)}{operator} (x)
        }}"""
    )


class CannotLoad(Rule):
    """Writes an operator that does not exist."""

    name, conserves = "cannot-load", "not"

    def __call__(self, operator: Any, step: Any, relevance: Any) -> Any:
        return [step.emit.Frobnicate(relevance)]


class CannotRun(Rule):
    """Asks for a shape that the numbers do not fill."""

    name, conserves = "cannot-run", "not"

    def __call__(self, operator: Any, step: Any, relevance: Any) -> Any:
        return [step.emit.Reshape(relevance, np.array([7, 11], np.int64))]


@pytest.mark.parametrize("rule", [CannotLoad(), CannotRun()], ids=["load", "run"])
@pytest.mark.parametrize("from_file", [True, False])
def test_an_explainer_that_onnxruntime_refuses_is_our_defect(rule: Rule, from_file: bool, tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    source = tmp_path / "m.onnx" if from_file else model()
    with pytest.raises(Defect, match="mistake of onnxlrp, not of your model: please report it") as found:
        onnxlrp.explain(source, X, rules={"Relu": rule}, providers="cpu")
    assert found.value.exit_code == 4
    with pytest.raises(Defect):
        verify(source, rules={"Relu": rule}, providers="cpu")


def test_a_file_that_onnxruntime_refuses_stays_the_files_mistake(tmp_path: Path) -> None:
    onnx.save(model("Swirl", "nobody"), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", X)
    folder = str(tmp_path / "out")
    result = CliRunner().invoke(
        main, ["explain", str(tmp_path / "m.onnx"), str(tmp_path / "x.npy"), "-o", folder, "--method", "occlusion"]
    )
    assert result.exit_code == ModelError.exit_code
    assert "Swirl" in result.stderr


def test_an_input_that_the_model_itself_refuses_stays_the_calls_mistake() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x, float[N, M] w) => (float[N, 4] y) {
            y = Mul (x, w)
        }"""
    )
    with pytest.raises(InputError, match="does not run on"):
        onnxlrp.explain(proto, {"x": X, "w": np.ones((2, 3), np.float32)}, providers="cpu")


def test_too_little_memory_is_nobodys_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *_: Any) -> Any:
        raise RuntimeError("[ONNXRuntimeError] : Failed to allocate memory for requested buffer of size 9")

    explainer = onnxlrp.Explainer(model(), providers="cpu")
    explainer.explain(X)
    session = explainer._run.sessions[0]
    monkeypatch.setattr(session, "_session", type("Full", (), {"run": full})())
    with pytest.raises(OutOfMemory, match="--batch-size 1"):
        explainer.explain(X)


def test_blame_leaves_what_runs_alone() -> None:
    read = onnxlrp.read(model())
    with ours(read, "cpu", {"x": X}):
        assert Session(read.copy(), "cpu").run({"x": X})["y"].shape == (2, 4)


def test_an_output_without_a_number_is_nobodys_mistake() -> None:
    cut = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, M] y)
        <int64[2] start = {0, 7}, int64[2] end = {9, 9}> { y = Slice (x, start, end) }"""
    )
    with pytest.raises(InputError, match=r"gives no number: 'y' \[2, 0\]"):
        onnxlrp.explain(cut, X)
