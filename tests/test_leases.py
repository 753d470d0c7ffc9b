from __future__ import annotations

import pytest

from raydistill.execution.jobs import Job, JobOutcome
from raydistill.execution.leases import Claim, WorkQueue


def make_queue(*names: str, max_attempts: int = 3) -> WorkQueue:
    jobs = [Job(name, "module:function", {}, cost=float(len(names) - index)) for index, name in enumerate(names)]
    return WorkQueue(jobs, lease_seconds=10, max_attempts=max_attempts)


def outcome_of(job: str, worker: str) -> JobOutcome:
    return JobOutcome(job, worker, started=0, seconds=1, cpu_seconds=1, attempts=1, result={"by": worker})


def state_of(queue: WorkQueue, job: str) -> str:
    return next(event.state for event in queue.changes(0)[1] if event.job == job)


def claimed(queue: WorkQueue, worker: str, now: float = 0) -> str | None:
    job = queue.claim(worker, now).job
    return job.name if job else None


def test_longest_first() -> None:
    jobs = [Job(name, "m:f", {}, cost) for name, cost in [("short", 1), ("long", 9), ("middle", 5)]]
    queue = WorkQueue(jobs, lease_seconds=10, max_attempts=3)
    assert [claimed(queue, worker) for worker in "abcd"] == ["long", "middle", "short", None]


def test_equal_costs_keep_their_order() -> None:
    queue = WorkQueue([Job(name, "m:f", {}, 1.0) for name in "xyz"], lease_seconds=10, max_attempts=3)
    assert [claimed(queue, worker) for worker in "abc"] == ["x", "y", "z"]


def test_what_is_given_back_keeps_its_place() -> None:
    queue = make_queue("x", "y", "z")
    assert [claimed(queue, worker) for worker in "ab"] == ["x", "y"]
    queue.fail("a", "x", "ValueError: no", "", 0.0)
    queue.fail("b", "y", "ValueError: no", "", 0.0)
    assert [claimed(queue, worker) for worker in "cde"] == ["x", "y", "z"]


def test_each_lease_ends_by_itself() -> None:
    queue = make_queue("x", "y", "z")
    for now, worker in enumerate("abc"):
        queue.claim(worker, now)
    queue.beat("a", "x", {}, 9)
    for now, states in [(10, "rrr"), (11.5, "rwr"), (12.5, "rww"), (19, "rww"), (19.5, "www")]:
        queue.expire(now)
        assert [state_of(queue, job)[0] for job in "xyz"] == list(states)


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="'x'"):
        make_queue("x", "x")


def test_drained_when_all_done_or_failed() -> None:
    queue = make_queue("x", "y", max_attempts=1)
    claimed(queue, "a"), claimed(queue, "b")
    waiting = queue.claim("c", 0)
    assert (waiting.job, waiting.drained) == (None, False)
    queue.finish("x", outcome_of("x", "a"))
    queue.fail("b", "y", "ValueError: no", "trace", 0)
    assert queue.claim("c", 0).drained
    assert queue.outcomes()["x"].result == {"by": "a"}
    assert [(failure.job, failure.attempts, failure.reason) for failure in queue.failures()] == [
        ("y", 1, "ValueError: no")
    ]


# Events in order: (what, worker, seconds). x is the only job; the lease lasts 10 seconds; two attempts.
STORIES = {
    "finish": ([("claim", "a", 0), ("finish", "a", 5)], "done", "a"),
    "beats prolong": ([("claim", "a", 0), ("beat", "a", 9), ("claim", "b", 18)], "running", "a"),
    "silence loses": ([("claim", "a", 0), ("claim", "b", 11)], "running", "b"),
    "the last moment holds": ([("claim", "a", 0), ("claim", "b", 10)], "running", "a"),
    "late beat is refused": ([("claim", "a", 0), ("claim", "b", 11), ("beat refused", "a", 12)], "running", "b"),
    "beat after expiry is refused": ([("claim", "a", 0), ("beat refused", "a", 11)], "waiting", "a"),
    "late finish counts": ([("claim", "a", 0), ("claim", "b", 11), ("finish", "a", 12)], "done", "a"),
    "late finish before a new claim": (
        [("claim", "a", 0), ("beat refused", "a", 11), ("finish", "a", 12)],
        "done",
        "a",
    ),
    "second finish is refused": (
        [
            ("claim", "a", 0),
            ("claim", "b", 11),
            ("finish", "a", 12),
            ("beat refused", "b", 13),
            ("finish refused", "b", 14),
        ],
        "done",
        "a",
    ),
    "late failure is no news": ([("claim", "a", 0), ("claim", "b", 11), ("fail", "a", 12)], "running", "b"),
    "failure retries": ([("claim", "a", 0), ("fail", "a", 1), ("claim", "a", 2)], "running", "a"),
    "failure twice": ([("claim", "a", 0), ("fail", "a", 1), ("claim", "b", 2), ("fail", "b", 3)], "failed", "b"),
    "silence twice": ([("claim", "a", 0), ("claim", "b", 11), ("claim", "c", 22)], "failed", "b"),
    "no finish after failure": (
        [("claim", "a", 0), ("fail", "a", 1), ("claim", "b", 2), ("fail", "b", 3), ("finish refused", "a", 4)],
        "failed",
        "b",
    ),
    "claim again is the same": ([("claim", "a", 0), ("claim", "a", 1), ("fail", "a", 2)], "waiting", "a"),
}


@pytest.mark.parametrize("story", STORIES)
def test_story(story: str) -> None:
    queue = make_queue("x", max_attempts=2)
    events, state, worker = STORIES[story]
    for what, who, now in events:
        if what == "claim":
            queue.claim(who, now)
        elif what.startswith("beat"):
            assert queue.beat(who, "x", {}, now) == (what == "beat")
        elif what.startswith("finish"):
            assert queue.finish("x", outcome_of("x", who)) == (what == "finish")
        else:
            queue.fail(who, "x", "ValueError: no", "", now)
    last = queue.changes(0)[1][0]
    assert (last.state, last.worker) == (state, worker)


@pytest.mark.parametrize("blamed", [False, True])
def test_jobs_of_workers_that_ended_wait_at_once(blamed: bool) -> None:
    queue = make_queue("x", "y", "z")
    assert [claimed(queue, worker) for worker in "abc"] == ["x", "y", "z"]
    queue.dismiss(["a", "c", "unknown"], blamed)
    assert [state_of(queue, job) for job in "xyz"] == ["waiting", "running", "waiting"]
    assert not queue.beat("a", "x", {}, 1)
    assert claimed(queue, "d", 1) == "x"


def test_a_lost_node_blames_no_job_and_a_dead_worker_does() -> None:
    queue = make_queue("x", max_attempts=1)
    for worker in "abc":
        assert claimed(queue, worker) == "x"
        queue.dismiss([worker], blamed=False)
    claimed(queue, "d")
    queue.dismiss(["d"], blamed=True)
    assert [(failure.attempts, failure.reason) for failure in queue.failures()] == [(4, "worker d died")]


def test_progress_forgives_interruptions() -> None:
    queue = make_queue("x", max_attempts=2)
    for round_ in range(5):
        queue.claim("a", 100 * round_)
        queue.beat("a", "x", {"epoch": round_ + 1}, 100 * round_ + 1)
        queue.expire(100 * round_ + 50)
        assert state_of(queue, "x") == "waiting"
    queue.claim("a", 1000)
    queue.beat("a", "x", {"epoch": 5}, 1001)  # the same epoch again: no progress
    queue.expire(1050)
    assert state_of(queue, "x") == "failed"
    assert queue.failures()[0].attempts == 6


def test_changes_are_news_only() -> None:
    queue = make_queue("x", "y")
    version, events = queue.changes(0)
    assert [event.job for event in events] == ["x", "y"]
    version, events = queue.changes(version)
    assert events == []
    queue.claim("a", 0)
    queue.beat("a", "x", {"epoch": 1}, 1)
    version, events = queue.changes(version)
    assert [(event.job, event.state, event.progress) for event in events] == [("x", "running", {"epoch": 1})]
    assert queue.changes(version)[1] == []


def test_news_come_in_the_order_of_the_last_change() -> None:
    queue = make_queue("x", "y", "z")
    version, _ = queue.changes(0)
    for worker in "abc":
        queue.claim(worker, 0)
    queue.beat("a", "x", {"epoch": 1}, 1)
    assert [event.job for event in queue.changes(version)[1]] == ["y", "z", "x"]
    assert sorted(event.job for event in queue.changes(0)[1]) == ["x", "y", "z"]


def test_a_closed_queue_gives_nothing_and_takes_all_back() -> None:
    queue = make_queue("x", "y")
    queue.claim("a", 0)
    queue.close()
    assert not queue.beat("a", "x", {"epoch": 1}, 1)
    assert queue.claim("b", 1) == Claim(None, 0, drained=True)
    assert queue.finish("x", outcome_of("x", "a"))  # whole files are never wasted
    assert queue.unfinished() == ["y"]


def test_unfinished_names_what_is_neither_done_nor_failed() -> None:
    queue = make_queue("x", "y", "z")
    queue.claim("a", 0)
    queue.finish("x", outcome_of("x", "a"))
    queue.claim("a", 0)
    assert queue.unfinished() == ["y", "z"]


def test_what_raised_waits_longer_each_time() -> None:
    jobs = [Job("x", "m:f", {}, 1.0)]
    queue = WorkQueue(jobs, lease_seconds=100, max_attempts=3, retry_seconds=2)
    given = []
    for now in range(30):
        if queue.claim("a", now).job:
            given.append(now)
            queue.fail("a", "x", "OSError: stale", "", now)
    assert given == [0, 2, 10]
    assert queue.is_drained()


def test_a_job_that_waits_holds_up_no_other() -> None:
    queue = WorkQueue([Job(name, "m:f", {}, 1.0) for name in "xy"], lease_seconds=100, max_attempts=3, retry_seconds=2)
    claimed(queue, "a")
    queue.fail("a", "x", "OSError: stale", "", 0)
    assert [claimed(queue, "a", 1), claimed(queue, "b", 1), claimed(queue, "b", 3)] == ["y", None, "x"]


def test_a_final_failure_is_not_tried_again() -> None:
    queue = make_queue("x")
    queue.claim("a", 0)
    queue.fail("a", "x", "FloatingPointError: loss is nan", "", 1, final=True)
    assert [(failure.attempts, failure.reason) for failure in queue.failures()] == [
        (1, "FloatingPointError: loss is nan")
    ]
    assert queue.is_drained()


def test_a_queue_started_anew_learns_from_beats_what_runs() -> None:
    queue = make_queue("x", "y")
    assert queue.beat("a", "x", {"epoch": 4}, 0)
    assert state_of(queue, "x") == "running"
    assert not queue.beat("b", "x", {"epoch": 4}, 1)
    assert [claimed(queue, "b", 1), claimed(queue, "a", 1)] == ["y", "x"]
    assert queue.finish("x", outcome_of("x", "a"))


def test_news_of_a_queue_started_anew_are_all() -> None:
    version, events = make_queue("x", "y").changes(57)
    assert [event.job for event in events] == ["x", "y"]
    assert version < 57
