"""What is to be predicted, a block at a time: image files, or arrays that may be larger than memory.

Comes in: files, folders and globs. Goes out: `Block`s of examples in the model's type, with zeros and a reason where a
record cannot be used. Arrays of .npz and .npy files are read in a stream, and so are vectors of Parquet files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raydistill.data.catalogue import SUFFIXES
from raydistill.data.images import CorruptRecord
from raydistill.data.new_images import NewImages
from raydistill.deployment.answerer import Answerer, convert_rows
from raydistill.deployment.array_files import ARRAYS, ArrayFile, open_array, tell_damage
from raydistill.errors import DataError
from raydistill.storage.files import Array

BLOCK_ROWS, BLOCK_VALUES = 2048, 1 << 22
DECODERS = 8  # threads: Pillow lets go of Python's lock while it decodes


@dataclass(frozen=True)
class Block:
    """n consecutive records. x: (n, ...); files: (n,); rows: (n,) numbers in their file, None for images; problems."""

    x: Array
    files: Sequence[str]
    rows: Sequence[int] | None
    problems: dict[int, str]


@dataclass(frozen=True)
class Records:
    """All that was given. total: number of records; read: gives their blocks; of_images: else of arrays."""

    total: int
    of_images: bool
    read: Callable[[], Iterator[Block]]


def open_records(inputs: Sequence[str], answerer: Answerer, x_column: str | None = None) -> Records:
    """Find and check what is given. Raises DataError in one line that names it."""
    files = [file for given in inputs for file in find_files(given)]
    kinds = {file.suffix.lower() in ARRAYS for file in files}
    if len(kinds) > 1:
        raise DataError("input: images and arrays are given together; give one kind at a time")
    if kinds == {False}:
        if x_column is not None:
            raise DataError("x_column: images have no columns; leave it out")
        images = answerer.take_images()
        return Records(len(files), True, lambda: read_images(files, images))
    arrays = [open_array(file, answerer.input_shape, x_column) for file in files]
    return Records(sum(array.rows for array in arrays), False, lambda: read_arrays(arrays, answerer))


def find_files(given: str) -> list[Path]:
    """The files that an input stands for: itself, a folder's images (or else its arrays), what a glob matches."""
    path = Path(given).expanduser()
    if path.is_dir():
        found = _walk(path, SUFFIXES) or _walk(path, ARRAYS)
        if not found:
            raise DataError(
                f"input: {given!r} holds no images ({', '.join(SUFFIXES)}) and no {', '.join(ARRAYS)} files"
            )
        return found
    if path.exists():
        if path.suffix.lower() not in (*SUFFIXES, *ARRAYS):
            allowed = ", ".join((*ARRAYS, *SUFFIXES))
            raise DataError(f"input: {given!r} is of no known kind by its name; give files that end in {allowed}")
        return [path]
    matched = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  Path.glob takes no absolute pattern
    wanted = [Path(name) for name in matched if Path(name).suffix.lower() in (*SUFFIXES, *ARRAYS)]
    if not wanted:
        raise DataError(f"input: {given!r} does not exist; give files, a folder, or a glob such as 'photos/*.jpg'")
    return [file for file in wanted if file.is_file()]


def _walk(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(names) if name.lower().endswith(suffixes) and name[0] != "."]
    return found


def count_rows(shape: tuple[int, ...]) -> int:
    """Records of a block."""
    return max(1, min(BLOCK_ROWS, BLOCK_VALUES // max(1, int(np.prod(shape)))))


def read_images(files: Sequence[Path], images: NewImages) -> Iterator[Block]:
    """Decode files, several at a time; what cannot be decoded is a problem of its own."""

    def decode(path: Path) -> Array | str:
        try:
            return images.decode(path.read_bytes())
        except CorruptRecord as error:
            return str(error)
        except OSError as error:
            return error.strerror or "cannot be read"

    size = count_rows(images.shape)
    with ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), size):
            part = files[start : start + size]
            x, problems = np.zeros((len(part), *images.shape), images.dtype), {}
            for place, decoded in enumerate(pool.map(decode, part)):
                if isinstance(decoded, str):
                    problems[place] = decoded
                else:
                    x[place] = decoded
            yield Block(x, [str(path) for path in part], None, problems)


def read_arrays(arrays: Sequence[ArrayFile], answerer: Answerer) -> Iterator[Block]:
    """Blocks of all files. Raises DataError where no example at all can be used, or a file is cut short."""
    used, problem = 0, ""
    for array in arrays:
        row = 0
        with tell_damage(array.path):
            for values, broken in array.read(count_rows(answerer.input_shape)):
                x, problems = convert_rows(values, answerer.dtype)
                problems |= broken
                names, rows = [str(array.path)] * len(x), range(row, row + len(x))
                used, row = used + len(x) - len(problems), row + len(x)
                problem = problem or next(iter(problems.values()), "")
                yield Block(x, names, rows, problems)
    if not used:
        raise DataError(f"input: no example of {str(arrays[0].path)!r} can be used: each {problem}")
