"""Joining a Ray cluster, or starting a private one on this machine.

Comes in: an address, RAY_ADDRESS, or neither. Goes out: an initialised Ray that prints nothing of its own.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError

from raydistill.errors import ConfigError
from raydistill.execution.termination import exit_on_sigterm

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's tables
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process fewer per run; a lost worker is replaced in any case
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # the default of 2 s delays the end of every run
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "540",  # a frozen worker is killed before its lease of 600 s ends
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in every process
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a failed trial's traceback travels with our JobFailed
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the pipeline, not the search alone
}
TOKEN_SOURCES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class RaySession:
    """An initialised Ray.

    joined: the cluster is not ours, its nodes may come and go; owned: close() ends our part; added: the environment
    variables that the session has set, by name.
    """

    joined: bool
    owned: bool
    added: tuple[str, ...] = ()

    def close(self) -> None:
        """Leave the cluster, or end the private one; one that somebody else initialised stays."""
        if self.owned:
            ray.shutdown()
        restore_environment(self.added)


def start_ray(address: str | None = None, verbose: bool = False, cpus: int | None = None) -> RaySession:
    """Initialise Ray, unless this process has done so: at `address`, at RAY_ADDRESS, or else on this machine.

    cpus: of a private cluster; left out: those of the machine. Raises ConfigError if there is no Ray at the address.
    """
    added = tuple(name for name in (*SETTINGS, *TOKEN_SOURCES) if name not in os.environ)
    prepare_environment(verbose)
    if ray.is_initialized():
        return RaySession(joined=True, owned=False, added=added)
    address = address or os.environ.get("RAY_ADDRESS") or None
    level = logging.INFO if verbose else logging.ERROR
    if address is None:
        prepare_token()
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=verbose, logging_level=level)
        exit_on_sigterm()
        return RaySession(joined=False, owned=True, added=added)
    try:
        check_address(address)
        ray.init(address=address, log_to_driver=verbose, logging_level=level)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        restore_environment(added)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise ConfigError(
            f"cluster.address: no Ray at {address!r} ({reason}); start it, or leave address and RAY_ADDRESS out"
        ) from error
    exit_on_sigterm()
    return RaySession(joined=True, owned=True, added=added)


def finds_cluster(address: str | None) -> bool:
    """Whether start_ray joins a cluster: at `address`, at RAY_ADDRESS, or one that this process has initialised."""
    return bool(address or os.environ.get("RAY_ADDRESS") or ray.is_initialized())


def check_address(address: str) -> None:
    """Raise OSError at once if nothing listens at host:port; Ray would try 20 times 45 s (read in its source)."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def prepare_environment(verbose: bool) -> None:
    """Set what Ray reads from the environment, where the user has not; its loggers and warnings speak if verbose."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not verbose:
        for name in ("ray", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its errors are ours to raise
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"ray\.")


def restore_environment(added: tuple[str, ...]) -> None:
    """Remove what a session has set."""
    for name in added:
        os.environ.pop(name, None)


def prepare_token() -> None:
    """Give a private cluster a token that lives in the environment of its processes alone.

    Since 2.59 Ray protects a local cluster by a token, and writes one to ~/.ray/auth_token if it finds none. That file
    would switch authentication on in later clusters of the user. What the user has set stays.
    """
    if any(name in os.environ for name in TOKEN_SOURCES) or (Path.home() / ".ray" / "auth_token").exists():
        return
    os.environ["RAY_AUTH_TOKEN"] = draw_token()


@functools.cache
def draw_token() -> str:
    """The same for all private clusters of this process, because Ray reads a token only once."""
    return secrets.token_hex(32)
