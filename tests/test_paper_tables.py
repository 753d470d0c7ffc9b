"""The tables of the paper: settings are allowed before hours of work begin, results find their place on the page."""

import math

import numpy as np
import pytest

from benchmarks.paper import many, mnist, pictures, results
from benchmarks.paper.__main__ import TABLES
from benchmarks.paper.runs import Run, vary
from raydistill.settings.config import build_config
from raydistill.storage.files import read_json


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
    monkeypatch.setattr(results, "describe_making", lambda module: {"command": module, "commit": "abc", "machine": "m"})

    titles = {"one": "1. Table one", "two": "2. Table two", "ten": "10. Table ten"}

    def write(name, value):
        row = results.Row("student", [value, value + 2], "errors", "74", 1)
        return results.write_result(results.Result(name, titles[name], [row], ["a note"], [0, 1], 3.0))

    write("ten", 50.0)
    write("two", 20.0)
    write("one", 10.0)
    write("one", 30.0)
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.count("<!-- one -->") == page.count("## 1. Table one") == 1
    assert "| student | 74 | 31.0 ± 1.4 errors |" in page
    assert "| student | 74 | 21.0 ± 1.4 errors |" in page
    assert "11.0" not in page
    assert page.index("Table one") < page.index("Table two") < page.index("Table ten")
    assert page.startswith(results.HEAD)
    assert read_json(tmp_path / "results" / "one.json")["rows"][0]["values"] == [30.0, 32.0]


def test_share_kept():
    assert results.share_kept([50.0, 50.0], [60.0, 60.0], [58.0, 61.0]) == pytest.approx([80.0, 110.0])


def test_gains_by_coverage_leave_out_what_a_seed_does_not_have():
    def report(*rows):
        return {"coverage": [{"specialists": number, "relative_gain": gain} for number, gain in rows]}

    gains = many.coverage_gains([report((0, 0.0), (1, 0.05), (2, None)), report((1, 0.07), (10, 0.1))])
    np.testing.assert_allclose(gains[1], [5, 7])
    np.testing.assert_allclose(gains[2], [np.nan, np.nan])
    np.testing.assert_allclose(gains[10], [np.nan, 10])
    rows = many.coverage_rows("kanji", gains, paper=True)
    assert [(row.paper, row.ours()) for row in rows] == [
        ("+3.4 %", "6.0 ± 1.4 %"),
        ("+7.4 %", "–"),
        ("+14.1 %", "10.0 %"),
    ]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: pictures.draw_temperatures([1.0, 2.0], {width: [[5, 6], [4, 5]] for width in (30, 100)}),
        lambda: pictures.draw_coverage({"kanji": {1: [1.0, 2.0], 3: [2.0, math.nan]}, "glyphs": {1: [1.0]}}, {1: 3.4}),
        lambda: pictures.draw_folded({name: {"ensemble": [80.0], "quarter": [70.0]} for name in ("kanji", "glyphs")}),
    ],
)
def test_pictures_lie_where_the_page_names_them(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DOCS", tmp_path)
    name = draw().removeprefix("../docs/")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
