"""scikit-learn, LightGBM and XGBoost as their exporters write them: each returns its own output and passes `verify`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nets import Net

from onnxlrp import ChoiceError, Explainer, NoRule, Unsupported
from onnxlrp.checks import verify

sklearn = pytest.importorskip("sklearn")
skl2onnx = pytest.importorskip("skl2onnx")

from skl2onnx.common.data_types import DictionaryType, DoubleTensorType, FloatTensorType, StringTensorType  # noqa: E402
from sklearn import (  # noqa: E402
    calibration,
    cluster,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_extraction,
    gaussian_process,
    impute,
    linear_model,
    mixture,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.datasets import load_diabetes, load_iris  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

FLOWERS, KINDS = load_iris(return_X_y=True)
FLOWERS = FLOWERS.astype(np.float32)
PATIENTS, ADVANCE = load_diabetes(return_X_y=True)
PATIENTS = (PATIENTS * 20).astype(np.float32)
TWO = KINDS > 0
join = pipeline.make_pipeline
Make = Callable[[], Any]


def scaled(model: Any) -> Any:
    return join(preprocessing.StandardScaler(), model)


def stacked() -> Any:
    trees = tree.DecisionTreeRegressor(max_depth=2)
    return ensemble.StackingRegressor([("line", linear_model.Ridge()), ("trees", trees)])


CASES: dict[str, tuple[Make, np.ndarray, np.ndarray]] = {
    "logistic regression": (lambda: scaled(linear_model.LogisticRegression()), FLOWERS, KINDS),
    "logistic regression, two classes": (lambda: linear_model.LogisticRegression(), FLOWERS, TWO),
    "stochastic gradient, log loss": (lambda: scaled(linear_model.SGDClassifier(loss="log_loss")), FLOWERS, TWO),
    "linear SVM, calibrated": (lambda: calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=2), FLOWERS, KINDS),
    "RBF SVM with probabilities": (lambda: scaled(svm.SVC(probability=True)), FLOWERS, KINDS),
    "polynomial SVM": (lambda: scaled(svm.SVC(kernel="poly")), FLOWERS, TWO),
    "support vector regression": (lambda: svm.SVR(), PATIENTS, ADVANCE),
    "one-class SVM": (lambda: svm.OneClassSVM(), FLOWERS, KINDS),
    "decision tree": (lambda: tree.DecisionTreeClassifier(max_depth=4), FLOWERS, KINDS),
    "random forest": (lambda: ensemble.RandomForestRegressor(5, max_depth=4), PATIENTS, ADVANCE),
    "boosted trees": (lambda: ensemble.GradientBoostingClassifier(n_estimators=5), FLOWERS, TWO),
    "AdaBoost": (lambda: ensemble.AdaBoostClassifier(n_estimators=3), FLOWERS, KINDS),
    "isolation forest": (lambda: ensemble.IsolationForest(n_estimators=3), FLOWERS, KINDS),
    "stacked": (stacked, PATIENTS, ADVANCE),
    "naive Bayes": (naive_bayes.GaussianNB, FLOWERS, KINDS),
    "Gaussian mixture": (lambda: mixture.GaussianMixture(3), FLOWERS, KINDS),
    "k-means": (lambda: cluster.KMeans(3, n_init=1), FLOWERS, KINDS),
    "neural network": (lambda: scaled(neural_network.MLPClassifier((8,), max_iter=100)), FLOWERS, TWO),
    "bins": (
        lambda: join(preprocessing.KBinsDiscretizer(3, encode="onehot-dense"), linear_model.LogisticRegression()),
        FLOWERS,
        KINDS,
    ),
    "principal components": (lambda: join(decomposition.PCA(2), linear_model.Ridge()), PATIENTS, ADVANCE),
    "powers": (lambda: join(preprocessing.PolynomialFeatures(2), linear_model.Ridge()), PATIENTS, ADVANCE),
    "power transform": (lambda: join(preprocessing.PowerTransformer(), linear_model.Ridge()), PATIENTS, ADVANCE),
    "normaliser": (lambda: join(preprocessing.Normalizer(), linear_model.LogisticRegression()), FLOWERS, KINDS),
}  # fmt: skip


def accepted(data: bytes, x: np.ndarray | dict[str, np.ndarray]) -> None:
    result = Explainer(data).explain(x)
    for name, relevance in result.relevance.items():
        assert np.isfinite(relevance).all(), name
    assert any(relevance.any() for relevance in result.relevance.values())
    verdict = verify(data, x)
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_passes_verify(name: str) -> None:
    make, x, y = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make().fit(x, y.astype(np.float64) if x is PATIENTS else y.astype(np.int64))
    exported = skl2onnx.to_onnx(
        model, initial_types=[("x", FloatTensorType([None, x.shape[1]]))], target_opset={"": 17, "ai.onnx.ml": 3}
    )
    accepted(exported.SerializeToString(), x[::30])


def test_columns_of_texts_reach_a_forest() -> None:
    texts = np.array([["red", "s"], ["blue", "l"], ["red", "l"], ["green", "s"]] * 10, object)
    model = join(preprocessing.OneHotEncoder(sparse_output=False), ensemble.RandomForestClassifier(4, random_state=0))
    model.fit(texts, np.array([0, 1, 1, 0] * 10))
    exported = skl2onnx.to_onnx(model, initial_types=[("x", StringTensorType([None, 2]))], target_opset=17)
    accepted(exported.SerializeToString(), texts[:4])


def test_a_gaussian_process_in_double_precision() -> None:
    x, y = PATIENTS[:40].astype(np.float64), ADVANCE[:40]
    model = gaussian_process.GaussianProcessRegressor(gaussian_process.kernels.RBF(), alpha=0.1).fit(x, y)
    exported = skl2onnx.to_onnx(model, initial_types=[("x", DoubleTensorType([None, 10]))], target_opset=17)
    accepted(exported.SerializeToString(), x[:6])


def exported_neighbours(model: Any) -> bytes:
    model.fit(FLOWERS, KINDS)
    exported = skl2onnx.to_onnx(model, initial_types=[("x", FloatTensorType([None, 4]))], target_opset=17)
    data: bytes = exported.SerializeToString()
    return data


def test_neighbours_chosen_by_position_pass_nothing_on_and_say_so() -> None:
    data = exported_neighbours(neighbors.KNeighborsClassifier(3))
    result = Explainer(data).explain(FLOWERS[::30])
    assert not result.relevance["x"].any()
    assert len(result.warnings) == 1 and "TopK 'To_TopK' chooses by position" in result.warnings[0]
    assert "occlusion" in result.warnings[0]
    assert verify(data, FLOWERS[::30]).holds


def test_neighbours_weighted_by_distance_get_relevance_through_it() -> None:
    """Written by hand: skl2onnx 1.20 bounds negated distances from below, so that all weights are alike."""
    net = Net()
    x, ones = net.input("x", ["batch", 4]), net.weight(np.array([1]))
    gaps = net.Sub(net.Unsqueeze(x, ones), net.weight(FLOWERS[None, ::10]))
    distances = net.ReduceSum(net.Mul(gaps, gaps), net.weight(np.array([2])), keepdims=0)
    nearest, places = net.add("TopK", [distances, net.weight(np.array([3]))], outputs=2, largest=0)
    votes = net.Gather(net.weight(ADVANCE[:15]), places)
    model = net.model(net.ReduceSum(net.Div(votes, nearest), ones))
    accepted(model.SerializeToString(), FLOWERS[5::30])


def test_neighbours_within_a_radius_get_relevance_through_the_comparison() -> None:
    model = neighbors.RadiusNeighborsRegressor(100.0).fit(PATIENTS, ADVANCE)
    exported = skl2onnx.to_onnx(model, initial_types=[("x", FloatTensorType([None, 10]))], target_opset=17)
    accepted(exported.SerializeToString(), PATIENTS[::60])


def test_of_several_outputs_in_a_list_the_first_is_explained() -> None:
    model = multioutput.MultiOutputClassifier(linear_model.LogisticRegression())
    model.fit(FLOWERS, np.stack([KINDS, KINDS // 2], axis=1))
    exported = skl2onnx.to_onnx(model, initial_types=[("x", FloatTensorType([None, 4]))], target_opset=17)
    data = exported.SerializeToString()
    accepted(data, FLOWERS[::30])
    first, second = (Explainer(data, output=name).explain(FLOWERS[::30]) for name in (None, "probabilities2"))
    assert not np.allclose(first.relevance["x"], second.relevance["x"])
    with pytest.raises(ChoiceError, match=r"'probabilities' is a list of tensors.*'probabilities2'"):
        Explainer(data, output="probabilities")


def test_the_logits_are_found_behind_a_sum_that_is_one_already() -> None:
    model = linear_model.LogisticRegression().fit(FLOWERS, KINDS)
    exported = skl2onnx.to_onnx(model, initial_types=[("x", FloatTensorType([None, 4]))], target_opset=17)
    assert "Normalizer" in [node.op_type for node in exported.graph.node]
    found = Explainer(exported.SerializeToString()).explain(FLOWERS[:1], target=0)
    np.testing.assert_allclose(found.score, model.decision_function(FLOWERS[:1])[:, 0], rtol=1e-4)
    np.testing.assert_allclose(found.relevance["x"][0], FLOWERS[0] * model.coef_[0], rtol=1e-3)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("task", ["classes", "two classes", "regression"])
def test_boosted_trees_of_other_libraries(library: str, task: str) -> None:
    onnxmltools = pytest.importorskip("onnxmltools")
    module = pytest.importorskip(library)
    from onnxmltools.convert.common.data_types import FloatTensorType as Floats

    x, y = (PATIENTS, ADVANCE) if task == "regression" else (FLOWERS, KINDS if task == "classes" else TWO.astype(int))
    kind = "Regressor" if task == "regression" else "Classifier"
    prefix, quiet = ("LGBM", {"verbose": -1}) if library == "lightgbm" else ("XGB", {})
    model = getattr(module, prefix + kind)(n_estimators=4, n_jobs=1, **quiet).fit(x, y)
    convert = getattr(onnxmltools, f"convert_{library}")
    data = convert(model, initial_types=[("x", Floats([None, x.shape[1]]))], target_opset=15).SerializeToString()
    accepted(data, x[::30])
    gaps = x[::30].copy()
    gaps[:, 1] = np.nan
    assert np.isfinite(Explainer(data).explain(gaps).relevance["x"]).all()


def explained(model: Any, x: np.ndarray, kinds: np.ndarray, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """The fitted model, and the explanation of every thirtieth row."""
    model.fit(x, kinds)
    final = model.steps[-1][1] if hasattr(model, "steps") else model
    exported = skl2onnx.to_onnx(
        model,
        initial_types=[("x", FloatTensorType([None, x.shape[1]]))],
        options={id(final): options} if options else None,
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    return model, Explainer(exported.SerializeToString()).explain(x[::30])


COLOURS = np.array(["blue", "red", "white"])[KINDS]
NUMBERED = np.array([3, 4, 7])[KINDS]
NAMED: dict[str, tuple[Make, dict[str, Any]]] = {
    "dictionaries": (lambda: scaled(linear_model.LogisticRegression()), {}),
    "a table of labels": (lambda: scaled(linear_model.SGDClassifier(loss="log_loss")), {"zipmap": False}),
    "a classifier's attributes": (lambda: ensemble.RandomForestClassifier(4, random_state=0), {"zipmap": False}),
    "one column an output": (lambda: scaled(linear_model.LogisticRegression()), {"zipmap": "columns"}),
    "a vote of pairs, one column an output": (lambda: scaled(svm.SVC()), {"zipmap": "columns"}),
    "a machine with probabilities": (lambda: svm.SVC(probability=True), {"zipmap": "columns"}),
}  # fmt: skip


@pytest.mark.parametrize("kinds", [COLOURS, NUMBERED], ids=["texts", "numbers"])
@pytest.mark.parametrize("written", NAMED)
def test_the_predicted_class_is_explained_under_its_name(written: str, kinds: np.ndarray) -> None:
    make, options = NAMED[written]
    model, found = explained(make(), FLOWERS, kinds, options)
    assert [found.label(row) for row in range(len(found))] == [str(kind) for kind in model.predict(FLOWERS[::30])]


@pytest.mark.parametrize("two", [False, True], ids=["three classes", "two classes"])
@pytest.mark.parametrize("loss", ["one against rest", "log loss"])
def test_probabilities_that_are_divided_by_their_sum_are_explained_by_the_scores(loss: str, two: bool) -> None:
    line = linear_model.LogisticRegression()
    model = multiclass.OneVsRestClassifier(line) if loss != "log loss" else linear_model.SGDClassifier(loss="log_loss")
    model, found = explained(model, FLOWERS, TWO.astype(int) if two else KINDS)
    scores = model.decision_function(FLOWERS[::30])
    scores = np.stack([-scores, scores], axis=1) if two else scores
    np.testing.assert_allclose(found.score, scores.max(axis=1), rtol=1e-4)


@pytest.mark.parametrize("line", [svm.LinearSVC, linear_model.RidgeClassifier])
def test_one_score_of_two_classes_speaks_for_the_second(line: Make) -> None:
    model, found = explained(line(), FLOWERS, np.where(TWO, "tall", "small"))
    np.testing.assert_allclose(found.score, model.decision_function(FLOWERS[::30]), rtol=1e-4)
    assert {found.label(row) for row in range(len(found))} == {"tall"}


def test_votes_of_machines_pass_relevance_on_to_their_decisions() -> None:
    machines = [("first", svm.SVC()), ("second", svm.SVC(kernel="linear")), ("line", linear_model.LogisticRegression())]
    voting = ensemble.VotingClassifier(machines, flatten_transform=False)
    model, found = explained(voting, FLOWERS, KINDS)
    assert [int(found.label(row)) for row in range(len(found))] == model.predict(FLOWERS[::30]).tolist()
    assert np.abs(found.relevance["x"]).sum(axis=1).all()


def test_a_label_that_is_not_the_largest_score_is_told() -> None:
    """onnxruntime gives the two columns of a binary machine without probabilities in reverse."""
    model, found = explained(svm.SVC(kernel="linear"), FLOWERS, np.where(TWO, "tall", "small"))
    assert found.label(0) != model.predict(FLOWERS[:1])[0]
    assert "calls sample 0 'small', and gives the largest of its scores to 'tall'" in found.warnings[0]
    agreed = explained(linear_model.LogisticRegression(), FLOWERS, NUMBERED)[1]
    assert not any("calls sample" in text for text in agreed.warnings)


def test_coefficients_that_do_not_fit_the_columns_are_refused() -> None:
    """skl2onnx 1.20 leaves out the indicator columns of an imputer."""
    gaps = np.where(np.arange(len(FLOWERS))[:, None] % 5 == np.arange(4), np.nan, FLOWERS).astype(np.float32)
    model = join(impute.SimpleImputer(add_indicator=True), linear_model.LogisticRegression()).fit(gaps, KINDS)
    exported = skl2onnx.to_onnx(model, initial_types=[("x", FloatTensorType([None, 4]))], target_opset=17)
    with pytest.raises(NoRule, match="its 24 coefficients do not fit 3 scores of 4 columns"):
        Explainer(exported.SerializeToString())


@pytest.mark.parametrize("opset", [9, 17])
def test_paths_that_are_looked_up_behind_a_tree_are_read(opset: int) -> None:
    """What a tree gives has no type for onnx, whose inference of a LabelEncoder behind it is a segfault."""
    model = tree.DecisionTreeClassifier(max_depth=3).fit(FLOWERS, KINDS)
    exported = skl2onnx.to_onnx(
        model,
        initial_types=[("x", FloatTensorType([None, 4]))],
        options={id(model): {"decision_path": True, "zipmap": False}},
        target_opset={"": opset, "ai.onnx.ml": 2},
    )
    assert "LabelEncoder" in [node.op_type for node in exported.graph.node]
    accepted(exported.SerializeToString(), FLOWERS[::30])


def test_a_regression_with_a_logarithmic_link_is_explained_before_it() -> None:
    """Behind the Exp a negative logarithm would turn the sign of every column."""
    model = linear_model.PoissonRegressor(alpha=0.0).fit(PATIENTS, ADVANCE / 1000.0)
    exported = skl2onnx.to_onnx(model, initial_types=[("x", FloatTensorType([None, 10]))], target_opset=17)
    found = Explainer(exported.SerializeToString()).explain(PATIENTS[::60])
    assert (found.score < 0).all()
    np.testing.assert_allclose(found.score, np.log(model.predict(PATIENTS[::60])), rtol=1e-3)
    np.testing.assert_allclose(found.relevance["x"], PATIENTS[::60] * model.coef_, rtol=1e-2, atol=1e-4)


def test_texts_that_keep_their_case_are_split_into_words() -> None:
    """What onnxruntime's own Tokenizer gives has no shape in the file."""
    texts = np.array(["The cat sat", "a Dog ran", "the Cat ran", "dogs sat"] * 5)
    model = join(feature_extraction.text.CountVectorizer(lowercase=False), linear_model.LogisticRegression())
    model.fit(texts, np.arange(20) % 2)
    exported = skl2onnx.to_onnx(model, initial_types=[("x", StringTensorType([None, 1]))], target_opset=17)
    assert "StringNormalizer" not in [node.op_type for node in exported.graph.node]
    accepted(exported.SerializeToString(), texts[:4, None])


def test_a_dictionary_as_input_is_refused_with_what_to_do() -> None:
    rows = [{"a": float(row % 3), "b": float(row % 5)} for row in range(len(KINDS))]
    model = join(feature_extraction.DictVectorizer(sparse=False), linear_model.LogisticRegression()).fit(rows, KINDS)
    types = [("x", DictionaryType(StringTensorType([1]), FloatTensorType([1])))]
    exported = skl2onnx.to_onnx(model, initial_types=types, target_opset=17)
    with pytest.raises(Unsupported, match=r"'x' of the model is a dictionary.*feed the columns as a tensor"):
        Explainer(exported.SerializeToString())


def test_what_a_forest_concludes_from_a_word_that_is_absent_is_told_to_the_ledger() -> None:
    """No word of the text can get it."""
    texts = np.array(["the cat sat", "a dog ran", "the cat ran", "dogs sat"] * 5)
    model = join(feature_extraction.text.CountVectorizer(lowercase=False), tree.DecisionTreeRegressor(random_state=0))
    model.fit(texts, np.array([1.0, 2.0, 3.0, 4.0] * 5))
    exported = skl2onnx.to_onnx(model, initial_types=[("x", StringTensorType([None, 1]))], target_opset=17)
    verdict = verify(exported.SerializeToString(), texts[:4, None])
    assert verdict.holds, str(verdict)
    assert any(row.taken.get("absent") for row in verdict.ledger)


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_a_softmax_that_is_spelled_out_is_stepped_over(opset: int) -> None:
    model = discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1).fit(FLOWERS, KINDS)
    exported = skl2onnx.to_onnx(
        model,
        initial_types=[("x", FloatTensorType([None, 4]))],
        options={id(model): {"zipmap": False}},
        target_opset={"": opset, "ai.onnx.ml": 1},
    )
    found = Explainer(exported.SerializeToString()).explain(FLOWERS[::30])
    np.testing.assert_allclose(found.score, model.decision_function(FLOWERS[::30]).max(axis=1), rtol=1e-3)


def test_the_first_of_two_classes_of_a_forest_is_explained_as_the_second_is() -> None:
    """p is one sum of leaves: what speaks against it speaks for 1 − p, also where a 1 − p hands nothing on."""
    forest = ensemble.RandomForestClassifier(5, max_depth=4, random_state=0).fit(FLOWERS, TWO)
    exported = skl2onnx.to_onnx(forest, FLOWERS[:1], target_opset=17, options={"zipmap": False})
    explainer, rows = Explainer(exported.SerializeToString()), FLOWERS[::10]
    called = explainer.explain(rows)
    assert set(called.target) == {0, 1}
    (relevance,) = called.relevance.values()
    assert relevance.any(axis=1).all()
    first, second = (next(iter(explainer.explain(rows, target=target).relevance.values())) for target in (0, 1))
    shared = first.any(axis=1) & second.any(axis=1)
    assert np.allclose(first[shared], -second[shared], atol=1e-5)
