"""The tabular kind: rows of CSV and JSON become inputs, and a chart has a bar per column with its name and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from nets import Net
from onnxlrp_cli import main

from onnxlrp import Explainer
from onnxlrp.data import Sidecar, inputs_of, load
from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.model import read

MODELS = Path(__file__).resolve().parents[1] / "sample_models"
PIPELINE = MODELS / "diabetes_pipeline" / "model.onnx"
TREES = MODELS / "tumours_trees" / "model.onnx"


def loaded(path: Path, model: Path) -> dict[str, np.ndarray]:
    return load(path, Sidecar.beside(model), inputs_of(read(model))).arrays


def test_an_input_per_column_takes_its_column_by_name(tmp_path: Path) -> None:
    patients = loaded(PIPELINE.parent / "patients.csv", PIPELINE)
    assert patients["sex"].shape == patients["bmi"].shape == (3, 1)
    assert patients["sex"].dtype == object and patients["bmi"].dtype == np.float32
    rows = [{name: array[row, 0] for name, array in patients.items()} for row in range(3)]
    shuffled = [{name: row[name] for name in reversed(row)} for row in rows]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(shuffled, default=float))
    again = loaded(file, PIPELINE)
    for name, array in patients.items():
        np.testing.assert_array_equal(array, again[name])


def test_one_input_takes_its_columns_in_the_order_of_features() -> None:
    names = Sidecar.beside(TREES).features
    row = json.loads((TREES.parent / "malignant.json").read_text())
    array = loaded(TREES.parent / "malignant.json", TREES)["features"]
    np.testing.assert_allclose(array, [[row[name] for name in names]], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sex,bmi\n1,2\n", "row 1: has no column 'age_group'"),
        ("", "the table is empty"),
        ("a,a\n1,2\n", "names a column twice"),
        ("a,b\n1\n", "row 1: holds 1 cells, and the heading 2"),
    ],
)
def test_a_broken_table_says_where(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        loaded(file, PIPELINE)


def test_a_cell_of_the_wrong_type_says_where(tmp_path: Path) -> None:
    text = (PIPELINE.parent / "patients.csv").read_text().replace("25.4", "much")
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InputError, match="row 1, column 'bmi': 'much' is not a number"):
        loaded(tmp_path / "rows.csv", PIPELINE)


def test_explain_draws_all_columns_of_a_row_in_one_chart(tmp_path: Path) -> None:
    patients, out = PIPELINE.parent / "patients.csv", tmp_path / "out"
    found = CliRunner().invoke(main, ["explain", str(PIPELINE), str(patients), "-o", str(out)])
    assert found.exit_code == 0, found.output
    assert sorted(path.name for path in out.glob("*.png")) == [f"patients-{n}-lrp-bars.png" for n in range(3)]
    assert "bmi = 25.4" in found.output and "sex = 1" in found.output
    document = json.loads((out / "explain.json").read_text())
    columns = document["inputs"][0]["columns"][0]
    assert [column["name"] for column in columns] == list(Sidecar.beside(PIPELINE).features)
    result = Explainer(PIPELINE).explain(loaded(patients, PIPELINE))
    for column in columns:
        assert column["relevance"] == pytest.approx(float(result.relevance[column["name"]][0, 0]), abs=1e-6)


def test_explain_names_the_columns_of_one_input(tmp_path: Path) -> None:
    arguments = ["explain", str(TREES), str(TREES.parent / "malignant.json"), "-o", str(tmp_path / "out"), "--json"]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    (entry,) = json.loads(found.output)["inputs"]
    assert entry["predictions"][0]["label"] == "malignant"
    largest = max(entry["columns"][0], key=lambda column: column["relevance"])
    assert largest["name"].startswith("worst ")


def test_without_features_the_heading_names_the_columns(tmp_path: Path) -> None:
    net = Net()
    onnx.save(
        net.model(net.MatMul(net.input("x", ["batch", 2]), net.weight(np.ones((2, 3), np.float32)))),
        tmp_path / "m.onnx",
    )
    (tmp_path / "rows.csv").write_text("age,fare\n22,7.25\n30,8\n")
    paths = [str(tmp_path / name) for name in ("m.onnx", "rows.csv", "out")]
    found = CliRunner().invoke(main, ["explain", *paths[:2], "-o", paths[2], "--json"])
    assert found.exit_code == 0, found.output
    for entry in json.loads(found.stdout)["inputs"]:
        assert [column["name"] for column in entry["columns"][0]] == ["age", "fare"]


@pytest.mark.parametrize("exported", [{}, {"zipmap": False}])
def test_classes_that_the_file_names_are_called_so(tmp_path: Path, exported: dict[str, Any]) -> None:
    skl2onnx, linear_model = pytest.importorskip("skl2onnx"), pytest.importorskip("sklearn.linear_model")
    x = np.array([[0.0, 1], [1, 0], [0, 2], [2, 0]], np.float32)
    fitted = linear_model.LogisticRegression().fit(x, ["stay", "leave", "stay", "leave"])
    converted = skl2onnx.to_onnx(fitted, x, options={id(fitted): exported} if exported else None, target_opset=17)
    onnx.save(converted, tmp_path / "m.onnx")
    explainer = Explainer(tmp_path / "m.onnx")
    assert explainer.labels == ("leave", "stay")
    np.testing.assert_allclose(explainer.explain(x, target="stay").score, explainer.explain(x, target=1).score)
    arguments = ["explain", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out"), "--json", "--target", "stay"]
    (tmp_path / "rows.csv").write_text("a,b\n0,5\n")
    found = CliRunner().invoke(main, [*arguments, str(tmp_path / "rows.csv")])
    assert json.loads(found.stdout)["inputs"][0]["predictions"][0]["label"] == "stay"


def test_labels_that_are_too_few_are_doubted(tmp_path: Path) -> None:
    net = Net()
    scores = net.MatMul(net.input("x", ["batch", 2]), net.weight(np.ones((2, 3), np.float32)))
    onnx.save(net.model(scores), tmp_path / "m.onnx")
    (tmp_path / "rows.csv").write_text("a,b\n0,5\n")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    paths = [str(tmp_path / name) for name in ("m.onnx", "rows.csv", "out", "labels.txt")]
    found = CliRunner().invoke(main, ["explain", *paths[:2], "-o", paths[2], "--labels", paths[3]])
    assert "2 labels for 3 classes" in found.stderr


def test_an_explainer_is_not_explained_again(tmp_path: Path) -> None:
    Explainer(TREES).save(tmp_path / "explainer.onnx")
    with pytest.raises(ChoiceError, match="itself an explainer, compiled from"):
        Explainer(tmp_path / "explainer.onnx")


def test_a_column_too_many_leads_to_features(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("age,fare,survived\n22,7.25,1\n")
    net = Net()
    scores = net.MatMul(net.input("x", ["batch", 2]), net.weight(np.ones((2, 3), np.float32)))
    onnx.save(net.model(scores), tmp_path / "m.onnx")
    Sidecar(kind="tabular").write(tmp_path / "m.toml")
    with pytest.raises(InputError, match=r"takes 2 columns, and there are 3: age, fare, survived.*`features`"):
        loaded(tmp_path / "rows.csv", tmp_path / "m.onnx")
    Sidecar(kind="tabular", features=("age", "fare")).write(tmp_path / "m.toml")
    assert loaded(tmp_path / "rows.csv", tmp_path / "m.onnx")["x"].tolist() == [[22, 7.25]]
