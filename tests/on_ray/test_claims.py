from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client
from ray.train.v2.api.config import ScalingConfig

from raydistill.on_ray.claims import CLAIM_SECONDS
from raydistill.on_ray.pool_trainer import FollowedCluster


def test_every_claim_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray's coordinator is asked, the first time and again; Ray's own claims last 180 s."""
    claims: list[dict[str, Any]] = []
    coordinator = SimpleNamespace(request_resources=SimpleNamespace(remote=lambda **asked: claims.append(asked)))
    name = "AUTOSCALING_REQUESTS_EXPIRE_TIME_S"
    monkeypatch.setattr(autoscaling_coordinator_client, name, getattr(autoscaling_coordinator_client, name))
    monkeypatch.setattr(autoscaling_coordinator_client, "AUTOSCALING_REQUESTS_INTERVAL_S", 0)
    monkeypatch.setattr(autoscaling_coordinator_client, "get_or_create_autoscaling_coordinator", lambda: coordinator)
    monkeypatch.setattr(autoscaling_coordinator_client.ray, "get", lambda reference, timeout: reference)
    size = FollowedCluster(ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 1}), queue=None)
    size.after_controller_start(SimpleNamespace(run_id="run"))
    size._maybe_send_resource_request()
    assert [claim["expire_after_s"] for claim in claims] == [CLAIM_SECONDS] * 2
    assert [len(claim["resources"]) for claim in claims] == [4, 4]
