"""What a run of Ray Train does about workers that are lost, and what its queue hears of it.

BearsLosses   a trainer: its run goes on, whenever a worker is lost. Ray Train 2.60 replaces one whose loss it hears of
              while it polls; one that is lost while it is being started or asked (its node dies just then) counts as an
              error of Ray Train's own controller, which ends the run (seen)
TellQueue     a callback of its worker group, in the process of the controller: the queue gives a lost worker's job to
              others as soon as the process has ended

Internal parts of Ray: tests/on_ray and tests/faults tell when a later version has changed them.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.worker_group import (
    Worker,
    WorkerGroup,
    WorkerGroupContext,
    WorkerGroupPollStatus,
)
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError


class WorkersMayBeLost(DefaultFailurePolicy):
    """Counts every lost worker against max_failures."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Try again or give up."""
        if isinstance(training_failed_error, ControllerError):
            failure = training_failed_error.controller_failure
            if isinstance(failure, RayActorError):
                training_failed_error = WorkerGroupError(str(failure), {0: failure})
        return super().make_decision(training_failed_error)


class BearsLosses:
    """Mixed into a trainer of Ray Train, which gets that policy in place of its own."""

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        policy = WorkersMayBeLost(controller_init_kwargs["failure_policy"].failure_config)
        controller_init_kwargs["failure_policy"] = policy
        return super()._initialize_and_run_controller(**controller_init_kwargs)  # type: ignore[misc]


class TellQueue(WorkerGroupCallback):
    """Tells the queue which workers have ended. queue: what the workers take jobs from."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._group: Any = None
        self._ending: list[str] = []
        self._blamed = False

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """All workers are there."""
        self._group, self._blamed = worker_group, False

    def after_worker_group_poll_status(self, worker_group_status: WorkerGroupPollStatus) -> None:
        """Note whether a worker was lost while its node stayed: its job may be to blame."""
        lost = [self._group.get_workers()[rank] for rank in worker_group_status.errors]
        self._blamed = self._blamed or any(is_on(list_alive(), worker) for worker in lost)

    def before_worker_group_shutdown(self, worker_group: WorkerGroup) -> None:
        """All workers will be ended."""
        self._ending = [name_of(worker) for worker in worker_group.get_workers()]

    def after_worker_group_shutdown(self, worker_group_context: WorkerGroupContext) -> None:
        """They are."""
        self._queue.dismiss(self._ending, self._blamed)


def list_alive() -> set[str]:
    """Nodes."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def is_on(nodes: set[str], worker: Worker) -> bool:
    """Whether its node is one of these."""
    return worker.metadata.node_id in nodes


def name_of(worker: Worker) -> str:
    """As worker.name_worker names itself."""
    return f"{worker.metadata.hostname}:{worker.metadata.pid}"
