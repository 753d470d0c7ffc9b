"""Parquet files as a source of `raydistill ingest`.

Comes in: a file, or a folder of files (parquet_files.py). Goes out: a `Catalogue`, in the order of the files' names and
of their rows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.data.catalogue import Catalogue, Columns, Rows
from raydistill.data.columns import Part, TableRows, Values, choose_columns, count_sample, describe_values
from raydistill.data.images import FormWish, ImageForm
from raydistill.data.ingest_errors import IngestError
from raydistill.data.parquet_files import find_files, open_file
from raydistill.data.table import list_read, make_catalogue
from raydistill.errors import RaydistillError
from raydistill.storage.job import is_uri
from raydistill.storage.mirror import describe

BATCH_ROWS = 64  # read at once: of large photographs, some 30 MB
STREAM_BYTES = 1 << 20


@dataclass(frozen=True)
class ParquetReader:
    """Opens Parquet files."""

    parts: tuple[Part, ...]
    values: Values

    @contextlib.contextmanager
    def open(self) -> Iterator[Rows]:
        """Open for reading."""
        yield TableRows(_ParquetColumn(self.parts, self.values.column).take, self.values, self.parts)


class _ParquetColumn:
    """A column over all files, read in a stream: rows that follow those before cost no second reading."""

    def __init__(self, parts: Sequence[Part], column: str) -> None:
        self._parts, self._column = parts, column
        self._next, self._rest = -1, pa.array([])
        self._stream: Iterator[pa.Array] = iter(())

    def take(self, start: int, stop: int) -> Iterator[pa.Array]:
        if start != self._next:
            self._rest, self._stream = pa.array([]), self._read_from(start)
        missing, self._next = stop - start, stop
        while missing:
            if len(self._rest) == 0:
                self._rest = next(self._stream)
            taken = self._rest.slice(0, missing)
            self._rest = self._rest.slice(len(taken))
            missing -= len(taken)
            yield taken

    def _read_from(self, start: int) -> Iterator[pa.Array]:
        """Arrays from row `start` on; row groups before it are not read."""
        for part in self._parts:
            if part.first + part.rows > start:
                with _told(part), open_file(part.path, buffer_size=STREAM_BYTES) as file:
                    yield from self._read_file(file, part.first, start)

    def _read_file(self, file: pq.ParquetFile, at: int, start: int) -> Iterator[pa.Array]:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if at + rows <= start:
                at += rows
                continue
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[self._column], use_threads=False):
                if at + len(batch) > start:
                    yield batch.column(0).slice(max(0, start - at))
                at += len(batch)


def list_parquet(source: str, wish: FormWish | ImageForm, columns: Columns) -> Catalogue:
    """Rows of one file, or of a folder's files in the order of their names; parts by the names of files and folders.

    source: a path, or a URI of an object store. Raises DataError for unreadable files, columns that cannot be told or
    used, and labels that do not fit.
    """
    by_part, beside = find_files(source)
    parts: list[Part] = []
    identity: list[list[Any]] = []
    tables: dict[str, pa.Table] = {}
    schema: pa.Schema = None
    for part, files in by_part.items():
        read = []
        for found in files:
            entry = Part(found.path, found.name, parts[-1].first + parts[-1].rows if parts else 0, 0)
            with _told(entry), open_file(found.path) as file:
                if schema is None:
                    schema = file.schema_arrow
                    columns = choose_columns(schema, columns)
                    x = str(columns.x)
                    sample = _first_values(file, x, count_sample(schema, x, wish))
                    values = describe_values(schema, x, wish, sample)
                _check_alike(entry, file.schema_arrow, schema, [x, *list_read(columns)])
                read.append(file.read(list_read(columns)))
                parts.append(replace(entry, rows=file.metadata.num_rows))
                identity.append([entry.name, parts[-1].rows, *found.state])
        tables[part] = pa.concat_tables(read)
    names = _read_class_names(schema, str(columns.label))
    reader = ParquetReader(tuple(parts), values)
    return make_catalogue(reader, parts, values, tables, columns, names, identity, beside)


def _first_values(file: pq.ParquetFile, column: str, count: int) -> list[Any]:
    """The first values that are not null."""
    batches = file.iter_batches(BATCH_ROWS, columns=[column]) if count else ()
    known = (value.as_py() for batch in batches for value in batch.column(0) if value.is_valid)
    return list(itertools.islice(known, count))


def _check_alike(part: Part, schema: pa.Schema, first: pa.Schema, columns: Sequence[str]) -> None:
    for name in columns:
        index = schema.get_field_index(name)
        if index < 0 or schema.field(index).type != first.field(name).type:
            has = "no such column" if index < 0 else f"type {schema.field(index).type}"
            raise IngestError(
                "source",
                f"column {name!r} of {part.name!r} differs from the first file's ({has}, not"
                f" {first.field(name).type}); give all files the same columns",
            )


def _read_class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Names that the datasets library has left in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


@contextlib.contextmanager
def _told(part: Part) -> Iterator[None]:
    """A damaged file, or a store that does not answer, as one line."""
    try:
        yield
    except RaydistillError:
        raise
    except Exception as error:  # every store has errors of its own
        if not is_uri(part.path) and not isinstance(error, OSError | pa.ArrowException):
            raise
        remedy = "run the same command again, or mend" if is_uri(part.path) else "mend"
        raise IngestError(
            "source", f"{part.name!r} cannot be read ({describe(error)}); {remedy} or remove the file"
        ) from error
