"""What the simulated cluster is made of: times of real specialists, and what a call of an actor of Ray costs.

    python -m benchmarks.scale_inputs times    trains specialists of the glyphs, one after another, on one thread
    python -m benchmarks.scale_inputs calls    calls the pool's queue through Ray
    python -m benchmarks.scale_inputs rates    hashes a file, and draws the order of an epoch

Each writes their part of benchmarks/results/scale_inputs.json, with command, commit and machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.page import describe_making
from benchmarks.provenance import HERE
from raydistill.storage.files import read_json, write_json

INPUTS = HERE / "results" / "scale_inputs.json"
GROUPS = 61
PROFILES: dict[str, dict[str, Any]] = {
    "default": {},
    "stopped early": {"epochs": 30, "patience": 3},
}
QUEUED, BUSY, CALLS = 1000, 64, 3000
HASHED, ROWS = 1 << 28, 8_000_000


def train_profiles(runs: Path) -> dict[str, list[dict[str, float]]]:
    """By profile, each specialist's cost, passes and processor seconds."""
    import torch

    from raydistill.commands.launch import launch
    from raydistill.settings.config import build_config

    torch.set_num_threads(1)  # so that processor seconds are those of an idle machine
    profiles, first = {}, None
    warm_up = {"data": "digits", "run_dir": runs / "scale-warm-up", "cluster": {"backend": "none"}}
    launch(build_config(warm_up), until="specialists")  # or the first would load the kernels
    for name, settings in PROFILES.items():
        specialists = {"groups": GROUPS, **settings}
        folder = runs / f"scale-{name.replace(' ', '-')}"
        config = {"data": "glyphs", "run_dir": folder, "cluster": {"backend": "none"}, "specialists": specialists}
        run = launch(build_config(config), until="specialists", start_from=first)
        first = first or run.path
        groups = read_json(run.stage_folder("groups") / "groups.json")["groups"]
        outcomes = read_json(run.timing_path("specialists"))
        profiles[name] = [
            {
                "cost": group["examples_an_epoch"],
                "epochs": outcome["result"]["epochs"],
                "seconds": round(outcome["cpu_seconds"], 3),
            }
            for group, outcome in zip(groups, outcomes, strict=True)
        ]
    return profiles


def measure_calls() -> dict[str, float]:
    """Processor seconds of a call for the caller and for the queue, and how many beats a second the queue takes.

    Of two calls: a worker's beat, and the driver's poll, answered with news of BUSY jobs.
    """
    import ray

    from raydistill.execution.jobs import Job, JobEvent
    from raydistill.on_ray.queue import JobQueue
    from raydistill.on_ray.session import start_ray

    class MeteredQueue(JobQueue):
        def read_cpu(self) -> float:
            return time.process_time()

        def changes(self, since: int) -> tuple[int, list[JobEvent]]:
            for worker, name in zip(workers, names, strict=True):  # as if they had spoken since the last poll
                self.beat(worker, name, progress)
            return super().changes(since)

    jobs = [Job(f"specialist {index:03d}", "module:function", {"index": index}, 1.0) for index in range(QUEUED)]
    workers, names = [f"host:{index}" for index in range(BUSY)], [job.name for job in jobs[:BUSY]]
    progress = {"epoch": 1, "epochs": 9, "fraction": 0.2, "loss": 1.0, "valid_loss": 1.0, "value": 0.5}
    session = start_ray(None, False)
    queue = ray.remote(num_cpus=0)(MeteredQueue).remote(jobs, 600.0)
    for worker in workers:
        ray.get(queue.claim.remote(worker))
    version = ray.get(queue.changes.remote(0))[0]

    def beat(index: int) -> Any:
        return queue.beat.remote(workers[index % BUSY], names[index % BUSY], progress)

    def poll(index: int) -> None:
        nonlocal version
        version, events = ray.get(queue.changes.remote(version))
        assert len(events) == BUSY

    def read_cpu() -> tuple[float, float]:
        return time.process_time(), ray.get(queue.read_cpu.remote())

    figures = {
        **_meter("beat", read_cpu, lambda index: ray.get(beat(index))),
        **_meter("poll", read_cpu, poll),
    }
    clock = time.perf_counter()
    ray.get([beat(index) for index in range(CALLS)])
    figures["beats_a_second_at_most"] = CALLS / (time.perf_counter() - clock)
    session.close()
    return figures


def measure_rates() -> dict[str, float]:
    """Bytes hashed a second, and nanoseconds and bytes a row of an epoch's order and of choosing a group's rows."""
    import numpy as np
    import torch

    from raydistill.stages.specialists import part_rows
    from raydistill.storage.files import hash_file
    from raydistill.training.batches import shuffle_rows

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "x"
        file.write_bytes(np.random.default_rng(0).bytes(HASHED))
        hashing = _time(lambda: hash_file(file))
    rows, labels = torch.arange(ROWS), torch.randint(15_000, (ROWS,))
    place = (torch.arange(15_000) // 300).clamp(max=1)
    shuffle = shuffle_rows(rows)
    return {
        "hashed_bytes_a_second": HASHED / hashing,
        "shuffle_ns_a_row": 1e9 * _time(lambda: shuffle(torch.Generator().manual_seed(0))) / ROWS,
        "part_rows_ns_a_row": 1e9 * _time(lambda: part_rows(rows, labels, place)) / ROWS,
    }


def _time(work: Callable[[], object], rounds: int = 3) -> float:
    """Seconds, the median of a few."""
    seconds = []
    for _ in range(rounds):
        clock = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - clock)
    return statistics.median(seconds)


def _meter(name: str, read_cpu: Callable[[], tuple[float, float]], call: Callable[[int], Any]) -> dict[str, float]:
    """Processor seconds of a call: the caller's process, with Ray's threads in it, and the queue's."""
    for index in range(200):
        call(index)
    began = read_cpu()
    for index in range(CALLS):
        call(index)
    caller, queue = ((after - before) / CALLS for before, after in zip(began, read_cpu(), strict=True))
    return {f"{name}_caller_cpu": caller, f"{name}_queue_cpu": queue}


PARTS: dict[str, Callable[[Path], Any]] = {
    "times": train_profiles,
    "calls": lambda _: measure_calls(),
    "rates": lambda _: measure_rates(),
}


def main() -> None:
    """Measure one part and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders")
    options = parser.parse_args()
    figures = PARTS[options.part](options.runs)
    old = read_json(INPUTS) if INPUTS.exists() else {}
    write_json(INPUTS, {**old, options.part: {**describe_making("benchmarks.scale_inputs"), "figures": figures}})
    print(f"{options.part}: written to {INPUTS.name}")


if __name__ == "__main__":
    main()
