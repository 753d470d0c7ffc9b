"""The executor on Ray: the same verbs as InProcess, each by the part of Ray that fits it.

map         tasks          run_jobs  one Ray Train run and a queue (pool.py)
run_blocks  Ray Data       train     data-parallel TorchTrainers (trainers.py)
search      Ray Tune

A cluster is joined at once. A private Ray starts when jobs, a search or several workers ask for it: measured, the
glyphs are drawn in 2 s by threads of this process, and in 10 s by Ray, which first has to start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from raydistill.data.ingest import Block, Mark, Work
from raydistill.data.ingestion import run_here
from raydistill.execution.in_process import InProcess
from raydistill.execution.jobs import Item, Job, JobEvent, JobOutcome, Role, SearchSpace, Trial, Value
from raydistill.on_ray.pool import PoolOptions, run_pool
from raydistill.on_ray.resources import (
    count_slots,
    describe_resources,
    describe_shortage,
    list_node_groups,
    list_possible_rooms,
    take_whole_gpus,
    to_resources,
)
from raydistill.on_ray.session import RaySession, finds_cluster, start_ray
from raydistill.settings.cluster import ClusterConfig, NeedsConfig

LEASE_SECONDS = 600.0  # longer than anything that is silent: the first import, a validation, a slow file system
NODE_SECONDS = 600.0  # a cloud needs minutes for its first node
FEW_BLOCKS = (
    16  # of 512 records: one process decodes as many in the time that Ray takes to start (benchmarks/INGEST.md)
)
UNKNOWN = 100_000  # workers of a cluster whose growth nobody tells


class RayExecutor:
    """A cluster, joined or private."""

    def __init__(
        self,
        scratch: Path,
        *,
        address: str | None = None,
        verbose: bool = False,
        cluster: ClusterConfig | None = None,
        workers: Mapping[Role, int] | None = None,
        note: Callable[[str], None] = lambda text: None,
        lease_seconds: float | None = None,
        node_seconds: float | None = None,
    ) -> None:
        """Join Ray, or be ready to start it.

        scratch: folder that all nodes share; cluster: needs of jobs; workers: processes of a job, for each role that
        will run; note: is told why a call waits. Raises ConfigError at no Ray, or needs that its nodes cannot hold.
        """
        self._scratch = Path(scratch).expanduser().absolute()
        self._verbose, self._note = verbose, note
        self._lease_seconds = LEASE_SECONDS if lease_seconds is None else lease_seconds
        self._node_seconds = NODE_SECONDS if node_seconds is None else node_seconds
        self._cluster = cluster or ClusterConfig()
        self._checked: set[tuple[Role | None, int]] = set()
        self._needs_of_role: dict[Role | None, dict[str, float]] = {}
        self._started: RaySession | None = None
        if finds_cluster(address):
            self._started = start_ray(address, verbose)
        try:
            for role, count in (workers or {}).items():
                if self._started is not None or count > 1 or self._cluster.needs_of(role) != NeedsConfig():
                    self._check_room(role, count)
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        """How many jobs without a role the cluster holds at once."""
        return self._options(None).slots

    def map(
        self, function: Callable[[Item], Value], items: Sequence[Item], on_done: Callable[[int, int], None]
    ) -> list[Value]:
        """Apply the function to each item in a task of its own, or in a thread. Raises what the function raises."""
        if self._started is None:
            return map_in_threads(function, items, on_done)

        def apply(item: Item) -> Value:  # Ray takes functions only, not partials
            return function(item)

        task = ray.remote(num_cpus=1, max_retries=3)(apply)
        references = [task.remote(item) for item in items]
        pending = references
        while pending:
            finished, pending = ray.wait(pending, num_returns=1)
            ray.get(finished)
            on_done(len(items) - len(pending), len(items))
        return ray.get(references)

    def run_blocks(self, work: Work, blocks: Sequence[Block], on_mark: Callable[[Mark], None]) -> None:
        """Do the blocks by Ray Data; a few of them in this process, unless Ray has started before."""
        if self._started is None and len(blocks) <= FEW_BLOCKS:
            return run_here(work, blocks, on_mark)
        from raydistill.on_ray.ingest import run_blocks

        assert self._session is not None  # Ray starts here
        for mark in run_blocks(work, blocks, self._verbose):
            on_mark(mark)

    def run_jobs(self, jobs: Sequence[Job], on_event: Callable[[JobEvent], None], workers: int = 1) -> list[JobOutcome]:
        """Run the jobs in the pool; with several workers each, in groups of their own."""
        if not jobs:
            return []
        role = jobs[0].role
        self._check_room(role, workers)
        if workers == 1:
            return run_pool(jobs, self._options(role), on_event)
        from raydistill.on_ray.trainers import train_together

        return train_together(jobs, workers, self._options(role), on_event)

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

        self._check_room("trial", 1)
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
            options=self._options("trial"),
            verbose=self._verbose,
        )

    def train(self, job: Job, workers: int, on_event: Callable[[JobEvent], None]) -> JobOutcome:
        """Train with several workers; a single one in the pool, or in this process if the cluster is this machine."""
        if workers == 1 and not (self._started is not None and self._started.joined):
            return InProcess().train(job, 1, on_event)  # all cores, and no Ray Train run to start
        return self.run_jobs([job], on_event, workers)[0]

    def close(self) -> None:
        """Leave the cluster, or end the private one."""
        if self._started is not None:
            self._started.close()

    @property
    def _session(self) -> RaySession:
        """A private Ray starts here."""
        if self._started is None:
            self._started = start_ray(None, self._verbose)
        return self._started

    def _options(self, role: Role | None) -> PoolOptions:
        """How a pool of such jobs runs, on the nodes that are there now."""
        private = not self._session.joined
        resources = self._needs(role, 1)
        slots = max(1, count_slots(resources))
        grown = count_slots(resources, grown=True) if list_node_groups() else UNKNOWN
        return PoolOptions(
            scratch=self._scratch,
            slots=slots,
            most=slots if private else max(1, grown),
            resources=resources,
            lease_seconds=self._lease_seconds,
            private=private,
        )

    def _needs(self, role: Role | None, workers: int) -> dict[str, float]:
        needs = to_resources(self._cluster.needs_of(role), list_possible_rooms())
        if "GPU" in needs:  # once there were GPUs, jobs wait for them to come back
            self._needs_of_role[role] = needs
        needs = self._needs_of_role.get(role, needs)
        return take_whole_gpus(needs) if workers > 1 else needs

    def _check_room(self, role: Role | None, workers: int) -> None:
        """Raise ConfigError, once and early, if the nodes cannot hold a job of such a role.

        Where an autoscaler may add nodes of which nobody tells, one is asked for and waited for.
        """
        if (role, workers) in self._checked:  # nodes that were there will come back
            return
        grows = self._session.joined and not list_node_groups()
        there = count_slots(self._needs(role, workers), grown=True) >= workers
        if not there and not (grows and self._await_room(role, workers)):
            raise describe_shortage(self._cluster, role, workers, list_possible_rooms())
        self._checked.add((role, workers))

    def _await_room(self, role: Role | None, workers: int) -> bool:
        """Whether nodes that hold so many workers came within the time that is waited for them."""
        needs, deadline = self._needs(role, workers), time.monotonic() + self._node_seconds
        told = describe_resources(needs)
        self._note(f"no node holds {told} yet, waiting for one up to {self._node_seconds / 60:g} minutes")
        asked = placement_group([needs] * workers)  # an autoscaler sees what waits
        try:
            while not (there := count_slots(self._needs(role, workers)) >= workers) and time.monotonic() < deadline:
                asked.wait(1)
        finally:
            remove_placement_group(asked)
        return there


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
