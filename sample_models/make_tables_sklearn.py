"""Two models of tables through skl2onnx: a pipeline with columns of texts, and gradient-boosted trees.

    pip install scikit-learn skl2onnx onnx onnxruntime pandas
    python sample_models/make_tables_sklearn.py

Made with scikit-learn 1.9.1, skl2onnx 1.20.0, onnx 1.23.2.

diabetes_pipeline   one input per column: sex and age group are texts behind a OneHotEncoder, the others numbers behind
                    a StandardScaler; logistic regression says whether the disease advanced more than in the median
                    patient
tumours_trees       one input of 30 columns; 40 boosted trees say whether a tumour is malignant
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas
import skl2onnx
import sklearn
from _common import HERE, accuracy_of, licence_line, write_sidecar
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

SCRIPT = "sample_models/make_tables_sklearn.py"
SEED = 0
TEXTS = ["sex", "age_group"]
NUMBERS = ["bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
DIABETES = (
    "scikit-learn's diabetes data: B. Efron, T. Hastie, I. Johnstone, R. Tibshirani, Least Angle Regression, 2004"
)
TUMOURS = (
    "scikit-learn's breast cancer data: W. Wolberg, O. Mangasarian, N. Street, W. Street, Breast Cancer Wisconsin "
    "(Diagnostic), UCI Machine Learning Repository, 1995, doi:10.24432/C5DW2B, CC BY 4.0"
)


def diabetes() -> tuple[pandas.DataFrame, np.ndarray]:
    """Patients, with two columns of texts; and whether the disease advanced more than in the median one."""
    patients, advance = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    groups = pandas.cut(patients["age"], [0, 40, 60, 120], labels=["to 40", "41 to 60", "over 60"]).astype(str)
    texts = pandas.DataFrame({"sex": patients["sex"].map({1.0: "1", 2.0: "2"}), "age_group": groups})
    frame = pandas.concat([texts, patients[NUMBERS].astype(np.float32)], axis=1)
    return frame, (advance > advance.median()).to_numpy().astype(np.int64)


def save(name: str, model: Any, inputs: list[Any], classifier: Any) -> Path:
    """Export with a dynamic batch and plain arrays as outputs: 'label' and 'probabilities'."""
    path = HERE / name / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    options = {id(classifier): {"zipmap": False}}
    exported = skl2onnx.to_onnx(model, initial_types=inputs, options=options, target_opset=17)
    path.write_bytes(exported.SerializeToString())
    return path


def about(data: str, accuracy: float, count: int) -> dict[str, Any]:
    return {
        "licence": licence_line(SCRIPT),
        "data": data,
        "accuracy": accuracy,
        "test_samples": count,
        "script": SCRIPT,
        "exporter": f"skl2onnx {skl2onnx.__version__}, scikit-learn {sklearn.__version__}",
    }


def probabilities(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([session.get_outputs()[-1].name], feeds)[0]


def make_diabetes() -> None:
    frame, advanced = diabetes()
    train, test, train_labels, test_labels = train_test_split(
        frame, advanced, test_size=0.25, stratify=advanced, random_state=SEED
    )
    columns = ColumnTransformer([("texts", OneHotEncoder(), TEXTS), ("numbers", StandardScaler(), NUMBERS)])
    pipeline = make_pipeline(columns, LogisticRegression(C=0.5, max_iter=1000)).fit(train, train_labels)
    inputs = [(name, StringTensorType([None, 1])) for name in TEXTS]
    inputs += [(name, FloatTensorType([None, 1])) for name in NUMBERS]
    path = save("diabetes_pipeline", pipeline, inputs, pipeline[-1])
    feeds = {name: test[[name]].to_numpy(object if name in TEXTS else np.float32) for name in frame.columns}
    accuracy = accuracy_of(probabilities(path, feeds), test_labels)
    fields = {"kind": "tabular", "name": "diabetes_pipeline", "labels": ["slower", "faster"], "features": list(frame)}
    write_sidecar(path, fields, about(DIABETES, accuracy, len(test)))
    with (path.parent / "patients.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(frame.columns)
        writer.writerows([str(cell) if name in TEXTS else f"{cell:g}" for name, cell in row.items()]
                         for _, row in test.iloc[:3].iterrows())  # fmt: skip
    print(f"{path.parent.name}: accuracy {accuracy}, {path.stat().st_size} bytes")


def make_tumours() -> None:
    data = load_breast_cancer()
    train, test, train_labels, test_labels = train_test_split(
        data.data.astype(np.float32), 1 - data.target, test_size=0.25, stratify=data.target, random_state=SEED
    )
    trees = GradientBoostingClassifier(n_estimators=40, max_depth=3, random_state=SEED).fit(train, train_labels)
    path = save("tumours_trees", trees, [("features", FloatTensorType([None, 30]))], trees)
    accuracy = accuracy_of(probabilities(path, {"features": test}), test_labels)
    names = [str(name) for name in data.feature_names]
    fields = {"kind": "tabular", "name": "tumours_trees", "labels": ["benign", "malignant"], "features": names}
    write_sidecar(path, fields, about(TUMOURS, accuracy, len(test)))
    for label, name in enumerate(fields["labels"]):
        row = test[int(np.argmax(test_labels == label))]
        cells = {column: float(f"{value:.6g}") for column, value in zip(names, row, strict=True)}
        (path.parent / f"{name}.json").write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    print(f"{path.parent.name}: accuracy {accuracy}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    make_diabetes()
    make_tumours()
