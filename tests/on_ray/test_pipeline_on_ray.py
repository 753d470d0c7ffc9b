"""The whole pipeline on a private Ray whose driver is killed: no process survives it, and a new one ends the same."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from builders import list_results
from processes import MARK, await_end

from raydistill.storage.run_folder import RunFolder

# Networks of some seconds, so that a kill finds them in training. No trial is stopped early: time decides which are.
PROGRAM = """
import sys
import torch
from builders import quick_config
from raydistill.commands.launch import launch
torch.set_num_threads(1)  # of the driver, which trains the generalist; Ray's workers have one by themselves
launch(quick_config(
    sys.argv[1],
    cluster={"backend": sys.argv[2]},
    specialists={"groups": 5, "epochs": 120, "patience": None, "batch_size": 16},
    search={"grace_epochs": 2},
    student={"epochs": 20, "batch_size": 16},
))
"""


class Driver:
    """The program in a process of its own, with a home folder of its own; all its descendants carry a mark."""

    def __init__(self, run: RunFolder, backend: str) -> None:
        self._mark = uuid.uuid4().hex
        self.home = run.path.parent / "home"
        self.home.mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        paths = {"HOME": str(self.home), "PYTHONPATH": str(Path(__file__).parent.parent)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(run.path), backend],
            env={**inherited, **paths, MARK: self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> list[str]:
        """Wait for a good end; the lines it printed."""
        out, lines = self.process.communicate()
        assert (self.process.returncode, out) == (0, ""), lines
        return lines.splitlines()

    def kill_when(self, folder: Path, pattern: str) -> None:
        """SIGKILL as soon as such a file is there; all processes of its Ray must end by themselves."""
        while not any(folder.glob(pattern)):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        assert await_end(self._mark) == []


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed run gives, without Ray."""
    run = RunFolder(tmp_path_factory.mktemp("undisturbed") / "run")
    Driver(run, "none").finish()
    return list_results(run)


@pytest.mark.slow
def test_killed_in_the_specialists(tmp_path: Path, expected: dict[str, Any]) -> None:
    """A finished specialist is not done again; the end is bit for bit the same as without kills, and without Ray."""
    run = RunFolder(tmp_path / "run")
    specialists = run.stage_folder("specialists")
    Driver(run, "ray").kill_when(specialists, "*/training.json")
    written = {path: path.stat().st_mtime_ns for path in specialists.glob("*/training.json")}
    assert 1 <= len(written) < 5
    driver = Driver(run, "ray")
    lines = driver.finish()
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert list_results(run) == expected
    assert [line for line in lines if not re.match(r"\[\d+/11\] \w+: ", line)] == []
    assert {path.name for path in driver.home.iterdir()} <= {".cache", ".config"}  # matplotlib's; no token, no results


@pytest.mark.slow
def test_killed_in_the_search_and_in_the_student(tmp_path: Path, expected: dict[str, Any]) -> None:
    run = RunFolder(tmp_path / "run")
    Driver(run, "ray").kill_when(run.stage_folder("search"), "trials/*/checkpoint.safetensors")
    Driver(run, "ray").kill_when(run.student_folder("student"), "checkpoint.safetensors")
    lines = Driver(run, "ray").finish()
    assert "[9/11] search: finished before, skipped" in lines
    assert list_results(run) == expected
