"""What is to be predicted, a block at a time: image files, or arrays that may be larger than memory.

Comes in: files, folders and globs. Goes out: `Block`s of examples in the model's type, with zeros and a reason where a
record cannot be used. Arrays of .npz and .npy files are read in a stream, and so are vectors of Parquet files.
"""

from __future__ import annotations

import contextlib
import glob
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.answerer import Answerer, convert_rows
from raydistill.data.catalogue import SUFFIXES
from raydistill.data.columns import fill_vectors, holds_vectors
from raydistill.data.images import CorruptRecord
from raydistill.data.new_images import NewImages
from raydistill.errors import DataError, describe_in_line
from raydistill.files import Array

ARRAYS = (".npz", ".npy", ".parquet")
BLOCK_ROWS, BLOCK_VALUES = 2048, 1 << 22
DECODERS = 8  # threads: Pillow lets go of Python's lock while it decodes
READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, pa.ArrowException)


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


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file. rows: examples; read: (examples a block) -> blocks of them, with problems by place."""

    path: Path
    rows: int
    read: Callable[[int], Iterator[tuple[Array, dict[int, str]]]]


def read_arrays(arrays: Sequence[ArrayFile], answerer: Answerer) -> Iterator[Block]:
    """Blocks of all files. Raises DataError where no example at all can be used, or a file is cut short."""
    used, problem = 0, ""
    for array in arrays:
        row = 0
        with _told(array.path):
            for values, broken in array.read(count_rows(answerer.input_shape)):
                x, problems = convert_rows(values, answerer.dtype)
                problems |= broken
                names, rows = [str(array.path)] * len(x), range(row, row + len(x))
                used, row = used + len(x) - len(problems), row + len(x)
                problem = problem or next(iter(problems.values()), "")
                yield Block(x, names, rows, problems)
    if not used:
        raise DataError(f"input: no example of {str(arrays[0].path)!r} can be used: each {problem}")


def open_array(path: Path, shape: tuple[int, ...], x_column: str | None) -> ArrayFile:
    """Look at the header of a file. Raises DataError if it is damaged, or does not fit the training's examples."""
    suffix = path.suffix.lower()
    if suffix != ".parquet" and x_column is not None:
        raise DataError(f"x_column: {str(path)!r} has no columns; leave it out")
    with _told(path):
        if suffix == ".parquet":
            return _open_parquet(path, shape, x_column)
        if suffix == ".npz":
            return _open_npz(path, shape)
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        _check(path, mapped.shape, mapped.dtype, shape)
        return ArrayFile(path, len(mapped), lambda size: _slice_npy(path, len(mapped), size))


def _slice_npy(path: Path, rows: int, size: int) -> Iterator[tuple[Array, dict[int, str]]]:
    for start in range(0, rows, size):
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # afresh: pages are let go
        yield np.array(mapped[start : start + size]), {}


def _open_npz(path: Path, shape: tuple[int, ...]) -> ArrayFile:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        name = next((name for name in ("x", "x_test", *names) if name in names), None)
        if name is None:
            _check(path, (0,), np.dtype(float), shape)
        with archive.open(f"{name}.npy") as stream:
            found, fortran, dtype = _read_header(stream)
    _check(path, found, dtype, shape)
    if fortran and len(found) > 1:  # rare: rows do not follow each other
        return ArrayFile(path, found[0], lambda size: _split_whole(path, str(name), size))
    return ArrayFile(path, found[0], lambda size: _stream_npz(path, str(name), size))


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    return shape, fortran, dtype


def _stream_npz(path: Path, name: str, size: int) -> Iterator[tuple[Array, dict[int, str]]]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        (rows, *rest), _, dtype = _read_header(stream)
        for start in range(0, rows, size):
            count = min(size, rows - start)
            data = stream.read(count * int(np.prod(rest)) * dtype.itemsize)
            yield np.frombuffer(data, dtype).reshape(count, *rest), {}


def _split_whole(path: Path, name: str, size: int) -> Iterator[tuple[Array, dict[int, str]]]:
    with np.load(path, allow_pickle=False) as file:
        x = file[name]
    for start in range(0, len(x), size):
        yield x[start : start + size], {}


def _open_parquet(path: Path, shape: tuple[int, ...], x_column: str | None) -> ArrayFile:
    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    vectors = [field.name for field in schema if holds_vectors(field.type)]
    if x_column is None and len(vectors) != 1:
        raise DataError(f"x_column: cannot be told among {', '.join(schema.names)}; name the column of vectors")
    column = x_column or vectors[0]
    if column not in vectors:
        raise DataError(
            f"x_column: {column!r} is no column of vectors in {str(path)!r}; it has {', '.join(vectors) or 'none'}"
        )
    width = int(np.prod(shape))
    kind = schema.field(column).type
    if rows == 0 or (pa.types.is_fixed_size_list(kind) and kind.list_size != width):
        raise DataError(f"input: {str(path)!r} holds {rows} vectors of type {kind}; give vectors of {width} numbers")
    return ArrayFile(path, rows, lambda size: _stream_parquet(path, column, shape, size))


def _stream_parquet(
    path: Path, column: str, shape: tuple[int, ...], size: int
) -> Iterator[tuple[Array, dict[int, str]]]:
    with pq.ParquetFile(path, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(size, columns=[column], use_threads=False):
            array = batch.column(0)
            floats = pa.types.is_floating(array.type.value_type)
            out = np.zeros((len(array), int(np.prod(shape))), np.float32 if floats else np.int64)
            problems = fill_vectors(array, out)
            yield out.reshape(-1, *shape), problems


def _check(path: Path, found: tuple[int, ...], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if found[1:] != shape or found[0] == 0:
        raise DataError(f"input: {str(path)!r} holds shape {found}; give (examples, {', '.join(map(str, shape))})")
    if dtype.kind not in "iuf":
        raise DataError(f"input: {str(path)!r} holds type {dtype}; give integers or floats")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """A damaged file as one line."""
    try:
        yield
    except READ_ERRORS as error:
        kind = path.suffix.lower().removeprefix(".")
        raise DataError(
            f"input: {str(path)!r} is not a readable .{kind} file without pickles ({describe_in_line(error)})"
        ) from None
