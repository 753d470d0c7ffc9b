"""raydistill serve: the student or its teacher behind HTTP, on Ray Serve, until Ctrl-C.

Comes in: arguments. Goes out: a server (on_ray/serve.py), its address and a line to try it; then an exit code.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from typing import TYPE_CHECKING

from raydistill.deployment.serve_settings import MEBIBYTE, ServeSettings, check_settings
from raydistill.errors import ConfigError
from raydistill.execution.termination import Terminated

if TYPE_CHECKING:
    from raydistill.deployment.answerer import Answerer

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raydistill serve` beside the folder."""
    parser.add_argument(
        "--model",
        choices=("student", "teacher", "ensemble"),
        default="student",
        help="which one answers; teacher and ensemble mean the same",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; left out: this machine alone")
    parser.add_argument("--port", type=int, default=8000, help="left out: 8000; 0: any that is free")
    parser.add_argument("--replicas", type=int, default=1, help="processes that answer")
    parser.add_argument("--cpus", type=float, default=1.0, help="of each replica")
    parser.add_argument("--batch", type=int, default=64, help="requests that are answered together, at most")
    parser.add_argument("--wait-ms", type=float, default=5.0, help="a request waits so long for others to join it")
    parser.add_argument("--max-mb", type=float, default=16.0, help="of a request's body; larger ones are refused")
    parser.add_argument("--address", help="of a Ray cluster; left out: RAY_ADDRESS, else a private Ray on this machine")
    parser.add_argument("-v", "--verbose", action="store_true", help="let Ray speak")


def run_serve(given: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code. Raises RaydistillError before anything listens."""
    settings = check_settings(
        ServeSettings(
            location=given.folder,
            model=given.model,
            host=given.host,
            port=given.port,
            replicas=given.replicas,
            cpus=given.cpus,
            batch=given.batch,
            wait=given.wait_ms / 1000,
            most_bytes=int(given.max_mb * MEBIBYTE),
            address=given.address,
            verbose=given.verbose,
        )
    )
    check_packages()
    from raydistill.deployment.answerer import open_answerer
    from raydistill.on_ray.serve import Server

    answerer = open_answerer(settings.location, settings.model)  # what cannot be served is told here, not by a replica
    try:
        with Server(settings) as server:
            print(describe_server(server.url, settings, answerer), flush=True)
            server.wait()
    except (KeyboardInterrupt, Terminated):
        print("raydistill: no longer served")
    return 0


def check_packages() -> None:
    """Raise ConfigError where Ray Serve is not installed."""
    for name in ("fastapi", "starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"serve: needs {name}; pip install 'raydistill[serve]'")


def describe_server(url: str, settings: ServeSettings, answerer: Answerer) -> str:
    """Where it listens, and how to ask it."""
    import numpy as np

    example = json.dumps(np.zeros((1, *answerer.input_shape), int).tolist(), separators=(",", ":"))
    if len(example) > 300:
        example = "@FILE.json"
    lines = [
        f"{answerer.model} of {settings.location}, {len(answerer.class_names):,} classes, at {url}",
        f"  curl {url}/predict -H 'Content-Type: application/json' -d '{example}'",
    ]
    if not isinstance(answerer.images, str | None):
        lines.append(f"  curl '{url}/predict?top=3' -H 'Content-Type: image/jpeg' --data-binary @IMAGE.jpg")
        lines += [f"note: {answerer.images.note}"] if answerer.images.note else []
    if settings.host not in LOOPBACK:
        lines.append("note: whoever reaches this address may ask; there is neither password nor encryption")
    return "\n".join([*lines, f"health: {url}/healthz; Ctrl-C ends it"])
