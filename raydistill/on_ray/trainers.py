"""Jobs by several processes at once: TorchTrainers with a process group each, gloo on CPUs, nccl on GPUs.

    train_together ─► run_groups: a TorchTrainer for each group of workers that nodes have room for
                        └─► train_share on every rank: rank 0 claims a job, reports, and finishes it; then the next

The groups take jobs from one queue, as the pool's workers do: a run of Ray Train for each job would cost it 20
CPU-seconds.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray.train
import torch.distributed as dist
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

from raydistill.execution.jobs import Job, JobEvent, JobOutcome, describe_error, is_final, run_job
from raydistill.execution.leases import Claim
from raydistill.on_ray.claims import BriefTorchTrainer
from raydistill.on_ray.lost_workers import TellQueue
from raydistill.on_ray.pool import PoolOptions, run_trainers
from raydistill.on_ray.queue import MAX_ATTEMPTS
from raydistill.on_ray.resources import count_slots, take_whole_gpus
from raydistill.on_ray.worker import IDLE_SECONDS, Reporter, Watchdog, name_worker

LOSSES = 100  # of workers on a cluster whose nodes come and go; the queue gives up a job that fails without progress
WATCH_SECONDS = 1.0


def train_together(
    jobs: Sequence[Job], workers: int, options: PoolOptions, on_event: Callable[[JobEvent], None]
) -> list[JobOutcome]:
    """Run each job data-parallel; outcomes, in their order, are those of rank 0. Raises JobFailed after all others."""

    def fit(name: str, queue: Any) -> None:
        run_groups(name, queue, len(jobs), workers, options)

    return run_trainers("train", jobs, options, fit, on_event)


def run_groups(name: str, queue: Any, jobs: int, workers: int, options: PoolOptions) -> None:
    """Start groups while jobs wait and nodes have room, and wait for them. Raises what one raised, if jobs are left."""
    resources = take_whole_gpus(options.resources)
    groups: list[threading.Thread] = []
    errors: list[Exception] = []

    def fit(group: int) -> None:
        try:
            build_group(name, queue, group, jobs, workers, resources, options).fit()
        except Exception as error:
            errors.append(error)

    while True:
        waiting, unfinished = queue.count_waiting(), queue.count_unfinished()
        alive = sum(group.is_alive() for group in groups)
        room = min(max(1, count_slots(resources) // workers), unfinished, jobs - len(groups) + alive)
        if waiting and alive < room:
            for _ in range(room - alive):
                groups.append(threading.Thread(target=fit, args=(len(groups),), daemon=True))
                groups[-1].start()
        elif not alive:
            break
        time.sleep(WATCH_SECONDS)
    if errors and unfinished:
        raise errors[0]


def build_group(
    name: str,
    queue: Any,
    group: int,
    groups: int,
    workers: int,
    resources: Mapping[str, float],
    options: PoolOptions,
) -> BriefTorchTrainer:
    """One group of workers. group: its number among `groups`, the most that there can be."""
    return BriefTorchTrainer(
        train_share,
        train_loop_config={"queue": queue, "lease_seconds": options.lease_seconds},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=dict(resources)
        ),
        run_config=RunConfig(
            name=f"{name}-{group}",
            storage_path=str(options.scratch / name),
            failure_config=FailureConfig(max_failures=MAX_ATTEMPTS * groups - 1 + (0 if options.private else LOSSES)),
            callbacks=[TellQueue(queue)],  # type: ignore[list-item]  # Ray Train takes internal ones here, too
        ),
    )


def train_share(config: dict[str, Any]) -> None:
    """Ray Train's function, on every rank: run jobs until none is left. config: queue, lease_seconds."""
    queue, rank = config["queue"], ray.train.get_context().get_world_rank()
    while True:
        holder, claim = claim_together(queue, rank)
        if claim.job is not None:
            attempt_share(queue, rank, holder, claim.job, claim.attempts, config["lease_seconds"])
        elif claim.drained:
            return
        else:
            time.sleep(IDLE_SECONDS)


def attempt_share(queue: Any, rank: int, holder: str, job: Job, attempts: int, lease_seconds: float) -> None:
    """This rank's share of a job; rank 0 holds the lease for all. Raises what the job raises: all ranks start anew."""
    watchdog = Watchdog(lease_seconds) if rank == 0 else None
    beat = Reporter(queue, holder, job.name, watchdog) if watchdog else ignore_beat
    try:
        outcome = run_job(job, beat, holder, attempts)
    except Exception as error:
        # The first rank to fail is heard: the others fail because of it.
        queue.fail(holder, job.name, describe_error(error), traceback.format_exc(), is_final(error))
        raise
    finally:
        if watchdog:
            watchdog.stop()
    if rank == 0:
        queue.finish(job.name, outcome)


def claim_together(queue: Any, rank: int) -> tuple[str, Claim]:
    """Rank 0 claims, and tells the others its name and what it got."""
    answer: list[Any] = [None, None]
    if rank == 0:
        worker = name_worker()
        answer = [worker, queue.claim(worker)]
    dist.broadcast_object_list(answer, src=0)
    return answer[0], answer[1]


def ignore_beat(progress: dict[str, Any]) -> None:
    """The other ranks' progress is that of rank 0."""
