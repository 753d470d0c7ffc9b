"""The work queue as an actor: raydistill.leases with a clock. It imports little, so that its process starts quickly."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray

from raydistill.execution import Job, JobEvent, JobOutcome
from raydistill.leases import Claim, Failure, WorkQueue

MAX_ATTEMPTS = 3


class Clock(Protocol):
    """Seconds that pass; the module `time` is one, and so is a simulation (benchmarks/simulated.py)."""

    def monotonic(self) -> float:
        """Seconds since some moment."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


class JobQueue:
    """What workers and the driver call, one call at a time.

    If its process dies, Ray starts it anew with all jobs waiting: finished ones end at once by their own marks.
    """

    def __init__(self, jobs: Sequence[Job], lease_seconds: float, clock: Clock = time) -> None:
        self._clock = clock
        self._queue = WorkQueue(jobs, lease_seconds=lease_seconds, max_attempts=MAX_ATTEMPTS)

    def enlist(self, worker: str, rank: int, world: int) -> None:
        """A worker process begins."""
        self._queue.enlist(worker, rank, world)

    def claim(self, worker: str) -> Claim:
        """A worker asks for a job."""
        return self._queue.claim(worker, self._clock.monotonic())

    def beat(self, worker: str, job: str, progress: dict[str, Any]) -> bool:
        """A worker goes on with its job; False: it has lost it."""
        return self._queue.beat(worker, job, progress, self._clock.monotonic())

    def finish(self, job: str, outcome: JobOutcome) -> bool:
        """A worker has finished a job."""
        return self._queue.finish(job, outcome)

    def fail(self, worker: str, job: str, reason: str, trace: str) -> None:
        """A job raised."""
        self._queue.fail(worker, job, reason, trace)

    def close(self) -> None:
        """The driver was interrupted: all workers shall end."""
        self._queue.close()

    def changes(self, since: int) -> tuple[int, list[JobEvent]]:
        """News for the driver."""
        self._queue.expire(self._clock.monotonic())
        return self._queue.changes(since)

    def results(self) -> tuple[dict[str, JobOutcome], list[Failure], list[str]]:
        """What is done, what has failed, and the names of what is neither."""
        return self._queue.outcomes(), self._queue.failures(), self._queue.unfinished()


class RemoteQueue:
    """JobQueue's methods, called through its actor: each waits for the answer. Workers get it with their settings."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteQueue, (self.actor,)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.actor, name)
        return lambda *arguments, **named: ray.get(method.remote(*arguments, **named))


def start_queue(name: str, jobs: Sequence[Job], lease_seconds: float) -> RemoteQueue:
    """Start the actor. Its name shows in Ray's dashboard."""
    actor = ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3)(JobQueue)
    return RemoteQueue(actor.options(name=name).remote(list(jobs), lease_seconds))
