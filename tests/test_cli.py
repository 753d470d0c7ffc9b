"""The command line as a user meets it: exit codes, one line for each mistake, help that documents everything."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from builders import quick_config, run_quick
from sklearn.datasets import load_digits

from raydistill.commands.cli import main
from raydistill.commands.flags import merge_settings, read_settings
from raydistill.commands.launch import format_plan
from raydistill.deployment.loading import load_student
from raydistill.settings.config import Config
from raydistill.settings.sections import list_fields


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("cli") / "run"))


def read(*arguments):
    return read_settings("run", ["--data", "digits", "--run-dir", "/tmp/x", *arguments])[0]


def test_flags_are_dotted_and_typed():
    config = read("--search.trials", "3", "--generalist.options", '{"hidden": [8, 8]}', "--search.temperature", "1,4")
    assert config.search.trials == 3
    assert config.generalist.options == {"hidden": [8, 8]}
    assert config.search.temperature == (1.0, 4.0)


def test_flags_take_dashes_or_underscores():
    assert read("--search.label-weight", "0,1").search.label_weight == (0.0, 1.0)
    assert read("--search.label_weight", "0,1").search.label_weight == (0.0, 1.0)


def test_flags_override_the_file_setting_by_setting(tmp_path):
    (tmp_path / "c.yaml").write_text("data: digits\nrun_dir: /tmp/y\nsearch: {trials: 5, epochs: 7}\n")
    config, _ = read_settings("run", ["--config", str(tmp_path / "c.yaml"), "--search.trials", "2"])
    assert (config.search.trials, config.search.epochs, str(config.run_dir)) == (2, 7, "/tmp/y")


def test_options_are_replaced_not_merged():
    merged = merge_settings({"generalist": {"options": {"a": 1}, "epochs": 2}}, {"generalist": {"options": {"b": 2}}})
    assert merged == {"generalist": {"options": {"b": 2}, "epochs": 2}}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rum"], "did you mean 'run'"),
        (["run", "--run-dir", "/tmp/x"], "data: missing"),
        (["run", "--data", "digits", "--run-dir", "/tmp/x", "--serch.trials", "3"], "did you mean 'search.trials'"),
        (["run", "--data", "digits", "--run-dir", "/tmp/x", "--trials", "3"], "did you mean 'search.trials'"),
        (
            ["run", "--data", "digits", "--run-dir", "/tmp/x", "--search.trials", "x"],
            "search.trials: 'x' is not allowed",
        ),
        (["run", "--data", "digits", "--run-dir"], "expected one argument"),
        (["run", "--config", "/no/such.yaml"], "cannot read '/no/such.yaml'"),
        (["run", "--data", "npz:/no/such.npz", "--run-dir", "/tmp/x"], "does not exist"),
        (["status", "/tmp"], "not a run folder"),
        (["report", "/tmp"], "not a run folder"),
        (["predict", "/tmp", "/tmp/none.npz"], "run"),
        (["export", "/tmp", "--format", "zip"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line_and_exit_with_2(capsys, arguments, told):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("raydistill: ")
    assert told in printed.err


def test_help_documents_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in list_fields(Config):
        assert f"--{name.replace('_', '-')}" in text, name
    assert "(default: 8)" in text


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_help_and_version(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "raydistill" in capsys.readouterr().out


def test_status_names_every_stage(capsys, finished):
    assert main(["status", str(finished.path)]) == 0
    text = capsys.readouterr().out
    assert "digits, not running" in text
    assert text.count("done in") == 11


def test_report_prints_the_table(capsys, finished):
    assert main(["report", str(finished.path)]) == 0
    text = capsys.readouterr().out
    for name in ("generalist", "ensemble", "student", "labels only", "report.html"):
        assert name in text.lower()


def test_plan_prints_groups_and_forecast(finished):
    text = format_plan(finished)
    assert "gain at most" in text
    assert "Perfect specialists would lift accuracy" in text


def test_predict_writes_what_the_student_says(capsys, finished, tmp_path):
    images = load_digits().images.astype(np.uint8)[:30]
    np.savez(tmp_path / "in.npz", x=images)
    assert main(["predict", str(finished.path), str(tmp_path / "in.npz")]) == 0
    assert "30 predictions" in capsys.readouterr().out
    with np.load(tmp_path / "in.predicted.npz") as out:
        expected = load_student(finished.path)(torch.from_numpy(images)).softmax(1).detach().numpy()
        np.testing.assert_allclose(out["probability"], expected, atol=1e-6)
        np.testing.assert_array_equal(out["class_index"], expected.argmax(1))
        assert out["class_name"][0] == str(out["class_index"][0])


def test_predict_by_the_ensemble(finished, tmp_path):
    np.savez(tmp_path / "in.npz", x=load_digits().images.astype(np.uint8)[:30])
    arguments = ["predict", str(finished.path), str(tmp_path / "in.npz"), "--model", "teacher"]
    assert main([*arguments, "--output", str(tmp_path / "o.npz")]) == 0
    with np.load(tmp_path / "o.npz") as out:
        np.testing.assert_allclose(out["probability"].sum(1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.zeros((3, 5, 5))}, "holds shape (3, 5, 5); give (examples, 8, 8)"),
        ({"x": np.full((3, 8, 8), np.nan)}, "NaN"),
        ({"x": np.zeros((0, 8, 8))}, "holds shape (0, 8, 8)"),
        ({}, "holds shape"),
    ],
)
def test_predict_refuses_what_does_not_fit(capsys, finished, tmp_path, arrays, told):
    np.savez(tmp_path / "in.npz", **arrays)
    assert main(["predict", str(finished.path), str(tmp_path / "in.npz")]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("command", "codes"), [("status", [141]), ("--help", [0, 141])])  # argparse drops the error
def test_a_reader_that_has_gone_ends_it_quietly(finished, command, codes, unbuffered):
    """As in `raydistill status DIR | head -1`, but sure to be gone before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "raydistill", command, str(finished.path)],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert ended.stderr == ""
    assert ended.returncode in codes
