"""An ingest from beginning to end: list the source, do its blocks, leave a finished folder.

Comes in: what is wanted, a folder, and something that does blocks. Goes out: the folder of ingested.py. The same call
goes on with what an earlier one has left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from raydistill.data.ingest import (
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
from raydistill.data.ingested import FILES, OPTIONAL, finish_arrays, hash_blocks, read_record
from raydistill.data.names import is_remote, parse_name
from raydistill.errors import DataError
from raydistill.files import remove

OURS = {".lock", "work", *FILES, *OPTIONAL}

RunBlocks = Callable[[Work, Sequence[Block], Callable[[Mark], None]], None]
"""Does all blocks, anywhere and in any order, and calls back with each finished one; what that raises ends the work."""


@dataclass(frozen=True)
class Ingested:
    """record: what arrays.json holds. decoded: blocks that were decoded now; 0 where all were finished before."""

    record: dict[str, Any]
    decoded: int


def run_here(work: Work, blocks: Sequence[Block], on_mark: Callable[[Mark], None]) -> None:
    """All blocks in this process, in turn."""
    for mark in write_blocks(work, blocks):
        on_mark(mark)


def ingest_source(
    wanted: Wanted,
    output: Path,
    *,
    limit: int | float,
    run_blocks: RunBlocks,
    update: Callable[[float, str], None],
    note: Callable[[str], None],
    replace: bool = False,
) -> Ingested:
    """Ingest a source, or go on with it. limit: corrupt records at most, a number or a share.

    update, note: as a display's. replace: begin anew where the folder holds a finished ingest of something else; left
    out, nothing is overwritten. Raises DataError where source or output cannot be used, or more records are corrupt.
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
        if (output / "arrays.json").exists():
            record = read_record(output)
            if is_same(record, wanted, output):
                return Ingested(record, 0)
            if not replace:
                raise DataError(
                    f"output: {str(output)!r} holds arrays of another source, of other settings, or of files that have"
                    " changed since; give another --output, or remove it"
                )
            for name in ("arrays.json", "x.npy"):  # the latter may be linked elsewhere: never written in place
                remove(output / name)
        return _ingest(wanted, output, limit, run_blocks, update, note)
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


def is_same(record: dict[str, Any], wanted: Wanted, output: Path) -> bool:
    """Whether a finished folder is what is wanted now."""
    if is_remote(parse_name(wanted.source)):  # not fetched again
        return bool(record["settings"] == asdict(wanted))
    return bool(record["key"] == hash_blocks(plan_blocks(open_source(wanted, output), wanted)))


def _ingest(
    wanted: Wanted,
    output: Path,
    limit: int | float,
    run_blocks: RunBlocks,
    update: Callable[[float, str], None],
    note: Callable[[str], None],
) -> Ingested:
    catalogue = open_source(wanted, output)
    blocks = plan_blocks(catalogue, wanted)
    for name in catalogue.left_out:
        note(f"left out: {name}")
    tally = Tally(catalogue, blocks, limit, output)
    work = prepare_work(output, catalogue)

    def on_mark(mark: Mark) -> None:
        tally.add(mark)
        corrupt = f", {len(tally.corrupt):,} corrupt" if tally.corrupt else ""
        update(tally.done / tally.total, f"{tally.done:,} of {tally.total:,} records{corrupt}")

    run_blocks(work, blocks, on_mark)
    record = finish_arrays(output, catalogue, wanted, blocks, work, tally)
    return Ingested(record, sum(mark.decoded for mark in tally.marks.values()))
