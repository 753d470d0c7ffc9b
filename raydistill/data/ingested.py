"""The folder of arrays that `raydistill ingest` leaves: written, opened, and verified.

Comes in: finished blocks, or a folder. Goes out: the folder's files, or `Arrays`, whose x is mapped. Checksums are
those of the blocks, taken when they were written: sizes and a few blocks are enough to know the folder again; a
run reads all of it once, a block at a time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.data.catalogue import Catalogue
from raydistill.data.images import ImageForm
from raydistill.data.ingest import Block, Tally, Work, count_block_rows
from raydistill.data.splits import TEST
from raydistill.data.wanted import Wanted
from raydistill.errors import DataError
from raydistill.storage.files import (
    Array,
    hash_file,
    hash_json,
    map_array,
    read_array,
    read_json,
    write_array,
    write_json,
    write_rows,
)
from raydistill.storage.folders import remove

FORMAT = 1
FILES = ("x.npy", "y.npy", "classes.json", "parts.json", "corrupt.json", "checksums.npy")
OPTIONAL = ("split.npy", "keep_apart.npy")  # where the source has them
SAMPLE = 8  # blocks that are read when a folder is only to be known again


@dataclass(frozen=True)
class Arrays:
    """An ingested folder.

    x: (N, ...), mapped. y: (N,) int64. train: rows of the training part, which come first. form: of images, else None.
    split: (train,), numbers of SPLITS, where some are given; keep_apart: (N,), where a column was asked for.
    """

    folder: Path
    x: Array
    y: Array
    class_names: list[str]
    train: int
    form: ImageForm | None
    split: Array | None
    keep_apart: Array | None
    record: dict[str, Any]


def finish_arrays(
    output: Path, catalogue: Catalogue, wanted: Wanted, blocks: list[Block], work: Work, tally: Tally
) -> dict[str, Any]:
    """Leave corrupt records out, put test rows behind the others, write all files. Returns the finished mark.

    Where nothing changes by that, work/x.npy is the result as it is; otherwise its rows are copied.
    """
    rows, train = order_rows(catalogue, tally)
    parts = {"train": train, "test": len(rows) - train}
    write_array(output / "y.npy", catalogue.labels[rows])
    _write_optional(output, catalogue, rows, train)
    write_json(output / "classes.json", catalogue.class_names)
    write_json(output / "parts.json", parts)
    write_json(output / "corrupt.json", tally.list_corrupt())
    if np.array_equal(rows, np.arange(len(catalogue.labels))):
        sums = [tally.marks[block.index].sha256 for block in blocks]
        with open(Path(work.folder, "x.npy"), "rb") as file:
            os.fsync(file.fileno())
        Path(work.folder, "x.npy").replace(output / "x.npy")
    else:
        sums = list(_copy_rows(work, rows, output / "x.npy"))
    record = finish_folder(
        output,
        sums,
        (len(rows), *work.shape),
        work.dtype,
        key=hash_blocks(blocks),
        corrupt=len(tally.corrupt),
        left_out=catalogue.left_out,
        settings=asdict(wanted),
        form=catalogue.form and asdict(catalogue.form),
    )
    shutil.rmtree(work.folder, ignore_errors=True)
    return record


def finish_folder(folder: Path, sums: Sequence[str], shape: tuple[int, ...], dtype: str, **told: Any) -> dict[str, Any]:
    """Write the blocks' checksums, and then the finished mark. Returns the latter.

    sums: SHA-256 of each block of x.npy, whose shape and type are given. told: the rest of the mark.
    """
    write_array(folder / "checksums.npy", np.array([list(bytes.fromhex(text)) for text in sums], np.uint8))
    record = {
        "raydistill_arrays": FORMAT,
        "shape": list(shape),
        "dtype": dtype,
        "block_rows": count_block_rows(shape[1:], dtype),
        **told,
        "files": {name: _describe_file(folder / name) for name in (*FILES, *OPTIONAL) if (folder / name).exists()},
    }
    write_json(folder / "arrays.json", record)
    return record


def order_rows(catalogue: Catalogue, tally: Tally) -> tuple[Array, int]:
    """Records that are kept, those for training first; and how many these are."""
    kept = np.ones(len(catalogue.labels), bool)
    kept[list(tally.corrupt)] = False
    train, test = np.flatnonzero(kept & (catalogue.split != TEST)), np.flatnonzero(kept & (catalogue.split == TEST))
    return np.concatenate([train, test]), len(train)


def _write_optional(output: Path, catalogue: Catalogue, rows: Array, train: int) -> None:
    """Write what the catalogue knows of splits, and remove what an earlier attempt has left."""
    split, apart = catalogue.split[rows[:train]], catalogue.keep_apart
    found = {"split.npy": split if split.any() else None, "keep_apart.npy": None if apart is None else apart[rows]}
    for name, values in found.items():
        if values is None:
            remove(output / name)
        else:
            write_array(output / name, values)


def hash_blocks(blocks: Iterable[Block]) -> str:
    """Key of a whole ingest."""
    return hash_json([block.key for block in blocks])


def read_record(folder: Path) -> dict[str, Any]:
    """The finished mark of a folder. Raises DataError where there is none, or it is not ours."""
    try:
        record = read_json(folder / "arrays.json")
    except FileNotFoundError:
        begun = " yet; the same raydistill ingest goes on with it" if (folder / "work").is_dir() else ""
        raise DataError(f"data: {str(folder)!r} holds no finished ingest (no arrays.json){begun}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"data: {str(folder / 'arrays.json')!r} cannot be read ({error}); ingest again") from None
    if not isinstance(record, dict) or record.get("raydistill_arrays") != FORMAT or "files" not in record:
        raise DataError(f"data: {str(folder / 'arrays.json')!r} was not written by this raydistill; ingest again")
    return record


def check_arrays(folder: Path) -> dict[str, Any]:
    """Know a folder again: sizes of all files, and checksums of a few blocks. Returns its record. Raises DataError."""
    record = read_record(folder)
    for name in list_held(record):
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != record["files"][name]["bytes"]:
            raise DataError(
                f"data: {str(folder / name)!r} has {size} bytes instead of {record['files'][name]['bytes']};"
                " ingest again"
            )
    sums = _read_checksums(folder, record)
    verify_blocks(folder, record, sums, np.unique(np.linspace(0, len(sums) - 1, SAMPLE).astype(int)))
    return record


def list_held(record: dict[str, Any]) -> list[str]:
    """Names of a folder's files, x.npy first."""
    return [*FILES, *(name for name in OPTIONAL if name in record["files"])]


def identify_arrays(folder: Path) -> str:
    """Checksum of all that the folder holds, from those that were taken when it was written. Raises DataError."""
    record = check_arrays(folder)
    return hash_json([record["shape"], record["dtype"], record["files"]])


def open_arrays(
    folder: Path, on_done: Callable[[int, int], None] = lambda done, total: None, whole: bool = True
) -> Arrays:
    """Verify every byte, a block at a time, and map x. Raises DataError that names what has changed.

    whole: False for a folder that this process has just written, of which a few blocks are enough.
    """
    record = check_arrays(folder)
    for name in list_held(record)[1:]:
        if hash_file(folder / name) != record["files"][name]["sha256"]:
            raise DataError(f"data: {str(folder / name)!r} has changed since it was written; ingest again")
    sums = _read_checksums(folder, record)
    if whole:
        verify_blocks(folder, record, sums, range(len(sums)), on_done)
    x, y = map_array(folder / "x.npy"), map_array(folder / "y.npy")
    if list(x.shape) != record["shape"] or x.dtype != record["dtype"]:
        raise DataError(f"data: the header of {str(folder / 'x.npy')!r} has changed since it was written; ingest again")
    train = int(read_json(folder / "parts.json")["train"])
    split, apart = (read_array(folder / name) if name in record["files"] else None for name in OPTIONAL)
    names = read_json(folder / "classes.json")
    return Arrays(folder, x, y, names, train, read_form(record), split, apart, record)


def read_form(record: dict[str, Any]) -> ImageForm | None:
    """How a folder's images were decoded, or None where it holds vectors."""
    older = record["settings"].get("form") if len(record["shape"]) > 2 else None
    form = record.get("form", older)
    return None if form is None else ImageForm(**form)


def verify_blocks(
    folder: Path,
    record: dict[str, Any],
    sums: Array,
    blocks: Iterable[int],
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Compare blocks of x.npy with their checksums. Raises DataError for the first that differs."""
    total, *shape = record["shape"]
    rows = record["block_rows"]
    row_bytes = int(np.prod(shape)) * np.dtype(record["dtype"]).itemsize
    offset = record["files"]["x.npy"]["bytes"] - total * row_bytes
    with open(folder / "x.npy", "rb") as file:
        for block in blocks:
            file.seek(offset + int(block) * rows * row_bytes)
            data = file.read(min(rows, total - int(block) * rows) * row_bytes)
            if hashlib.sha256(data).digest() != sums[block].tobytes():
                raise DataError(
                    f"data: {str(folder / 'x.npy')!r} has changed since it was written, in rows {int(block) * rows} to"
                    f" {min((int(block) + 1) * rows, total) - 1}; ingest again"
                )
            on_done(min((int(block) + 1) * rows, total), total)


def _read_checksums(folder: Path, record: dict[str, Any]) -> Array:
    if hash_file(folder / "checksums.npy") != record["files"]["checksums.npy"]["sha256"]:
        raise DataError(f"data: {str(folder / 'checksums.npy')!r} has changed since it was written; ingest again")
    return map_array(folder / "checksums.npy")


def _copy_rows(work: Work, rows: Array, target: Path) -> Iterable[str]:
    """Copy rows of work/x.npy to the target; yields the checksum of each block there."""
    size = count_block_rows(work.shape, work.dtype)
    with write_rows(target, (len(rows), *work.shape), work.dtype) as append:
        for start in range(0, len(rows), size):
            x = np.load(Path(work.folder, "x.npy"), mmap_mode="r", allow_pickle=False)  # afresh: pages are let go
            block = x[rows[start : start + size]]
            append(block)
            yield hashlib.sha256(block.data).hexdigest()


def _describe_file(path: Path) -> dict[str, Any]:
    """Bytes, and the checksum but of x.npy, whose blocks have theirs."""
    size: dict[str, Any] = {"bytes": path.stat().st_size}
    return size if path.name == "x.npy" else {**size, "sha256": hash_file(path)}
