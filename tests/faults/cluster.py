"""Drivers that tests start, joined to a cluster of raylets."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from benchmarks.raylets import Raylets

WAIT_SECONDS = 120.0


class Driver:
    """A program of drivers.py in a process of its own."""

    def __init__(self, raylets: Raylets, verb: str, settings: dict[str, Any]) -> None:
        program = [sys.executable, "-m", "faults.drivers", verb, json.dumps(settings)]
        self.process = subprocess.Popen(
            program,
            env={**raylets.environment, "RAY_ADDRESS": raylets.address},
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

    def finish(self, seconds: float = WAIT_SECONDS) -> None:
        """Wait for a good end."""
        _, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, errors

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def wait_until(holds: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    """Until that holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.05)
