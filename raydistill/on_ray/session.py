"""Joining a Ray cluster, or starting a private one on this machine.

Comes in: an address, RAY_ADDRESS, or neither. Goes out: an initialised Ray that prints nothing of its own.
"""

from __future__ import annotations

import logging
import os
import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path

import ray

from raydistill.errors import ConfigError

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's tables
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process fewer per run; a lost worker is replaced in any case
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # the default of 2 s delays the end of every run
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in every process
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the pipeline, not the search alone
}
_TOKEN_SOURCES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True)
class RaySession:
    """An initialised Ray. joined: the cluster is not ours, its nodes may come and go; owned: close() ends our part."""

    joined: bool
    owned: bool

    def close(self) -> None:
        """Leave the cluster, or end the private one; one that somebody else initialised stays."""
        if self.owned:
            ray.shutdown()


def start_ray(address: str | None = None, verbose: bool = False, cpus: int | None = None) -> RaySession:
    """Initialise Ray, unless this process has done so: at `address`, at RAY_ADDRESS, or else on this machine alone.

    cpus: of a private cluster; left out: those of the machine. Raises ConfigError if there is no cluster at the address.
    """
    prepare_environment(verbose)
    if ray.is_initialized():
        return RaySession(joined=True, owned=False)
    address = address or os.environ.get("RAY_ADDRESS") or None
    level = logging.INFO if verbose else logging.ERROR
    if address is None:
        prepare_token()
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=verbose, logging_level=level)
        return RaySession(joined=False, owned=True)
    try:
        ray.init(address=address, log_to_driver=verbose, logging_level=level)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"cluster.address: no Ray at {address!r} ({reason}); start it, or leave address and RAY_ADDRESS out"
        ) from error
    return RaySession(joined=True, owned=True)


def prepare_environment(verbose: bool) -> None:
    """Set what Ray reads from the environment, where the user has not; its loggers and warnings speak if verbose."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not verbose:
        for name in ("ray", "ray.train", "ray.tune", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"ray\.")


def prepare_token() -> None:
    """Give a private cluster a token that lives in the environment of its processes alone.

    Since 2.59 Ray protects a local cluster by a token, and writes one to ~/.ray/auth_token if it finds none. That file
    would switch authentication on in later clusters of the user. What the user has set stays.
    """
    if any(name in os.environ for name in _TOKEN_SOURCES) or (Path.home() / ".ray" / "auth_token").exists():
        return
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def count_slots(cpus_per_job: float, gpus_per_job: float) -> int:
    """How many jobs the nodes of the cluster hold at once, at least 1."""
    slots = 0
    for node in ray.nodes():
        if node["Alive"]:
            room = [node["Resources"].get("CPU", 0.0) // cpus_per_job]
            if gpus_per_job:
                room.append(node["Resources"].get("GPU", 0.0) // gpus_per_job)
            slots += int(min(room))
    return max(1, slots)
