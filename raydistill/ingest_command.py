"""raydistill ingest: a source into a folder of arrays, on Ray or in this process.

Comes in: arguments. Goes out: the folder that `raydistill run --data arrays:DIR` takes (data/ingest.py), and lines that
say what became of the source.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from raydistill.data.images import ImageForm
from raydistill.data.ingest import (
    DOWNLOADED,
    Block,
    Mark,
    Tally,
    Wanted,
    Work,
    open_source,
    plan_blocks,
    prepare_work,
    write_blocks,
)
from raydistill.data.ingested import finish_arrays, hash_blocks, read_record
from raydistill.display import Display, open_display
from raydistill.errors import ConfigError, DataError

DEFAULT_SIZE, DEFAULT_LIMIT = 64, 0.01
OURS = {".lock", "work", "corrupt.json", "x.npy", "y.npy", "classes.json", "parts.json", "checksums.npy"}

RunBlocks = Callable[[Work, Sequence[Block], Callable[[Mark], None]], None]
"""Does all blocks, anywhere and in any order, and calls back with each finished one; what that raises ends the work."""


@dataclass(frozen=True)
class Ingested:
    """record: what arrays.json holds. decoded: blocks that were decoded now; 0 where all were finished before."""

    record: dict[str, Any]
    decoded: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raydistill ingest`."""
    parser.add_argument("source", help="folder of class folders of images, Parquet, saved dataset, or hf:NAME[@CONFIG]")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the arrays; resumes there")
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE, help="height and width of images (default 64)")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="1: grey, 3: RGB (default)")
    parser.add_argument(
        "--resize",
        choices=("crop", "pad", "stretch"),
        default="crop",
        help="crop (default): the middle of the longer side; pad: all of it, with black; stretch: out of proportion",
    )
    parser.add_argument(
        "--max-corrupt",
        type=read_limit,
        default=DEFAULT_LIMIT,
        metavar="N|SHARE",
        help="corrupt records that are left out at most: a number, or a share such as 0.01 (default) or 1%%",
    )
    parser.add_argument("--x-column", help="of Parquet and datasets: encoded images, or vectors")
    parser.add_argument("--label-column", help="of Parquet and datasets: integers or text")
    parser.add_argument("--backend", choices=("ray", "none"), default="ray", help="none: in this process, without Ray")
    parser.add_argument("--address", help="of a Ray cluster; left out: RAY_ADDRESS, else a private Ray on this machine")
    parser.add_argument("-v", "--verbose", action="store_true", help="let Ray speak")


def read_limit(text: str) -> int | float:
    """A number of records, or a share of them. Raises ConfigError for anything else."""
    try:
        if text.isdecimal():
            return int(text)
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(
            f"max_corrupt: {text!r} is not allowed; give a number of records such as 10, or a share such as 0.01 or 1%"
        )
    return share


def run_ingest(given: argparse.Namespace) -> str:
    """Ingest as asked; returns what to tell the user. Raises RaydistillError."""
    form = make_form(given.size, given.channels, given.resize)
    wanted = Wanted(given.source, form, given.x_column, given.label_column)
    with closing(open_display()) as display:
        run_blocks = choose_backend(given.backend, given.address, given.verbose)
        result = ingest(wanted, given.output, limit=given.max_corrupt, run_blocks=run_blocks, display=display)
    return describe_result(given.output, result)


def make_form(size: int, channels: int, resize: Literal["crop", "pad", "stretch"]) -> ImageForm:
    """Checked. Raises ConfigError for a size that no image has."""
    if not 1 <= size <= 4096:
        raise ConfigError(f"size: {size} is not allowed; give 1 to 4096 pixels")
    return ImageForm(size, channels, resize)


def choose_backend(backend: str, address: str | None, verbose: bool) -> RunBlocks:
    """Ray, or this process alone."""
    if backend == "none":
        return run_here
    from raydistill.on_ray.ingest import RayBlocks

    return RayBlocks(address, verbose)


def run_here(work: Work, blocks: Sequence[Block], on_mark: Callable[[Mark], None]) -> None:
    """All blocks in this process, in turn."""
    for mark in write_blocks(work, blocks):
        on_mark(mark)


def ingest(wanted: Wanted, output: Path, *, limit: int | float, run_blocks: RunBlocks, display: Display) -> Ingested:
    """Ingest a source, or go on with it. limit: corrupt records at most, a number or a share.

    Raises DataError where source or output cannot be used, or more records are corrupt; nothing is overwritten.
    """
    output = output.expanduser().absolute()
    check_output(output)
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"output: {str(output)!r} is in use by another ingest; wait for it, or give another") from None
    try:
        return _ingest(wanted, output, limit, run_blocks, display)
    finally:
        lock.release()


def check_output(output: Path) -> None:
    """Raise DataError for a folder that holds anything but an ingest."""
    if output.exists() and not output.is_dir():
        raise DataError(f"output: {str(output)!r} is a file; give a folder")
    if not output.exists() or (output / "arrays.json").exists():
        return
    others = sorted({entry.name for entry in output.iterdir()} - OURS)
    if others:
        raise DataError(
            f"output: {str(output)!r} holds {others[0]!r}, which is no ingest's; give a new or empty folder"
        )


def _ingest(wanted: Wanted, output: Path, limit: int | float, run_blocks: RunBlocks, display: Display) -> Ingested:
    began = time.monotonic()
    display.begin_stage("ingest", 1, 1)
    if (output / "arrays.json").exists():
        record = check_finished(wanted, output)
        display.end_stage(time.monotonic() - began, skipped=True)
        return Ingested(record, 0)
    catalogue = open_source(wanted, output)
    blocks = plan_blocks(catalogue, wanted)
    for name in catalogue.left_out:
        display.note(f"left out: {name}")
    tally = Tally(catalogue, blocks, limit, output)
    work = prepare_work(output, catalogue)

    def on_mark(mark: Mark) -> None:
        tally.add(mark)
        text = f"{tally.done:,} of {tally.total:,} records, {len(tally.corrupt):,} corrupt"
        display.update(tally.done / tally.total, text)

    run_blocks(work, blocks, on_mark)
    record = finish_arrays(output, catalogue, wanted, blocks, work, tally)
    display.end_stage(time.monotonic() - began, skipped=False)
    return Ingested(record, sum(mark.decoded for mark in tally.marks.values()))


def check_finished(wanted: Wanted, output: Path) -> dict[str, Any]:
    """The record of a finished folder. Raises DataError where it is not what is wanted now."""
    record = read_record(output)
    if wanted.source.startswith(DOWNLOADED):  # not fetched again
        same = record["settings"] == asdict(wanted)
    else:
        same = record["key"] == hash_blocks(plan_blocks(open_source(wanted, output), wanted))
    if not same:
        raise DataError(
            f"output: {str(output)!r} holds arrays of another source, of other settings, or of files that have"
            " changed since; give another --output, or remove it"
        )
    return record


def describe_result(output: Path, result: Ingested) -> str:
    """What the folder holds, and what comes next."""
    record = result.record
    examples, *shape = record["shape"]
    lines = [f"{examples:,} examples, {'x'.join(map(str, shape))} {record['dtype']}, in {output}"]
    if record["corrupt"]:
        lines.append(f"corrupt records left out: {record['corrupt']:,}, listed in {output / 'corrupt.json'}")
    return "\n".join([*lines, f"next:   raydistill run --data arrays:{output} --run-dir DIR"])
