from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.exceptions import RayActorError
from ray.util import placement_group_table

from raydistill.errors import ConfigError
from raydistill.execution.jobs import Job, JobEvent, JobFailed
from raydistill.on_ray.executor import RayExecutor
from raydistill.on_ray.session import RaySession
from raydistill.on_ray.worker import Watchdog

from .jobs_for_tests import count_starts

JOBS = "on_ray.jobs_for_tests"


@pytest.fixture
def executor(ray_session: RaySession, tmp_path: Path) -> RayExecutor:
    return RayExecutor(tmp_path / "scratch", lease_seconds=4)


def make_job(folder: Path, function: str, name: str, cost: float = 1.0, **arguments: Any) -> Job:
    return Job(name, f"{JOBS}:{function}", {"folder": str(folder / name), **arguments}, cost)


def last_states(events: list[JobEvent]) -> dict[str, str]:
    return {event.job: event.state for event in events}


def test_jobs_run_once_two_at_a_time_and_in_order(executor: RayExecutor, tmp_path: Path) -> None:
    assert executor.slots == 2
    jobs = [make_job(tmp_path, "add", f"job {index}", index, a=index, b=1, seconds=0.9) for index in range(6)]
    events: list[JobEvent] = []
    outcomes = executor.run_jobs(jobs, events.append)
    assert [outcome.job for outcome in outcomes] == [job.name for job in jobs]
    assert [outcome.result["sum"] for outcome in outcomes] == [1, 2, 3, 4, 5, 6]
    assert [count_starts(job.arguments) for job in jobs] == [1] * 6
    assert {outcome.attempts for outcome in outcomes} == {1}
    assert len({outcome.worker for outcome in outcomes}) == 2
    began = [outcome.started for outcome in outcomes]
    assert began[5] < began[0]  # the longest first
    ends = [outcome.started + outcome.seconds for outcome in outcomes]
    running = [sum(start <= moment < end for start, end in zip(began, ends, strict=True)) for moment in began]
    assert max(running) == 2
    assert [event.job for event in events[:6] if event.state == "waiting"]
    assert last_states(events) == dict.fromkeys([job.name for job in jobs], "done")
    assert not list((tmp_path / "scratch").iterdir())


def test_faults_are_survived_and_failures_named(executor: RayExecutor, tmp_path: Path) -> None:
    """One run with everything that can go wrong, because a run costs many seconds to start."""
    jobs = [
        make_job(tmp_path, "fail", "failing", 9),
        make_job(tmp_path, "die_once", "dying", 8),
        make_job(tmp_path, "hang_once", "hanging", 7),
        *(make_job(tmp_path, "add", f"job {index}", a=index, b=1) for index in range(4)),
    ]
    events: list[JobEvent] = []
    with pytest.raises(JobFailed, match="'failing' failed after 3 attempts: ValueError: no examples") as caught:
        executor.run_jobs(jobs, events.append)
    assert "jobs_for_tests.py" in caught.value.__notes__[0]
    assert [count_starts(job.arguments) for job in jobs] == [3, 2, 2, 1, 1, 1, 1]
    assert last_states(events) == {"failing": "failed"} | {job.name: "done" for job in jobs[1:]}


def test_an_interrupt_ends_the_pool_before_it_travels_on(executor: RayExecutor, tmp_path: Path) -> None:
    """Ctrl-C: a thread of Ray Train that outlived Ray would end the process without a word."""
    timers: list[threading.Timer] = []

    def interrupt_soon(event: JobEvent) -> None:
        if event.state == "running" and not timers:
            timers.append(threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)))
            timers[0].start()

    jobs = [make_job(tmp_path, "tick", f"job {index}") for index in range(3)]
    threads, began = threading.active_count(), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        executor.run_jobs(jobs, interrupt_soon)
    assert threading.active_count() <= threads
    assert time.monotonic() - began < 40
    assert sum((tmp_path / job.name).exists() for job in jobs) == 2


@pytest.mark.slow
def test_nothing_is_held_after_the_controller_has_died(executor: RayExecutor, tmp_path: Path) -> None:
    def kill_controller(event: JobEvent) -> None:
        if event.state == "running":
            for process in psutil.Process().children(recursive=True):
                if "TrainController" in process.name():
                    process.kill()

    with pytest.raises(RayActorError):
        executor.run_jobs([make_job(tmp_path, "tick", "job")], kill_controller)
    assert {table["state"] for table in placement_group_table().values()} <= {"REMOVED"}
    (outcome,) = executor.run_jobs([make_job(tmp_path, "add", "another", a=1, b=1)], lambda event: None)
    assert outcome.result == {"sum": 2}


def test_no_jobs(executor: RayExecutor) -> None:
    assert executor.run_jobs([], print) == []


def test_jobs_of_two_workers_each(executor: RayExecutor, tmp_path: Path) -> None:
    """One group of two fits, and does all of them."""
    events: list[JobEvent] = []
    jobs = [make_job(tmp_path, "add_ranks", f"job {index}", index) for index in range(3)]
    outcomes = executor.run_jobs(jobs, events.append, workers=2)
    assert [outcome.job for outcome in outcomes] == ["job 0", "job 1", "job 2"]
    assert [outcome.result for outcome in outcomes] == [{"sum": 3.0, "world": 2}] * 3
    assert len({outcome.worker for outcome in outcomes}) == 1  # one run of Ray Train for all three
    assert events[-1].progress == {"epoch": 1, "epochs": 1, "fraction": 1.0}
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.slow
def test_a_group_goes_on_after_a_job_that_fails(executor: RayExecutor, tmp_path: Path) -> None:
    """All ranks start anew after each failure; the other jobs are done in between."""
    jobs = [
        make_job(tmp_path, "fail_on_last_rank", "failing", 3),
        *(make_job(tmp_path, "add_ranks", f"job {index}", index) for index in range(3)),
    ]
    events: list[JobEvent] = []
    with pytest.raises(JobFailed, match="'failing' failed after 3 attempts: ValueError: rank at fault"):
        executor.run_jobs(jobs, events.append, workers=2)
    assert last_states(events) == {"failing": "failed"} | {f"job {index}": "done" for index in range(3)}


@pytest.mark.slow
def test_a_group_that_loses_a_worker_does_the_job_again(executor: RayExecutor, tmp_path: Path) -> None:
    jobs = [
        make_job(tmp_path, "lose_last_rank_once", "losing", 3),
        *(make_job(tmp_path, "add_ranks", f"job {index}", index) for index in range(2)),
    ]
    outcomes = executor.run_jobs(jobs, lambda event: None, workers=2)
    assert [outcome.result for outcome in outcomes] == [{"sum": 3.0, "world": 2}] * 3
    assert [outcome.attempts for outcome in outcomes] == [2, 1, 1]


def test_train_needs_room(executor: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_node_seconds", 0.0)
    with pytest.raises(ConfigError, match="workers: 3 do not fit, the cluster holds 2"):
        executor.train(make_job(tmp_path, "add_ranks", "all"), 3, print)


def test_the_watchdog_barks_after_silence_only() -> None:
    barks: list[float] = []
    began = time.monotonic()
    dog = Watchdog(0.4, lambda: barks.append(time.monotonic() - began))
    for _ in range(4):
        time.sleep(0.2)
        dog.pat()
    assert not barks
    time.sleep(0.8)
    assert len(barks) == 1
    stopped = Watchdog(0.1, lambda: barks.append(0.0))
    stopped.stop()
    time.sleep(0.3)
    assert len(barks) == 1
