"""How a worker's memory grows with the number of examples: `python -m benchmarks.memory`.

Makes vectors of 50 classes, ingests them, and runs the pipeline up to the search with 1, 4 and 16 times as many. Then
the data and splits stages, a generalist, a specialist and the student are done again, each in a process of its own,
whose private memory is sampled. This process maps the run's arrays meanwhile, as another worker of the node would:
pages that several processes map are nobody's own. --write puts the result into benchmarks/INGEST.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ingest import HEAD, PAGE
from benchmarks.page import describe_making, replace_part
from benchmarks.provenance import HERE
from raydistill.commands.ingest import ingest
from raydistill.data.images import ImageForm
from raydistill.data.ingestion import run_here
from raydistill.data.wanted import Wanted
from raydistill.display import Silent
from raydistill.execution.in_process import InProcess
from raydistill.pipeline import run_pipeline
from raydistill.settings.config import build_config
from raydistill.storage.files import Array, read_json, write_json
from raydistill.storage.run_folder import RunFolder

CLASSES, WIDTH = 50, 32
SETTINGS: dict[str, Any] = {
    "generalist": {"epochs": 1, "patience": None},
    "specialists": {"groups": 4, "epochs": 1, "patience": None},
    "grouping": {"bootstraps": 0},
    "search": {"temperature": [2, 2], "label_weight": [0.3, 0.3]},
    "student": {"epochs": 1, "controls": False},
    "cluster": {"backend": "none"},
}
ROLES = ("data stage", "splits stage", "generalist", "specialist", "student")
SAMPLE_SECONDS = 0.01


class MemoryMeter:
    """The largest private memory of this process since the meter began, in bytes; a thread samples it."""

    def __init__(self) -> None:
        self._process, self._stopped = psutil.Process(), threading.Event()
        self.began = self.peak = self._process.memory_full_info().uss
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._process.memory_full_info().uss)


def make_arrays(folder: Path, examples: int, seed: int) -> Path:
    """Clouds of bytes around a centre for each class, as Parquet, ingested; a block at a time."""
    generator = np.random.default_rng([seed, examples])
    centres = generator.integers(60, 196, (CLASSES, WIDTH))
    kind = pa.list_(pa.uint8(), WIDTH)
    with pq.ParquetWriter(folder / "vectors.parquet", pa.schema({"vector": kind, "label": pa.int64()})) as writer:
        for start in range(0, examples, 10_000):
            labels = np.arange(start, min(start + 10_000, examples)) % CLASSES
            noisy = centres[labels] + generator.normal(0, 40, (len(labels), WIDTH))
            flat = pa.array(noisy.clip(0, 255).astype(np.uint8).reshape(-1))
            vectors = pa.FixedSizeListArray.from_arrays(flat, WIDTH)
            writer.write_table(pa.table({"vector": vectors, "label": labels}))
    wanted = Wanted(str(folder / "vectors.parquet"), ImageForm(1, 1, "crop"))
    ingest(wanted, folder / "arrays", limit=0, run_blocks=run_here, display=Silent())
    return folder / "arrays"


def measure_size(folder: Path, examples: int, seed: int) -> dict[str, dict[str, int]]:
    """Private memory in bytes by role: when its process begins, and at most."""
    arrays = make_arrays(folder, examples, seed)
    config = build_config({**SETTINGS, "data": f"arrays:{arrays}", "run_dir": folder / "run", "seed": seed})
    run = run_pipeline(config, display=Silent(), start_executor=lambda run: InProcess(), until="search")
    shared = [share_pages(path) for path in sorted({*run.path.rglob("*.npy"), *arrays.rglob("*.npy")})]
    figures = {}
    for role in ROLES:
        command = [sys.executable, "-m", "benchmarks.memory", "--role", role, "--run", str(run.path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=HERE.parent)
        figures[role] = json.loads(done.stdout)
    assert len(shared) > 10
    return figures


def share_pages(path: Path) -> Array:
    """Map a file and touch every page."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    mapped.reshape(-1).view(np.uint8)[:: os.sysconf("SC_PAGE_SIZE") // 2].max(initial=0)
    return mapped


def do_role(role: str, run: RunFolder) -> None:
    """The work of one role, from its beginning."""
    from raydistill.stages.generalist import train_generalist
    from raydistill.stages.specialists import train_specialist
    from raydistill.stages.student import train_student

    where: dict[str, Any] = {"run_dir": str(run.path)}
    if role in ("data stage", "splits stage"):
        config = run.read_config().model_copy(update={"run_dir": run.path.with_name("again")})
        run_pipeline(config, display=Silent(), start_executor=lambda run: InProcess(), until=role.split()[0])
    elif role == "generalist":
        train_generalist({**where, "index": 1}, lambda progress: None)
    elif role == "specialist":
        shutil.rmtree(run.specialist_folder(0))
        train_specialist({**where, "index": 0}, lambda progress: None)
    else:
        best = read_json(run.stage_folder("search") / "search.json")["best"]
        chosen = {name: best[name] for name in ("temperature", "label_weight")}
        train_student({**where, "name": "student", **chosen}, lambda progress: None)


def measure_role(role: str, path: Path) -> None:
    """In a process of its own: print the private memory, in bytes."""
    import raydistill.stages.student  # torch and all else are there before it begins

    assert raydistill.stages.student
    meter = MemoryMeter()
    do_role(role, RunFolder(path))
    meter.stop()
    print(json.dumps({"began": meter.began, "peak": meter.peak}))


def growth(figures: dict[int, dict[str, dict[str, int]]], role: str) -> float:
    """Bytes of private memory for each further example, from the least to the most."""
    least, most = min(figures), max(figures)
    return (figures[most][role]["peak"] - figures[least][role]["peak"]) / (most - least)


def format_part(figures: dict[int, dict[str, dict[str, int]]], seed: int, made: dict[str, str]) -> str:
    """The section of the page."""
    sizes = sorted(figures)
    heads = " | ".join(f"{size:,}" for size in sizes)
    lines = [
        "## 2. A worker's memory at 1, 4 and 16 times the examples",
        "",
        f"| private memory at most, MB; examples: | {heads} | bytes for each further example |",
        "|---|" + "---|" * (len(sizes) + 1),
    ]
    for role in ROLES:
        values = " | ".join(f"{figures[size][role]['peak'] / 1e6:.0f}" for size in sizes)
        lines.append(f"| {role} | {values} | {growth(figures, role):.0f} |")
    began = figures[sizes[0]]["student"]["began"] / 1e6
    lines += [
        "",
        f"- {began:.0f} MB of it are there before the work begins: Python, torch and the package.",
        f"- An example is {WIDTH} bytes of x, 8 of y and {2 * CLASSES} of soft targets, for the student, all mapped."
        " USS (psutil), sampled each 10 ms, while another process maps the same files, as the next worker does.",
        "- Training does not grow: rows of long passes are computed, not held. The splits stage draws all rows at once,"
        f" in the one process that drives the run. {CLASSES} classes, seed {seed}, mlp, 96 units.",
        f"- `{made['command']}`; commit {made['commit']}; {made['machine']}, shared",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print; write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=300_000, help="the fewest; then 4 and 16 times as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write benchmarks/INGEST.md")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        return measure_role(options.role, options.run)
    figures = {}
    for times in (1, 4, 16):
        with tempfile.TemporaryDirectory() as folder:
            figures[times * options.examples] = measure_size(Path(folder), times * options.examples, options.seed)
    made = describe_making("benchmarks.memory")
    text = format_part(figures, options.seed, made)
    print(text)
    if options.write:
        write_json(HERE / "results" / "memory.json", {**made, "seed": options.seed, "figures": figures})
        replace_part(PAGE, HEAD, "memory", text)


if __name__ == "__main__":
    main()
