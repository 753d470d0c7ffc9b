"""Drivers for the tests, joined to the cluster of RAY_ADDRESS: `python -m faults.drivers VERB SETTINGS`.

pool   runs jobs of jobs.py in the pool; writes outcomes and failures to a file
run    runs the pipeline on digits, as the command line does
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from builders import quick_config

from raydistill.commands.cli import end_well
from raydistill.commands.launch import launch
from raydistill.execution.jobs import Job, JobFailed
from raydistill.on_ray import executor as executor_module
from raydistill.on_ray.executor import RayExecutor
from raydistill.on_ray.session import prepare_environment
from raydistill.settings.config import Config
from raydistill.storage.files import write_json

# Networks of some seconds, so that a kill finds them in training. No trial is stopped early: time decides which are.
EPOCHS = 120  # of a specialist
SLOW = {
    "search": {"grace_epochs": 2},
    "student": {"epochs": 20, "batch_size": 16},
    "teacher": {"seeds": 2},
}


def slow_config(run_dir: Path | str, backend: str = "none", epochs: int = EPOCHS) -> Config:
    """A run on digits whose every training takes some seconds. epochs: of a specialist."""
    specialists = {"groups": 5, "epochs": epochs, "patience": None, "batch_size": 16}
    return quick_config(run_dir, cluster={"backend": backend}, specialists=specialists, **SLOW)


def run_pool(settings: dict[str, Any]) -> int:
    """Run jobs; settings: scratch, jobs, lease_seconds, results; health_seconds: before a frozen worker is killed."""
    if settings.get("health_seconds"):
        os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(settings["health_seconds"])
    executor = RayExecutor(Path(settings["scratch"]), lease_seconds=settings["lease_seconds"])
    jobs = [Job(**job) for job in settings["jobs"]]
    try:
        told = {"outcomes": executor.run_jobs(jobs, lambda event: None), "failures": []}
    except JobFailed as failed:
        told = {"outcomes": failed.outcomes, "failures": failed.failures}
    finally:
        executor.close()
    write_json(Path(settings["results"]), {name: [asdict(record) for record in told[name]] for name in told})
    return 0


def run_pipeline(settings: dict[str, Any]) -> int:
    """Run up to a stage; settings: run_dir, until, epochs, lease_seconds; through: a node to join by, not the head."""
    executor_module.LEASE_SECONDS = settings.get("lease_seconds", executor_module.LEASE_SECONDS)
    torch.set_num_threads(1)  # of the driver; Ray's workers have one by themselves
    if settings.get("through"):
        prepare_environment(verbose=False)
        ray.init(
            address=os.environ["RAY_ADDRESS"],
            _node_ip_address=settings["through"],
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    config = slow_config(settings["run_dir"], "ray", settings.get("epochs", EPOCHS))
    launch(config, until=settings["until"])
    return 0


if __name__ == "__main__":
    verbs = {"pool": run_pool, "run": run_pipeline}
    raise SystemExit(end_well(lambda: verbs[sys.argv[1]](json.loads(sys.argv[2]))))
