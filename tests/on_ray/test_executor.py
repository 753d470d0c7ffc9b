from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import pytest

from raydistill.errors import ConfigError
from raydistill.execution.jobs import Job
from raydistill.on_ray import executor as executor_module
from raydistill.on_ray.executor import RayExecutor
from raydistill.on_ray.session import RaySession
from raydistill.settings.cluster import ClusterConfig, NeedsConfig

from . import jobs_for_tests


@pytest.fixture
def executor(ray_session: RaySession, tmp_path: Path) -> RayExecutor:
    return RayExecutor(tmp_path / "scratch")


def test_map_keeps_the_order(executor: RayExecutor) -> None:
    seen: list[tuple[int, int]] = []
    doubled = executor.map(jobs_for_tests.double, list(range(10)), lambda done, total: seen.append((done, total)))
    assert doubled == [2 * value for value in range(10)]
    assert seen[-1] == (10, 10)


def test_map_takes_partials_and_no_items(executor: RayExecutor) -> None:
    """Ray itself takes neither partials nor built-in functions."""
    assert executor.map(functools.partial(pow, 2), [1, 2, 3], lambda *_: None) == [2, 4, 8]
    assert executor.map(functools.partial(pow, 2), [], lambda *_: None) == []


def test_map_raises_what_the_function_raises(executor: RayExecutor) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        executor.map(int, ["1", "x"], lambda *_: None)


def test_a_private_ray_does_not_start_for_short_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> RaySession:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(executor_module, "finds_cluster", lambda address: False)
    monkeypatch.setattr(executor_module, "start_ray", refuse)
    seen: list[tuple[int, int]] = []
    executor = RayExecutor(tmp_path / "scratch")
    assert executor.map(functools.partial(pow, 2), [1, 2, 3], lambda *done: seen.append(done)) == [2, 4, 8]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(ValueError, match="invalid literal"):
        executor.map(int, ["1", "x"], lambda *_: None)
    executor.close()


def test_one_worker_on_this_machine_is_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> RaySession:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(executor_module, "finds_cluster", lambda address: False)
    monkeypatch.setattr(executor_module, "start_ray", refuse)
    arguments: dict[str, Any] = {"folder": str(tmp_path), "a": 1, "b": 2, "seconds": 0}
    job = Job("all", "on_ray.jobs_for_tests:add", arguments, 1.0)
    outcome = RayExecutor(tmp_path / "scratch").train(job, 1, lambda event: None)
    assert outcome.result == {"sum": 3}
    assert outcome.worker.endswith(f":{os.getpid()}")


def test_needs_that_a_private_ray_cannot_hold_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ray_session: RaySession
) -> None:
    monkeypatch.setattr(executor_module, "finds_cluster", lambda address: False)
    monkeypatch.setattr(executor_module, "start_ray", lambda *_: RaySession(joined=False, owned=False))
    cluster = ClusterConfig(trial=NeedsConfig(cpus=64))
    with pytest.raises(ConfigError, match=r"cluster.trial.cpus: 64 is more than any node has; the largest has 2;"):
        RayExecutor(tmp_path, cluster=cluster, workers={"generalist": 1, "trial": 1})
    with pytest.raises(ConfigError, match=r"specialists.workers: 3 do not fit, the cluster holds 2 at once"):
        RayExecutor(tmp_path, workers={"generalist": 1, "specialist": 3})


def test_a_joined_cluster_is_given_time_to_grow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ray_session: RaySession
) -> None:
    """Nobody tells whether an autoscaler may add such a node. One is asked for by a placement group."""
    monkeypatch.setattr(executor_module, "NODE_SECONDS", 1.5)
    told: list[str] = []
    cluster = ClusterConfig(student=NeedsConfig(gpus=2))
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"cluster.student.gpus: 2 is more than any node has; the largest has 0"):
        RayExecutor(tmp_path, cluster=cluster, workers={"trial": 1, "student": 1}, note=told.append)
    assert time.monotonic() - began >= 1.5
    assert told == ["no node holds CPU 1, GPU 2 yet, waiting for one up to 0.025 minutes"]
