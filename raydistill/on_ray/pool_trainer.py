"""Ray Train's trainer for the pool: workers that need nothing of each other, and no helper that has nothing to do.

A run of Ray Train 2.60 starts nine processes for two workers. Measured, those left out here cost 1.3 CPU-seconds each,
and the workers wait for two of them. Internal parts of Ray: tests/on_ray tells when a later version has changed them.
"""

from __future__ import annotations

from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

RESIZE_SECONDS = 300.0


class IndependentWorkers(Backend):
    """No process group, each worker sees its own GPUs alone; Ray Train replaces a dead worker without the others."""

    has_replica_groups = True


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


class PoolTrainer(DataParallelTrainer):
    """A DataParallelTrainer without data sets. private: the cluster is of a fixed size, and ends with this process."""

    def __init__(self, *args: Any, private: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._private = private

    def _create_default_callbacks(self) -> list[Any]:
        left_out: tuple[type, ...] = (DatasetsCallback,)
        if self._private:  # nothing is left behind that a cleaner would have to remove
            left_out += (PlacementGroupCleanerCallback,)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        if self._private:
            controller_init_kwargs["scaling_policy"] = FixedCluster(
                controller_init_kwargs["scaling_policy"].scaling_config
            )
        return super()._initialize_and_run_controller(**controller_init_kwargs)
