from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raydistill.on_ray.claims import CLAIM_SECONDS, BriefFixed, BriefTorchTrainer
from raydistill.on_ray.lost_workers import WorkersMayBeLost
from raydistill.on_ray.pool_trainer import FollowedCluster


@pytest.mark.parametrize(
    "make_policy",
    [
        lambda: FollowedCluster(ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 1})),
        lambda: BriefFixed(ScalingConfig(num_workers=4, resources_per_worker={"CPU": 1})),
    ],
)
def test_every_claim_is_short(monkeypatch: pytest.MonkeyPatch, make_policy: Callable[[], Any]) -> None:
    """What Ray's coordinator is asked, the first time and again; Ray's own claims last 180 s."""
    claims: list[dict[str, Any]] = []
    coordinator = SimpleNamespace(request_resources=SimpleNamespace(remote=lambda **asked: claims.append(asked)))
    name = "AUTOSCALING_REQUESTS_EXPIRE_TIME_S"
    monkeypatch.setattr(autoscaling_coordinator_client, name, getattr(autoscaling_coordinator_client, name))
    monkeypatch.setattr(autoscaling_coordinator_client, "AUTOSCALING_REQUESTS_INTERVAL_S", 0)
    monkeypatch.setattr(autoscaling_coordinator_client, "get_or_create_autoscaling_coordinator", lambda: coordinator)
    monkeypatch.setattr(autoscaling_coordinator_client.ray, "get", lambda reference, timeout: reference)
    size = make_policy()
    size.after_controller_start(SimpleNamespace(run_id="run"))
    size._maybe_send_resource_request()
    assert [claim["expire_after_s"] for claim in claims] == [CLAIM_SECONDS] * 2
    assert [len(claim["resources"]) for claim in claims] == [4, 4]


def test_the_trainer_takes_that_policy_and_bears_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        DataParallelTrainer, "_initialize_and_run_controller", lambda self, **asked: given.update(asked)
    )
    trainer = BriefTorchTrainer(lambda: None, scaling_config=ScalingConfig(num_workers=3))
    trainer._initialize_and_run_controller(
        scaling_policy=SimpleNamespace(scaling_config=trainer.scaling_config),
        failure_policy=SimpleNamespace(failure_config=FailureConfig(max_failures=7)),
    )
    assert isinstance(given["scaling_policy"], BriefFixed)
    assert given["scaling_policy"].scaling_config.num_workers == 3
    assert isinstance(given["failure_policy"], WorkersMayBeLost)
    assert given["failure_policy"].failure_config.max_failures == 7
