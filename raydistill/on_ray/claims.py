"""What a run of Ray Train claims of a cluster that others share falls soon after its driver has died.

Ray Train tells a coordinator every 20 s what a run wants, for 180 s ahead; a run whose driver was killed is not
withdrawn. Measured: `ray job stop` that had to kill, and the same job submitted again: its pool waited 180 s for room
that nobody used. Internal parts of Ray: tests/on_ray tells when a later version has changed them.
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.torch.torch_trainer import TorchTrainer

from raydistill.on_ray.lost_workers import BearsLosses

CLAIM_SECONDS = 50  # two claims may be late or lost


class ShortClaims:
    """Mixed into a ScalingPolicy, which lives in the run's controller, a process of its own."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> Any:
        """Claim for CLAIM_SECONDS at a time; there is no setting for it."""
        autoscaling_coordinator_client.AUTOSCALING_REQUESTS_EXPIRE_TIME_S = CLAIM_SECONDS
        return super().after_controller_start(train_run_context)  # type: ignore[misc]


class BriefFixed(ShortClaims, FixedScalingPolicy):
    """A fixed number of workers."""


class BriefTorchTrainer(BearsLosses, TorchTrainer):
    """A TorchTrainer of a fixed number of workers whose claims are short, and who may be lost."""

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        asked = controller_init_kwargs["scaling_policy"]
        return super()._initialize_and_run_controller(
            **{**controller_init_kwargs, "scaling_policy": BriefFixed(asked.scaling_config)}
        )
