"""A run from Python: data of any form, results, resuming, errors, and a process that stays as it was."""

import logging
import os
import random
import signal
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from builders import QUICK, Recorder
from sklearn.datasets import load_digits

import raydistill
from raydistill.deployment.loading import load_student, load_teacher
from raydistill.display import Silent
from raydistill.errors import ConfigError, DataError, RunFolderError
from raydistill.networks.models import mlp
from raydistill.report import read_report
from raydistill.settings.config import SearchConfig, build_config
from raydistill.settings.networks import StudentConfig

DIGITS = load_digits()
X = DIGITS.images.astype(np.uint8)
NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
Y = NAMES[DIGITS.target]
LISTED = sorted(NAMES)


def make_run(folder, data=(X, Y), **settings):
    return raydistill.Run(data, run_dir=folder, **{"display": Silent(), **QUICK, **settings})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run").fit()


def test_nothing_is_written_before_it_is_asked_for(tmp_path):
    run = make_run(tmp_path / "run")
    assert not list(tmp_path.iterdir())
    assert repr(run) == f"Run('{tmp_path / 'run'}'; nothing finished yet)"
    assert "nothing finished" in run._repr_html_()


def test_the_plan_tells_groups_and_forecast(finished):
    plan = finished.plan()
    assert len(plan) == len(plan.groups)
    assert set(plan.groups[0]["name"].split(", ")) <= set(NAMES)
    assert 0 < plan.accuracy <= 1
    assert plan.accuracy + plan.fixable <= 1
    assert "Perfect specialists would lift accuracy" in repr(plan)
    assert plan.groups[0]["name"] in plan._repr_html_()


def test_the_report_is_the_run_folders(finished):
    figures = read_report(finished.folder)
    assert dict(finished.report) == figures
    assert finished.report["student"]["test_accuracy"] > 0.8
    assert finished.report.page.read_text().startswith("<!")
    assert f"{figures['student']['test_accuracy']:.2%}" in repr(finished.report)
    shown = finished.report._repr_html_()
    assert shown == finished._repr_html_()
    assert shown.count("<tr>") == 1 + len(figures["models"])
    assert all(sentence.split("(")[0].split("'")[0] in shown for sentence in figures["verdict"]["sentences"])


def test_student_and_teacher_answer_as_loading_gives_them(finished):
    batch = torch.from_numpy(X[:50])
    with torch.inference_mode():
        student = load_student(finished.folder.path)(batch).softmax(dim=1)
        teacher = load_teacher(finished.folder.path)(batch).exp()
    assert finished.classes.tolist() == LISTED
    np.testing.assert_allclose(finished.predict_proba(X[:50]), student, atol=1e-6)
    np.testing.assert_allclose(finished.predict_proba(X[:50], "teacher"), teacher, atol=1e-6)
    np.testing.assert_array_equal(finished.predict(X[:50]), np.array(LISTED)[student.argmax(1)])
    assert (finished.predict(X) == Y).mean() > 0.8
    assert torch.equal(finished.student(batch).softmax(dim=1), student)


@pytest.mark.parametrize("x", [X[:3].astype(float), torch.from_numpy(X[:3]), X[:3].tolist()])
def test_examples_to_predict_may_be_of_any_kind(finished, x):
    np.testing.assert_allclose(finished.predict_proba(x), finished.predict_proba(X[:3]), atol=1e-6)


def test_examples_of_another_shape_are_refused(finished):
    for wrong in (X[0], X[:0], X[:2, :4]):
        with pytest.raises(DataError, match=r"x: shape .* give \(examples, 8, 8\)"):
            finished.predict(wrong)
    with pytest.raises(ConfigError, match="give student or teacher"):
        finished.predict(X, model="both")


def test_export_gives_the_file(finished, tmp_path):
    assert finished.export("pt2", tmp_path / "mine.pt2") == tmp_path / "mine.pt2"
    assert torch.export.load(tmp_path / "mine.pt2").module()(torch.from_numpy(X[:3])).shape == (3, 10)
    assert finished.export() == finished.folder.path / "export" / "student.safetensors"


def test_the_same_content_in_another_form_goes_on(finished):
    display = Recorder()
    again = make_run(finished.folder.path, {"x": torch.from_numpy(X), "y": list(Y)}, display=display).fit()
    assert all(display.skipped)
    assert again.report.figures == finished.report.figures


def test_other_content_is_another_run(finished):
    with pytest.raises(RunFolderError, match=r"another configuration \(data arrays:"):
        make_run(finished.folder.path, (X[:1700], Y[:1700])).fit()


def test_a_run_that_is_there_is_opened(finished):
    run = raydistill.Run.open(finished.folder.path, display=Recorder(), cluster={"backend": "none"})
    assert run.report.figures == finished.report.figures
    assert run.config.search.trials == 3
    assert all(run.fit()._display.skipped)
    with pytest.raises(RunFolderError, match="no manifest"):
        raydistill.Run.open(finished.folder.path.parent / "none")


def test_integers_without_names_are_predicted_as_integers(tmp_path):
    run = make_run(tmp_path / "run", (X, DIGITS.target), search={"trials": 1}, student={"epochs": 4, "controls": False})
    assert (run.fit().predict(X) == DIGITS.target).mean() > 0.8


def test_text_that_looks_like_numbers_stays_text(tmp_path):
    run = make_run(tmp_path / "run", (X, DIGITS.target.astype(str))).fit("data")
    assert run.classes.tolist() == [str(digit) for digit in range(10)]
    named = make_run(tmp_path / "named", {"x": X, "y": DIGITS.target, "class_names": range(10)}).fit("data")
    assert named.classes.tolist() == run.classes.tolist()


def test_results_before_they_are_there(tmp_path):
    run = make_run(tmp_path / "run", "digits")
    for ask in (
        lambda: run.report,
        lambda: run.student,
        lambda: run.teacher,
        lambda: run.predict(X),
        lambda: run.classes,
        run.export,
    ):
        with pytest.raises(RunFolderError):
            ask()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"serach": {"trials": 3}}, "serach: unknown setting; did you mean 'search'"),
        ({"search": {"trials": 0}}, "search.trials: 0 is not allowed"),
        ({"search": 3}, "search: 3 is not allowed"),
        ({"model": "mlp", "generalist": {"model": "cnn"}}, "give one of them"),
        ({"model": lambda shape, classes: None}, "put it into a file, for example models.py"),
        ({"on_change": "keep"}, "on_change: 'keep' is not allowed; give refuse or redo"),
        ({"data_dir": "x"}, "data_dir: unknown setting"),
        ({"generalist": {"options": {"hf_token": "abc"}}}, "holds credentials"),
    ],
)
def test_settings_are_refused_as_on_the_command_line(settings, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        raydistill.Run("digits", run_dir=tmp_path / "run", **settings)


def test_data_that_cannot_be_used_are_refused_at_once(tmp_path):
    with pytest.raises(DataError, match="int is not allowed"):
        raydistill.Run(3, run_dir=tmp_path)


def test_sections_may_be_objects_and_models_functions(tmp_path):
    run = raydistill.Run(
        "digits", run_dir=tmp_path, model=mlp, search=SearchConfig(trials=3), student=StudentConfig(model="cnn"), seed=4
    )
    same = {
        "generalist": {"model": "raydistill.networks.models:mlp"},
        "search": {"trials": 3},
        "student": {"model": "cnn"},
    }
    assert run.config == build_config({"data": "digits", "run_dir": str(tmp_path), "seed": 4, **same})
    named = raydistill.Run("digits", run_dir=tmp_path, model="cnn", student="mlp", generalist={"epochs": 2})
    assert (named.config.generalist.model, named.config.generalist.epochs) == ("cnn", 2)
    assert named.config.student.model == "mlp"


def test_a_function_of_the_notebook_itself_is_refused(monkeypatch, tmp_path):
    def build(shape, classes):
        return mlp(shape, classes)

    build.__module__, build.__qualname__ = "__main__", "build"
    main = types.ModuleType("__main__")
    main.build = build
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(ConfigError, match="give 'models:build'"):
        raydistill.Run("digits", run_dir=tmp_path, model=build)


def test_the_process_stays_as_it_was(tmp_path):
    def look():
        ray = {
            name: (logging.getLogger(name).level, logging.getLogger(name).handlers[:]) for name in ("", "ray", "optuna")
        }
        numbers = (torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
        return ray, numbers, torch.get_num_threads(), list(warnings.filters), dict(os.environ), signal.getsignal(15)

    before = look()
    run = make_run(tmp_path / "run", tracking={"tensorboard": True})
    run.plan()
    run.fit()
    run.export("pt2")
    assert look() == before
