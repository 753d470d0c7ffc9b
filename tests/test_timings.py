from __future__ import annotations

from typing import Any, Literal

import pytest

from raydistill.execution.jobs import JobEvent
from raydistill.stages import timings
from raydistill.stages.timings import TrialTimes


def test_trials_are_timed_by_their_worker_or_else_by_their_events(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 101.0, 104.0, 109.0, 110.0])
    monkeypatch.setattr(timings.time, "time", lambda: next(moments))
    passed: list[JobEvent] = []
    times = TrialTimes(passed.append)

    def tell(job: str, state: Literal["running", "done"], **progress: Any) -> None:
        times(JobEvent(job, state, "host:1", progress))

    tell("trial 000", "running")
    tell("trial 001", "running")
    tell("trial 000", "running", seconds=3.5)  # at 104
    tell("trial 001", "running", epoch=1)  # at 109, its worker tells no seconds
    tell("trial 000", "done")
    assert len(passed) == 5
    assert times.records() == [
        {"job": "trial 000", "worker": "host:1", "started": 100.5, "seconds": 3.5},
        {"job": "trial 001", "worker": "host:1", "started": 101.0, "seconds": 8.0},
    ]
