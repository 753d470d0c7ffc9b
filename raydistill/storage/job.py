"""A Ray job (`ray job submit -- raydistill run …`): where its relative run folders are.

The working directory of a job is a copy that goes with the job, but a run must be found again by the next one. So
relative run folders of jobs are below RAYDISTILL_HOME, a folder or s3://…, or else ~/raydistill of the machine that
runs them.
"""

from __future__ import annotations

import os
from pathlib import Path

MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray 2.60 sets it for the command of a job, and for nothing else (its source)


def is_uri(location: Path | str) -> bool:
    """Whether a run folder is in an object store."""
    return "://" in str(location)


def runs_as_job() -> bool:
    """Whether `ray job submit` started this process."""
    return MARK in os.environ


def settle(folder: str) -> str:
    """A run folder that outlives the job; outside jobs, and for object stores, the folder as it was given."""
    if not runs_as_job() or is_uri(folder):
        return folder
    home, path = os.environ.get("RAYDISTILL_HOME") or "~/raydistill", Path(folder).expanduser()
    if is_uri(home) and not path.is_absolute():
        return f"{home.rstrip('/')}/{path.as_posix()}"
    return str(Path(home).expanduser() / path)
