"""How fast `raydistill ingest` is with 1 CPU and with 2: `python -m benchmarks.ingest`.

Makes an image folder of seeded PNGs and the same images as Parquet, ingests both on a private Ray with either number of
CPUs in turn, and compares all arrays. 1 CPU is a machine of one: driver, Ray and its worker are bound to one core. What
starting Ray takes is shown apart. --write puts the result into
benchmarks/INGEST.md.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from benchmarks.page import describe_making, replace_part
from benchmarks.provenance import HERE
from raydistill.commands.ingest import ingest
from raydistill.data.images import ImageForm
from raydistill.data.ingestion import RunBlocks, run_here
from raydistill.data.wanted import Wanted
from raydistill.display import Silent
from raydistill.storage.files import write_json

PAGE = HERE / "INGEST.md"
HEAD = """# Larger than memory

What `raydistill ingest` takes, and what a worker's memory does as the examples become more. A part is made by the
command below it.
"""
CLASSES, GROUP_ROWS = 100, 1000
TARGET = 1.7


def draw_image(seed: int, index: int, side: int) -> bytes:
    """A square PNG of a smooth pattern with some noise, which packs about as well as a photograph."""
    generator = np.random.default_rng([seed, index])
    coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))
    smooth = np.asarray(coarse.filter(ImageFilter.GaussianBlur(2))).astype(np.int16)
    noisy = (smooth + generator.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "PNG", compress_level=1)
    return file.getvalue()


def make_sources(folder: Path, images: int, seed: int, side: int) -> dict[str, Path]:
    """The image folder, and the same in two Parquet files, in the order in which the folder is read."""
    by_class = np.array_split(np.arange(images), CLASSES)
    rows = [(f"class {label:03d}", index) for label, part in enumerate(by_class) for index in part]
    (folder / "parquet").mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(images), 2)):
        data = []
        for row in part:
            label, index = rows[row]
            data.append(draw_image(seed, int(index), side))
            path = folder / "images" / label / f"{index:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[-1])
        table = pa.table({"image": pa.array(data, pa.binary()), "label": [rows[row][0] for row in part]})
        pq.write_table(table, folder / "parquet" / f"train-{number}.parquet", row_group_size=GROUP_ROWS)
    return {"image folder": folder / "images", "Parquet": folder / "parquet"}


@contextmanager
def bind(cpus: int) -> Iterator[None]:
    """Let this process, and all that it starts meanwhile, run on so many cores."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:cpus])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def time_ingest(source: Path, output: Path, run_blocks: RunBlocks) -> float:
    """Seconds of the whole ingest; the output is made anew."""
    shutil.rmtree(output, ignore_errors=True)
    began = time.perf_counter()
    ingest(Wanted(str(source), ImageForm(64, 3, "crop")), output, limit=0, run_blocks=run_blocks, display=Silent())
    return time.perf_counter() - began


def measure(folder: Path, images: int, seed: int, rounds: int, side: int) -> dict[str, Any]:
    """For images of one size, seconds by source and CPUs, a value a round; whether all arrays are the same."""
    from raydistill.on_ray.ingest import RayBlocks

    sources = make_sources(folder, images, seed, side)
    times: dict[str, dict[str, list[float]]] = {name: {"1": [], "2": []} for name in sources}
    starts, outputs = [], []
    for turn in range(rounds):
        for name, source in sources.items():
            for cpus in (1, 2) if turn % 2 == 0 else (2, 1):
                blocks, output = RayBlocks(cpus=cpus), folder / f"{name} {cpus}"
                with bind(cpus):
                    total = time_ingest(source, output, blocks)
                times[name][str(cpus)].append(total - blocks.seconds[0])
                starts.append(blocks.seconds[0])
                outputs.append(output)
                print(
                    f"{name}, {side}, {cpus} CPU: {times[name][str(cpus)][-1]:.1f} s, Ray {starts[-1]:.1f} s",
                    flush=True,
                )
    alone = {name: time_ingest(source, folder / f"{name} alone", run_here) for name, source in sources.items()}
    outputs += [folder / f"{name} alone" for name in sources]
    same = all(
        (output / file).read_bytes() == (outputs[0] / file).read_bytes()
        for output in dict.fromkeys(outputs)
        for file in ("x.npy", "y.npy", "classes.json", "parts.json", "checksums.npy")
    )
    sizes = {
        name: sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        for name, source in sources.items()
    }
    return {
        "side": side,
        "seconds": times,
        "in_process": alone,
        "start": starts,
        "same": same,
        "bytes": sizes,
    }


def format_part(results: list[dict[str, Any]], images: int, seed: int, made: dict[str, str]) -> str:
    """The section of the page. results: one for each size of images."""
    lines = [
        f"## 1. Ingest of {images:,} PNGs with 1 CPU and with 2",
        "",
        "| PNGs | 1 CPU, s | 2 CPUs, s | times as fast | rounds | in one process, no Ray, s |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for name, by_cpus in result["seconds"].items():
            ratios = [one / two for one, two in zip(by_cpus["1"], by_cpus["2"], strict=True)]
            one, two = (statistics.median(by_cpus[cpus]) for cpus in ("1", "2"))
            what = f"{result['side']}x{result['side']} RGB, {name}, {result['bytes'][name] / 1e6:.0f} MB"
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            alone = result["in_process"][name]
            lines.append(
                f"| {what} | {one:.1f} | {two:.1f} | **{statistics.median(ratios):.2f}** | {each} | {alone:.1f} |"
            )
    same = "yes" if all(result["same"] for result in results) else "**no**"
    start = statistics.median(start for result in results for start in result["start"])
    lines += [
        "",
        f"- Target: at least {TARGET} times. Medians over rounds in which both numbers of CPUs took turns.",
        "- 1 CPU: driver, Ray and its worker are bound to one core.",
        f"- {CLASSES} classes, to 64x64 RGB; Parquet: 2 files, row groups of {GROUP_ROWS}; seed {seed}.",
        f"- Arrays of both sources, numbers of CPUs and of the one process are identical: {same}.",
        f"- Listing, decoding, writing, finishing and ending Ray count; starting Ray, {start:.1f} s, does not.",
        f"- `{made['command']}`; commit {made['commit']}; {made['machine']}, shared",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print; write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 224], help="heights and widths of the PNGs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write benchmarks/INGEST.md")
    options = parser.parse_args()
    results = []
    for side in options.sides:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), options.images, options.seed, options.rounds, side))
    made = describe_making("benchmarks.ingest")
    text = format_part(results, options.images, options.seed, made)
    print(text)
    if options.write:
        common = {**made, "images": options.images, "seed": options.seed}
        write_json(HERE / "results" / "ingest.json", {**common, "sizes": results})
        replace_part(PAGE, HEAD, "ingest", text)


if __name__ == "__main__":
    main()
