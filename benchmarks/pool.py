"""What the pool costs a job beyond the job's own work: `python -m benchmarks.pool --jobs 24`.

Two pools of 8 and of 8 + N jobs of the same fixed work (a Python loop of about a second) run in one Ray session, after
a first pool that warms the file cache. CPU-seconds are the user and system time of this process and of every descendant
(GCS, raylet, agents, controller, queue, workers), read from /proc by psutil every 0.2 s; the last reading of a process
that has ended counts (so up to 0.2 s of each ended process's life are missed, the same in both pools). A job's own
CPU-seconds are what its function measured (process_time). Per job, over its own work:

    marginal CPU  = ((cpu of 8 + N) - (cpu of 8) - difference of the jobs' own CPU-seconds) / N
    marginal wall = ((wall of 8 + N) - (wall of 8) - difference of the jobs' own seconds / slots) / N
    fixed start-up = from the call to the first job's start (the smaller pool); fixed CPU = cpu of 8, less its jobs' own
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu_meter import CpuMeter
from raydistill.execution.jobs import Beat, Job, JobOutcome
from raydistill.on_ray.executor import RayExecutor

BASE_JOBS = 8


@dataclass(frozen=True)
class Cost:
    """Of one pool. Seconds throughout; own_*: summed over the jobs' functions."""

    jobs: int
    wall: float
    cpu: float
    own_seconds: float
    own_cpu: float
    until_first_job: float
    after_last_job: float


def burn(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """A job of fixed work, with a beat ten times as a training has."""
    total = 0
    for part in range(10):
        for step in range(arguments["steps"] // 10):
            total += step * step
        beat({"epoch": part + 1, "epochs": 10, "fraction": (part + 1) / 10})
    return {"total": total}


def measure_pool(executor: RayExecutor, meter: CpuMeter, count: int, steps: int) -> Cost:
    """Run a pool of so many jobs."""
    jobs = [Job(f"job {index:03d}", "benchmarks.pool:burn", {"steps": steps}, 1.0) for index in range(count)]
    began, clock, cpu = time.time(), time.perf_counter(), meter.read()
    outcomes = executor.run_jobs(jobs, lambda event: None)
    wall, cpu = time.perf_counter() - clock, meter.read() - cpu
    return sum_cost(outcomes, began, wall, cpu)


def sum_cost(outcomes: list[JobOutcome], began: float, wall: float, cpu: float) -> Cost:
    """Add up the outcomes."""
    first = min(outcome.started for outcome in outcomes)
    last = max(outcome.started + outcome.seconds for outcome in outcomes)
    own_seconds = sum(outcome.seconds for outcome in outcomes)
    own_cpu = sum(outcome.cpu_seconds for outcome in outcomes)
    return Cost(len(outcomes), wall, cpu, own_seconds, own_cpu, first - began, began + wall - last)


def compare(small: Cost, large: Cost, slots: int) -> dict[str, float]:
    """Fixed and marginal cost, in seconds, from a small and a large pool."""
    more = large.jobs - small.jobs
    own_cpu, own_seconds = large.own_cpu - small.own_cpu, large.own_seconds - small.own_seconds
    return {
        "startup_wall": small.until_first_job,
        "end_wall": small.after_last_job,
        "fixed_cpu": small.cpu - small.own_cpu,
        "marginal_cpu_per_job": (large.cpu - small.cpu - own_cpu) / more,
        "marginal_wall_per_job": (large.wall - small.wall - own_seconds / slots) / more,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=24, help="N, jobs of the large pool beyond 8")
    parser.add_argument("--steps", type=int, default=10_000_000, help="work of a job; 10 million take about a second")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    meter = CpuMeter()
    with tempfile.TemporaryDirectory() as scratch:
        clock = time.perf_counter()
        executor = RayExecutor(Path(scratch))
        slots = executor.slots  # starts Ray
        init = time.perf_counter() - clock
        costs = [
            measure_pool(executor, meter, count, options.steps) for count in (2, BASE_JOBS, BASE_JOBS + options.jobs)
        ]
        summary = {"ray_init_wall": init, "slots": slots, **compare(costs[1], costs[2], slots)}
        executor.close()
    meter.stop()
    for cost in costs:
        print(
            f"{cost.jobs:>4} jobs: {cost.wall:7.2f} s wall, {cost.cpu:7.2f} CPU-s,"
            f" of which jobs' own {cost.own_cpu:7.2f}"
        )
    for name, value in summary.items():
        print(f"{name:>22}: {value:.3f}")
    print(f"marginal CPU-seconds per specialist (all but training): {summary['marginal_cpu_per_job']:.3f}")
    if options.json:
        options.json.write_text(json.dumps({"summary": summary, "pools": [asdict(cost) for cost in costs]}, indent=1))


if __name__ == "__main__":
    main()
