"""An ingest from beginning to end: list the source, do its blocks, leave a finished folder.

Comes in: what is wanted, a folder, and something that does blocks. Goes out: the folder of ingested.py. The same call
goes on with what an earlier one has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from raydistill.data.ingest import Block, Mark, Tally, Work, plan_blocks, prepare_work, write_blocks
from raydistill.data.ingest_errors import IngestError, Words
from raydistill.data.ingested import FILES, OPTIONAL, finish_arrays, hash_blocks, read_record
from raydistill.data.names import is_remote
from raydistill.data.wanted import Wanted, open_source
from raydistill.errors import DataError
from raydistill.storage.folders import remove

OURS = {".lock", "work", *FILES, *OPTIONAL}

RunBlocks = Callable[[Work, Sequence[Block], Callable[[Mark], None]], None]
"""Does all blocks, anywhere and in any order, and calls back with each finished one; what that raises ends the work."""


@dataclass(frozen=True)
class Ingested:
    """record: what arrays.json holds. decoded: blocks that were decoded now; 0 where all were finished before."""

    record: dict[str, Any]
    decoded: int


class Listener(Protocol):
    """Who is told how far an ingest is, and what is worth a line; a display does."""

    def update(self, fraction: float, text: str) -> None:
        """It is so far, 0 to 1."""

    def note(self, text: str) -> None:
        """Something worth a line."""


@dataclass(frozen=True)
class Ingestion:
    """An ingest of a source into a folder.

    output: absolute. limit: corrupt records at most, a number or a share. words: of the command that asks for it, for
    errors. replace: begin anew where the folder holds a finished ingest of something else; left out, nothing is
    overwritten.
    """

    wanted: Wanted
    output: Path
    limit: int | float
    run_blocks: RunBlocks
    listener: Listener
    words: Words
    replace: bool = False

    def run(self) -> Ingested:
        """Ingest, or go on with it. Raises DataError where source or output cannot be used, or too much is corrupt."""
        try:
            check_output(self.output)
            self.output.mkdir(parents=True, exist_ok=True)
            with self._lock():
                return self._find_finished() or self._decode()
        except IngestError as error:
            raise DataError(error.describe(self.words)) from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        lock = FileLock(self.output / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise IngestError(
                "output", f"{str(self.output)!r} is in use by another ingest; wait for it, or give another"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _find_finished(self) -> Ingested | None:
        """The ingest that the folder holds, if it is what is wanted; anything else gives way, or is refused."""
        if not (self.output / "arrays.json").exists():
            return None
        record = read_record(self.output)
        if is_same(record, self.wanted, self.output):
            return Ingested(record, 0)
        if not self.replace:
            raise IngestError(
                "output",
                f"{str(self.output)!r} holds arrays of another source, of other settings, or of files that have"
                " changed since; give another --output, or remove it",
            )
        for name in ("arrays.json", "x.npy"):  # the latter may be linked elsewhere: never written in place
            remove(self.output / name)
        return None

    def _decode(self) -> Ingested:
        catalogue = open_source(self.wanted, self.output)
        blocks = plan_blocks(catalogue, self.wanted)
        for name in catalogue.left_out:
            self.listener.note(f"left out: {name}")
        tally = Tally(catalogue, blocks, self.limit, self.output)
        work = prepare_work(self.output, catalogue)
        self.run_blocks(work, blocks, lambda mark: self._take(mark, tally))
        record = finish_arrays(self.output, catalogue, self.wanted, blocks, work, tally)
        return Ingested(record, sum(mark.decoded for mark in tally.marks.values()))

    def _take(self, mark: Mark, tally: Tally) -> None:
        """A block is finished."""
        tally.add(mark)
        corrupt = f", {len(tally.corrupt):,} corrupt" if tally.corrupt else ""
        self.listener.update(tally.done / tally.total, f"{tally.done:,} of {tally.total:,} records{corrupt}")


def run_here(work: Work, blocks: Sequence[Block], on_mark: Callable[[Mark], None]) -> None:
    """All blocks in this process, in turn."""
    for mark in write_blocks(work, blocks):
        on_mark(mark)


def check_output(output: Path) -> None:
    """Raise IngestError for a folder that holds anything but an ingest."""
    if output.exists() and not output.is_dir():
        raise IngestError("output", f"{str(output)!r} is a file; give a folder")
    if not output.exists() or (output / "arrays.json").exists():
        return
    others = sorted({entry.name for entry in output.iterdir()} - OURS)
    if others:
        raise IngestError(
            "output", f"{str(output)!r} holds {others[0]!r}, which is no ingest's; give a new or empty folder"
        )


def is_same(record: dict[str, Any], wanted: Wanted, output: Path) -> bool:
    """Whether a finished folder is what is wanted now."""
    if is_remote(wanted.named):  # not fetched again
        return bool(record["settings"] == asdict(wanted))
    return bool(record["key"] == hash_blocks(plan_blocks(open_source(wanted, output), wanted)))
