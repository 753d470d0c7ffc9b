"""A worker group of Ray Train in which every worker has a place of its own.

A place is a placement group of one bundle. Ray Train asks for one group for all workers; when a node is lost, Ray 2.60
keeps looking for other nodes for its bundles, for all of them at once and without a pause (seen), and none can be given
up alone.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup, WorkerGroupContext
from ray.train.v2._internal.util import bundle_to_remote_args
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raydistill.on_ray.lost_workers import list_alive

LOOK_SECONDS = 2.0


class Places:
    """All places of a run, in the role of Ray Train's PlacementGroupHandle. name: of the run, for remove_places."""

    def __init__(self, name: str, count: int, needs: dict[str, float]) -> None:
        self._name = name
        self.groups: list[PlacementGroup] = []
        self.ask(count, needs)

    @property
    def placement_group(self) -> Places:
        """What a worker group hands to its _create_workers."""
        return self

    def ask(self, count: int, needs: dict[str, float]) -> list[PlacementGroup]:
        """So many places more, which Ray finds if there is room."""
        asked = [placement_group([needs], name=f"{self._name}-{uuid.uuid4().hex}") for _ in range(count)]
        self.groups += asked
        return asked

    def give_up(self, place: PlacementGroup) -> None:
        """A place that nobody is in."""
        self.groups.remove(place)
        remove_placement_group(place)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether Ray has found all of them by then."""
        deadline = time.monotonic() + timeout_seconds
        return all(group.wait(max(0.0, deadline - time.monotonic())) for group in self.groups)

    def shutdown(self) -> None:
        """Give up all."""
        for group in self.groups:
            remove_placement_group(group)


def is_there(place: PlacementGroup, alive: set[str]) -> bool:
    """Whether Ray has found it, on a node that is one of these."""
    table = placement_group_table(place)
    return table["state"] == "CREATED" and table["bundles_to_node_id"][0] in alive


def remove_places(name: str) -> None:
    """Give up what a run may have left, whose controller died."""
    for table in placement_group_table().values():
        if table["name"].startswith(f"{name}-") and table["state"] != "REMOVED":
            remove_placement_group(ray.util.get_placement_group(table["name"]))


@dataclass(frozen=True)
class Starting:
    """A worker whose process is being started. metadata: of its actor, to come."""

    place: PlacementGroup
    actor: Any
    metadata: Any

    def to_worker(self, needs: dict[str, float], number: int | None = None) -> Worker:
        """When it is there. number: of its place. Raises RayActorError if it died."""
        return Worker(self.actor, ray.get(self.metadata), needs, placement_group_bundle_index=number)


class LooseWorkers(WorkerGroup):
    """Each worker in its own place."""

    def begin(self, place: PlacementGroup) -> Starting:
        """Begin to start a worker."""
        environment = self._get_worker_runtime_env(self._train_run_context.run_config.worker_runtime_env or {})
        needs = self._worker_group_context.resources_per_worker
        workers: Any = ray.remote(runtime_env=environment, **bundle_to_remote_args(needs))(self._worker_cls)
        actor = workers.options(scheduling_strategy=PlacementGroupSchedulingStrategy(place, 0)).remote()
        return Starting(place, actor, actor.get_metadata.remote())

    def _create_placement_group(self, scaling_config: Any, worker_group_context: WorkerGroupContext) -> Any:
        name = str(self._train_run_context.run_config.name)
        return Places(name, worker_group_context.num_workers, worker_group_context.resources_per_worker)

    def _create_workers(self, num_workers: int, placement_group: Any, *args: Any, **kwargs: Any) -> list[Worker]:
        """The worker's bundle index is the number of its place. Raises WorkerGroupStartupFailedError."""
        started = [self.begin(place) for place in placement_group.groups]
        try:
            self._await(started)
            needs = self._worker_group_context.resources_per_worker
            workers = [one.to_worker(needs, number) for number, one in enumerate(started)]
        except RayActorError as error:
            for one in started:
                ray.kill(one.actor)
            raise WorkerGroupStartupFailedError(f"a worker was lost while it started: {error}") from error
        return WorkerGroup._assign_worker_ranks(workers, 0, num_workers, 1)

    def _await(self, started: list[Starting]) -> None:
        """Until all are there. Raises RayActorError when a node is lost, for Ray would wait for another one."""
        pending = {one.metadata: one.place for one in started}
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=LOOK_SECONDS)
            for metadata in ready:
                del pending[metadata]
            alive = list_alive()
            if not all(is_there(place, alive) for place in pending.values()):
                raise RayActorError(error_msg="its node is lost")
