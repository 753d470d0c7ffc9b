"""The pool: one Ray Train run whose workers take jobs from a queue actor under leases.

    run_pool ─► PoolTrainer, as many workers as nodes hold ─► worker.work: claim, run, finish ─┐
         └───► polls the queue's news, emits JobEvents ◄── JobQueue (leases.WorkQueue) ◄───────┘

One run for all jobs, because a run of its own costs each job 20 CPU-seconds and three to five processes (measured).
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raydistill.execution.jobs import Job, JobEvent, JobOutcome, report_failures
from raydistill.on_ray.crew import Crew
from raydistill.on_ray.places import remove_places
from raydistill.on_ray.pool_trainer import IndependentConfig, PoolTrainer
from raydistill.on_ray.queue import MAX_ATTEMPTS, start_queue
from raydistill.on_ray.worker import work

POLL_SECONDS = 0.5
END_SECONDS = 15.0  # workers that are just starting take 10 s to find that the queue is closed


@dataclass(frozen=True)
class PoolOptions:
    """How a pool runs.

    resources: of a worker, in Ray's words; slots: how many workers the cluster holds now; most: how many it may ever
    hold, as far as is known; private: the cluster is ours alone, and its size is fixed.
    """

    scratch: Path
    slots: int
    most: int
    resources: dict[str, float]
    lease_seconds: float
    private: bool


def run_pool(jobs: Sequence[Job], options: PoolOptions, on_event: Callable[[JobEvent], None]) -> list[JobOutcome]:
    """Run the jobs; outcomes in their order. Raises JobFailed after all others, or what Ray Train raises."""

    def fit(name: str, queue: Any) -> None:
        try:
            build_trainer(name, queue, len(jobs), options).fit()
        except Exception:
            with contextlib.suppress(RayError):  # Ray may be gone, and all places with it
                remove_places(name)
            raise

    return run_trainers("pool", jobs, options, fit, on_event)


def run_trainers(
    kind: str,
    jobs: Sequence[Job],
    options: PoolOptions,
    fit: Callable[[str, Any], None],
    on_event: Callable[[JobEvent], None],
) -> list[JobOutcome]:
    """Start a queue, let `fit(name, queue)` run what drains it, and read the outcomes from the queue."""
    name = f"{kind}-{uuid.uuid4().hex[:8]}"  # Ray Train would resume a run of the same name
    queue = start_queue(name, jobs, options.lease_seconds)
    try:
        error = follow(lambda: fit(name, queue), queue, on_event)
        outcomes, failures, unfinished = queue.results()
    finally:
        ray.kill(queue.actor)
    if failures:
        raise report_failures(in_order(failures, jobs), in_order(outcomes.values(), jobs)) from error
    if unfinished:
        raise error or RuntimeError(f"Ray Train ended without {unfinished[0]!r} and {len(unfinished) - 1} other jobs")
    shutil.rmtree(options.scratch / name, ignore_errors=True)
    return [outcomes[job.name] for job in jobs]


def build_trainer(name: str, queue: Any, jobs: int, options: PoolOptions) -> DataParallelTrainer:
    """One Ray Train run with as many workers as jobs and nodes allow, now and, on a joined cluster, at any time."""
    size = min(jobs, options.slots if options.private else options.most)
    # A job that kills its worker is given up after MAX_ATTEMPTS; so many deaths are jobs' faults, more are not.
    losses = MAX_ATTEMPTS * (jobs + 1)
    return PoolTrainer(
        work,
        private=options.private,
        train_loop_config={"queue": queue, "lease_seconds": options.lease_seconds},
        backend_config=IndependentConfig(),
        scaling_config=ScalingConfig(
            num_workers=size if options.private else (1, size),
            use_gpu="GPU" in options.resources,
            resources_per_worker=options.resources,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(options.scratch),
            failure_config=FailureConfig(max_failures=losses),
            callbacks=[Crew(queue, size, losses)],  # type: ignore[list-item]  # Ray Train takes internal ones here, too
        ),
    )


def in_order(records: Iterable[Any], jobs: Sequence[Job]) -> list[Any]:
    """Outcomes or failures in the order of the jobs."""
    places = {job.name: place for place, job in enumerate(jobs)}
    return sorted(records, key=lambda record: places[record.job])


def follow(fit: Callable[[], Any], queue: Any, on_event: Callable[[JobEvent], None]) -> Exception | None:
    """Run `fit` in a thread and emit the queue's news from this one. Returns what `fit` raised.

    A thread, because Ctrl-C must reach us: in the main thread Ray Train replaces Python's handler for good. The thread
    must end before Ray does, or Ray ends this process without a word. And an event tells its end, because Python 3.11
    takes a thread for ended when Ctrl-C interrupts its join() (bpo-45274).
    """
    errors: list[Exception] = []
    ended = threading.Event()

    def run() -> None:
        try:
            fit()
        except Exception as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        emit_events(ended, queue, on_event)
    except BaseException:
        with contextlib.suppress(RayError):  # the signal may have ended Ray as well
            queue.close()
            ended.wait(END_SECONDS)
        raise
    return errors[0] if errors else None


def emit_events(ended: threading.Event, queue: Any, on_event: Callable[[JobEvent], None]) -> None:
    """Emit the queue's news until the run has ended, and the last ones after that."""
    version, last = 0, False
    while not last:
        last = ended.wait(POLL_SECONDS)
        version, events = queue.changes(version)
        for event in events:
            on_event(event)
