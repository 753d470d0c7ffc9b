"""The scikit-learn estimator: its conventions, and that it is the pipeline's student."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from raydistill import DistilledClassifier, Run

DIGITS = load_digits()
X, Y = DIGITS.data, np.array(list("abcdefghij"))[DIGITS.target]
QUICK = {
    "generalist": {"epochs": 3, "options": {"hidden": [24]}},
    "grouping": {"bootstraps": 0},
    "specialists": {"groups": 2, "epochs": 1},
    "search": {"temperature": [2, 2], "label_weight": [0.5, 0.5]},
    "student": {"epochs": 4, "controls": False},
    "tracking": {"tensorboard": False},
}
BINARY = "it is fitted on two classes, and specialists have something to tell apart from three on"
EXCLUDED = dict.fromkeys(
    [
        "check_estimators_dtypes",
        "check_pipeline_consistency",
        "check_estimators_nan_inf",
        "check_estimators_pickle",
        "check_classifier_data_not_an_array",
        "check_classifiers_classes",
        "check_classifiers_train",
        "check_fit2d_1feature",
        "check_fit_idempotent",
        "check_fit_check_is_fitted",
        "check_n_features_in",
    ],
    BINARY,
)


@pytest.fixture(scope="module")
def fitted():
    return DistilledClassifier(settings=QUICK).fit(X[:1200], Y[:1200])


def test_it_learns_and_answers_in_the_labels_given(fitted):
    assert fitted.score(X[1200:], Y[1200:]) > 0.75
    assert fitted.classes_.tolist() == list("abcdefghij")
    probs = fitted.predict_proba(X[1200:])
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(fitted.predict(X[1200:]), fitted.classes_[probs.argmax(1)])
    assert fitted.n_features_in_ == 64
    assert 0.7 < fitted.report_["student"]["test_accuracy"] <= 1


def test_it_is_the_student_of_the_same_run(fitted, tmp_path):
    settings = {**QUICK, "cluster": {"backend": "none"}}
    y = np.unique(Y[:1200], return_inverse=True)[1]
    run = Run((X[:1200].astype("float32"), y), run_dir=tmp_path / "run", **settings).fit()
    np.testing.assert_allclose(fitted.predict_proba(X[1200:]), run.predict_proba(X[1200:]), atol=1e-5)


def test_it_pickles_and_clones_and_repeats(fitted):
    expected = fitted.predict_proba(X[:20])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(X[:20]), expected)
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    assert not hasattr(fresh, "classes_")
    np.testing.assert_array_equal(fresh.fit(X[:1200].tolist(), Y[:1200].tolist()).predict_proba(X[:20]), expected)


def test_integer_labels_with_gaps_in_a_pipeline_and_cross_validation():
    y = DIGITS.target * 3 - 5
    model = make_pipeline(StandardScaler(), DistilledClassifier(student="mlp", settings=QUICK))
    scores = cross_val_score(model, X, y, cv=2)
    assert scores.min() > 0.6
    assert set(model.fit(X, y).predict(X[:50])) <= set(y)


def test_images_and_a_folder_that_stays(tmp_path):
    model = DistilledClassifier(
        "cnn", settings={**QUICK, "generalist": {"epochs": 1, "options": {"channels": [4]}}}, run_dir=tmp_path / "run"
    )
    model.fit(DIGITS.images, Y)
    assert model.predict(DIGITS.images[:5]).shape == (5,)
    assert (tmp_path / "run" / "12_report" / "report.html").exists()
    assert clone(model).fit(DIGITS.images, Y).report_ == model.report_
    with pytest.raises(ValueError, match=r"X: shape \(8, 4\) of an example; fit had \(8, 8\)"):
        model.predict(DIGITS.images[:2, :, :4])


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        (X, Y == "a", "2 classes; give at least 3"),
        (np.where(X > 15, np.nan, X), Y, "NaN"),
        (X[:9], Y[:9], "examples"),
        (X, np.linspace(0, 1, len(X)), "Unknown label type|continuous"),
    ],
)
def test_what_cannot_be_used_is_a_value_error(x, y, told):
    with pytest.raises(ValueError, match=told):
        DistilledClassifier(settings=QUICK).fit(x, y)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn tells of checks that it skips
@parametrize_with_checks(
    [
        DistilledClassifier(
            settings={
                **QUICK,
                "splits": {"confuse": 0.2, "tune": 0.2, "test": 0.2},
                "generalist": {"epochs": 3, "options": {"hidden": [8]}},
            }
        )
    ],
    expected_failed_checks=lambda estimator: EXCLUDED,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
