"""A queue of jobs that workers hold under leases. Pure: no threads, no clock (times are passed in, in seconds), no Ray.

    waiting ──claim──► running ──finish──► done
       ▲                  │
       └── failed, silent for a lease, or its worker ended ──► failed, after max_attempts without a new epoch

A job that raised waits for retry_seconds before it is given again, and four times as long after each further time, so
that all attempts do not fall into the same ten seconds of a storage's absence. One whose failure is final is not given
again; one whose worker's machine is taken away is given again at once and counts no attempt.
A queue that was started anew knows of nothing: a worker that beats for a job which nobody has claimed keeps it.

Jobs are idempotent: they resume from their own folders and write whole files. So the first finish counts, whoever it
comes from, even from a worker that lost its lease; a second one is refused. Progress resets the count of attempts,
because a cluster whose nodes come and go may interrupt a long job many times, and a job that kills its worker makes
no progress.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from raydistill.execution.jobs import Failure, Job, JobEvent, JobOutcome, check_jobs

RETRY_GROWTH = 4


@dataclass(eq=False)
class Entry:
    """A job and what is known of it.

    place: in the order of the longest first; ready: not to be given before this time; strikes: attempts in a row that
    ended badly without a new epoch.
    """

    job: Job
    place: int
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    worker: str = ""
    deadline: float = 0.0
    ready: float = 0.0
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


class WorkQueue:
    """Jobs, longest first. Times are in seconds of any one clock."""

    def __init__(
        self, jobs: Sequence[Job], *, lease_seconds: float, max_attempts: int, retry_seconds: float = 0.0
    ) -> None:
        check_jobs(jobs)
        self._lease_seconds, self._max_attempts, self._retry_seconds = lease_seconds, max_attempts, retry_seconds
        order = sorted(jobs, key=lambda job: -job.cost)
        self._entries = {job.name: Entry(job, place) for place, job in enumerate(order)}
        # What follows spares looking at every job in every call: with 1000 jobs, measured, 20 times the time
        self._waiting = list(self._entries.values())  # by place
        self._running: dict[str, Entry] = {}  # by worker
        self._recent = dict(self._entries)  # the last changed last
        self._next_expiry = math.inf  # no lease ends before
        self._version = 0
        self._closed = False

    def claim(self, worker: str, now: float) -> Claim:
        """Give the longest waiting job; a worker that has one already gets it again (its answer may have been lost)."""
        if self._closed:
            return Claim(None, 0, True)
        self.expire(now)
        entry = self._running.get(worker)
        if entry is None:
            entry = next((entry for entry in self._waiting if entry.ready <= now), None)
            if entry is None:
                return Claim(None, 0, self.is_drained())
            entry.attempts += 1
        self._lend(entry, worker, now)
        return Claim(entry.job, entry.attempts, False)

    def beat(self, worker: str, job: str, progress: dict[str, Any], now: float) -> bool:
        """Note progress and prolong the lease. False: the worker has lost it."""
        self.expire(now)
        entry = self._entries[job]
        if self._closed:
            return False
        if entry.state == "waiting" and entry.attempts == 0:  # this queue was started anew, its worker was not
            entry.attempts = 1
            self._change(entry, "running", worker)
        if entry.state != "running" or entry.worker != worker:
            return False
        entry.progress = progress
        epoch = int(progress.get("epoch", 0))
        if epoch > entry.epoch:
            entry.epoch, entry.strikes = epoch, 0
        self._lend(entry, worker, now)
        return True

    def finish(self, job: str, outcome: JobOutcome) -> bool:
        """Accept the first finish of a job; False: it was finished before, or given up."""
        entry = self._entries[job]
        if entry.state in ("done", "failed"):
            return False
        entry.outcome = outcome
        self._change(entry, "done", outcome.worker)
        return True

    def fail(self, worker: str, job: str, reason: str, trace: str, now: float, *, final: bool = False) -> None:
        """Note an exception; final: it would come again. From a worker that has lost the lease it is no news."""
        entry = self._entries[job]
        if entry.state == "running" and entry.worker == worker:
            if final:
                entry.strikes = self._max_attempts
            entry.ready = now + self._retry_seconds * RETRY_GROWTH**entry.strikes
            self._give_back(entry, reason, trace)

    def dismiss(self, workers: Sequence[str], blamed: bool) -> None:
        """Workers have ended, and their jobs wait again. blamed: their jobs may be why; not so if a node is lost."""
        for worker in workers:
            if worker not in self._running:
                continue
            if blamed:
                self._give_back(self._running[worker], f"worker {worker} died", "")
            else:
                self._change(self._running[worker], "waiting", worker)

    def expire(self, now: float) -> None:
        """Take back the jobs whose workers were silent for longer than a lease."""
        if now <= self._next_expiry:
            return
        for entry in [entry for entry in self._running.values() if now > entry.deadline]:
            self._give_back(entry, f"no progress for {self._lease_seconds:g} s on {entry.worker}", "")
        self._next_expiry = min((entry.deadline for entry in self._running.values()), default=math.inf)

    def close(self) -> None:
        """Give no job any more, and take all back at their next beat."""
        self._closed = True

    def is_drained(self) -> bool:
        """Whether every job is done or failed."""
        return not self._waiting and not self._running

    def count_waiting(self) -> int:
        """How many jobs no worker has; none after close()."""
        return 0 if self._closed else len(self._waiting)

    def changes(self, since: int) -> tuple[int, list[JobEvent]]:
        """The news since version `since`, and the version now; 0 asks for all jobs, and so does one yet to come.

        The latter is a version of a queue that has died.
        """
        since = since if since <= self._version else 0
        news = list(takewhile(lambda entry: entry.version >= since, reversed(self._recent.values())))
        events = [JobEvent(entry.job.name, entry.state, entry.worker, entry.progress) for entry in reversed(news)]
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

    def _lend(self, entry: Entry, worker: str, now: float) -> None:
        """The worker has the job for a lease from now."""
        entry.deadline = now + self._lease_seconds
        self._next_expiry = min(self._next_expiry, entry.deadline)
        self._change(entry, "running", worker)

    def _change(self, entry: Entry, state: Literal["waiting", "running", "done", "failed"], worker: str) -> None:
        """The only place where a job's state changes."""
        if entry.state == "waiting":
            self._waiting.remove(entry)
        elif entry.state == "running":
            del self._running[entry.worker]
        if state == "waiting":
            insort(self._waiting, entry, key=lambda other: other.place)
        elif state == "running":
            self._running[worker] = entry
        entry.state, entry.worker, entry.version = state, worker, self._version
        self._recent[entry.job.name] = self._recent.pop(entry.job.name)
