"""The tables of the paper: settings are allowed before hours of work begin, results find their place on the page."""

import numpy as np
import pytest

from benchmarks.paper import many, mnist, results
from benchmarks.paper.__main__ import TABLES
from benchmarks.paper.runs import Run, vary
from raydistill.config import build_config
from raydistill.files import read_json


class Captured(Exception):
    """Instead of making the runs."""


@pytest.fixture
def data(tmp_path):
    labels = np.arange(3)
    arrays = {"x_train": np.zeros((3, 4, 4)), "x_test": np.zeros((3, 4, 4)), "y_train": labels, "y_test": labels}
    np.savez(tmp_path / "data.npz", **arrays, face_train=labels, class_names=np.array(["a", "b", "c"]))
    return tmp_path / "data.npz"


@pytest.mark.parametrize("table", TABLES)
def test_settings_are_allowed_and_runs_start_from_earlier_ones(table, data, tmp_path, monkeypatch):
    captured = []

    def capture(runs, folder, at_once):
        captured.extend(runs)
        raise Captured

    for module in (mnist, many):
        monkeypatch.setattr(module, "execute", capture)
    with pytest.raises(Captured):
        TABLES[table][0](data, tmp_path, range(2), 1)
    names = [run.name for run in captured]
    assert len(set(names)) == len(names)
    for index, run in enumerate(captured):
        build_config(run.all_settings(tmp_path))
        assert run.start_from is None or run.start_from in names[:index]


def test_variations_lie_on_top_of_each_other(tmp_path):
    base = Run("a", {"data": "digits", "student": {"epochs": 3, "shift": 1}})
    second = vary(vary(base, "b", student={"epochs": 5}), "c", student={"shift": 2}, seed=4)
    assert second.start_from == "b"
    assert second.all_settings(tmp_path) == {
        "data": "digits",
        "student": {"epochs": 5, "shift": 2},
        "seed": 4,
        "run_dir": str(tmp_path / "c"),
    }


def test_results_replace_their_own_part_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "HERE", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(results, "read_commit", lambda: "abc")

    def write(name, value):
        row = results.Row("student", [value, value + 2], "errors", "74", 1)
        return results.write_result(results.Result(name, f"Table {name}", [row], ["a note"], [0, 1], 3.0))

    write("one", 10.0)
    write("two", 20.0)
    write("one", 30.0)
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.count("<!-- one -->") == page.count("## Table one") == 1
    assert "| student | 74 | 31.0 ± 1.4 errors |" in page
    assert "| student | 74 | 21.0 ± 1.4 errors |" in page
    assert "11.0" not in page
    assert page.index("Table one") < page.index("Table two")
    assert read_json(tmp_path / "results" / "one.json")["rows"][0]["values"] == [30.0, 32.0]


def test_share_kept():
    assert results.share_kept([50.0, 50.0], [60.0, 60.0], [58.0, 61.0]) == pytest.approx([80.0, 110.0])
