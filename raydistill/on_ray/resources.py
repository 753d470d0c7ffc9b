"""What a job needs of a node, in Ray's words, and how many of them the cluster's nodes hold.

Comes in: the settings of a role, what each node has. Goes out: a mapping such as {"CPU": 1, "GPU": 0.5}, a number of
jobs, or a ConfigError that names the need and the most that a node has of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import ray

from raydistill.errors import ConfigError
from raydistill.execution.jobs import Role
from raydistill.settings.cluster import WORKERS, ClusterConfig, NeedsConfig

Room = Mapping[str, float]
"""What a node has, in Ray's words."""
GIGABYTE = 1e9
ACCELERATOR = "accelerator_type:"  # Ray gives a node one such resource; users of it take a thousandth, as Ray's own do
UNITS = 10_000  # Ray counts in steps of a ten-thousandth
UNLIMITED = 1000  # nodes of a group without a bound


def to_resources(needs: NeedsConfig, rooms: Sequence[Room]) -> dict[str, float]:
    """A process's needs in Ray's words; those left out by what nodes of the cluster have."""
    resources: dict[str, float] = {"CPU": 1.0 if needs.cpus is None else needs.cpus, **(needs.custom or {})}
    if needs.memory_gb is not None:
        resources["memory"] = needs.memory_gb * GIGABYTE
    if needs.accelerator is not None:
        resources[ACCELERATOR + needs.accelerator] = 0.001
    gpus = needs.gpus
    if gpus is None:
        gpus = 1.0 if any(fit_jobs(room, {**resources, "GPU": 1.0}) for room in rooms) else 0.0
    return {**resources, "GPU": gpus} if gpus else resources


def take_whole_gpus(resources: Mapping[str, float]) -> dict[str, float]:
    """The needs of a process among several of one job: NCCL refuses two of them on one GPU (ray#48012)."""
    return {name: math.ceil(amount) if name == "GPU" else amount for name, amount in resources.items()}


def fit_jobs(room: Room, resources: Mapping[str, float]) -> int:
    """How many processes of such needs a node holds; Ray gives a fraction of a GPU from one device only."""
    shares = count_shares(room, resources)
    part = resources.get("GPU", 0.0)
    if not 0 < part < 1:
        return shares
    return min(shares, int(room.get("GPU", 0.0)) * count_shares({"GPU": 1.0}, {"GPU": part}))


def count_shares(amounts: Room, resources: Mapping[str, float]) -> int:
    """How many times such needs are in these amounts, wherever they are."""
    return min(
        round(amounts.get(name, 0.0) * UNITS) // max(1, round(amount * UNITS)) for name, amount in resources.items()
    )


def count_slots(resources: Mapping[str, float], grown: bool = False) -> int:
    """How many processes the cluster's nodes hold at once; grown: when its autoscaler has added all it may."""
    slots = sum(fit_jobs(room, resources) for room in list_rooms())
    if grown:
        slots = max(slots, sum(count * fit_jobs(room, resources) for room, count in list_node_groups()))
    return slots


def list_rooms() -> list[Room]:
    """What each node has that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def list_possible_rooms() -> list[Room]:
    """The same, and what each node would have that an autoscaler may add, as far as is known."""
    return [*list_rooms(), *(room for room, count in list_node_groups() if count)]


def list_node_groups() -> list[tuple[Room, int]]:
    """Resources of a node, and how many there may be, for each group that an autoscaler has told Ray of.

    No public call tells, and Ray 2.60's own autoscaler does not tell (read in its source); managed ones do.
    """
    config = ray._private.state.state.get_cluster_config()
    groups = config.node_group_configs if config else []
    return [(dict(group.resources), group.max_count if group.max_count >= 0 else UNLIMITED) for group in groups]


def describe_shortage(cluster: ClusterConfig, role: Role | None, workers: int, rooms: Sequence[Room]) -> ConfigError:
    """The error for needs that the nodes do not hold: the first need that is too large, or the number of workers."""
    resources = to_resources(cluster.needs_of(role), rooms)
    for name, amount in resources.items():
        most = max((room.get(name, 0.0) for room in rooms), default=0.0)
        if most < amount:
            return _describe_need(cluster, role, name, amount, most, rooms)
    slots = sum(fit_jobs(room, resources) for room in rooms)
    if slots:
        return ConfigError(
            f"{WORKERS.get(role or '', 'workers')}: {workers} do not fit, the cluster holds {slots} at once;"
            " take fewer, or add nodes"
        )
    return ConfigError(
        f"cluster.{role or 'needs'}: no node has all of {describe_resources(resources)} at once; lower one of them, or"
        " add such nodes"
    )


def describe_resources(resources: Mapping[str, float]) -> str:
    """Needs in a line, such as 'CPU 4, GPU 1'."""
    return ", ".join(
        name.replace(ACCELERATOR, "accelerator ")
        if name.startswith(ACCELERATOR)
        else f"{name} {_in_words(name, amount)}"
        for name, amount in resources.items()
    )


def _describe_need(
    cluster: ClusterConfig, role: Role | None, name: str, amount: float, most: float, rooms: Sequence[Room]
) -> ConfigError:
    if name.startswith(ACCELERATOR):
        there = sorted({other[len(ACCELERATOR) :] for room in rooms for other in room if other.startswith(ACCELERATOR)})
        return ConfigError(
            f"{cluster.name_of(role, 'accelerator')}: {name[len(ACCELERATOR) :]!r} is in no node"
            f" (there {'is' if len(there) == 1 else 'are'} {', '.join(there) or 'none'}); give one of these, or add"
            " such nodes"
        )
    field = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gb"}.get(name, "custom")
    return ConfigError(
        f"{cluster.name_of(role, field)}: {f'{name} ' if field == 'custom' else ''}{_in_words(name, amount)} is more"
        f" than any node has; the largest has {_in_words(name, most)}; lower it, or add such nodes"
    )


def _in_words(name: str, amount: float) -> str:
    return f"{amount / GIGABYTE if name == 'memory' else amount:.6g}"
