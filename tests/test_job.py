"""jobs/run.py as `ray job submit` starts it, on a head of the test's own, protected by a token as in cluster.yaml."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import MARK, list_marked

from raydistill.run_folder import STAGES, RunFolder

REPOSITORY = Path(__file__).parent.parent
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
SETTINGS = {
    "--data": "digits",
    "--run-dir": "runs/job",
    "--generalist.epochs": "4",
    "--generalist.options": '{"hidden": [24]}',
    "--grouping.bootstraps": "0",
    "--specialists.groups": "3",
    "--specialists.epochs": "2",
    "--search.trials": "2",
    "--search.epochs": "1",
    "--student.epochs": "4",
}
COMMAND = ["python", "jobs/run.py", *(word for pair in SETTINGS.items() for word in pair)]
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port")
START_SECONDS = 60.0
AGENT_STARTS = "No available agent to submit job"  # the server answers some seconds before its agent, on a busy machine


class Head:
    """A Ray head in a process group of its own, with its own home and temporary folder; its processes carry a mark."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.temporary = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))  # short: sockets' paths are limited
        self._mark = uuid.uuid4().hex
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        self._environment = inherited | {
            "HOME": str(self.home),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": uuid.uuid4().hex,
            "RAY_USAGE_STATS_ENABLED": "0",
            MARK: self._mark,
        }
        ports = dict(zip(PORTS, find_free_ports(len(PORTS)), strict=True))
        self._address = f"http://127.0.0.1:{ports['dashboard-port']}"
        options = {"num-cpus": 2, "dashboard-host": "127.0.0.1", "temp-dir": self.temporary, **ports}
        options |= {"min-worker-port": 0, "max-worker-port": 0, "object-store-memory": 200_000_000}
        with open(folder / "head.log", "w") as log:
            self._process = subprocess.Popen(
                [*RAY, "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for_job_server(self) -> None:
        """Until it answers, if only that a token is missing."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self._address}/api/version", timeout=2).close()
            except urllib.error.HTTPError as error:
                error.close()
                return
            except OSError:
                assert time.monotonic() < deadline
                assert self._process.poll() is None
                time.sleep(0.2)
            else:
                return

    def submit(self) -> tuple[int, float, list[str]]:
        """Submit the job and wait for it: exit code, seconds, and the lines of its log."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            began = time.monotonic()
            done = subprocess.run(
                [*RAY, "job", "submit", "--address", self._address, "--working-dir", ".", "--", *COMMAND],
                cwd=REPOSITORY,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.monotonic() - began
            if AGENT_STARTS not in done.stdout + done.stderr or time.monotonic() > deadline:
                break
            time.sleep(1.0)
        logs = sorted(self.temporary.glob("session_2*/logs/job-driver-raysubmit_*.log"), key=os.path.getmtime)
        assert logs, done.stdout + done.stderr
        lines = logs[-1].read_text().splitlines()
        began_at = next(number for number, line in enumerate(lines) if line.startswith("Running entrypoint"))
        return done.returncode, seconds, lines[began_at + 1 :]  # before it Ray's job manager speaks

    def stop(self) -> list[str]:
        """Kill the process group; what else lives after a while."""
        os.killpg(self._process.pid, signal.SIGKILL)  # SIGTERM would drain the node for 30 s
        self._process.wait()
        deadline = time.monotonic() + 20
        while (left := list_marked(self._mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        shutil.rmtree(self.temporary, ignore_errors=True)
        return left


def find_free_ports(count: int) -> list[int]:
    """Ports between 20000 and 32000 that nobody has; other Rays take theirs below 20000."""
    found: list[int] = []
    with ExitStack() as held:
        for port in range(20000 + os.getpid() % 10000, 32000):
            server = held.enter_context(socket.socket())
            try:
                server.bind(("0.0.0.0", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports between 20000 and 32000")


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head(tmp_path)
    try:
        head.wait_for_job_server()
        yield head
    finally:
        left = head.stop()
    assert left == []


def test_a_job_ends_well_and_the_second_time_does_nothing(head: Head) -> None:
    folder = head.home / "raydistill" / "runs" / "job"  # outside the job's copy of the working directory
    page = RunFolder(folder).stage_folder("report") / "report.html"
    code, seconds, lines = head.submit()
    print(f"first: {seconds:.1f} s", *lines, sep="\n")
    assert code == 0
    assert lines[0] == f"run folder: {folder}"
    assert page.exists()
    progress = [line for line in lines if re.match(r"\[\d+/11\] \w+: ", line)]
    assert [line for line in progress if ": done in " in line][-1].startswith("[11/11] report: ")

    table = [line for line in lines[1:] if line not in progress]
    code, seconds, again = head.submit()
    print(f"second: {seconds:.1f} s", *again, sep="\n")
    assert code == 0
    names = [name for name in STAGES if name != "seeds"]
    skipped = [f"[{number}/11] {name}: finished before, skipped" for number, name in enumerate(names, start=1)]
    assert again == [f"run folder: {folder}", *skipped, *table]  # nothing else: no line of Ray's or torch's own
    assert table[0].split()[0] == "accuracy"
    assert table[-2] == f"report: {page}"
    assert seconds < 20
