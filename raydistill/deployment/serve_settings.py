"""What a server is started with, held against what is allowed."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from raydistill.errors import ConfigError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ServeSettings:
    """location: run or exported folder; model: of `answerer.MODELS`; port: 0 for any that is free.

    replicas: processes that answer, cpus: of each; batch: requests that are answered together at most, wait: seconds
    that the first of them waits for others; most_bytes: of a request's body; address: of a Ray cluster, or None.
    """

    location: str
    model: str = "student"
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    cpus: float = 1.0
    batch: int = 64
    wait: float = 0.005
    most_bytes: int = 16 * MEBIBYTE
    address: str | None = None
    verbose: bool = False


def check_settings(settings: ServeSettings) -> ServeSettings:
    """Raise ConfigError for what is out of range."""
    checks = {
        "port": (0 <= settings.port <= 65535, settings.port, "0 to 65535"),
        "replicas": (settings.replicas >= 1, settings.replicas, "1 or more"),
        "cpus": (settings.cpus > 0, settings.cpus, "more than 0"),
        "batch": (settings.batch >= 1, settings.batch, "1 or more"),
        "wait_ms": (0 <= settings.wait <= 10, 1000 * settings.wait, "0 to 10000 milliseconds"),
        "max_mb": (settings.most_bytes >= 1, settings.most_bytes / MEBIBYTE, "more than 0"),
    }
    for name, (fine, value, allowed) in checks.items():
        if not fine:
            raise ConfigError(f"{name}: {value:g} is not allowed; give {allowed}")
    return settings


def choose_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises ConfigError where nothing can listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ConfigError(f"host: {host!r} is no address of this machine ({error.strerror})") from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"port: {port} at {host!r} cannot be used ({reason}); give another --port or --host"
            ) from None
        return int(probe.getsockname()[1])
