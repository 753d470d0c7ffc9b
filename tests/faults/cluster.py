"""What a test does to a cluster of raylets and to its drivers: start them, kill nodes, workers, the queue."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from processes import MARK, list_marked

TESTS = Path(__file__).parent.parent
HEAD = {"num_cpus": 1, "num_gpus": 0, "node_ip_address": "127.0.0.2"}  # Ray takes 127.0.0.1 for the machine
WORKER = {"num_cpus": 1, "num_gpus": 1}  # Ray takes the GPU for real; only scheduling sees it
WAIT_SECONDS = 120.0


class Raylets:
    """A head that runs no jobs, and nodes of a CPU and a GPU each with addresses of their own; processes carry a mark.

    Home and temporary folders are its own, so that it meets no other Ray of the machine.
    """

    def __init__(self, workers: int = 2) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))  # short: sockets' paths are limited
        self._mark = uuid.uuid4().hex
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        self.environment = inherited | {
            "HOME": str(self.temporary),
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(self.temporary),
            "RAY_USAGE_STATS_ENABLED": "0",
            MARK: self._mark,
        }
        self._log = open(self.temporary / "log", "w")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.raylets"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.address = self._ask({"add": HEAD})["address"]
        self.nodes: list[str] = []
        self._added = 0
        for _ in range(workers):
            self.add()

    def add(self) -> str:
        """A node more; its id."""
        self._added += 1
        self.nodes.append(self._ask({"add": {**WORKER, "node_ip_address": self.address_of(self._added)}})["node"])
        return self.nodes[-1]

    @staticmethod
    def address_of(number: int) -> str:
        """Network address of the node that was added as this one, from 1."""
        return f"127.0.0.{2 + number}"

    def kill(self, node: str) -> None:
        """SIGKILL for all of a node's processes."""
        self._ask({"kill": node})
        self.nodes.remove(node)

    def restore(self, workers: int = 2) -> None:
        """Again so many nodes, for the next test."""
        while len(self.nodes) < workers:
            self.add()

    def find(self, title: str) -> list[psutil.Process]:
        """Living processes of this cluster by the beginning of their title, such as 'ray::JobQueue'."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                    if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                        found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        """End the cluster; nothing of it is left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        wait_until(lambda: not list_marked(self._mark), 30)
        self._log.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, (self.temporary / "log").read_text()[-3000:]
        return dict(json.loads(line))


class Driver:
    """A program of drivers.py in a process of its own, joined to the cluster."""

    def __init__(self, raylets: Raylets, verb: str, settings: dict[str, Any], **variables: str) -> None:
        program = [sys.executable, "-m", "faults.drivers", verb, json.dumps(settings)]
        self.process = subprocess.Popen(
            program,
            env={**raylets.environment, "RAY_ADDRESS": raylets.address, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, holds: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
        """Until that holds, while the driver lives."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "waited for too long"
            time.sleep(0.02)

    def finish(self, seconds: float = WAIT_SECONDS) -> str:
        """Wait for a good end; what it printed."""
        out, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, errors
        return out

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate()


def wait_until(holds: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    """Until that holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.05)
