"""What is written beside every number: the commit, the machine, the spread over seeds."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments of a benchmark that makes a run a seed. doc: of its module."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N - 1")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders")
    return parser


def read_commit() -> str:
    """The commit of this checkout, with a + where files of the package or of the benchmarks' code differ from it."""
    git = ["git", "-C", str(HERE.parent)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    code = ["raydistill", "benchmarks/*.py", "configs"]
    status = [*git, "status", "--porcelain", "-uno", "--", *code]
    changed = subprocess.run(status, capture_output=True, text=True, check=True)
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def describe_machine() -> str:
    """Cores and processor."""
    return f"{os.cpu_count()} cores, {platform.machine()}"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation over the seeds; a single value as it is."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
