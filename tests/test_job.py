"""Jobs as docs/cluster.md submits them, on one head of the test's own, protected by a token as in cluster.yaml."""

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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import MARK, await_end

from raydistill.storage.run_folder import STAGES, RunFolder

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
FLAGS = [word for pair in SETTINGS.items() for word in pair]
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
        self.secrets = [uuid.uuid4().hex, uuid.uuid4().hex]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        self._environment = inherited | {
            "HOME": str(self.home),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.secrets[0],
            "AWS_SECRET_ACCESS_KEY": self.secrets[1],
            "RAY_JOB_STOP_WAIT_TIME_S": "30",
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

    def submit(self, *command: str, folder: Path, name: str, wait: bool = True) -> tuple[int, list[str]]:
        """Submit a job with a working directory. Returns the exit code, and the lines of its log so far."""
        options = ["--working-dir", ".", "--submission-id", name, *([] if wait else ["--no-wait"])]
        deadline = time.monotonic() + START_SECONDS
        while True:
            done = self.call("submit", *options, "--", *command, folder=folder)
            if AGENT_STARTS not in done.stdout + done.stderr or time.monotonic() > deadline:
                break
            time.sleep(1.0)
        assert not wait or self.read_log(name), done.stdout + done.stderr
        return done.returncode, self.read_log(name)

    def call(self, verb: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """`ray job VERB`."""
        return subprocess.run(
            [*RAY, "job", verb, "--address", self._address, *arguments],
            cwd=folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def read_log(self, name: str) -> list[str]:
        """What a job has printed so far; before it Ray's job manager speaks."""
        (path,) = [*self.temporary.glob(f"session_2*/logs/job-driver-{name}.log")] or [None]
        lines = path.read_text().splitlines() if path else []
        began_at = next((number for number, line in enumerate(lines) if line.startswith("Running entrypoint")), None)
        return [] if began_at is None else lines[began_at + 1 :]

    def stop(self) -> list[str]:
        """Kill the process group; what else lives after a while."""
        os.killpg(self._process.pid, signal.SIGKILL)  # SIGTERM would drain the node for 30 s
        self._process.wait()
        left = await_end(self._mark)
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


def wait_until(condition: Callable[[], object]) -> None:
    """Until the condition holds, or an error after a minute."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head(tmp_path_factory.mktemp("job"))
    try:
        head.wait_for_job_server()
        yield head
    finally:
        left = head.stop()
    assert left == []


@pytest.mark.slow
def test_a_job_is_stopped_resumed_from_elsewhere_and_the_third_time_does_nothing(head: Head, tmp_path: Path) -> None:
    folder = head.home / "raydistill" / "runs" / "job"  # outside the job's copy of the working directory
    page = RunFolder(folder).stage_folder("report") / "report.html"
    names = [name for name in STAGES if name != "seeds"]

    (tmp_path / "mine.yaml").write_text(f"data: digits\nspecialists: {{groups: {SETTINGS['--specialists.groups']}}}\n")
    flags = [word for pair in SETTINGS.items() if pair[0] not in ("--data", "--specialists.groups") for word in pair]
    began = time.monotonic()
    code, _ = head.submit(
        "raydistill", "run", "--config", "mine.yaml", *flags, folder=tmp_path, name="first", wait=False
    )
    assert code == 0
    assert not (folder / "begun" / "report").exists()  # it did not wait
    wait_until((folder / "begun" / "specialists").exists)  # the pool takes some seconds to start
    stopped = head.call("stop", "first", folder=tmp_path)
    assert "was stopped" in stopped.stdout + stopped.stderr
    print(f"stopped after {time.monotonic() - began:.1f} s", *head.read_log("first"), sep="\n")
    assert head.read_log("first")[0] == f"run folder: {folder}"
    assert not any("Traceback" in line for line in head.read_log("first"))

    code, lines = head.submit("raydistill", "status", "runs/job", folder=tmp_path, name="asked")
    assert code == 0
    assert lines[0] == f"{folder}: digits, not running"
    states = {words[0]: " ".join(words[1:]) for words in map(str.split, lines[1:]) if words}
    assert states["groups"].startswith("done")
    assert (states["specialists"], states["student"]) == ("begun, 0 of 3 networks done", "to do")

    began = time.monotonic()
    code, lines = head.submit("python", "jobs/run.py", *FLAGS, folder=REPOSITORY, name="second")
    print(f"resumed: {time.monotonic() - began:.1f} s", *lines, sep="\n")
    assert code == 0
    assert page.exists()
    progress = [line for line in lines if re.match(r"\[\d+/11\] \w+: ", line)]
    skipped = [f"[{number}/11] {name}: finished before, skipped" for number, name in enumerate(names, start=1)]
    before = names.index("specialists")
    assert progress[:before] == skipped[:before]
    done = [line for line in progress if ": done in " in line]
    assert done[0].startswith("[6/11] specialists: ")
    assert done[-1].startswith("[11/11] report: ")

    table = [line for line in lines[1:] if line not in progress]
    began = time.monotonic()
    code, again = head.submit("python", "jobs/run.py", *FLAGS, folder=REPOSITORY, name="third")
    seconds = time.monotonic() - began
    print(f"third: {seconds:.1f} s", *again, sep="\n")
    assert code == 0
    assert again == [f"run folder: {folder}", *skipped, *table]  # nothing else: no line of Ray's or torch's own
    assert table[0].split()[0] == "accuracy"
    assert table[-2] == f"report: {page}"
    assert seconds < 20

    files = [path for path in (head.home / "raydistill").rglob("*") if path.is_file()]
    files += head.temporary.glob("session_2*/logs/job-driver-*.log")
    told = [path for path in files for secret in head.secrets if secret.encode() in path.read_bytes()]
    assert told == []


def test_a_mistake_is_one_line_and_a_secret_is_not_repeated(head: Head, tmp_path: Path) -> None:
    """The command itself is on the dashboard, as docs/cluster.md warns; what raydistill says is not."""
    code, lines = head.submit(
        "raydistill", "run", "--data", "digits", "--run-dir", "s3://key:hidden@bucket/x", folder=tmp_path, name="wrong"
    )
    assert code != 0
    assert len([line for line in lines if line.startswith("raydistill: run_dir: ")]) == 1
    assert not any("hidden" in line for line in lines)
