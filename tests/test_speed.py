"""The speed benchmarks' own arithmetic: ratios, targets, floors."""

import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed.measure import Line, Part, at_least, at_most, divide, take_turns


def test_contenders_take_turns_and_the_first_round_warms_up():
    calls = []
    work = {name: lambda name=name: calls.append(name) or 2.0 for name in ("one", "two")}
    rates = take_turns(work, rounds=2)
    assert calls == ["two", "one", "one", "two", "two", "one"]
    assert [len(rates[name]) for name in work] == [2, 2]
    assert divide([6.0, 4.0], [2.0, 8.0]) == [3.0, 0.5]


@pytest.mark.parametrize(
    ("line", "floor"),
    [
        (Line("a", [1.2, 0.8, 1.0], at_least(0.9)), 0.75),
        (Line("well above", [10.0], at_least(0.9)), 0.9),
        (Line("missed", [6.0], at_most(3)), 8.0),
        (Line("well below", [0.01], at_most(3)), 3.0),
        (Line("the same anywhere", [0.5], at_least(0.9), exact=True), 0.495),
    ],
)
def test_floors_have_slack_and_are_never_stricter_than_the_target(line, floor):
    assert speed.find_floor(line) == pytest.approx(floor)


def test_below_the_floor_is_told_and_so_is_a_line_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "FLOORS", tmp_path / "floors.json")
    lines = [Line("up", [4.0], at_least(8)), Line("down", [4.0], at_most(2)), Line("shown", [1.0])]
    speed.record_floors("steps", lines)
    assert speed.check_floors("steps", lines) == []
    worse = [Line("up", [2.9], at_least(8)), Line("down", [5.4], at_most(2))]
    assert speed.check_floors("steps", worse) == [
        "steps: up: 2.9, the floor is at least 3",
        "steps: down: 5.4, the floor is at most 5.33",
    ]
    assert speed.check_floors("steps", lines[:1]) == ["steps: down: not measured any more; record the floors again"]


def test_the_page_says_which_targets_are_met(monkeypatch):
    monkeypatch.setattr(speed, "describe_making", lambda module: {"command": "c", "commit": "abc", "machine": "m"})
    lines = [Line("fast", [1.0, 3.0, 2.0], at_least(2)), Line("slow", [1.0], at_least(2)), Line("so", [1.0], unit="s")]
    text = speed.format_part("steps", Part(lines, ["a note"]))
    assert "| fast | at least 2 | 2 | 1.5 to 2.5 | yes |" in text
    assert "| slow | at least 2 | 1 | – | **no** |" in text
    assert "| so | – | 1 s | – |  |" in text
    assert "- a note\n- `c`; commit abc" in text
