"""A cluster of several raylets on this machine, to be hurt: nodes that join and are killed, processes that are killed.

Comes in: commands of a test or a benchmark to a `Raylets`. It runs Ray's own `Cluster` in a process of its own
(`python -m benchmarks.raylets`), so that no other Ray of this machine or of the caller is met. That process reads a
command a line, JSON, and answers each with a line of JSON:

    {"add": {"num_cpus": 1, "num_gpus": 1}} -> {"node": id, "address": head}     {"kill": id} -> {"killed": id}

The first node is the head. The cluster ends with the process's standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

MARK = "RAYDISTILL_TEST_MARK"
OBJECT_STORE = 80 * 2**20
HEAD = {"num_cpus": 1, "num_gpus": 0}
WORKER = {"num_cpus": 1, "num_gpus": 1}  # nothing looks for the GPU; it is scheduled as any other
END_SECONDS = 90.0  # an agent of Ray whose raylet was killed ends after 60 s if it cannot tell the head (seen in 2.60)


class Raylets:
    """A head that runs no jobs, and nodes of a CPU and a GPU each, with network addresses and caches of their own.

    paths: folders that their Python finds modules in. nodes: ids, the oldest first; addresses: by id.
    """

    def __init__(self, workers: int, paths: Sequence[Path]) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))  # short: sockets' paths are limited
        self._mark = uuid.uuid4().hex
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        self.environment = inherited | {
            "HOME": str(self.temporary),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(self.temporary),
            "RAY_USAGE_STATS_ENABLED": "0",
            MARK: self._mark,
        }
        self._log = open(self.temporary / "log", "w")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.raylets"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.nodes: list[str] = []
        self.addresses: dict[str, str] = {}
        self.address = self._add(HEAD)["address"]
        for _ in range(workers):
            self.add()

    def add(self) -> str:
        """A node more; its id."""
        self.nodes.append(self._add(WORKER)["node"])
        return self.nodes[-1]

    def kill(self, node: str) -> None:
        """SIGKILL for all of a node's processes: workers alone would see a second later that it is gone."""
        self.nodes.remove(node)
        cache = self._cache_of(self.addresses[node])
        workers = [process for process in self.find("ray::") if process.environ().get("RAYDISTILL_CACHE") == cache]
        self._ask({"kill": node})
        for process in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def restore(self, workers: int) -> None:
        """Again so many nodes."""
        while len(self.nodes) < workers:
            self.add()

    def find(self, title: str) -> list[psutil.Process]:
        """Living processes by the beginning of their title, such as 'ray::JobQueue'."""
        found = []
        for process in psutil.process_iter():
            try:
                if self._owns(process) and process.cmdline()[0].startswith(title):
                    found.append(process)
            except (psutil.Error, IndexError):
                continue
        return found

    def close(self) -> None:
        """End the cluster. Raises TimeoutError if a process of it is left."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(END_SECONDS)
        self._process.stdout.close()
        self._log.close()
        deadline = time.monotonic() + END_SECONDS
        while left := self.find(""):
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes: {left} outlived their cluster")
            time.sleep(0.2)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _cache_of(self, address: str) -> str:
        return str(self.temporary / f"cache-{address}")

    def _owns(self, process: psutil.Process) -> bool:
        return process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE

    def _add(self, node: dict[str, Any]) -> dict[str, Any]:
        address = f"127.0.0.{2 + len(self.addresses)}"  # not 127.0.0.1, which Ray takes for the machine's own
        cache = {"RAYDISTILL_CACHE": self._cache_of(address)}
        answer = self._ask({"add": {**node, "node_ip_address": address, "env_vars": cache}})
        self.addresses[answer["node"]] = address
        return answer

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError((self.temporary / "log").read_text()[-3000:])
        return dict(json.loads(line))


def serve() -> None:
    """Obey standard input."""
    from ray.cluster_utils import Cluster

    cluster, nodes = Cluster(), {}
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        if "add" in command:
            node = cluster.add_node(object_store_memory=OBJECT_STORE, include_dashboard=False, **command["add"])
            nodes[node.node_id] = node
            answer = {"node": node.node_id, "address": cluster.address}
        else:
            cluster.remove_node(nodes.pop(command["kill"]), allow_graceful=False)
            answer = {"killed": command["kill"]}
        print(json.dumps(answer), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    serve()
