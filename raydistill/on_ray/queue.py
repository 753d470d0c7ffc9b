"""The work queue as an actor: execution/leases.py with a clock. It imports little, so that it starts quickly."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray

from raydistill.execution.jobs import Failure, Job, JobEvent, JobOutcome
from raydistill.execution.leases import Claim, WorkQueue

MAX_ATTEMPTS = 3
HEAR_SECONDS = 3.0  # in which every worker has beaten; it does so once a second
RETRY_SECONDS = 2.0  # before the second attempt; 8 before the third. Writers of files wait longer by themselves


class Clock(Protocol):
    """Seconds that pass; the module `time` is one, and so is a simulation (benchmarks/simulated.py)."""

    def monotonic(self) -> float:
        """Seconds since some moment."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


class JobQueue:
    """What workers and the driver call, one call at a time.

    If its process dies, Ray starts it anew with all jobs waiting: workers keep what they hold by their next beat, which
    it hears before it gives any job away, and finished jobs end at once by their own marks.
    """

    def __init__(
        self, jobs: Sequence[Job], lease_seconds: float, clock: Clock = time, started_anew: bool = False
    ) -> None:
        self._clock = clock
        self._gives_from = clock.monotonic() + (HEAR_SECONDS if started_anew else 0.0)
        self._queue = WorkQueue(
            jobs, lease_seconds=lease_seconds, max_attempts=MAX_ATTEMPTS, retry_seconds=RETRY_SECONDS
        )

    def claim(self, worker: str) -> Claim:
        """A worker asks for a job."""
        now = self._clock.monotonic()
        return self._queue.claim(worker, now) if now >= self._gives_from else Claim(None, 0, False)

    def beat(self, worker: str, job: str, progress: dict[str, Any]) -> bool:
        """A worker goes on with its job; False: it has lost it."""
        return self._queue.beat(worker, job, progress, self._clock.monotonic())

    def finish(self, job: str, outcome: JobOutcome) -> bool:
        """A worker has finished a job."""
        return self._queue.finish(job, outcome)

    def fail(self, worker: str, job: str, reason: str, trace: str, final: bool) -> None:
        """A job raised; final: it would again."""
        self._queue.fail(worker, job, reason, trace, self._clock.monotonic(), final=final)

    def dismiss(self, workers: Sequence[str], blamed: bool) -> None:
        """Workers have ended; blamed: perhaps by their jobs."""
        self._queue.dismiss(workers, blamed)

    def close(self) -> None:
        """The driver was interrupted: all workers shall end."""
        self._queue.close()

    def count_waiting(self) -> int:
        """How many jobs no worker has; none after close()."""
        return self._queue.count_waiting()

    def count_unfinished(self) -> int:
        """How many jobs are neither done nor failed."""
        return len(self._queue.unfinished())

    def changes(self, since: int) -> tuple[int, list[JobEvent]]:
        """News for the driver."""
        self._queue.expire(self._clock.monotonic())
        return self._queue.changes(since)

    def results(self) -> tuple[dict[str, JobOutcome], list[Failure], list[str]]:
        """What is done, what has failed, and the names of what is neither."""
        return self._queue.outcomes(), self._queue.failures(), self._queue.unfinished()


class JobQueueActor(JobQueue):
    """JobQueue in a process of its own."""

    def __init__(self, jobs: Sequence[Job], lease_seconds: float) -> None:
        anew = ray.get_runtime_context().was_current_actor_reconstructed
        super().__init__(jobs, lease_seconds, started_anew=anew)


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
    """Start the actor, on the driver's own node: others come and go. Its name shows in Ray's dashboard.

    By a label, because an affinity that is soft was seen to choose another node, one that had just joined. It may die
    as often as it likes: whoever calls it waits until it is there again.
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, label_selector=here)(JobQueueActor)
    return RemoteQueue(actor.options(name=name).remote(list(jobs), lease_seconds))
