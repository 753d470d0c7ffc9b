"""Needs in Ray's words, against nodes as Ray describes them."""

from __future__ import annotations

from typing import Any

import pytest
from ray._raylet import GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, GCS_AUTOSCALER_STATE_NAMESPACE
from ray.core.generated.autoscaler_pb2 import ClusterConfig as NodeGroups
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

from raydistill.on_ray import resources
from raydistill.on_ray.resources import (
    count_slots,
    describe_shortage,
    fit_jobs,
    list_possible_rooms,
    take_whole_gpus,
    to_resources,
)
from raydistill.on_ray.session import RaySession
from raydistill.settings.cluster import ClusterConfig, NeedsConfig

GPU_NODE = {"CPU": 4.0, "GPU": 1.0, "memory": 12e9, "accelerator_type:A10G": 1.0}
BIG_NODE = {"CPU": 48.0, "GPU": 8.0, "memory": 400e9, "accelerator_type:H100": 1.0, "highmem": 4.0}
CPU_NODE = {"CPU": 8.0, "memory": 24e9}


def test_needs_left_out_follow_from_the_nodes() -> None:
    assert to_resources(NeedsConfig(), [CPU_NODE]) == {"CPU": 1}
    assert to_resources(NeedsConfig(), [CPU_NODE, GPU_NODE]) == {"CPU": 1, "GPU": 1}
    assert to_resources(NeedsConfig(), []) == {"CPU": 1}


def test_no_gpu_is_taken_that_lies_beside_none_of_the_other_needs() -> None:
    assert to_resources(NeedsConfig(cpus=6), [CPU_NODE, GPU_NODE]) == {"CPU": 6}
    assert to_resources(NeedsConfig(memory_gb=20), [CPU_NODE, GPU_NODE]) == {"CPU": 1, "memory": 20e9}


def test_needs_that_are_given_stay() -> None:
    needs = NeedsConfig(cpus=2, gpus=0.5, memory_gb=3, custom={"highmem": 2}, accelerator="H100")
    assert to_resources(needs, [CPU_NODE]) == {
        "CPU": 2,
        "GPU": 0.5,
        "memory": 3e9,
        "highmem": 2,
        "accelerator_type:H100": 0.001,
    }
    assert to_resources(NeedsConfig(gpus=0), [GPU_NODE]) == {"CPU": 1}


@pytest.mark.parametrize(
    ("room", "needs", "jobs"),
    [
        (CPU_NODE, {"CPU": 3}, 2),
        (CPU_NODE, {"CPU": 0.5}, 16),
        (CPU_NODE, {"CPU": 1, "memory": 7e9}, 3),
        (CPU_NODE, {"CPU": 1, "GPU": 1}, 0),
        (BIG_NODE, {"CPU": 1, "GPU": 1}, 8),
        (BIG_NODE, {"CPU": 8, "GPU": 1}, 6),
        (BIG_NODE, {"CPU": 1, "GPU": 2}, 4),
        (BIG_NODE, {"CPU": 1, "highmem": 1.5}, 2),
        (BIG_NODE, {"CPU": 1, "GPU": 1, "accelerator_type:H100": 0.001}, 8),
        (BIG_NODE, {"CPU": 1, "GPU": 1, "accelerator_type:A10G": 0.001}, 0),
        (BIG_NODE, {"CPU": 1, "GPU": 0.6}, 8),  # a GPU of its own each: Ray gives no two parts of different ones
        (BIG_NODE, {"CPU": 1, "GPU": 0.4}, 16),
        ({"CPU": 1.0}, {"CPU": 0.1}, 10),  # 1 // 0.1 is 9
        ({"CPU": 1.0}, {"CPU": 1 / 3}, 3),
    ],
)
def test_jobs_of_a_node(room: dict[str, float], needs: dict[str, float], jobs: int) -> None:
    assert fit_jobs(room, needs) == jobs


def test_processes_of_one_job_share_no_gpu() -> None:
    assert take_whole_gpus({"CPU": 1, "GPU": 0.25}) == {"CPU": 1, "GPU": 1}
    assert take_whole_gpus({"CPU": 1.5}) == {"CPU": 1.5}


def node(alive: bool = True, **there: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"memory": 1e9, **there}}


@pytest.mark.parametrize(
    ("nodes", "needs", "slots"),
    [
        ([node(CPU=4), node(CPU=3)], {"CPU": 2}, 3),  # a job does not span nodes
        ([node(CPU=4), node(alive=False, CPU=8)], {"CPU": 1}, 4),
        ([node(CPU=8, GPU=1), node(CPU=8)], {"CPU": 1, "GPU": 0.5}, 2),
        ([node(CPU=2)], {"CPU": 4}, 0),
    ],
)
def test_slots(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, Any]], needs: dict[str, float], slots: int
) -> None:
    monkeypatch.setattr(resources.ray, "nodes", lambda: nodes)
    assert count_slots(needs) == slots


def test_slots_of_an_autoscaling_cluster(ray_session: RaySession) -> None:
    """As cluster.yaml with no worker yet, where the autoscaler tells: up to 4 nodes of 4 CPUs and a GPU."""
    groups = NodeGroups()
    groups.node_group_configs.add(name="head", max_count=0, resources={"CPU": 2})
    groups.node_group_configs.add(name="gpu_worker", max_count=4, resources={"CPU": 4, "GPU": 1})
    place = {"key": GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, "namespace": GCS_AUTOSCALER_STATE_NAMESPACE}
    _internal_kv_put(value=groups.SerializeToString(), **place)
    try:
        needs = to_resources(NeedsConfig(), list_possible_rooms())
        assert needs == {"CPU": 1, "GPU": 1}
        assert count_slots(needs) == 0
        assert count_slots(needs, grown=True) == 4
        assert count_slots({"CPU": 2}, grown=True) == 8
    finally:
        _internal_kv_del(**place)
    assert count_slots({"CPU": 1}, grown=True) == 2


@pytest.mark.parametrize(
    ("sections", "role", "workers", "told"),
    [
        (
            {"specialist": {"memory_gb": 500}},
            "specialist",
            1,
            "cluster.specialist.memory_gb: 500 is more than any node has; the largest has 400; lower it, or add such"
            " nodes",
        ),
        (
            {"needs": {"gpus": 16}},
            "trial",
            1,
            "cluster.needs.gpus: 16 is more than any node has; the largest has 8; lower it, or add such nodes",
        ),
        (
            {"needs": {"custom": {"tpu": 2}}},
            "student",
            1,
            "cluster.needs.custom: tpu 2 is more than any node has; the largest has 0; lower it, or add such nodes",
        ),
        (
            {"student": {"accelerator": "B200"}},
            "student",
            1,
            "cluster.student.accelerator: 'B200' is in no node (there are A10G, H100); give one of these, or add such"
            " nodes",
        ),
        (
            {"needs": {"accelerator": "A10G", "cpus": 6}},
            "student",
            1,
            "cluster.student: no node has all of CPU 6, accelerator A10G at once; lower one of them, or add such nodes",
        ),
        (
            {},
            "specialist",
            10,
            "specialists.workers: 10 do not fit, the cluster holds 9 at once; take fewer, or add nodes",
        ),
    ],
)
def test_what_does_not_fit_is_named(sections: dict[str, Any], role: Any, workers: int, told: str) -> None:
    cluster = ClusterConfig.model_validate(sections)
    assert str(describe_shortage(cluster, role, workers, [GPU_NODE, BIG_NODE, CPU_NODE])) == told
