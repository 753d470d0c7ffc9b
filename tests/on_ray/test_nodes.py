"""A cluster of raylets whose nodes come and go, with two kinds of GPU that only the scheduler sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Nodes have addresses of their own; 127.0.0.1 is one that Ray takes for the machine's.
PROGRAM = """
import json, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
from raydistill.settings.cluster import ClusterConfig
from raydistill.execution.jobs import Job
from raydistill.on_ray.executor import RayExecutor

folder = Path(sys.argv[1])
cluster = Cluster()
def add_node(number, **resources):
    return cluster.add_node(
        node_ip_address=f"127.0.0.{number}", include_dashboard=False, object_store_memory=80 * 2**20, **resources
    )
add_node(2, num_cpus=0)
old = add_node(3, num_cpus=2, num_gpus=1, resources={"accelerator_type:T4": 1})
nodes = {"old": old.node_id}
settings = ClusterConfig.model_validate({"student": {"accelerator": "H100"}, "specialist": {"cpus": 1}})
executor = RayExecutor(folder / "ray", address=cluster.address, cluster=settings, workers={"specialist": 1})

def job(name, role, epochs, seconds):
    arguments = {"file": str(folder / name), "epochs": epochs, "seconds": seconds}
    return Job(name, "on_ray.jobs_for_tests:count_epochs", arguments, 1.0, role)

def on_event(event):  # in the main thread, where alone Ray starts nodes
    if event.progress.get("epoch") and "new" not in nodes:
        nodes["new"] = add_node(4, num_cpus=2, num_gpus=1, resources={"accelerator_type:H100": 1}).node_id
        nodes["joined"] = time.time()
    used = "left" not in nodes and any(nodes.get("new", "-") in path.read_text() for path in folder.glob("specialist*"))
    if used:
        cluster.remove_node(old, allow_graceful=False)
        nodes["left"] = time.time()

jobs = [job(f"specialist {index}", "specialist", 8, 0.8) for index in range(8)]
outcomes = executor.run_jobs(jobs, on_event)
add_node(5, num_cpus=2, num_gpus=1, resources={"accelerator_type:T4": 1})
students = executor.run_jobs([job(f"student {index}", "student", 2, 0.1) for index in range(2)], lambda event: None)
print(json.dumps({
    "nodes": nodes,
    "attempts": [outcome.attempts for outcome in outcomes],
    "epochs": {path.name: path.read_text().split("\\n")[:-1] for path in folder.glob("s*")},
}))
executor.close()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a program with a cluster of its own tells, because a process knows one Ray only."""
    folder = tmp_path_factory.mktemp("nodes")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp", ignore_cleanup_errors=True) as home:  # sockets: short
        paths = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder)],
            env={**inherited, "HOME": home, "RAY_TMPDIR": home, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def epochs_of(told: dict[str, Any], role: str) -> dict[str, list[tuple[str, float]]]:
    """Node and time of each epoch, by job."""
    notes = {name: [line.split() for line in lines] for name, lines in told["epochs"].items() if name.startswith(role)}
    return {name: [(node, float(moment)) for node, moment in lines] for name, lines in notes.items()}


@pytest.mark.slow
def test_a_node_that_joins_is_used_and_one_that_leaves_stops_nothing(told: dict[str, Any]) -> None:
    nodes, epochs = told["nodes"], epochs_of(told, "specialist")
    assert {name: len(lines) for name, lines in epochs.items()} == {f"specialist {index}": 8 for index in range(8)}
    every = [epoch for lines in epochs.values() for epoch in lines]
    first = min(moment for node, moment in every if node == nodes["new"])
    print(f"used {first - nodes['joined']:.1f} s after it joined")
    assert {node for node, moment in every if moment < nodes["joined"]} == {nodes["old"]}
    both = {node for node, moment in every if first <= moment < nodes["left"]}
    assert nodes["new"] in both
    assert {node for node, moment in every if moment > nodes["left"] + 1} == {nodes["new"]}


@pytest.mark.slow
def test_work_is_not_done_twice(told: dict[str, Any]) -> None:
    """Each epoch once: a change of nodes costs at most the epoch that a job was in."""
    moments = [moment for lines in epochs_of(told, "specialist").values() for _, moment in lines]
    assert len(moments) == 8 * 8
    assert max(told["attempts"]) <= 3


@pytest.mark.slow
def test_of_two_kinds_of_gpu_a_role_may_want_one(told: dict[str, Any]) -> None:
    epochs = epochs_of(told, "student")
    assert {node for lines in epochs.values() for node, _ in lines} == {told["nodes"]["new"]}
    assert {len(lines) for lines in epochs.values()} == {2}
