"""What a table says of its records beside the inputs: labels, splits, and what must stay together.

Comes in: those columns of Parquet files or of a Hugging Face dataset, part by part. Goes out: a `Catalogue`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.data.catalogue import Catalogue, Columns, Reader
from raydistill.data.columns import Part, Values, name_row
from raydistill.data.ingest_errors import IngestError, Setting
from raydistill.data.labels import check_classes, index_labels
from raydistill.data.splits import FIT, SPLIT_NAMES, check_apart, number_splits
from raydistill.errors import DataError
from raydistill.storage.files import Array


def list_read(columns: Columns) -> list[str]:
    """Names of the columns that are read whole, before anything is decoded; each once."""
    named = (columns.label, columns.split, columns.keep_apart)
    return list(dict.fromkeys(name for name in named if name is not None))


def make_catalogue(
    reader: Reader,
    parts: Sequence[Part],
    values: Values,
    tables: Mapping[str, pa.Table],
    columns: Columns,
    class_names: list[str] | None,
    identity: Any,
    left_out: list[str],
) -> Catalogue:
    """The catalogue of a table.

    tables: by part of the source, train first, with the columns of `list_read`. class_names: where the source has them.
    Raises DataError for labels, splits and classes that cannot be used.
    """
    label = str(columns.label)
    indices, names = index_columns({part: table[label] for part, table in tables.items()}, class_names, label)
    labels, split = np.concatenate(list(indices.values())), _find_split(tables, columns.split)
    check_classes(labels[(split == FIT) & (labels >= 0)], names)
    return Catalogue(
        reader,
        labels,
        names,
        split,
        values.form,
        values.shape,
        values.dtype,
        identity,
        partial(name_row, parts),
        left_out=left_out,
        keep_apart=_find_apart(tables, columns.keep_apart, split),
    )


def index_columns(
    labels: Mapping[str, pa.ChunkedArray], class_names: list[str] | None, where: str
) -> tuple[dict[str, Array], list[str]]:
    """Class numbers of each part's labels, -1 for null, and the class names, which the first part decides."""
    indices = {}
    for part, column in labels.items():
        indices[part], class_names = _index_column(column, class_names, f"{where} of {part}")
    return indices, class_names or []


def _index_column(column: pa.ChunkedArray, names: list[str] | None, where: str) -> tuple[Array, list[str]]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    indices = np.full(len(column), -1, np.int64)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        encoded = column.dictionary_encode().combine_chunks()  # N codes, and each text once
        places, names = index_labels(np.array(encoded.dictionary.to_pylist(), dtype=str), names, where)
        codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        indices[codes >= 0] = places[codes[codes >= 0]]
    else:
        known = pc.is_valid(column).to_numpy()
        indices[known], names = index_labels(pc.drop_null(column).to_numpy(), names, where)
    return indices, names


def _find_split(tables: Mapping[str, pa.Table], column: str | None) -> Array:
    """Split of each record, (N,): what a column says of it, or the part where it lies."""
    if column is None:
        given = [np.full(len(table), SPLIT_NAMES[part], np.int8) for part, table in tables.items()]
        return np.concatenate(given)
    with _blame("splits.column"):
        codes, values = _encode(tables, column)
        if not all(value is None or isinstance(value, str) for value in values):
            raise DataError(f"{column!r} holds {values[0]!r}; give text: {', '.join(SPLIT_NAMES)}")
        return number_splits(values, repr(column))[codes]


def _find_apart(tables: Mapping[str, pa.Table], column: str | None, split: Array) -> Array | None:
    """Numbers for the values of a column, (N,); records without a value have one together."""
    if column is None:
        return None
    with _blame("splits.keep_apart"):
        codes, values = _encode(tables, column)
        check_apart(np.array([str(value) for value in values])[codes], split, repr(column))
    return codes


@contextmanager
def _blame(setting: Setting) -> Iterator[None]:
    """What is wrong within is this setting's."""
    try:
        yield
    except DataError as error:
        raise IngestError(setting, str(error)) from None


def _encode(tables: Mapping[str, pa.Table], column: str) -> tuple[Array, list[Any]]:
    """A column over all parts as numbers (N,) of its distinct values, and these; null is one of them."""
    chunks = [chunk for table in tables.values() for chunk in table[column].chunks]
    whole = pa.chunked_array(chunks, next(iter(tables.values()))[column].type)
    if pa.types.is_dictionary(whole.type):
        whole = whole.cast(whole.type.value_type)
    try:
        encoded = whole.combine_chunks().dictionary_encode(null_encoding="encode")
    except pa.ArrowNotImplementedError:
        raise DataError(f"{column!r} is of type {whole.type}; give text or numbers") from None
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()
