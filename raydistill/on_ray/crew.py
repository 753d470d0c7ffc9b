"""The pool's workers while nodes come and go: each stands alone, so that nobody starts anew because of another.

    a poll of the workers ─► bury the lost: their jobs wait at once, and Ray Train takes them for finished
                         └─► while jobs wait: man places that are free, and look for more on nodes that have joined

By itself Ray Train 2.60 ends all workers when a node is lost, and again when one joins, which costs every worker 10 s
and half a pass. It still does so when no worker is left. A place is a bundle of a placement group: when its node is
lost, Ray looks for another one, for all bundles of the group that lack one at once.

Internal parts of Ray: tests/on_ray and tests/faults tell when a later version has changed them.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.worker_group import (
    ReplicaGroup,
    Worker,
    WorkerGroup,
    WorkerGroupContext,
    WorkerGroupPollStatus,
    WorkerStatus,
)
from ray.train.v2._internal.util import bundle_to_remote_args
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raydistill.on_ray.lost_workers import TellQueue, is_on, list_alive, name_of
from raydistill.on_ray.resources import count_slots

ROOM_SECONDS = 10.0  # within which Ray has found room that nobody holds
PAUSE_SECONDS = 60.0  # before room that others hold is looked for again


@dataclass(frozen=True)
class Place:
    """Where a worker may be."""

    group: PlacementGroup
    bundle: int

    def is_on(self, nodes: set[str]) -> bool:
        """Whether Ray has found it a node, and it is one of these."""
        return placement_group_table(self.group)["bundles_to_node_id"].get(self.bundle) in nodes


@dataclass(frozen=True)
class Starting:
    """A worker whose process is being started. metadata: of its actor, to come."""

    place: Place
    actor: Any
    metadata: Any


class Crew(TellQueue):
    """A callback of Ray Train's worker group.

    size: workers at most; losses: how many are borne of which a job may be the cause, before Ray Train hears of them.
    """

    def __init__(self, queue: Any, size: int, losses: int) -> None:
        super().__init__(queue)
        self._size, self._left = size, losses
        self._forget()

    def _forget(self) -> None:
        self._places: list[Place] = []  # of the worker group's workers, in their order
        self._lost: set[int] = set()  # of these, by number
        self._free: list[Place] = []
        self._silent: dict[Place, str] = {}  # names of lost ones that may not have ended yet, by place
        self._starting: list[Starting] = []
        self._more: list[PlacementGroup] = []  # besides that of the worker group
        self._search = Search()

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Ray Train has started all workers."""
        super().after_worker_group_start(worker_group)
        self._forget()
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self._places = [Place(group, worker.placement_group_bundle_index or 0) for worker in worker_group.get_workers()]

    def after_worker_group_poll_status(self, worker_group_status: WorkerGroupPollStatus) -> None:
        """Bury and man. If no worker is left, or too many were lost, Ray Train hears of it."""
        statuses = worker_group_status.worker_statuses
        failing = {number for number, status in statuses.items() if status.error is not None}
        unsure = {number for number in failing if is_unsure(statuses[number])}
        for number in failing - unsure - self._lost:
            self._bury(number, is_dead(statuses[number]))
        if len(self._lost) == len(statuses) or self._left < 0:
            return
        for number in failing:
            statuses[number].error, statuses[number].running = None, number in unsure
        self._welcome()
        waiting = self._queue.count_waiting() + len(self._silent) - len(self._starting)
        self._look_for_more(waiting - self._man(waiting))

    def before_worker_group_shutdown(self, worker_group: WorkerGroup) -> None:
        """All workers will be ended; here those who are not in the group yet."""
        super().before_worker_group_shutdown(worker_group)
        self._ending += self._silent.values()
        for starting in self._starting:
            ray.kill(starting.actor)

    def after_worker_group_shutdown(self, worker_group_context: WorkerGroupContext) -> None:
        """They are; here their places, too."""
        super().after_worker_group_shutdown(worker_group_context)
        for group in self._more:
            remove_placement_group(group)
        self._search.stop()
        self._forget()

    def _bury(self, number: int, dead: bool) -> None:
        """Have its job given to others, which may be to blame if the node is there.

        One that is silent is ended, which takes Ray 5 s (measured); its place is free afterwards, and a successor there
        is what proves it.
        """
        worker, place = self._group.get_workers()[number], self._places[number]
        self._group.get_replica_groups()[number].shutdown()
        blamed = is_on(list_alive(), worker)
        if dead:
            self._queue.dismiss([name_of(worker)], blamed)
        else:
            self._silent[place] = name_of(worker)
        self._left -= blamed
        self._lost.add(number)
        self._free.append(place)

    def _man(self, waiting: int) -> int:
        """Begin to start workers in places that are free, no more than jobs wait; how many."""
        if waiting <= 0 or not self._free:
            return 0
        alive = list_alive()
        manned = [place for place in self._free if place.is_on(alive)][:waiting]
        self._free = [place for place in self._free if place not in manned]
        self._starting += [self._begin(place) for place in manned]
        return len(manned)

    def _look_for_more(self, waiting: int) -> None:
        """Look for room on nodes where the crew is not yet; what was found is manned at the next poll."""
        needs = self._group.get_worker_group_context().resources_per_worker
        there = len(self._places) - len(self._lost) + len(self._starting)
        wanted = min(waiting, self._size - there)
        if wanted > 0:
            wanted = min(wanted, count_slots(needs) - there)
        group = self._search.look_for(wanted, needs, time.monotonic())
        if group is not None:
            self._more.append(group)
            self._free += [Place(group, bundle) for bundle in range(group.bundle_count)]

    def _begin(self, place: Place) -> Starting:
        """As WorkerGroup._create_workers, but that waits for the processes, and nobody would be polled meanwhile."""
        environment = self._group._get_worker_runtime_env(
            custom_runtime_env=self._group._train_run_context.run_config.worker_runtime_env
        )
        needs = self._group.get_worker_group_context().resources_per_worker
        workers = ray.remote(runtime_env=environment, **bundle_to_remote_args(needs))(self._group._worker_cls)
        there = PlacementGroupSchedulingStrategy(place.group, placement_group_bundle_index=place.bundle)
        actor = workers.options(scheduling_strategy=there).remote()
        return Starting(place, actor, actor.get_metadata.remote())

    def _welcome(self) -> None:
        """Whose process is there becomes a worker."""
        for starting in list(self._starting):
            if ray.wait([starting.metadata], timeout=0)[0]:
                self._starting.remove(starting)
                try:
                    self._enrol(starting)
                except RayActorError:  # it, or its node, was lost meanwhile
                    self._left -= 1

    def _enrol(self, starting: Starting) -> None:
        """As WorkerGroup._replace_replica_group_impl, in the stead of a lost worker if there is one."""
        group, place = self._group, starting.place
        try:
            metadata = ray.get(starting.metadata)
        except RayActorError:
            self._free.append(place)
            raise
        context, state = group.get_worker_group_context(), group.get_worker_group_state()
        worker = Worker(
            starting.actor, metadata, context.resources_per_worker, placement_group_bundle_index=place.bundle
        )
        number = min(self._lost, default=len(state.workers))
        WorkerGroup._assign_worker_ranks([worker], number, max(number + 1, len(state.workers)), 1)
        replica = ReplicaGroup([worker], context.resources_per_worker, group._replica_group_callbacks)
        workers, replicas = list(state.workers), group.get_replica_groups()
        workers[number : number + 1], replicas[number : number + 1] = [worker], [replica]
        self._places[number : number + 1] = [place]
        group._worker_group_state = dataclasses.replace(state, workers=workers)
        group._worker_rank_to_replica_group_rank[number] = number
        group._world_rank_to_ongoing_poll.pop(number, None)
        self._lost.discard(number)
        if place in self._silent:
            self._queue.dismiss([self._silent.pop(place)], True)
        group._init_train_context([worker], state.sync_actor)
        replica.start_training(context)


class Search:
    """Looks for room for more workers, half as many where there is none for all. Ray gives it, or is asked no more."""

    def __init__(self) -> None:
        self._asked: PlacementGroup | None = None
        self._since, self._tried = 0.0, 0

    def look_for(self, wanted: int, needs: dict[str, float], now: float) -> PlacementGroup | None:
        """Room that was found, in bundles of a worker each. wanted: workers, for which a node seems to have room."""
        if wanted <= 0:
            self.stop()
            return None
        if self._asked is None:
            if self._tried == 1 and now < self._since + PAUSE_SECONDS:
                return None
            count = min(wanted, self._tried // 2) or wanted
            self._asked, self._since, self._tried = placement_group([needs] * count), now, count
        group = self._asked
        if placement_group_table(group)["state"] == "CREATED":
            self._asked, self._tried = None, 0
            return group
        if now >= self._since + ROOM_SECONDS:
            remove_placement_group(group)
            self._asked = None
        return None

    def stop(self) -> None:
        """Look no more."""
        if self._asked is not None:
            remove_placement_group(self._asked)
        self._asked, self._tried = None, 0


def is_unsure(status: WorkerStatus) -> bool:
    """Whether a worker does not answer, but Ray has not found it dead: its node may be lost, or only the connection."""
    return isinstance(_failure_of(status), ActorUnavailableError)


def is_dead(status: WorkerStatus) -> bool:
    """Whether Ray has found it dead."""
    return isinstance(_failure_of(status), RayActorError) and not is_unsure(status)


def _failure_of(status: WorkerStatus) -> Exception | None:
    """Of the call that asked for it."""
    return status.error.health_check_failure if isinstance(status.error, WorkerHealthCheckFailedError) else None
