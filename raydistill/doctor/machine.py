"""The machine: processors, memory, accelerator, threads.

Comes in: what the system tells. Goes out: findings.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from raydistill.doctor.finding import Finding

GIGABYTE = 1e9
LITTLE_MEMORY = 2.0  # GB; a private Ray and a worker for each CPU take about as much before they do anything
BUSY = 0.5  # of the processors, in the load of the last minute
CGROUP = Path("/sys/fs/cgroup")


def check_processors() -> Finding:
    """How many processors this process may use."""
    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    limit = read_cpu_limit()
    text = f"{usable} of {there} usable" if usable < there else f"{there}"
    if limit is not None and limit < usable:
        return Finding(
            "processors",
            "warn",
            f"{text}, but the container is given the time of {limit:g}",
            f"OMP_NUM_THREADS={max(1, int(limit))}, and --cluster.needs.cpus no larger",
        )
    return Finding("processors", "ok", text)


def read_cpu_limit(folder: Path = CGROUP) -> float | None:
    """Processors' worth of time that a container gets (cgroup v2); None for no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def check_memory() -> Finding:
    """Memory that is free, and all of it."""
    free, total = read_memory()
    text = f"{free / GIGABYTE:.1f} GB free of {total / GIGABYTE:.1f} GB"
    if free < LITTLE_MEMORY * GIGABYTE:
        return Finding("memory", "warn", text, "end other programs, or run with --cluster.backend none")
    return Finding("memory", "ok", text)


def read_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = CGROUP) -> tuple[float, float]:
    """Bytes free and in all, within the container's limit where there is one."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    free = total
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        limit, used = (float((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        return min(free, max(0.0, limit - used)), min(total, limit)
    except (OSError, ValueError):  # no limit is written as 'max'
        return free, total


def check_accelerator() -> Finding:
    """GPUs that torch can use; one that the machine has and torch cannot use is a warning."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Finding(
            "accelerator",
            "ok",
            ", ".join(f"{device.name}, {device.total_memory / GIGABYTE:.0f} GB" for device in names),
        )
    if shutil.which("nvidia-smi"):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        return Finding(
            "accelerator",
            "warn",
            f"there is an NVIDIA driver, but torch {torch.__version__} ({built}) sees no GPU",
            "install torch for your CUDA (pytorch.org/get-started); look at nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    return Finding("accelerator", "ok", "none: everything runs on processors")


def check_threads() -> Finding:
    """OpenMP's threads, which spin for each other: beside a busy neighbour, a pass takes several times as long."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdigit() else cores
    load = os.getloadavg()[0]
    text = f"OMP_NUM_THREADS {given or 'not set'}, load {load:.1f} on {cores} processors"
    if threads > cores:
        return Finding(
            "threads", "warn", text, f"OMP_NUM_THREADS={cores}: more threads than processors wait for each other"
        )
    if threads > 1 and load > BUSY * cores:
        remedy = "OMP_NUM_THREADS=1 (or GOMP_SPINCOUNT=100): beside a busy neighbour, threads spin for each other"
        return Finding("threads", "warn", text, remedy)
    return Finding("threads", "ok", text)
