"""Arrays in files, read in a stream: .npz and .npy as numpy writes them, and vectors of a Parquet file.

Comes in: a file, the shape of an example. Goes out: an `ArrayFile`. No more than a block is in memory at once, except
of arrays in Fortran order, whose examples do not follow each other.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.data.columns import fill_vectors, holds_vectors
from raydistill.errors import DataError, describe_in_line
from raydistill.storage.files import Array

ARRAYS = (".npz", ".npy", ".parquet")
READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, pa.ArrowException)


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file. rows: examples; read: (examples a block) -> blocks of them, with problems by place."""

    path: Path
    rows: int
    read: Callable[[int], Iterator[tuple[Array, dict[int, str]]]]


def open_array(path: Path, shape: tuple[int, ...], x_column: str | None) -> ArrayFile:
    """Look at the header of a file. Raises DataError if it is damaged, or does not fit the training's examples."""
    suffix = path.suffix.lower()
    if suffix != ".parquet" and x_column is not None:
        raise DataError(f"x_column: {str(path)!r} has no columns; leave it out")
    with tell_damage(path):
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
def tell_damage(path: Path) -> Iterator[None]:
    """A damaged file as one line."""
    try:
        yield
    except READ_ERRORS as error:
        kind = path.suffix.lower().removeprefix(".")
        raise DataError(
            f"input: {str(path)!r} is not a readable .{kind} file without pickles ({describe_in_line(error)})"
        ) from None
