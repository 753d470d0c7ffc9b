"""Runs of a table: each is a `raydistill run` of its own, which resumes, and may start from another's finished stages.

Comes in: settings by name. Goes out: finished run folders.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raydistill.commands.flags import merge_settings
from raydistill.report import read_report
from raydistill.storage.files import write_text
from raydistill.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Run:
    """settings: of `raydistill run`; start_from: name of an earlier run of the list; until: the last stage."""

    name: str
    settings: Mapping[str, Any]
    start_from: str | None = None
    until: str | None = None

    def all_settings(self, folder: Path) -> dict[str, Any]:
        """The settings and the run folder."""
        return {**self.settings, "run_dir": str(folder / self.name)}


def vary(base: Run, name: str, **changes: Any) -> Run:
    """A run that starts from another's finished stages, with some settings changed."""
    return Run(name, merge_settings(base.settings, changes), base.name, base.until)


def execute(runs: Sequence[Run], folder: Path, at_once: int) -> float:
    """Make all runs, `at_once` at a time. Returns the minutes of work in them, on a core each, whenever it was done."""
    (folder / "settings").mkdir(parents=True, exist_ok=True)
    done: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(at_once) as threads:
        for run in runs:  # those that others start from come first, so that no thread waits for one that has not begun
            done[run.name] = threads.submit(_make, run, folder, done.get(run.start_from or ""))
    for future in done.values():
        future.result()
    stages = [open_run(folder, run.name).read_manifest()["stages"].items() for run in runs]
    work = {(name, stage["finished"]): stage["seconds"] for each in stages for name, stage in each}
    return sum(work.values()) / 60  # a stage that several runs share counts once


def _make(run: Run, folder: Path, first: Future[None] | None) -> None:
    if first is not None:
        first.result()
    settings, log = folder / "settings" / f"{run.name}.yaml", folder / f"{run.name}.log"
    write_text(settings, yaml.safe_dump(run.all_settings(folder), allow_unicode=True, sort_keys=False))
    command = [sys.executable, "-m", "raydistill", "run", "--config", str(settings), "--on-change", "redo"]
    command += ["--start-from", str(folder / run.start_from)] if run.start_from else []
    command += ["--until", run.until] if run.until else []
    threads = {"OMP_NUM_THREADS": "1"}
    with log.open("a") as output:
        ended = subprocess.run(command, stdout=output, stderr=output, env={**os.environ, **threads}, check=False)
    if ended.returncode:
        raise SystemExit(f"{run.name} failed; see the end of {log}")
    print(f"{time.strftime('%H:%M:%S')} {run.name}: done", flush=True)


def open_run(folder: Path, name: str) -> RunFolder:
    """The folder of a run by its name."""
    return RunFolder(folder / name)


def read_reports(folder: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The reports of finished runs."""
    return [read_report(open_run(folder, run.name)) for run in runs]
