from __future__ import annotations

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.train import ControllerError, FailureConfig
from ray.train.v2._internal.execution.failure_handling import FailureDecision

from raydistill.on_ray.lost_workers import WorkersMayBeLost

UNAVAILABLE = ActorUnavailableError("Socket closed", b"\1" * 16)  # a node died while its worker was asked


@pytest.mark.parametrize("failure", [UNAVAILABLE, RayActorError(error_msg="the node is dead")])
def test_a_worker_lost_while_it_starts_is_replaced_so_many_times(failure: Exception) -> None:
    policy = WorkersMayBeLost(FailureConfig(max_failures=2))
    decisions = [policy.make_decision(ControllerError(failure)) for _ in range(3)]
    assert decisions == [FailureDecision.RETRY, FailureDecision.RETRY, FailureDecision.RAISE]


def test_other_errors_of_the_controller_end_the_run() -> None:
    policy = WorkersMayBeLost(FailureConfig(max_failures=2))
    assert policy.make_decision(ControllerError(ValueError("a fault of the program"))) == FailureDecision.RAISE
