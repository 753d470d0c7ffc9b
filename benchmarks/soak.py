"""A long fan-out of real specialists whose cluster is hurt every 20 seconds: `python -m benchmarks.soak --minutes 20`.

One pool on several raylets trains as many specialists on digits as fill the time: those of one run, again and again in
copies of its folder. Meanwhile a seeded choice of workers (SIGKILL, SIGTERM), nodes (which come back after a while) and
the queue is killed. At the end every network must be, byte for byte, that of a run in one process without any kill, and
none may have been written again after it was finished. The log goes to benchmarks/results/soak.log.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import torch

from benchmarks.provenance import HERE, describe_machine, read_commit
from benchmarks.raylets import Raylets
from raydistill.display import Silent
from raydistill.execution.in_process import InProcess
from raydistill.execution.jobs import Job, JobEvent
from raydistill.on_ray.executor import RayExecutor
from raydistill.pipeline import run_pipeline
from raydistill.settings.config import Config, build_config
from raydistill.stages.networks import is_trained
from raydistill.storage.files import hash_file
from raydistill.storage.run_folder import RunFolder

SPECIALISTS, PASSES = 5, 300
WORKER_NODES = 3
PAUSE_SECONDS = 20.0  # between two kills
ABSENCE_SECONDS = 10.0  # of a killed node
EFFICIENCY = 0.8  # share of the time in which workers work: 0.73 in results/soak.log; more, so as not to end early
LEASE_SECONDS = 60.0
KINDS = ("worker", "worker", "notice", "node", "queue")  # with their weights


class Log:
    """Lines with seconds since the beginning, on the terminal and in a file."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._began = file, time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        """A line."""
        with self._lock:
            line = f"{self.seconds():7.1f} s  {text}"
            print(line, flush=True)
            print(line, file=self._file, flush=True)

    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began


class Hurt(threading.Thread):
    """Kills something every PAUSE_SECONDS, until told to stop; a killed node is replaced by a new one."""

    def __init__(self, raylets: Raylets, seed: int, log: Log) -> None:
        super().__init__(daemon=True)
        self._raylets, self._random, self._log = raylets, random.Random(seed), log
        self._stopped = threading.Event()
        self.kills: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Kill."""
        try:
            while not self._stopped.wait(PAUSE_SECONDS):
                self._kill(self._random.choice(KINDS))
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        """No kill any more. Raises what a kill raised."""
        self._stopped.set()
        self.join()
        if self.error is not None:
            raise self.error

    def _kill(self, kind: str) -> None:
        if kind == "node":
            node = self._random.choice(self._raylets.nodes)
            self._log(f"kill: node {self._raylets.addresses[node]}")
            self._raylets.kill(node)
            self._stopped.wait(ABSENCE_SECONDS)
            node = self._raylets.add()
            self._log(f"join: node {self._raylets.addresses[node]}")
        else:
            title, number = {
                "worker": ("ray::RayTrainWorker", signal.SIGKILL),
                "notice": ("ray::RayTrainWorker", signal.SIGTERM),
                "queue": ("ray::JobQueue", signal.SIGKILL),
            }[kind]
            found = sorted(self._raylets.find(title), key=lambda process: process.pid)
            if not found:
                self._log(f"kill: no {kind} is there just now")
                return
            process = self._random.choice(found)
            self._log(f"kill: {kind}, process {process.pid}, {number.name}")
            os.kill(process.pid, number)
        self.kills[kind] += 1


def make_config(folder: Path) -> Config:
    """Specialists of some seconds each."""
    return build_config(
        {
            "data": "digits",
            "run_dir": folder,
            "generalist": {"epochs": 4, "options": {"hidden": [24]}},
            "grouping": {"bootstraps": 0},
            "specialists": {"groups": SPECIALISTS, "epochs": PASSES, "patience": None, "batch_size": 16},
        }
    )


def train_undisturbed(folder: Path) -> tuple[RunFolder, Path]:
    """The run in this process, and a copy of it as it was before the specialists."""
    torch.set_num_threads(1)  # as workers have; more round otherwise
    config, before = make_config(folder / "undisturbed"), folder / "before"
    begin = {"display": Silent(), "start_executor": lambda run: InProcess()}
    run_pipeline(config, until="groups", **begin)
    shutil.copytree(config.run_dir, before)
    return run_pipeline(config, until="specialists", **begin), before


def make_jobs(before: Path, folder: Path, copies: int) -> list[Job]:
    """All specialists of so many copies of the run."""
    jobs = []
    for copy in range(copies):
        run = RunFolder(folder / f"copy_{copy:03d}")
        shutil.copytree(before, run.path)
        for index in range(SPECIALISTS):
            arguments = {"run_dir": str(run.path), "index": index}
            name = f"copy {copy:03d} specialist {index:03d}"
            jobs.append(Job(name, "raydistill.stages.specialists:train_specialist", arguments, 1.0))
    return jobs


def find_folder(job: Job) -> Path:
    """Where a job's network is."""
    return RunFolder(Path(job.arguments["run_dir"])).specialist_folder(job.arguments["index"])


class Watch:
    """Notes when each network was finished, as soon as its job is, and tells the log of progress."""

    def __init__(self, jobs: list[Job], log: Log) -> None:
        self._jobs, self._log = {job.name: job for job in jobs}, log
        self.finished: dict[str, int] = {}
        self._next = 60.0

    def __call__(self, event: JobEvent) -> None:
        """An event of the pool."""
        if event.state == "done" and event.job not in self.finished:
            self.finished[event.job] = self.read_time(event.job)
        if self._log.seconds() > self._next:
            self._log(f"{len(self.finished)} of {len(self._jobs)} specialists are finished")
            self._next = self._log.seconds() + 60

    def read_time(self, name: str) -> int:
        """When a network's finished mark was written, ns."""
        return (find_folder(self._jobs[name]) / "training.json").stat().st_mtime_ns

    def list_redone(self) -> list[str]:
        """Jobs whose network was written again after it was finished."""
        return [name for name, written in self.finished.items() if self.read_time(name) != written]


def list_wrong(jobs: list[Job], undisturbed: RunFolder) -> list[str]:
    """Jobs whose network is not finished, or not the undisturbed one."""
    wrong = []
    for job in jobs:
        mine, right = find_folder(job), undisturbed.specialist_folder(job.arguments["index"])
        names = ("weights.safetensors", "training.json")
        if not is_trained(mine) or any(hash_file(mine / name) != hash_file(right / name) for name in names):
            wrong.append(job.name)
    return wrong


def soak(minutes: float, seed: int, log: Log) -> bool:
    """Run, and tell whether all was right."""
    with tempfile.TemporaryDirectory(prefix="raydistill-soak-") as name:
        folder, began = Path(name), time.monotonic()
        undisturbed, before = train_undisturbed(folder)
        seconds = (time.monotonic() - began) / SPECIALISTS
        at_once = min(WORKER_NODES, os.cpu_count() or 1)
        copies = max(1, round(minutes * 60 * at_once * EFFICIENCY / seconds / SPECIALISTS))
        jobs = make_jobs(before, folder, copies)
        log(f"undisturbed: {SPECIALISTS} specialists of {seconds:.1f} s; fan-out: {len(jobs)} of them")
        watch = Watch(jobs, log)
        kills = run_hurt(jobs, folder, seed, log, watch)
        redone, wrong = watch.list_redone(), list_wrong(jobs, undisturbed)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(kills.items()))
        log(f"kills: {sum(kills.values())} in all, {kinds}")
        log(f"not as undisturbed: {len(wrong)} {wrong[:5]}; written again: {len(redone)} {redone[:5]}")
        log("correct" if not (wrong or redone) else "WRONG")
        return not (wrong or redone)


def run_hurt(jobs: list[Job], folder: Path, seed: int, log: Log, on_event: Callable[[JobEvent], None]) -> Counter[str]:
    """Run the jobs in the pool while it is hurt; the kills by kind."""
    raylets = Raylets(WORKER_NODES, [HERE.parent])
    try:
        executor = RayExecutor(folder / "ray", address=raylets.address, lease_seconds=LEASE_SECONDS)
        hurt, began = Hurt(raylets, seed, log), time.monotonic()
        hurt.start()
        try:
            outcomes = executor.run_jobs(jobs, on_event)
        finally:
            hurt.stop()
            executor.close()
        log(f"all {len(outcomes)} jobs ended, after {(time.monotonic() - began) / 60:.1f} minutes")
        return hurt.kills
    finally:
        raylets.close()


def main() -> int:
    """Soak; 0 if it ended correct."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20, help="how long the fan-out lasts, about; rather more")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--log", type=Path, default=HERE / "results" / "soak.log")
    options = parser.parse_args()
    command = f"python -m benchmarks.soak --minutes {options.minutes:g} --seed {options.seed}"
    with open(options.log, "w") as file:
        print(f"{command}; commit {read_commit()}; {describe_machine()}", file=file)
        print(f"kills: seed {options.seed}, every {PAUSE_SECONDS:g} s, of {', '.join(KINDS)}", file=file)
        return 0 if soak(options.minutes, options.seed, Log(file)) else 1


if __name__ == "__main__":
    sys.exit(main())
