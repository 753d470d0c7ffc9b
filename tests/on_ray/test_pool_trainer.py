"""How many workers the pool has on a cluster whose nodes come and go: the policy alone, by tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.execution.scaling_policy.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2.api.config import ScalingConfig

from raydistill.on_ray import pool_trainer
from raydistill.on_ray.pool_trainer import FollowedCluster

TWO_GPUS = {"CPU": 8.0, "GPU": 2.0}


def make_policy(
    monkeypatch: pytest.MonkeyPatch,
    *,
    nodes: dict[str, dict[str, float]],
    reserved: dict[str, dict[str, float]],
    needs: dict[str, float],
) -> FollowedCluster:
    alive = [{"NodeID": name, "Alive": True, "Resources": room} for name, room in nodes.items()]
    monkeypatch.setattr(pool_trainer.ray, "nodes", lambda: alive)

    scaling = ScalingConfig(
        num_workers=(1, 6),
        use_gpu="GPU" in needs,
        resources_per_worker=needs,
    )
    policy = FollowedCluster(scaling)
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", lambda: reserved)
    return policy


@pytest.mark.parametrize(
    ("nodes", "reserved", "needs", "workers"),
    [
        ({"a": TWO_GPUS}, {"a": {"CPU": 2, "GPU": 2}}, {"CPU": 1, "GPU": 1}, 2),
        (
            {"a": TWO_GPUS, "b": TWO_GPUS},
            {"a": {"CPU": 2, "GPU": 2}, "b": {"CPU": 1, "GPU": 1}},
            {"CPU": 1, "GPU": 1},
            3,
        ),
        ({"a": TWO_GPUS}, {"a": {"CPU": 2, "GPU": 2}, "gone": {"CPU": 2, "GPU": 2}}, {"CPU": 1, "GPU": 1}, 2),
        ({"a": TWO_GPUS}, {"a": {"CPU": 3, "GPU": 1.8}}, {"CPU": 1, "GPU": 0.6}, 2),  # a part of one GPU each
        ({"a": {"CPU": 1.0}}, {"a": {"CPU": 0.6}}, {"CPU": 0.1}, 6),  # 0.6 // 0.1 is 5
        ({"a": {"CPU": 64.0}}, {"a": {"CPU": 64}}, {"CPU": 1}, 6),  # no more than jobs
    ],
)
def test_workers_that_start(
    monkeypatch: pytest.MonkeyPatch, nodes: Any, reserved: Any, needs: dict[str, float], workers: int
) -> None:
    policy = make_policy(monkeypatch, nodes=nodes, reserved=reserved, needs=needs)
    decision = policy.make_decision_for_non_running_worker_group()
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == workers


def test_nothing_starts_without_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(monkeypatch, nodes={}, reserved={"gone": {"CPU": 4}}, needs={"CPU": 1})
    assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)


def test_while_workers_run_room_is_claimed_and_their_number_left(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"a": {"CPU": 64.0}}
    policy, claims = make_policy(monkeypatch, nodes=nodes, reserved=nodes, needs={"CPU": 1}), []
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: claims.append(1))
    state: Any = SimpleNamespace(num_workers=2, start_time=0.0)
    assert isinstance(policy.make_decision_for_running_worker_group(state, SimpleNamespace()), NoopDecision)
    assert claims
