"""The pool on several raylets while parts of it die. Its jobs train nothing, but have checkpoints as specialists do.

After each: every job ends with what it would have ended with, and no epoch that was completed was done again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.raylets import Raylets
from raydistill.execution.jobs import Job
from raydistill.storage.files import read_json

from .cluster import Driver, frozen, wait_until
from .jobs import expected_value, list_epochs, list_starts, make_jobs

LEASE_SECONDS = 20.0  # longer than a busy machine is silent


class Fanout:
    """A driver that runs jobs in the pool, and what their folders tell."""

    def __init__(
        self, raylets: Raylets, folder: Path, jobs: Sequence[Job], lease_seconds: float = LEASE_SECONDS, **more: float
    ) -> None:
        self.raylets, self.jobs, self._results = raylets, jobs, folder / "results.json"
        self.driver = Driver(
            raylets,
            "pool",
            {
                "scratch": str(folder / "ray"),
                "lease_seconds": lease_seconds,
                "results": str(self._results),
                "jobs": [asdict(job) for job in jobs],
                **more,
            },
        )

    def folder(self, job: Job) -> Path:
        return Path(job.arguments["folder"])

    def is_finished(self, job: Job) -> bool:
        return (self.folder(job) / "finished.json").exists()

    def list_running(self) -> list[tuple[Job, dict[str, Any]]]:
        """Jobs that have completed an epoch, and are not finished; and where their last attempt runs."""
        begun = [job for job in self.jobs if list_epochs(self.folder(job)) and not self.is_finished(job)]
        return [(job, list_starts(self.folder(job))[-1]) for job in begun]

    def wait_for_running(self, count: int) -> list[tuple[Job, dict[str, Any]]]:
        """Until so many jobs at once are in the middle of their epochs, and one job is finished."""
        self.driver.wait_for(lambda: any(map(self.is_finished, self.jobs)) and len(self.list_running()) >= count)
        return self.list_running()

    def finish(self) -> dict[str, Any]:
        """Wait for the end, and check that nothing was lost, and nothing completed was done again."""
        self.driver.finish()
        told = dict(read_json(self._results))
        values = {outcome["job"]: outcome["result"]["value"] for outcome in told["outcomes"]}
        climbing = [job for job in self.jobs if not job.function.endswith((":fail", ":diverge"))]
        assert values == {job.name: expected_value(job.arguments["seed"], job.arguments["epochs"]) for job in climbing}
        for job in climbing:
            epochs = list_epochs(self.folder(job))
            assert len(set(epochs)) == len(epochs), (job.name, epochs)
        return told


def count_attempts(fanout: Fanout) -> list[int]:
    return [len(list_starts(fanout.folder(job))) for job in fanout.jobs]


def list_all_starts(fanout: Fanout) -> list[dict[str, Any]]:
    return [start for job in fanout.jobs for start in list_starts(fanout.folder(job))]


@pytest.mark.slow
def test_everything_at_once(raylets: Raylets, tmp_path: Path) -> None:
    """One fan-out, because each takes many seconds to start: every fault that the tests below have one by one."""
    jobs = [
        *make_jobs(tmp_path / "jobs", 8, 5, 0.6),
        *(Job(f"{name} job", f"faults.jobs:{name}", {"folder": str(tmp_path / name)}, 0.5) for name in FAILING),
    ]
    fanout = Fanout(raylets, tmp_path, jobs)
    running = fanout.wait_for_running(2)
    os.kill(running[0][1]["pid"], signal.SIGKILL)
    (queue,) = raylets.find("ray::JobQueue")
    queue.kill()
    fanout.driver.wait_for(lambda: sum(map(fanout.is_finished, jobs)) >= 3)
    running = fanout.wait_for_running(1)
    raylets.kill(running[0][1]["node"])
    raylets.add()
    told = fanout.finish()
    failures = {failure["job"]: (failure["attempts"], failure["reason"]) for failure in told["failures"]}
    assert failures == {
        "fail job": (3, "ValueError: no examples"),
        "diverge job": (1, "FloatingPointError: loss is nan in epoch 1"),
    }
    assert len(list_starts(tmp_path / "diverge")) == 1  # the same would come again


FAILING = ("fail", "diverge")


@pytest.mark.slow
def test_a_worker_killed(raylets: Raylets, tmp_path: Path) -> None:
    fanout = Fanout(raylets, tmp_path, make_jobs(tmp_path / "jobs", 4, 5, 0.6))
    (job, start), *_ = fanout.wait_for_running(1)
    os.kill(start["pid"], signal.SIGKILL)
    fanout.finish()
    assert sorted(count_attempts(fanout)) == [1, 1, 1, 2]
    assert len(list_starts(fanout.folder(job))) == 2


@pytest.mark.slow
def test_a_worker_that_hangs(raylets: Raylets, tmp_path: Path) -> None:
    """Its lease expires, its own watchdog ends it, and another attempt does the job."""
    jobs = make_jobs(tmp_path / "jobs", 4, 3, 0.4)
    hanging = make_jobs(tmp_path / "hanging", 1, 3, 0.4, "hang_once")
    all_jobs = [*jobs, Job("hanging", hanging[0].function, hanging[0].arguments, 9.0)]
    fanout = Fanout(raylets, tmp_path, all_jobs, lease_seconds=6)
    fanout.finish()
    first, second, *_ = list_starts(tmp_path / "hanging" / "000")
    assert second["time"] - first["time"] >= 6
    assert count_attempts(fanout)[:4] == [1, 1, 1, 1]


@pytest.mark.slow
def test_a_worker_that_stays_frozen(raylets: Raylets, tmp_path: Path) -> None:
    """Ray Train kills it, and only then another attempt begins, long before the lease would have ended."""
    jobs = make_jobs(tmp_path / "jobs", 4, 5, 0.6)
    fanout = Fanout(raylets, tmp_path, jobs, lease_seconds=100, health_seconds=4)
    (job, start), *_ = fanout.wait_for_running(2)
    process = psutil.Process(start["pid"])
    with frozen(process):
        fanout.driver.wait_for(lambda: len(list_starts(fanout.folder(job))) == 2)
        assert not process.is_running()
        told = fanout.finish()
    assert told["failures"] == []
    assert sorted(count_attempts(fanout)) == [1, 1, 1, 2]
    assert list_starts(fanout.folder(job))[1]["time"] - start["time"] < 100


@pytest.mark.slow
def test_a_node_killed(raylets: Raylets, tmp_path: Path) -> None:
    """The other node does the jobs, and its own is not disturbed."""
    fanout = Fanout(raylets, tmp_path, make_jobs(tmp_path / "jobs", 6, 5, 0.6))
    (job, start), *_ = fanout.wait_for_running(2)
    raylets.kill(start["node"])
    fanout.finish()
    assert sorted(count_attempts(fanout)) == [1, 1, 1, 1, 1, 2]
    assert len({one["pid"] for one in list_all_starts(fanout)}) == 2
    assert len(list_starts(fanout.folder(job))) == 2


@pytest.mark.slow
def test_a_node_that_comes_back(raylets: Raylets, tmp_path: Path) -> None:
    """It takes jobs again, and the other node's worker knows nothing of all this."""
    fanout = Fanout(raylets, tmp_path, make_jobs(tmp_path / "jobs", 24, 6, 0.8))
    (_, start), (_, other), *_ = fanout.wait_for_running(2)
    raylets.kill(start["node"])
    back = raylets.add()
    fanout.finish()
    starts = list_all_starts(fanout)
    assert back in {one["node"] for one in starts}
    assert {one["pid"] for one in starts if one["node"] == other["node"]} == {other["pid"]}
    assert sorted(count_attempts(fanout)) == [1] * 23 + [2]


@pytest.mark.slow
def test_all_workers_killed_at_once(raylets: Raylets, tmp_path: Path) -> None:
    fanout = Fanout(raylets, tmp_path, make_jobs(tmp_path / "jobs", 6, 5, 0.6))
    running = fanout.wait_for_running(2)
    for _, start in running:
        os.kill(start["pid"], signal.SIGKILL)
    fanout.finish()
    assert sorted(count_attempts(fanout)) == [1, 1, 1, 1, 2, 2]


@pytest.mark.slow
def test_a_node_that_joins_late(raylets: Raylets, tmp_path: Path) -> None:
    """The pool grows onto it, and the worker that was there works on."""
    raylets.kill(raylets.nodes[0])
    fanout = Fanout(raylets, tmp_path, make_jobs(tmp_path / "jobs", 12, 6, 0.8))
    fanout.driver.wait_for(lambda: any(map(fanout.is_finished, fanout.jobs)))
    late = raylets.add()
    fanout.finish()
    assert late in {start["node"] for start in list_all_starts(fanout)}
    assert count_attempts(fanout) == [1] * 12


@pytest.mark.slow
def test_the_queue_killed(raylets: Raylets, tmp_path: Path) -> None:
    """Workers keep what they do, and what is finished is only asked for its result."""
    fanout = Fanout(raylets, tmp_path, make_jobs(tmp_path / "jobs", 6, 5, 0.6))
    for _ in range(4):  # more often than Ray restarts an actor by default
        fanout.wait_for_running(1)
        (queue,) = raylets.find("ray::JobQueue")
        queue.kill()
        wait_until(lambda dead=queue: [other for other in raylets.find("ray::JobQueue") if other != dead])
        time.sleep(1)
    told = fanout.finish()
    assert told["failures"] == []
    assert [list_epochs(fanout.folder(job)) for job in fanout.jobs] == [[1, 2, 3, 4, 5]] * 6
    for job in fanout.jobs:
        finished = (fanout.folder(job) / "finished.json").stat().st_mtime
        _, *again = list_starts(fanout.folder(job))
        assert all(start["time"] > finished for start in again), job.name


@pytest.mark.slow
def test_a_worker_told_to_end(raylets: Raylets, tmp_path: Path) -> None:
    """It ends after its next epoch, and the job goes on elsewhere without an attempt counted."""
    fanout = Fanout(raylets, tmp_path, make_jobs(tmp_path / "jobs", 4, 5, 1.0))
    (job, start), *_ = fanout.wait_for_running(1)
    done, began = len(list_epochs(fanout.folder(job))), time.monotonic()
    os.kill(start["pid"], signal.SIGTERM)
    wait_until(lambda: not any(process.pid == start["pid"] for process in raylets.find("ray::")), 25)
    assert time.monotonic() - began < 25
    assert len(list_epochs(fanout.folder(job))) > done or fanout.is_finished(job)
    fanout.finish()


@pytest.mark.slow
def test_storage_that_refuses_for_ten_seconds(raylets: Raylets, tmp_path: Path) -> None:
    """Every worker waits; no attempt is lost."""
    fanout = Fanout(raylets, tmp_path, make_jobs(tmp_path / "jobs", 4, 5, 0.4, "climb_refused"))
    fanout.wait_for_running(1)
    (tmp_path / "jobs" / "refuse").touch()
    time.sleep(10)
    (tmp_path / "jobs" / "refuse").unlink()
    fanout.finish()
    assert count_attempts(fanout) == [1, 1, 1, 1]
