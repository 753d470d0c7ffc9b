"""Line 5: the search on Ray: what a trial costs beyond its training, and what early stopping saves.

On scikit-learn's digits: a run is prepared up to its soft targets, then its trials are searched by Ray Tune as in the
stage search (TPE, asynchronous successive halving, actors used again), and all points of a grid of as many pairs are
trained in full. The accuracy is that of the best trial on the tune split, of those that ran longest.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu_meter import CpuMeter
from benchmarks.speed.measure import Line, Part, Setup, at_least, at_most
from raydistill.commands.launch import launch
from raydistill.display import Silent
from raydistill.execution.jobs import Beat, Executor, SearchSpace, Trial
from raydistill.on_ray.executor import RayExecutor
from raydistill.settings.config import build_config
from raydistill.stages.student import choose_trial, train_trial

SPACE = SearchSpace(temperature=(1.0, 10.0), label_weight=(0.0, 0.5))
TEMPERATURES, WEIGHTS = 6, 5
EPOCHS, GRACE, REDUCTION = 27, 3, 3


def prepare_run(folder: Path, seed: int) -> Path:
    """A run on digits up to its soft targets."""
    settings = {
        "data": "digits",
        "run_dir": folder,
        "seed": seed,
        "generalist": {"options": {"hidden": [64]}, "epochs": 20},
        "specialists": {"groups": 3, "epochs": 3},
        "student": {"options": {"hidden": [16]}},
        "search": {"epochs": EPOCHS},
        "cluster": {"backend": "none"},
    }
    return launch(build_config(settings), until="targets", display=Silent()).path


def try_timed(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """A trial of the stage search that leaves its CPU-seconds in a file of its own; it trains in this thread alone."""
    began = time.thread_time()
    try:
        return train_trial(arguments, beat)
    finally:
        name = f"{arguments['temperature']!r}_{arguments['label_weight']!r}"
        (Path(arguments["run_dir"]) / "cpu" / name).write_text(str(time.thread_time() - began))


def search(executor: Executor, run_dir: Path, trials: int, seed: int, meter: CpuMeter) -> tuple[list[Trial], float]:
    """A search; its trials, and the CPU-seconds of all processes beyond those of the trials."""
    marks = run_dir / "cpu"
    marks.mkdir()
    cpu = meter.read()
    found = executor.search(
        f"{__name__}:try_timed",
        {"run_dir": str(run_dir)},
        SPACE,
        trials=trials,
        epochs=EPOCHS,
        grace_epochs=GRACE,
        reduction_factor=REDUCTION,
        seed=seed,
        on_event=lambda event: None,
    )
    return found, meter.read() - cpu - sum(float(path.read_text()) for path in marks.iterdir())


def train_grid(run_dir: Path) -> float:
    """Train each pair of the grid in full; the best accuracy on the tune split."""
    best = 0.0
    for temperature in np.geomspace(*SPACE.temperature, TEMPERATURES):
        for weight in np.linspace(*SPACE.label_weight, WEIGHTS):
            pair = {"temperature": float(temperature), "label_weight": float(weight)}
            values = train_trial({"run_dir": str(run_dir), **pair}, lambda progress: None)["values"]
            best = max(best, values[-1])
    return best


def measure_search(setup: Setup) -> Part:
    """Three seeds of data split, networks and proposals."""
    trials = TEMPERATURES * WEIGHTS
    spent, gained, overhead = [], [], []
    meter = CpuMeter()
    with tempfile.TemporaryDirectory() as scratch:
        executor = RayExecutor(Path(scratch) / "ray")
        for seed in range(1 if setup.quick else 3):
            run_dir = prepare_run(Path(scratch) / f"digits-{seed}", seed)
            found, beyond = search(executor, run_dir, trials, seed, meter)
            overhead.append(beyond / trials)
            spent.append(sum(len(trial.values) for trial in found) / (trials * EPOCHS))
            gained.append(100 * (choose_trial(found).values[-1] - train_grid(run_dir)))
        executor.close()
    meter.stop()
    return Part(
        [
            Line(
                "CPU-seconds of a trial beyond its training, its share of the search's start included",
                overhead,
                at_most(1),
                "s",
            ),
            Line("epochs of a search with early stopping, to a full grid's", spent, at_most(0.5)),
            Line("accuracy on the tune split, less that of the grid's best", gained, at_least(-1.0), "points"),
        ],
        [
            f"{trials} trials of at most {EPOCHS} passes against a grid of {TEMPERATURES} × {WEIGHTS} pairs, one value"
            " a seed; the overhead is that of all of Ray's processes and of the driver, starting workers included",
        ],
    )
