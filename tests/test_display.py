"""The display: plain lines are rare, jobs are summed up, times left are told."""

import io

from rich.console import Console

from raydistill.display import JobBoard, Lines, Live, format_seconds
from raydistill.execution.jobs import JobEvent


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def make():
    written, clock = [], Clock()
    return Lines(written.append, clock), written, clock


def test_at_most_one_line_in_ten_seconds():
    lines, written, clock = make()
    lines.begin_stage("specialists", 6, 11)
    for second in range(100):
        clock.now = float(second)
        lines.update(second / 100, "going on")
    assert len(written) == 9
    assert written[0] == "[6/11] specialists: going on, about 1 min 30 s left"


def test_end_and_results_are_always_told():
    lines, written, _ = make()
    lines.begin_stage("data", 1, 11)
    lines.note("a result")
    lines.end_stage(75.0, False)
    lines.begin_stage("splits", 2, 11)
    lines.end_stage(1.0, True)
    assert written == [
        "[1/11] data: a result",
        "[1/11] data: done in 1 min 15 s",
        "[2/11] splits: finished before, skipped",
    ]


def test_what_is_told_before_the_first_stage_names_none():
    lines, written, _ = make()
    lines.note("of the whole run")
    assert written == ["of the whole run"]


def test_jobs_are_summed_up():
    board = JobBoard()
    for index, (state, progress) in enumerate(
        [
            ("done", {}),
            ("running", {"epoch": 2, "epochs": 8, "fraction": 0.25, "value": 0.5}),
            ("waiting", {}),
            ("waiting", {}),
        ]
    ):
        board.add(JobEvent(f"specialist {index}", state, "", progress))
    assert board.fraction() == (1 + 0.25) / 4
    assert board.describe() == "1 running, 1 done, 2 waiting (specialist 1: pass 2 of 8, 50.0% right)"


def test_a_single_job_speaks_for_itself():
    board = JobBoard()
    board.add(JobEvent("generalist", "running", "", {}))
    assert board.describe() == "started"
    board.add(JobEvent("generalist", "running", "", {"epoch": 1, "epochs": 20}))
    assert board.describe() == "pass 1 of 20"


def test_seconds_are_readable():
    assert [format_seconds(value) for value in (0.4, 59, 200, 7500)] == ["0 s", "59 s", "3 min 20 s", "2 h 5 min"]


def test_live_display_shows_stage_and_results():
    stream = io.StringIO()
    live = Live(Console(file=stream, force_terminal=True, width=120))
    live.begin_stage("search", 9, 11)
    live.on_event(JobEvent("trial 000", "running", "", {"epoch": 1, "epochs": 4, "fraction": 0.25, "value": 0.5}))
    live.note("best of 8 trials")
    live.end_stage(3.0, False)
    live.close()
    text = stream.getvalue()
    assert "[9/11] search: best of 8 trials" in text
    assert "done in 3 s" in text
