"""From a source to mapped arrays, a block of rows at a time, in any order and by any process.

Comes in: a `Catalogue` of what is wanted. Goes out: a folder that `raydistill run --data arrays:DIR` takes:

    x.npy           (N, ...) uint8 or float32: training rows, then test rows, in the source's order
    y.npy           (N,) int64
    split.npy       (training rows,) int8, numbers of SPLITS, where the source gives more of them than test
    keep_apart.npy  (N,) int64, where a column of it was asked for
    classes.json    names; parts.json: rows of training and test; corrupt.json: name and reason of each record left out
    checksums.npy   (blocks, 32) uint8: SHA-256 of every block of x.npy
    arrays.json     shape, settings, sizes and checksums of the others: written last, the finished mark
    work/           while it runs: x.npy with a place for every record, and a mark for each block that is finished

A block writes its own place of work/x.npy, and then its mark, with the checksum of what it wrote. So an ingest that is
started again reads what is there instead of decoding it, and two processes that do the same block do no harm.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from raydistill.data.catalogue import Catalogue, Reader, Rows
from raydistill.data.ingest_errors import IngestError
from raydistill.data.wanted import Wanted
from raydistill.storage.files import hash_json, read_json, write_json

BLOCK_ROWS, BLOCK_BYTES = 512, 1 << 26  # of a block at most


@dataclass(frozen=True)
class Block:
    """Rows start to stop - 1 of the source. key: hash of what decides its bytes. names: of image folders' records."""

    index: int
    start: int
    stop: int
    key: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Mark:
    """A finished block. corrupt: place in the block, name and reason. decoded: False where it was found finished."""

    index: int
    key: str
    sha256: str
    corrupt: list[tuple[int, str, str]]
    decoded: bool = True


@dataclass(frozen=True)
class Work:
    """What a process needs to do blocks. offset: of the first row in work/x.npy, in bytes."""

    folder: str
    reader: Reader
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of an example."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def mark_path(self, index: int) -> Path:
        """Mark of a block."""
        return Path(self.folder, "blocks", f"{index:08d}.json")


def plan_blocks(catalogue: Catalogue, wanted: Wanted) -> list[Block]:
    """All rows in blocks that depend on nothing but the source and the form."""
    form = catalogue.form and asdict(catalogue.form)
    columns = [wanted.columns.x, wanted.columns.label]
    columns += [name for name in (wanted.split_column, wanted.keep_apart) if name is not None]
    common = hash_json([form, columns, catalogue.shape, catalogue.dtype, catalogue.identity])
    rows, total = count_block_rows(catalogue.shape, catalogue.dtype), len(catalogue.labels)
    blocks = []
    for index, start in enumerate(range(0, total, rows)):
        stop = min(start + rows, total)
        files = catalogue.files[start:stop]
        key = hash_json([common, start, stop, files])
        blocks.append(Block(index, start, stop, key, tuple(name for name, *_ in files)))
    return blocks


def count_block_rows(shape: tuple[int, ...], dtype: str) -> int:
    """Rows of a block: a power of two up to BLOCK_ROWS, of BLOCK_BYTES at most."""
    fit = BLOCK_BYTES // (int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return min(BLOCK_ROWS, 1 << max(0, fit.bit_length() - 1))


def prepare_work(output: Path, catalogue: Catalogue) -> Work:
    """Make room for all records in work/x.npy; what is there stays. Raises DataError where the disk has no room."""
    folder, shape = output / "work", (len(catalogue.labels), *catalogue.shape)
    (folder / "blocks").mkdir(parents=True, exist_ok=True)
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(catalogue.dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    work = Work(str(folder), catalogue.reader, catalogue.shape, catalogue.dtype, len(header.getvalue()))
    path, needed = folder / "x.npy", work.offset + work.row_bytes * shape[0]
    if not path.exists() and (output / "x.npy").exists():  # killed between the last two steps of finish_arrays
        (output / "x.npy").rename(path)
    there = path.stat().st_blocks * 512 if path.exists() else 0
    free = shutil.disk_usage(folder).free
    if needed - there > free:
        raise IngestError(
            "output",
            f"{str(output)!r} needs {(needed - there) / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free;"
            " make room, or give a smaller",
            flag="size",
        )
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.write(header.getvalue())
        file.truncate(needed)
    return work


def write_blocks(work: Work, blocks: Sequence[Block]) -> Iterator[Mark]:
    """Do the blocks in turn, those that are finished excepted. Raises OSError or DataError; see `Rows`."""
    with work.reader.open() as rows, open(Path(work.folder, "x.npy"), "r+b") as file:
        for block in blocks:
            yield _find_mark(work, block, file) or _write_block(work, block, rows, file)


def _find_mark(work: Work, block: Block, file: BinaryIO) -> Mark | None:
    """The block's mark, if it is of this very block and the bytes at its place are those that it tells of."""
    try:
        mark = Mark(**{**read_json(work.mark_path(block.index)), "decoded": False})
        corrupt = [(int(place), str(name), str(reason)) for place, name, reason in mark.corrupt]
    except (OSError, ValueError, TypeError):
        return None
    if mark.key != block.key:
        return None
    file.seek(work.offset + block.start * work.row_bytes)
    written = file.read((block.stop - block.start) * work.row_bytes)
    same = hashlib.sha256(written).hexdigest() == mark.sha256
    return Mark(block.index, mark.key, mark.sha256, corrupt, decoded=False) if same else None


def _write_block(work: Work, block: Block, rows: Rows, file: BinaryIO) -> Mark:
    out = np.zeros((block.stop - block.start, *work.shape), work.dtype)
    problems = rows.fill(block.start, block.names, out)
    file.seek(work.offset + block.start * work.row_bytes)
    file.write(out.data)
    file.flush()
    corrupt = [(place, *problems[place]) for place in sorted(problems)]
    mark = Mark(block.index, block.key, hashlib.sha256(out.data).hexdigest(), corrupt)
    write_json(work.mark_path(block.index), asdict(mark))
    return mark


class Tally:
    """Finished blocks and corrupt records so far. limit: most records that may be left out, a number or a share."""

    def __init__(self, catalogue: Catalogue, blocks: Sequence[Block], limit: int | float, output: Path) -> None:
        self._blocks, self._output = blocks, output
        self.marks: dict[int, Mark] = {}
        self.total = len(catalogue.labels)
        self.allowed = limit if isinstance(limit, int) else int(limit * self.total)
        self.done = 0
        self.corrupt: dict[int, tuple[str, str]] = {
            int(row): (catalogue.name_row(int(row)), "no label") for row in np.flatnonzero(catalogue.labels < 0)
        }
        self._check()

    def add(self, mark: Mark) -> None:
        """Take in a finished block. Raises DataError, and lists what is corrupt, where that is more than allowed."""
        block = self._blocks[mark.index]
        self.marks[mark.index] = mark
        self.done += block.stop - block.start
        for place, name, reason in mark.corrupt:
            self.corrupt[block.start + place] = (name, reason)
        self._check()

    def list_corrupt(self) -> list[dict[str, str]]:
        """Name and reason of each, in the order of rows."""
        ordered = (self.corrupt[row] for row in sorted(self.corrupt))
        return [{"name": name, "reason": reason} for name, reason in ordered]

    def _check(self) -> None:
        if len(self.corrupt) <= self.allowed:
            return
        listed = self.list_corrupt()
        write_json(self._output / "corrupt.json", listed)
        raise IngestError(
            "max_corrupt",
            f"{len(listed)} of {self.total:,} records are corrupt so far, more than {self.allowed}"
            f" ({listed[0]['name']}: {listed[0]['reason']}; all in {str(self._output / 'corrupt.json')!r}); mend them,"
            " or give a larger",
            flag="max_corrupt",
        )
