"""SIGTERM, as machines that are taken away send it: what a driver and a worker of the pool do with their notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from builders import run_quick

from raydistill.on_ray.worker import Notice, Reporter, Watchdog
from raydistill.storage.run_folder import RunFolder

from .drivers import slow_config

TESTS = Path(__file__).parent.parent
PROGRAM = """
import sys
from faults.drivers import slow_config
from raydistill.commands.cli import end_well
from raydistill.commands.launch import launch
raise SystemExit(end_well(lambda: launch(slow_config(sys.argv[1], epochs=16), until="specialists") and 0))
"""


def test_a_driver_ends_tidily_and_is_gone_on_from(tmp_path: Path) -> None:
    undisturbed = run_quick(slow_config(tmp_path / "undisturbed", epochs=16), until="specialists")
    run = RunFolder(tmp_path / "run")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    driver = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(run.path)], env=environment, stderr=subprocess.PIPE, text=True
    )
    checkpoint = run.specialist_folder(1) / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert driver.poll() is None
        time.sleep(0.01)
    driver.terminate()
    _, lines = driver.communicate(timeout=20)
    assert driver.returncode == 143
    assert lines.splitlines()[-1] == "raydistill: interrupted; the same command goes on from here"
    assert "Traceback" not in lines
    assert checkpoint.exists()
    assert not run.is_locked()
    first = run.specialist_folder(0) / "training.json"
    written = first.stat().st_mtime_ns
    run_quick(slow_config(run.path, epochs=16), until="specialists")
    assert first.stat().st_mtime_ns == written
    results = [folder.read_manifest()["stages"]["specialists"]["files"] for folder in (run, undisturbed)]
    assert results[0] == results[1]


class FakeQueue:
    """Notes what a worker calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def beat(self, *arguments: Any) -> bool:
        self.calls.append("beat")
        return True

    def dismiss(self, workers: list[str], blamed: bool) -> None:
        self.calls.append(f"dismiss {workers} {blamed}")


class Ended(BaseException):
    """Instead of the end of this process."""


def end() -> None:
    raise Ended


def test_a_worker_ends_after_its_next_checkpoint() -> None:
    queue, notice, dog = FakeQueue(), Notice(3600, end), Watchdog(60, end)
    report = Reporter(queue, "a", "job", dog, notice=notice)
    report({"epoch": 3, "fraction": 0.3})
    notice.give()
    report({"epoch": 3, "fraction": 0.35})  # within a pass: what it did of it would be lost
    with pytest.raises(Ended):
        report({"epoch": 4, "fraction": 0.4})
    dog.stop()
    assert queue.calls == ["beat", "dismiss ['a'] False"]


def test_a_worker_without_a_checkpoint_ends_in_time() -> None:
    ended = threading.Event()
    notice, began = Notice(0.3, ended.set), time.monotonic()
    assert not notice.is_given()
    notice.give(signal.SIGTERM, None)
    notice.give(signal.SIGTERM, None)
    assert notice.is_given()
    assert ended.wait(5)
    assert 0.3 <= time.monotonic() - began < 3


def test_without_notice_a_worker_goes_on() -> None:
    queue, dog = FakeQueue(), Watchdog(60, end)
    report = Reporter(queue, "a", "job", dog, notice=Notice(3600, end))
    for epoch in range(1, 4):
        report({"epoch": epoch})
    dog.stop()
    assert queue.calls == ["beat"]  # at most one a second
