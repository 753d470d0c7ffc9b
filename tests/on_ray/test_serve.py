"""Ray Serve before the student: many clients at once, each with its own right answer, whatever others ask."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from builders import quick_config, run_quick
from sklearn.datasets import load_digits

from raydistill.deployment.loading import load_student, load_teacher
from raydistill.deployment.serve_settings import ServeSettings
from raydistill.errors import ConfigError
from raydistill.on_ray.serve import Server
from raydistill.on_ray.session import RaySession
from raydistill.storage.run_folder import RunFolder

CLIENTS = 50
X = load_digits().images.astype(np.uint8)
BAD = (
    ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "body"),
    ({"json": {"inputs": [[1, 2]]}}, 400, "inputs"),
    ({"json": {"inputs": X[:1].tolist(), "top": 11}}, 400, "top"),
    ({"json": [[[0.5] * 8] * 8]}, 400, "inputs"),
    ({"content": b"no image", "headers": {"content-type": "image/png"}}, 400, "image"),
    ({"content": b"1", "headers": {"content-type": "text/plain"}}, 415, "Content-Type"),
    ({"content": b"0" * 200_000, "headers": {"content-type": "application/json"}}, 413, "body"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_quick(quick_config(tmp_path_factory.mktemp("serve") / "run"))


@pytest.fixture(scope="module")
def server(ray_session: RaySession, finished: RunFolder) -> Iterator[Server]:
    with Server(ServeSettings(finished.location, port=0, cpus=0.5, most_bytes=100_000)) as running:
        yield running


@pytest.fixture(scope="module")
def expected(finished: RunFolder) -> np.ndarray:
    with torch.inference_mode():
        return load_student(finished.path)(torch.from_numpy(X)).log_softmax(dim=1).numpy()


@dataclass
class Seen:
    """What clients saw."""

    seconds: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def is_enough(self) -> bool:
        """Whether every client had answers, and most of what cannot be answered was asked."""
        return len(self.seconds) > 2 * CLIENTS and len(self.refused) >= 4


async def ask_always(client: httpx.AsyncClient, index: int, ends: float, expected: np.ndarray, seen: Seen) -> None:
    """Ask for a few random examples until the end; every tenth client asks what cannot be answered."""
    draw = np.random.default_rng(index)
    while time.monotonic() < ends:
        began = time.monotonic()
        if index % 10 == 9:
            request, status, name = BAD[draw.integers(len(BAD))]
            answer = await client.post("/predict", **request)
            if answer.status_code != status or not answer.json()["error"].startswith(f"{name}:"):
                seen.wrong.append(f"{name}: {answer.status_code} {answer.text[:200]}")
            seen.refused[name] += 1
            continue
        rows = draw.integers(len(X), size=draw.integers(1, 5))
        answer = await client.post("/predict", json={"inputs": X[rows].tolist(), "log_probs": True})
        seen.seconds.append(time.monotonic() - began)
        check_answer(answer, expected[rows], seen)


def check_answer(answer: httpx.Response, expected: np.ndarray, seen: Seen) -> None:
    if answer.status_code != 200:
        seen.wrong.append(f"{answer.status_code} {answer.text[:200]}")
        return
    predictions = answer.json()["predictions"]
    log_probs = np.array([prediction["log_probs"] for prediction in predictions])
    names = [prediction["class"] for prediction in predictions]
    if log_probs.shape != expected.shape or np.abs(log_probs - expected).max() > 1e-4:
        seen.wrong.append(f"log_probs of {names}")
    elif names != [str(index) for index in log_probs.argmax(axis=1)]:
        seen.wrong.append(f"classes {names}")


async def load(url: str, seconds: float, expected: np.ndarray) -> Seen:
    seen, ends = Seen(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as client:
        await asyncio.gather(*(ask_always(client, index, ends, expected, seen) for index in range(CLIENTS)))
    return seen


def test_fifty_clients_at_once_have_each_its_own_right_answer(server: Server, expected: np.ndarray) -> None:
    seen = asyncio.run(load(server.url, 4, expected))
    assert seen.wrong == []
    assert seen.is_enough(), seen


@pytest.mark.slow
def test_a_minute_of_fifty_clients(server: Server, expected: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    seen = asyncio.run(load(server.url, 60, expected))
    cuts = statistics.quantiles(seen.seconds, n=100)
    with capsys.disabled():
        print(
            f"\n{len(seen.seconds):,} answers, p50 {1000 * cuts[49]:.1f} ms, p99 {1000 * cuts[98]:.1f} ms, longest"
            f" {1000 * max(seen.seconds):.0f} ms; {sum(seen.refused.values()):,} refused as they should be;"
            f" {len(seen.wrong)} wrong"
        )
    assert seen.wrong == []
    assert seen.is_enough(), seen


def test_each_bad_request_has_its_status_and_names_its_field(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for request, status, name in BAD:
            answer = client.post("/predict", **request)
            assert answer.status_code == status, answer.text
            assert re.match(rf"{name}: [^\n]+$", answer.json()["error"])
        assert client.post("/predict", content=iter([b"[1]"])).status_code == 411
        assert client.get("/predict").status_code == 405
        assert client.get("/elsewhere").status_code == 404


def test_health_and_what_is_served(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.get("/healthz").json() == {"status": "ok", "model": "student"}
        told = client.get("/").json()
    assert told["input_shape"] == [8, 8]
    assert told["classes"] == [str(index) for index in range(10)]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)


def test_a_cluster_serves_one_at_a_time(server: Server, finished: RunFolder) -> None:
    with pytest.raises(ConfigError, match="this cluster serves 'raydistill' already"):
        Server(ServeSettings(finished.location, port=0))
    assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200


def test_the_command_serves_the_ensemble_until_ctrl_c(finished: RunFolder, tmp_path: Path) -> None:
    """On a private Ray, quietly: nothing on standard error, and an exit code of 0."""
    command = [sys.executable, "-m", "raydistill", "serve", finished.location, "--model", "ensemble", "--port", "0"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    with subprocess.Popen(
        command, env=inherited, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            url, curl = process.stdout.readline().split()[-1], process.stdout.readline()
            answer = httpx.post(f"{url}/predict", json={"inputs": X[:20].tolist(), "log_probs": True}, trust_env=False)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    log_probs = [prediction["log_probs"] for prediction in answer.json()["predictions"]]
    np.testing.assert_allclose(log_probs, load_teacher(finished.path)(torch.from_numpy(X[:20])), atol=1e-4)
    assert curl.startswith(f"  curl {url}/predict")
    assert (process.returncode, err) == (0, "")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz", trust_env=False)
