"""One job by several processes at once: a TorchTrainer with a process group, gloo on CPUs, nccl on GPUs.

train_together ─► TorchTrainer ─► train_share on every rank; rank 0 claims the job, reports, and finishes it
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from typing import Any

import ray.train
import torch.distributed as dist
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from raydistill.execution import Job, JobEvent, JobOutcome, describe_error, is_final, run_job
from raydistill.leases import Claim
from raydistill.on_ray.pool import PoolOptions, run_trainer, worker_resources
from raydistill.on_ray.queue import MAX_ATTEMPTS
from raydistill.on_ray.worker import IDLE_SECONDS, Reporter, Watchdog, name_worker


def train_together(job: Job, workers: int, options: PoolOptions, on_event: Callable[[JobEvent], None]) -> JobOutcome:
    """Run the job data-parallel; the outcome is rank 0's. Raises ValueError if the workers do not fit, or JobFailed."""
    if workers > options.slots:
        raise ValueError(
            f"workers: {workers} do not fit, the cluster holds {options.slots} at once; take fewer, or add nodes"
        )

    def build(name: str, queue: Any) -> TorchTrainer:
        gpus = math.ceil(options.gpus_per_job)  # NCCL refuses two ranks on one GPU (ray#48012)
        return TorchTrainer(
            train_share,
            train_loop_config={"queue": queue, "lease_seconds": options.lease_seconds},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus > 0,
                resources_per_worker=worker_resources(options.cpus_per_job, gpus),
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(options.scratch),
                failure_config=FailureConfig(max_failures=MAX_ATTEMPTS - 1),
            ),
        )

    return run_trainer("train", [job], options, build, on_event)[0]


def train_share(config: dict[str, Any]) -> None:
    """Ray Train's function, on every rank: rank 0 holds the lease for all. config: queue, lease_seconds."""
    queue, rank = config["queue"], ray.train.get_context().get_world_rank()
    holder, claim = claim_together(queue, rank)
    if claim.job is None:
        return
    watchdog = Watchdog(config["lease_seconds"]) if rank == 0 else None
    beat = Reporter(queue, holder, claim.job.name, watchdog) if watchdog else ignore_beat
    try:
        outcome = run_job(claim.job, beat, holder, claim.attempts)
    except Exception as error:
        # The first rank to fail is heard: the others fail because of it.
        queue.fail(holder, claim.job.name, describe_error(error), traceback.format_exc(), is_final(error))
        raise
    finally:
        if watchdog:
            watchdog.stop()
    if rank == 0:
        queue.finish(claim.job.name, outcome)


def claim_together(queue: Any, rank: int) -> tuple[str, Claim]:
    """Rank 0 claims, and tells the others its name and what it got."""
    answer: list[Any] = [None, None]
    if rank == 0:
        worker = name_worker()
        queue.enlist(worker, 0, 1)
        answer = [worker, claim_patiently(queue, worker)]
    dist.broadcast_object_list(answer, src=0)
    return answer[0], answer[1]


def claim_patiently(queue: Any, worker: str) -> Claim:
    """The only job, or none if it has ended; one that raised is not given again at once."""
    while True:
        claim: Claim = queue.claim(worker)
        if claim.job is not None or claim.drained:
            return claim
        time.sleep(IDLE_SECONDS)


def ignore_beat(progress: dict[str, Any]) -> None:
    """The other ranks' progress is that of rank 0."""
