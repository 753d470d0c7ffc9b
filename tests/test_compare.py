"""Runs side by side: what differs, significance on shared test rows alone, and what is said where there are none."""

import json

import numpy as np
import pytest
from builders import quick_config, run_quick
from scipy.stats import binomtest
from sklearn.datasets import load_digits

from raydistill.commands.cli import main
from raydistill.data.row_hashes import hash_rows
from raydistill.report import read_report
from raydistill.report.side_by_side import compare_many, list_differences, match_tests
from raydistill.storage.files import read_array


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("compare") / "first"))


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    config = quick_config(tmp_path_factory.mktemp("compare") / "second", student={"epochs": 2})
    return run_quick(config, start_from=first.path)


@pytest.fixture(scope="module")
def reseeded(tmp_path_factory):
    """Other splits: some of the test rows are the first run's too."""
    return run_quick(quick_config(tmp_path_factory.mktemp("compare") / "reseeded", seed=1))


def test_settings_that_differ_are_named_once(first, second):
    found = compare_many([first, second])
    assert found["settings"] == {"student.epochs": [4, 2]}


def test_nested_settings_and_options():
    one, two = {"a": {"b": 1, "options": {"x": 1}}}, {"a": {"b": 1, "options": {"x": 2}, "c": 3}}
    assert list_differences([one, two]) == {"a.options": [{"x": 1}, {"x": 2}], "a.c": [None, 3]}


def test_significance_is_mcnemars_on_all_rows_where_these_are_the_same(first, second):
    pair = compare_many([first, second])["pairs"][0]
    right = []
    for run in (first, second):
        folder, place = run.stage_folder("report"), read_report(run)["models"].index("student")
        right.append(read_array(folder / "predicted.npy")[place] == read_array(folder / "labels.npy"))
    gained, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    assert gained + lost > 0
    assert (pair["same"], pair["shared"]) == (True, len(right[0]))
    assert pair["models"]["student"]["p_value"] == pytest.approx(binomtest(gained, gained + lost).pvalue)
    assert pair["models"]["student"]["difference"] == pytest.approx((gained - lost) / len(right[0]))
    assert pair["models"]["generalist"]["difference"] == 0


def test_other_splits_are_compared_on_the_rows_that_both_have(first, reseeded):
    """Rows are found by their bytes; here, in the same data, row numbers say which they are."""
    places = match_tests(first, reseeded)
    tests = [read_array(run.stage_folder("splits") / "test.npy") for run in (first, reseeded)]
    np.testing.assert_array_equal(*(test[place] for test, place in zip(tests, places, strict=True)))
    assert len(places[0]) == len(np.intersect1d(*tests))
    assert 0 < len(places[0]) < len(tests[0])


def test_text_says_what_does_not_compare(capsys, first, second, reseeded):
    assert main(["compare", str(first.path), str(second.path), str(reseeded.path)]) == 0
    text = capsys.readouterr().out
    assert "A and B have the same" in text
    assert "A and C have other test examples" in text
    assert "do not compare" in text
    assert "control: labels only" in text
    assert "seconds by stage" in text


def test_no_shared_rows(capsys, first, tmp_path):
    digits = load_digits()
    np.savez(tmp_path / "d.npz", x_train=16 - digits.images.astype(np.uint8), y_train=digits.target)
    run = run_quick(quick_config(tmp_path / "run", data=f"npz:{tmp_path / 'd.npz'}"))
    assert main(["compare", str(first.path), str(run.path)]) == 0
    text = capsys.readouterr().out
    assert "share no test example" in text
    assert "McNemar" not in text


def test_json_is_all_of_it(capsys, first, second):
    assert main(["compare", str(first.path), str(second.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(compare_many([first, second])))


def test_one_run_or_one_without_report(capsys, first, tmp_path):
    assert main(["compare", str(first.path)]) == 2
    assert "give two or more" in capsys.readouterr().err
    planned = run_quick(quick_config(tmp_path / "planned"), until="groups")
    assert main(["compare", str(first.path), str(planned.path)]) == 2
    assert "has no report yet" in capsys.readouterr().err


def test_hashes_hang_on_bytes_alone():
    x = np.arange(12, dtype=np.uint8).reshape(4, 3)
    hashes = hash_rows(np.concatenate([x, x[:1]]), np.array([4, 0, 1, 2, 3]))
    assert hashes[0] == hashes[1]
    assert len(set(hashes.tolist())) == 4
