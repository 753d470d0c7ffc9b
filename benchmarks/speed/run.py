"""Line 8: the whole run of configs/glyphs.yaml, and what a user waits for before anything starts.

The run is a process of its own whose main thread is watched (watched.py). Rest is all wall time, from the start of the
process to its end, in which no network is trained, here or in a worker, and none answers.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.provenance import HERE
from benchmarks.speed.measure import Line, Part, Setup, at_most
from raydistill.storage.files import read_json

FLAMES = HERE / "results" / "speed_run.svg"
IMPORT = "import sys, raydistill; assert not {'torch', 'ray'} & set(sys.modules)"


def time_command(arguments: list[str], rounds: int) -> list[float]:
    """Seconds of a Python process with these arguments, less those of an empty one, in each round; a first warms up."""
    taken = []
    for _ in range(rounds + 1):
        seconds = []
        for words in (arguments, ["-c", ""]):
            clock = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - clock)
        taken.append(seconds)
    return [whole - (empty if arguments[0] == "-c" else 0.0) for whole, empty in taken[1:]]


def watch_run(folder: Path) -> dict[str, Any]:
    """A whole run: when its process started and ended, and seconds by stage and kind."""
    out = folder / "watched.json"
    arguments = ["run", "--config", str(HERE.parent / "configs" / "glyphs.yaml"), "--run-dir", str(folder / "run")]
    began = time.time()
    subprocess.run([sys.executable, "-m", "benchmarks.speed.watched", str(out), *arguments], check=True)
    watched: dict[str, Any] = read_json(out)
    watched["wall"] = time.time() - began
    shutil.copy(out.with_suffix(".svg"), FLAMES)
    return watched


def tabulate(watched: dict[str, Any]) -> list[str]:
    """A Markdown table of the stages, without the bullet of a note."""
    lines = ["| stage | seconds | training | predicting | rest |", "|---|---|---|---|---|"]
    for name, kinds in watched["stages"].items():
        figures = (sum(kinds.values()), kinds["training"], kinds["predicting"], kinds["rest"])
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in figures) + " |")
    return lines


def measure_run(setup: Setup) -> Part:
    """Import and --help; the whole run too, unless quick."""
    lines = [
        Line(
            "import of raydistill, without torch and ray", time_command(["-c", IMPORT], setup.rounds), at_most(0.3), "s"
        ),
        Line("raydistill --help", time_command(["-m", "raydistill", "--help"], setup.rounds), at_most(0.5), "s"),
    ]
    if setup.quick:
        return Part(lines)
    with tempfile.TemporaryDirectory() as folder:
        watched = watch_run(Path(folder))
    busy = sum(kinds["training"] + kinds["predicting"] for kinds in watched["stages"].values())
    share = (watched["wall"] - busy) / watched["wall"]
    return Part(
        [*lines, Line("share of a run's wall time that is neither training nor predicting", [share], at_most(0.15))],
        [
            f"The run took {watched['wall']:.0f} s; the driver's stacks while nothing trained or answered:"
            " [flame graph](results/speed_run.svg).",
        ],
        tabulate(watched),
    )
