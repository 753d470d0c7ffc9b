"""Line 4: the pool. 61 trainings of about 5 s on 2 slots: what else than training is in the wall time of the call.

Each job trains a 400-96-523 network for the same number of steps, on one thread, with a beat at each of ten passes as a
specialist has. The call is `run_jobs` of a private Ray that has started; a run starts it once.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.cpu_meter import CpuMeter
from benchmarks.pool import sum_cost
from benchmarks.speed.measure import Line, Part, Setup, at_least, at_most
from benchmarks.speed.training import BATCH, NORMALISATION, bare_steps
from raydistill.data.arrays import Examples
from raydistill.execution.jobs import Beat, Job
from raydistill.networks.models import build_model
from raydistill.on_ray.executor import RayExecutor

JOBS, SECONDS = 61, 5.0
PASSES = 10


def train_fixed(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Job: so many steps in ten passes."""
    network = build_model("mlp", {}, input_shape=(20, 20), classes=523, normalisation=NORMALISATION, seed=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (BATCH, 20, 20), generator=generator, dtype=torch.uint8)
    examples = Examples(x, torch.randint(0, 523, (BATCH,), generator=generator), tuple(map(str, range(523))))
    work = bare_steps(network, examples, arguments["steps"] // PASSES, torch.device("cpu"))
    for done in range(1, PASSES + 1):
        work()
        beat({"epoch": done, "epochs": PASSES, "fraction": done / PASSES})
    return {}


def count_steps(seconds: float) -> int:
    """Steps that take about so long on one thread of this machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = []
    for _ in range(3):
        clock = time.perf_counter()
        train_fixed({"steps": 300}, lambda progress: None)
        rates.append(300 / (time.perf_counter() - clock))
    torch.set_num_threads(threads)
    return int(max(rates) * seconds)


def measure_pool(setup: Setup) -> Part:
    """One call."""
    steps = count_steps(SECONDS)
    jobs = [
        Job(f"job {index:03d}", "benchmarks.speed.pool:train_fixed", {"steps": steps}, 1.0) for index in range(JOBS)
    ]
    meter = CpuMeter()
    with tempfile.TemporaryDirectory() as scratch:
        executor, clock = RayExecutor(Path(scratch)), time.perf_counter()
        slots = executor.slots  # starts Ray
        init = time.perf_counter() - clock
        began, clock, cpu = time.time(), time.perf_counter(), meter.read()
        outcomes = executor.run_jobs(jobs, lambda event: None)
        wall, cpu = time.perf_counter() - clock, meter.read() - cpu
        executor.close()
    meter.stop()
    cost = sum_cost(outcomes, began, wall, cpu)
    ends: dict[str, float] = {}
    for outcome in outcomes:
        ends[outcome.worker] = max(ends.get(outcome.worker, 0.0), outcome.started + outcome.seconds)
    rest = wall - cost.own_seconds / slots  # neighbours lengthen the jobs, and so flatter the ratio
    exact = JOBS * SECONDS / slots
    idle = sum(max(ends.values()) - end for end in ends.values()) / slots
    return Part(
        [
            Line(
                "time of training by slots, to the wall time of the call",
                [cost.own_seconds / slots / wall],
                at_least(0.95),
            ),
            Line(f"the same, had each job taken {SECONDS:g} s", [exact / (exact + rest)], None),
            Line("from the call to the first job", [cost.until_first_job], at_most(15), "s"),
            Line("Ray's own start", [init], None, "s"),
            Line("from the last job's end to the return", [cost.after_last_job], None, "s"),
            Line("a slot waits for the other's last job", [idle], None, "s"),
            Line("CPU-seconds of all processes beyond the jobs' own", [cost.cpu - cost.own_cpu], None, "s"),
        ],
        [f"{JOBS} jobs of {cost.own_seconds / JOBS:.1f} s on {slots} slots; {wall:.1f} s in all"],
    )
