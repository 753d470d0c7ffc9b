"""Ray Train's trainer for the pool: workers that need nothing of each other, as many as there is room and work for.

On a cluster of its own a run starts no helper that has nothing to do: Ray Train 2.60 starts nine processes for two
workers. Measured, those left out here cost 1.3 CPU-seconds each, and the workers wait for two of them. Internal parts
of Ray: tests/on_ray tells when a later version has changed them.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2._internal.execution.scaling_policy.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raydistill.on_ray.claims import ShortClaims
from raydistill.on_ray.failures import BearsLosses
from raydistill.on_ray.resources import count_shares, fit_jobs
from raydistill.on_ray.worker import heed_notice

# A group that starts anew costs each worker about 10 s (measured), so a sixth of the time while nodes join one by one
RESIZE_SECONDS = 60.0
ANSWER_SECONDS = 5.0


class IndependentWorkers(Backend):
    """No process group, each worker sees its own GPUs alone; Ray Train replaces a dead worker without the others."""

    has_replica_groups = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Let the workers heed SIGTERM; only this runs in their main threads."""
        worker_group.execute(heed_notice)


class IndependentConfig(BackendConfig):
    """Chooses IndependentWorkers."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class above."""
        return IndependentWorkers


class FixedCluster(FixedScalingPolicy):
    """So many workers, in a cluster that no autoscaler enlarges: nobody is asked for room."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Ask nobody."""

    def _maybe_send_resource_request(self) -> None:
        """Ask nobody."""


class FollowedCluster(ShortClaims, ElasticScalingPolicy):
    """As many workers as a cluster's nodes hold whenever they start; while they run, more if jobs wait for them.

    A change of their number starts all of them anew: each loses the work since its last pass and some seconds. Ray's
    own policy would do that for every node that joins, also when no job waits; and it counts fractions of GPUs wrongly,
    and nodes that are gone for up to 20 s.
    """

    def __init__(self, scaling_config: ScalingConfig, queue: Any) -> None:
        super().__init__(scaling_config)
        self._queue = queue

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        needs = self.scaling_config._resources_per_worker_not_none
        rooms = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        held = (
            min(count_shares(share, needs), fit_jobs(rooms.get(name, {}), needs))
            for name, share in reserved_resources.items()
        )
        return min(sum(held), self.scaling_config.max_workers)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> NoopDecision | ResizeDecision:
        """More workers for jobs that wait, or nothing: a node that is lost shows as workers that are dead."""
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if not isinstance(decision, ResizeDecision) or decision.num_workers <= worker_group_state.num_workers:
            return NoopDecision()
        more = min(decision.num_workers - worker_group_state.num_workers, self._count_waiting())
        return self._get_resize_decision(worker_group_state.num_workers + more) if more else NoopDecision()

    def _count_waiting(self) -> int:
        try:
            return int(ray.get(self._queue.actor.count_waiting.remote(), timeout=ANSWER_SECONDS))
        except (RayError, TimeoutError):
            return 0


class PoolTrainer(BearsLosses, DataParallelTrainer):
    """A DataParallelTrainer without data sets. private: the cluster is of a fixed size, and ends with this process."""

    def __init__(self, *args: Any, queue: Any, private: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queue, self._private = queue, private

    def _create_default_callbacks(self) -> list[Any]:
        left_out: tuple[type, ...] = (DatasetsCallback,)
        if self._private:  # nothing is left behind that a cleaner would have to remove
            left_out += (PlacementGroupCleanerCallback,)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        size: ScalingConfig = controller_init_kwargs["scaling_policy"].scaling_config
        policy = FixedCluster(size) if self._private else FollowedCluster(size, self._queue)
        controller_init_kwargs["scaling_policy"] = policy
        return super()._initialize_and_run_controller(**controller_init_kwargs)
