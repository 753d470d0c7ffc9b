from __future__ import annotations

from raydistill.execution.jobs import Job
from raydistill.execution.leases import Claim
from raydistill.on_ray.queue import HEAR_SECONDS, JobQueue
from raydistill.on_ray.worker import BEAT_SECONDS


class SetClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds


def make_queue(clock: SetClock, started_anew: bool) -> JobQueue:
    jobs = [Job("long", "module:function", {}, 2.0), Job("short", "module:function", {}, 1.0)]
    return JobQueue(jobs, 60.0, clock, started_anew)


def test_a_queue_gives_jobs_at_once() -> None:
    queue = make_queue(SetClock(), started_anew=False)
    assert queue.claim("a").job == Job("long", "module:function", {}, 2.0)


def test_a_queue_that_was_started_anew_first_hears_who_holds_what() -> None:
    """Else a job that a worker is in the middle of would be given to another before its next beat."""
    clock = SetClock()
    queue = make_queue(clock, started_anew=True)
    assert queue.claim("idle") == Claim(None, 0, drained=False)
    clock.sleep(BEAT_SECONDS)
    assert queue.beat("holder", "long", {"epoch": 3})
    assert queue.claim("idle") == Claim(None, 0, drained=False)
    clock.sleep(HEAR_SECONDS)
    assert queue.claim("idle").job == Job("short", "module:function", {}, 1.0)
