"""What runs in a worker process of the pool: take a job, run it, report, until none is left.

Workers never talk to each other. There is no process group: a job sees itself as the only worker of its training.

SIGTERM, by which machines are taken away with 30 seconds' notice, ends a worker after its job's next checkpoint, or
after NOTICE_SECONDS without one; the job goes back to the queue at once, and goes on elsewhere from that checkpoint.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from raydistill.execution.jobs import Job, LeaseLost, describe_error, is_final, run_job
from raydistill.on_ray.queue import Clock

BEAT_SECONDS = 1.0
IDLE_SECONDS = 0.5
NOTICE_SECONDS = 20.0  # of the 30 that Kubernetes and spot machines give
TERMINATED = 128 + signal.SIGTERM


class Watchdog:
    """Calls `bark` when nobody has patted it for `seconds`. By default that ends the process.

    A worker so ends at the latest when its lease does: nobody else holds a job that this process still writes.
    Ray Train replaces the process, and the job goes on elsewhere.
    """

    def __init__(self, seconds: float, bark: Callable[[], None] = lambda: os._exit(1)) -> None:
        self._seconds, self._bark = seconds, bark
        self._deadline = time.monotonic() + seconds
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def pat(self) -> None:
        """The job is alive."""
        self._deadline = time.monotonic() + self._seconds

    def stop(self) -> None:
        """The job has ended."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self._bark()
                return


class Notice:
    """Whether this process has been told to end. `give` is the handler of SIGTERM, in the process's main thread."""

    def __init__(self, seconds: float = NOTICE_SECONDS, end: Callable[[], None] = lambda: os._exit(TERMINATED)) -> None:
        self._seconds, self._end = seconds, end
        self._given = threading.Event()

    def give(self, *_: Any) -> None:
        """This process ends after so many seconds, if not before."""
        if not self._given.is_set():
            self._given.set()
            timer = threading.Timer(self._seconds, self._end)
            timer.daemon = True
            timer.start()

    def is_given(self) -> bool:
        """Whether to end at the next opportunity."""
        return self._given.is_set()

    def end(self) -> None:
        """End this process now, without Python's own end: Ray's threads would delay it."""
        self._end()


NOTICE = Notice()  # of this process, as its signals are


def heed_notice() -> None:
    """Let SIGTERM give notice. For the main thread; Ray's own handler would end the process in the middle of a pass."""
    signal.signal(signal.SIGTERM, NOTICE.give)


class Reporter:
    """The Beat of a job in the pool: at most one call a second reaches the queue. Raises LeaseLost."""

    def __init__(
        self, queue: Any, worker: str, job: str, watchdog: Watchdog, clock: Clock = time, notice: Notice = NOTICE
    ) -> None:
        self._queue, self._worker, self._job, self._watchdog = queue, worker, job, watchdog
        self._notice, self._epoch = notice, 0
        self._clock, self._next = clock, 0.0

    def __call__(self, progress: dict[str, Any]) -> None:
        """Report."""
        before, self._epoch = self._epoch, int(progress.get("epoch", 0))
        if self._notice.is_given() and self._epoch > before:  # the checkpoint of this epoch has just been written
            self._queue.dismiss([self._worker], False)
            self._notice.end()
        if self._clock.monotonic() < self._next:
            return
        self._watchdog.pat()  # before the call: our deadline must not be later than the queue's
        if not self._queue.beat(self._worker, self._job, progress):
            raise LeaseLost(self._job)
        self._next = self._clock.monotonic() + BEAT_SECONDS


def work(config: dict[str, Any]) -> None:
    """Ray Train's function: run jobs of the queue until it is drained. config: queue, lease_seconds."""
    take_jobs(config["queue"], name_worker(), config["lease_seconds"])


def take_jobs(queue: Any, worker: str, lease_seconds: float, clock: Clock = time) -> None:
    """Claim and run until the queue is drained. queue: a JobQueue, or the RemoteQueue of one."""
    while not NOTICE.is_given():
        claim = queue.claim(worker)
        if claim.job is not None:
            attempt_job(queue, worker, claim.job, claim.attempts, lease_seconds, clock)
        elif claim.drained:
            return
        else:
            clock.sleep(IDLE_SECONDS)  # others hold the last jobs, and may lose them
    NOTICE.end()


def attempt_job(queue: Any, worker: str, job: Job, attempts: int, lease_seconds: float, clock: Clock = time) -> None:
    """Run one job and tell the queue how it went."""
    watchdog = Watchdog(lease_seconds)
    try:
        outcome = run_job(job, Reporter(queue, worker, job.name, watchdog, clock), worker, attempts)
    except LeaseLost:
        return
    except (Exception, SystemExit) as error:
        queue.fail(worker, job.name, describe_error(error), traceback.format_exc(), is_final(error))
        return
    finally:
        watchdog.stop()
    queue.finish(job.name, outcome)


def name_worker() -> str:
    """Host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"
