"""Which failures end a run of Ray Train: a lost worker does not, whenever it is lost.

Ray Train 2.60 replaces a worker whose loss it hears of while it polls. One that is lost while it is being started or
asked (its node dies just then) counts as an error of Ray Train's own controller, which ends the run (seen).
Internal parts of Ray: tests/on_ray tells when a later version has changed them.
"""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
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
