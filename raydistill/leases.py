"""A queue of jobs that workers hold under leases. Pure: no threads, no clock (times are passed in, in seconds), no Ray.

    waiting ──claim──► running ──finish──► done
       ▲                  │
       └── failed, silent for a lease, or its worker replaced ──► failed, after max_attempts without a new epoch

Jobs are idempotent: they resume from their own folders and write whole files. So the first finish counts, whoever it
comes from, even from a worker that lost its lease; a second one is refused. Progress resets the count of attempts,
because a cluster whose nodes come and go may interrupt a long job many times, and a job that kills its worker makes
no progress.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raydistill.execution import Job, JobEvent, JobOutcome, check_jobs


@dataclass
class Entry:
    """A job and what is known of it. strikes: attempts in a row that ended badly without a new epoch."""

    job: Job
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    worker: str = ""
    deadline: float = 0.0
    attempts: int = 0
    strikes: int = 0
    epoch: int = 0
    progress: dict[str, Any] = field(default_factory=dict)
    outcome: JobOutcome | None = None
    reason: str = ""
    trace: str = ""
    version: int = 0


@dataclass(frozen=True)
class Claim:
    """An answer to a worker that asks for work: a job, or none; drained: none will come."""

    job: Job | None
    attempts: int
    drained: bool


@dataclass(frozen=True)
class Failure:
    """A job that failed for good."""

    job: str
    attempts: int
    reason: str
    trace: str


class WorkQueue:
    """Jobs, longest first. Times are in seconds of any one clock."""

    def __init__(self, jobs: Sequence[Job], *, lease_seconds: float, max_attempts: int) -> None:
        check_jobs(jobs)
        self._lease_seconds, self._max_attempts = lease_seconds, max_attempts
        self._entries = {job.name: Entry(job) for job in sorted(jobs, key=lambda job: -job.cost)}
        self._worker_of_rank: dict[int, str] = {}
        self._version = 0
        self._closed = False

    def enlist(self, worker: str, rank: int, world: int) -> None:
        """A worker begins as one of `world`. It replaces the earlier one of its rank; ranks beyond `world` are gone."""
        gone = {old for place, old in self._worker_of_rank.items() if place == rank or place >= world} - {worker}
        for entry in self._entries.values():
            if entry.state == "running" and entry.worker in gone:
                self._give_back(entry, f"worker {entry.worker} died", "")
        self._worker_of_rank = {place: old for place, old in self._worker_of_rank.items() if old not in gone}
        self._worker_of_rank[rank] = worker

    def claim(self, worker: str, now: float) -> Claim:
        """Give the longest waiting job; a worker that has one already gets it again (its answer may have been lost)."""
        if self._closed:
            return Claim(None, 0, True)
        self.expire(now)
        entries = self._entries.values()
        held = (entry for entry in entries if entry.state == "running" and entry.worker == worker)
        waiting = (entry for entry in entries if entry.state == "waiting")
        entry = next(held, None)
        if entry is None:
            entry = next(waiting, None)
            if entry is None:
                return Claim(None, 0, self.is_drained())
            entry.attempts += 1
        entry.deadline = now + self._lease_seconds
        self._change(entry, "running", worker)
        return Claim(entry.job, entry.attempts, False)

    def beat(self, worker: str, job: str, progress: dict[str, Any], now: float) -> bool:
        """Note progress and prolong the lease. False: the worker has lost it."""
        self.expire(now)
        entry = self._entries[job]
        if self._closed or entry.state != "running" or entry.worker != worker:
            return False
        entry.deadline, entry.progress = now + self._lease_seconds, progress
        epoch = int(progress.get("epoch", 0))
        if epoch > entry.epoch:
            entry.epoch, entry.strikes = epoch, 0
        self._change(entry, "running", worker)
        return True

    def finish(self, job: str, outcome: JobOutcome) -> bool:
        """Accept the first finish of a job; False: it was finished before, or given up."""
        entry = self._entries[job]
        if entry.state in ("done", "failed"):
            return False
        entry.outcome = outcome
        self._change(entry, "done", outcome.worker)
        return True

    def fail(self, worker: str, job: str, reason: str, trace: str) -> None:
        """Note an exception. From a worker that has lost the lease it is no news."""
        entry = self._entries[job]
        if entry.state == "running" and entry.worker == worker:
            self._give_back(entry, reason, trace)

    def expire(self, now: float) -> None:
        """Take back the jobs whose workers were silent for longer than a lease."""
        for entry in self._entries.values():
            if entry.state == "running" and now > entry.deadline:
                self._give_back(entry, f"no progress for {self._lease_seconds:g} s on {entry.worker}", "")

    def close(self) -> None:
        """Give no job any more, and take all back at their next beat."""
        self._closed = True

    def is_drained(self) -> bool:
        """Whether every job is done or failed."""
        return all(entry.state in ("done", "failed") for entry in self._entries.values())

    def count_waiting(self) -> int:
        """How many jobs no worker has; none after close()."""
        return 0 if self._closed else sum(entry.state == "waiting" for entry in self._entries.values())

    def changes(self, since: int) -> tuple[int, list[JobEvent]]:
        """The news since version `since`, and the version now; 0 asks for all jobs."""
        news = (entry for entry in self._entries.values() if entry.version >= since)
        events = [JobEvent(entry.job.name, entry.state, entry.worker, entry.progress) for entry in news]
        self._version += 1
        return self._version, events

    def outcomes(self) -> dict[str, JobOutcome]:
        """Finished jobs by name."""
        return {name: entry.outcome for name, entry in self._entries.items() if entry.outcome is not None}

    def failures(self) -> list[Failure]:
        """Jobs that failed for good."""
        failed = (entry for entry in self._entries.values() if entry.state == "failed")
        return [Failure(entry.job.name, entry.attempts, entry.reason, entry.trace) for entry in failed]

    def unfinished(self) -> list[str]:
        """Jobs that are neither done nor failed."""
        return [name for name, entry in self._entries.items() if entry.state in ("waiting", "running")]

    def _give_back(self, entry: Entry, reason: str, trace: str) -> None:
        entry.strikes += 1
        entry.reason, entry.trace = reason, trace
        self._change(entry, "failed" if entry.strikes >= self._max_attempts else "waiting", entry.worker)

    def _change(self, entry: Entry, state: Literal["waiting", "running", "done", "failed"], worker: str) -> None:
        entry.state, entry.worker, entry.version = state, worker, self._version
