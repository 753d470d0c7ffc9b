from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raydistill.on_ray import session
from raydistill.on_ray.executor import LEASE_SECONDS
from raydistill.on_ray.session import SETTINGS, start_ray

PRIVATE = """
import os, sys
before = dict(os.environ)
from raydistill.execution.jobs import Job, SearchSpace
from raydistill.on_ray.executor import RayExecutor
ours = {name: value for name, value in os.environ.items() if name not in before}  # Ray's import sets some
executor = RayExecutor(sys.argv[1])
assert executor.map(str, [1, 2], lambda done, total: None) == ["1", "2"]
space = SearchSpace(temperature=(1.0, 20.0), label_weight=(0.0, 0.5))
trials = executor.search(
    "on_ray.jobs_for_tests:peak", {"folder": sys.argv[1] + "/marks", "epochs": 2}, space,
    trials=2, epochs=2, grace_epochs=1, reduction_factor=2, seed=0, on_event=lambda event: None,
)
assert len(trials) == 2
job = Job("sum", "on_ray.jobs_for_tests:add", {"folder": sys.argv[1] + "/marks", "a": 1, "b": 2}, 1.0)
assert executor.run_jobs([job], lambda event: None)[0].result == {"sum": 3}
executor.close()
assert set(os.environ) - set(before | ours) <= {"PYTHONBREAKPOINT"}  # which Ray sets itself
assert before.items() <= os.environ.items()
"""
JOIN = """
import sys, time
from raydistill.errors import ConfigError
from raydistill.on_ray.session import start_ray
for address in sys.argv[1:]:
    began = time.monotonic()
    try:
        start_ray(address)
    except ConfigError as error:
        print(time.monotonic() - began < 10, error)
"""


def run_program(code: str, *arguments: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own that knows no Ray, with a home folder of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    home.mkdir(exist_ok=True)
    environment = {**inherited, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parent.parent), **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_a_private_ray_is_quiet_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """No line, no token file and no results in the home folder, no variable in the environment."""
    done = run_program(PRIVATE, str(tmp_path / "scratch"), home=tmp_path / "home")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "home").iterdir()) == []
    assert {path.name for path in (tmp_path / "scratch").iterdir()} == {"marks", "search"}  # Tune's experiment is kept


def test_an_address_without_ray_is_told_in_one_line_at_once(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        addresses = [f"127.0.0.1:{unused.getsockname()[1]}", "nowhere.invalid:6379", "nonsense"]
        done = run_program(JOIN, *addresses, home=tmp_path / "home")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(addresses)
    for line, address in zip(lines, addresses, strict=True):
        assert line.startswith(f"True cluster.address: no Ray at {address!r} (")


def test_a_missing_token_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = run_program(JOIN, address, home=tmp_path / "home", RAY_AUTH_MODE="token")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"True cluster.address: no Ray at {address!r} (")
    assert "token" in done.stdout


def test_the_environment_stays_as_the_user_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setattr(session.ray, "is_initialized", lambda: True)
    before = dict(os.environ)
    inner = start_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert os.environ["RAY_AIR_NEW_OUTPUT"] == "0"
    inner.close()
    assert dict(os.environ) == before


def test_a_frozen_worker_is_killed_before_its_job_goes_to_another() -> None:
    """Ray Train takes some 10 s to kill it."""
    assert float(SETTINGS["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"]) < LEASE_SECONDS - 30


def test_a_private_ray_has_no_dashboard_and_asks_for_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its token is one that only its own processes know."""
    asked: dict[str, Any] = {}
    for name in ("RAY_ADDRESS", *session.TOKEN_SOURCES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(session, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "init", lambda **given: asked.update(given, token=os.environ["RAY_AUTH_TOKEN"]))
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    start_ray().close()
    assert asked["address"] == "local"
    assert asked["include_dashboard"] is False
    assert len(asked["token"]) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert list(tmp_path.iterdir()) == []
