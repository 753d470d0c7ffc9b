"""Ray Train's trainer for the pool: workers that need nothing of each other, as many as there is room and work for.

On a cluster of its own a run starts no helper that has nothing to do: Ray Train 2.60 starts nine processes for two
workers. Measured, those left out here cost 1.3 CPU-seconds each, and the workers wait for two of them. Internal parts
of Ray: tests/on_ray tells when a later version has changed them.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2._internal.execution.scaling_policy.scaling_policy import NoopDecision
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raydistill.on_ray.claims import ShortClaims
from raydistill.on_ray.lost_workers import BearsLosses
from raydistill.on_ray.resources import count_shares, fit_jobs
from raydistill.on_ray.worker import heed_notice


class IndependentWorkers(Backend):
    """No process group, each worker sees its own GPUs alone; a lost worker can be replaced without the others."""

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
    """As many workers as a cluster's nodes hold whenever all start; while they run, their number is the Crew's.

    Ray's own policy starts all anew for every node that joins; and it counts fractions of GPUs wrongly, and nodes that
    are gone for up to 20 s.
    """

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        needs = self.scaling_config._resources_per_worker_not_none
        rooms = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        held = (
            min(count_shares(share, needs), fit_jobs(rooms.get(name, {}), needs))
            for name, share in reserved_resources.items()
        )
        return min(sum(held), self.scaling_config.max_workers)

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> NoopDecision:
        """Nothing but to go on claiming room, which is what an autoscaler sees."""
        self._maybe_send_resource_request()  # type: ignore[no-untyped-call]
        return NoopDecision()


class PoolTrainer(BearsLosses, DataParallelTrainer):
    """A DataParallelTrainer without data sets. private: the cluster is of a fixed size, and ends with this process."""

    def __init__(self, *args: Any, private: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._private = private

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback)  # see places.remove_places
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        size: ScalingConfig = controller_init_kwargs["scaling_policy"].scaling_config
        policy = FixedCluster(size) if self._private else FollowedCluster(size)
        controller_init_kwargs["scaling_policy"] = policy
        return super()._initialize_and_run_controller(**controller_init_kwargs)
