"""The executor on Ray: the same four verbs as InProcess, each by the part of Ray that fits it.

map       tasks            run_jobs  one Ray Train run and a queue (pool.py)
search    Ray Tune         train     one data-parallel TorchTrainer (trainers.py)

A cluster is joined at once. A private Ray starts when jobs, a search or several workers ask for it: measured, the
glyphs are drawn in 2 s by threads of this process, and in 10 s by Ray, which first has to start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import Any

import ray

from raydistill.execution import Item, Job, JobEvent, JobOutcome, SearchSpace, Trial, Value
from raydistill.in_process import InProcess
from raydistill.on_ray.pool import PoolOptions, run_pool
from raydistill.on_ray.session import RaySession, count_slots, finds_cluster, start_ray

LEASE_SECONDS = 600.0  # longer than anything that is silent: the first import, a validation, a slow file system


class RayExecutor:
    """A cluster, joined or private."""

    def __init__(
        self,
        scratch: Path,
        *,
        address: str | None = None,
        verbose: bool = False,
        cpus_per_job: float = 1,
        gpus_per_job: float = 0,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """Join Ray, or be ready to start it. scratch: folder that all nodes share. Raises ConfigError at no Ray."""
        self._scratch = Path(scratch).expanduser().absolute()
        self._verbose = verbose
        self._cpus_per_job, self._gpus_per_job, self._lease_seconds = cpus_per_job, gpus_per_job, lease_seconds
        self._session: RaySession | None = None
        if finds_cluster(address):
            self._session = start_ray(address, verbose)

    @property
    def slots(self) -> int:
        """How many jobs the cluster holds at once."""
        return self._options.slots

    def map(
        self, function: Callable[[Item], Value], items: Sequence[Item], on_done: Callable[[int, int], None]
    ) -> list[Value]:
        """Apply the function to each item in a task of its own, or in a thread. Raises what the function raises."""
        if self._session is None:
            return map_in_threads(function, items, on_done)
        options = self._options

        def apply(item: Item) -> Value:  # Ray takes functions only, not partials
            return function(item)

        task = ray.remote(num_cpus=options.cpus_per_job, num_gpus=options.gpus_per_job, max_retries=3)(apply)
        references = [task.remote(item) for item in items]
        pending = references
        while pending:
            finished, pending = ray.wait(pending, num_returns=1)
            ray.get(finished)
            on_done(len(items) - len(pending), len(items))
        return ray.get(references)

    def run_jobs(self, jobs: Sequence[Job], on_event: Callable[[JobEvent], None]) -> list[JobOutcome]:
        """Run the jobs in the pool."""
        return run_pool(jobs, self._options, on_event)

    def search(
        self,
        function: str,
        arguments: dict[str, Any],
        space: SearchSpace,
        *,
        trials: int,
        epochs: int,
        grace_epochs: int,
        reduction_factor: int,
        seed: int,
        on_event: Callable[[JobEvent], None],
    ) -> list[Trial]:
        """Search with Ray Tune."""
        from raydistill.on_ray.search import run_search

        return run_search(
            function,
            arguments,
            space,
            trials=trials,
            epochs=epochs,
            grace_epochs=grace_epochs,
            reduction_factor=reduction_factor,
            seed=seed,
            on_event=on_event,
            options=self._options,
            verbose=self._verbose,
        )

    def train(self, job: Job, workers: int, on_event: Callable[[JobEvent], None]) -> JobOutcome:
        """Train with several workers; a single one in the pool, or in this process if the cluster is this machine."""
        if workers > 1:
            from raydistill.on_ray.trainers import train_together

            return train_together(job, workers, self._options, on_event)
        if self._session is not None and self._session.joined:
            return self.run_jobs([job], on_event)[0]
        return InProcess().train(job, 1, on_event)  # all cores, and no Ray Train run to start

    def close(self) -> None:
        """Leave the cluster, or end the private one."""
        if self._session is not None:
            self._session.close()

    @cached_property
    def _options(self) -> PoolOptions:
        """How pools run. A private Ray starts here."""
        if self._session is None:
            self._session = start_ray(None, self._verbose)
        joined = self._session.joined
        whole = float(self._cpus_per_job).is_integer() and float(self._gpus_per_job).is_integer()
        elastic = joined and whole  # Ray counts fractional workers wrongly
        return PoolOptions(
            scratch=self._scratch,
            slots=count_slots(self._cpus_per_job, self._gpus_per_job, grown=elastic),
            cpus_per_job=self._cpus_per_job,
            gpus_per_job=self._gpus_per_job,
            lease_seconds=self._lease_seconds,
            elastic=elastic,
            private=not joined,
        )


def map_in_threads(
    function: Callable[[Item], Value], items: Sequence[Item], on_done: Callable[[int, int], None]
) -> list[Value]:
    """As map, by threads of this process, one for each of its CPUs."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        futures = [threads.submit(function, item) for item in items]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                on_done(done, len(items))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]
