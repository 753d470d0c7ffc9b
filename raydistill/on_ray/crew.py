"""The pool's workers while nodes come and go: each stands alone, so that nobody starts anew because of another.

    a poll of the workers ─► bury the lost: their jobs wait at once, and Ray Train takes them for finished
                         └─► while jobs wait: man places that are free, and look for more on nodes that have joined

By itself Ray Train 2.60 ends all workers when a node is lost, and again when one joins, which costs every worker 10 s
and half a pass. It still does so when no worker is left.

Internal parts of Ray: tests/on_ray and tests/faults tell when a later version has changed them.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import (
    ReplicaGroup,
    WorkerGroup,
    WorkerGroupPollStatus,
    WorkerStatus,
)
from ray.util.placement_group import PlacementGroup

from raydistill.on_ray.lost_workers import TellQueue, is_on, list_alive, name_of
from raydistill.on_ray.places import LooseWorkers, Places, Starting, is_there
from raydistill.on_ray.resources import count_slots

ROOM_SECONDS = 10.0  # within which Ray has found room that nobody holds
PAUSE_SECONDS = 60.0  # before room that others hold is looked for again


class Crew(TellQueue, ControllerCallback):
    """A callback of Ray Train's controller and worker group.

    size: workers at most; losses: how many are borne of which a job may be the cause, before Ray Train hears of them.
    """

    def __init__(self, queue: Any, size: int, losses: int) -> None:
        super().__init__(queue)
        self._size, self._left = size, losses
        self._silent: dict[PlacementGroup, str] = {}  # names of lost ones that may not have ended yet, by place
        self._starting: list[Starting] = []

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """In the controller's process all worker groups are loose ones."""
        TrainController.worker_group_cls = LooseWorkers

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Ray Train has started all workers."""
        super().after_worker_group_start(worker_group)
        state: Any = worker_group.get_worker_group_state()
        self._places: Places = state.placement_group_handle
        # Of the workers in their order; a lost one keeps its number until another takes it
        self._place_of = [self._places.groups[worker.placement_group_bundle_index] for worker in state.workers]
        self._lost: set[int] = set()
        self._free: list[PlacementGroup] = []
        self._silent, self._starting = {}, []
        self._search = Search(self._places)

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
        self._leave_lost_nodes()
        waiting = self._queue.count_waiting() + len(self._silent) - len(self._starting)
        self._look_for_more(waiting - self._man(waiting))

    def before_worker_group_shutdown(self, worker_group: WorkerGroup) -> None:
        """All workers will be ended; here those who are not in the group yet."""
        super().before_worker_group_shutdown(worker_group)
        self._ending += self._silent.values()
        for starting in self._starting:
            ray.kill(starting.actor)

    def _bury(self, number: int, dead: bool) -> None:
        """Have its job given to others, which may be to blame if the node is there.

        One that is silent is ended, which takes Ray 5 s (measured); its place is free afterwards, and a successor there
        is what proves it.
        """
        worker, place = self._group.get_workers()[number], self._place_of[number]
        self._group.get_replica_groups()[number].shutdown()
        blamed = is_on(list_alive(), worker)
        if dead:
            self._queue.dismiss([name_of(worker)], blamed)
        else:
            self._silent[place] = name_of(worker)
        self._left -= blamed
        self._lost.add(number)
        self._free.append(place)

    def _leave_lost_nodes(self) -> None:
        """Give up places on nodes that are lost.

        Else Ray looks for other nodes for them without a pause, which keeps its control process busy (seen in 2.60),
        and the node's successor is found by our own search.
        """
        if not self._free and not self._starting:
            return
        alive = list_alive()
        for starting in [starting for starting in self._starting if not is_there(starting.place, alive)]:
            ray.kill(starting.actor)
            self._starting.remove(starting)
            self._free.append(starting.place)
        for place in [place for place in self._free if not is_there(place, alive)]:
            self._free.remove(place)
            self._places.give_up(place)
            if place in self._silent:
                self._queue.dismiss([self._silent.pop(place)], False)

    def _man(self, waiting: int) -> int:
        """Begin to start workers in places that are free, no more than jobs wait; how many."""
        manned, self._free = self._free[: max(0, waiting)], self._free[max(0, waiting) :]
        self._starting += [self._group.begin(place) for place in manned]
        return len(manned)

    def _look_for_more(self, waiting: int) -> None:
        """Look for room on nodes where the crew is not yet; what was found is manned at the next poll."""
        needs = self._group.get_worker_group_context().resources_per_worker
        there = len(self._place_of) - len(self._lost) + len(self._starting) + len(self._free)
        wanted = min(waiting, self._size - there)
        if wanted > 0:
            wanted = min(wanted, count_slots(needs) - there)
        self._free += self._search.look_for(wanted, needs, time.monotonic())

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
        context, state = group.get_worker_group_context(), group.get_worker_group_state()
        number = min(self._lost, default=len(state.workers))
        try:
            worker = starting.to_worker(context.resources_per_worker)
        except RayActorError:
            self._free.append(place)
            raise
        WorkerGroup._assign_worker_ranks([worker], number, max(number + 1, len(state.workers)), 1)
        replica = ReplicaGroup([worker], context.resources_per_worker, group._replica_group_callbacks)
        workers, replicas = list(state.workers), group.get_replica_groups()
        workers[number : number + 1], replicas[number : number + 1] = [worker], [replica]
        self._place_of[number : number + 1] = [place]
        group._worker_group_state = dataclasses.replace(state, workers=workers)
        group._worker_rank_to_replica_group_rank[number] = number
        group._world_rank_to_ongoing_poll.pop(number, None)
        self._lost.discard(number)
        if place in self._silent:
            self._queue.dismiss([self._silent.pop(place)], True)
        group._init_train_context([worker], state.sync_actor)
        replica.start_training(context)


class Search:
    """Looks for room for more workers. places: keeps what was asked for, so that it is given back at the end."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._asked: list[PlacementGroup] = []
        self._since, self._pause_until = 0.0, 0.0

    def look_for(self, wanted: int, needs: dict[str, float], now: float) -> list[PlacementGroup]:
        """Places that were found. wanted: workers, for whom nodes seem to have room."""
        if wanted > 0 and not self._asked and now >= self._pause_until:
            self._asked, self._since = self._places.ask(wanted, needs), now
        alive = list_alive() if self._asked else set()
        found = [place for place in self._asked if is_there(place, alive)]
        self._asked = [place for place in self._asked if place not in found]
        if found:
            self._since = now
        if self._asked and (wanted <= 0 or now >= self._since + ROOM_SECONDS):  # others hold it
            self._pause_until = now + PAUSE_SECONDS if wanted > 0 else now
            for place in self._asked:
                self._places.give_up(place)
            self._asked = []
        return found


def is_unsure(status: WorkerStatus) -> bool:
    """Whether a worker does not answer, but Ray has not found it dead: its node may be lost, or only the connection."""
    return isinstance(_failure_of(status), ActorUnavailableError)


def is_dead(status: WorkerStatus) -> bool:
    """Whether Ray has found it dead."""
    return isinstance(_failure_of(status), RayActorError) and not is_unsure(status)


def _failure_of(status: WorkerStatus) -> Exception | None:
    """Of the call that asked for it."""
    return status.error.health_check_failure if isinstance(status.error, WorkerHealthCheckFailedError) else None
