"""A column of encoded images or of vectors, and a column of labels, as Apache Arrow holds them.

Comes in: Arrow arrays of Parquet files (parquet.py) or of a Hugging Face dataset (hugging_face.py). Goes out: examples
and class numbers. Only bytes and numbers are read: a path that a record names is not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.data.catalogue import PARTS, Catalogue, Reader
from raydistill.data.images import CorruptRecord, ImageForm, decode_image
from raydistill.data.labels import check_classes, index_labels
from raydistill.errors import DataError
from raydistill.files import Array

LABEL_COLUMNS = ("label", "labels", "class", "target", "y")


class Take(Protocol):
    """Arrow arrays that hold rows start to stop - 1 of a column, in order."""

    def __call__(self, start: int, stop: int) -> Iterator[pa.Array]:
        """Read them."""


@dataclass(frozen=True)
class Part:
    """A file or split of a source. first: number of its first row among all rows of the source."""

    path: str
    name: str
    first: int
    rows: int


@dataclass(frozen=True)
class Values:
    """What a column holds: images of a form, or vectors of so many numbers of a type."""

    column: str
    form: ImageForm | None
    width: int = 0
    dtype: str = "uint8"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example."""
        return (self.width,) if self.form is None else self.form.shape


@dataclass(frozen=True)
class TableRows:
    """Open rows of a column. parts: files and where they begin, for names."""

    take: Take
    values: Values
    parts: Sequence[Part]

    def fill(self, start: int, names: Sequence[str], out: Array) -> dict[int, tuple[str, str]]:
        """See `Rows`."""
        problems: dict[int, str] = {}
        place = 0
        for array in self.take(start, start + len(out)):
            here = out[place : place + len(array)]
            found = self._fill_images(array, here) if self.values.form else fill_vectors(array, here)
            problems |= {place + offset: reason for offset, reason in found.items()}
            place += len(array)
        return {place: (name_row(self.parts, start + place), reason) for place, reason in problems.items()}

    def _fill_images(self, array: pa.Array, out: Array) -> dict[int, str]:
        assert self.values.form is not None
        problems = {}
        data = pc.struct_field(array, "bytes") if pa.types.is_struct(array.type) else array
        for place, value in enumerate(data):
            try:
                if not value.is_valid:
                    raise CorruptRecord("no bytes")
                out[place] = decode_image(value.as_py(), self.values.form)
            except CorruptRecord as error:
                out[place] = 0
                problems[place] = str(error)
        return problems


def make_catalogue(
    reader: Reader,
    parts: Sequence[Part],
    values: Values,
    labels: Mapping[str, Array],
    class_names: list[str],
    identity: Any,
    left_out: list[str],
) -> Catalogue:
    """The catalogue of a table. labels: by part, -1 where there is none. Raises DataError for unusable classes."""
    check_classes(labels["train"][labels["train"] >= 0], class_names)
    everything = np.concatenate([labels[part] for part in PARTS if part in labels])
    train = len(labels["train"])
    shape, dtype = values.shape, values.dtype
    called = partial(name_row, parts)
    return Catalogue(reader, everything, class_names, train, shape, dtype, identity, called, left_out=left_out)


def choose_columns(schema: pa.Schema, x_column: str | None, label_column: str | None) -> tuple[str, str]:
    """Names of the columns of inputs and labels, where they are given or there is only one choice."""
    for option, name in (("x_column", x_column), ("label_column", label_column)):
        if name is not None and name not in schema.names:
            raise DataError(f"{option}: {name!r} is no column of the source; it has {', '.join(schema.names)}")
    choices = [name for name in LABEL_COLUMNS if name in schema.names and name != x_column]
    if label_column is None and len(choices) != 1:
        raise DataError(f"label_column: cannot be told among {', '.join(schema.names)}; name it with --label-column")
    label_column = label_column or choices[0]
    usable = [field.name for field in schema if field.name != label_column and _kind(field.type) is not None]
    if x_column is None and len(usable) != 1:
        raise DataError(
            f"x_column: cannot be told among {', '.join(schema.names)}; name the column of encoded images or of vectors"
            " with --x-column"
        )
    return x_column or usable[0], label_column


def describe_values(schema: pa.Schema, column: str, form: ImageForm, first: Any) -> Values:
    """What the column holds. first: its first value that is not null. Raises DataError for other types."""
    kind = schema.field(column).type
    if _kind(kind) == "images":
        return Values(column, form)
    if _kind(kind) != "vectors":
        raise DataError(f"x_column: {column!r} is of type {kind}; give encoded images (bytes), or lists of numbers")
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else len(first or ())
    if width == 0:
        raise DataError(f"x_column: {column!r} begins with an empty vector; give vectors of one length, 1 or more")
    return Values(column, None, width, "uint8" if kind.value_type == pa.uint8() else "float32")


def fill_vectors(array: pa.Array, out: Array) -> dict[int, str]:
    """Fill out (n, width) with lists of numbers; zeros where one is corrupt. Returns the reasons by place."""
    width = out.shape[1]
    lengths = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
    whole = lengths == width
    numbers = array.filter(pa.array(whole)).flatten()
    holes = pc.is_null(numbers).to_numpy(zero_copy_only=False).reshape(-1, width)
    with np.errstate(over="ignore"):
        vectors = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False).reshape(-1, width).astype(out.dtype)
    good = ~holes.any(axis=1) & np.isfinite(vectors).all(axis=1)
    vectors[~good] = 0
    out[:] = 0
    out[whole] = vectors
    problems = {int(place): f"{max(0, lengths[place])} numbers instead of {width}" for place in np.flatnonzero(~whole)}
    spoilt = np.flatnonzero(whole)[~good]
    return problems | {int(place): "nothing, NaN, infinity, or beyond the range of float32" for place in spoilt}


def index_columns(
    labels: Mapping[str, pa.ChunkedArray], class_names: list[str] | None, where: str
) -> tuple[dict[str, Array], list[str]]:
    """Class numbers of each part's labels, -1 for null, and the class names, which the training part decides."""
    indices = {}
    for part in (part for part in PARTS if part in labels):
        indices[part], class_names = _index_column(labels[part], class_names, f"{where} of {part}")
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


def name_row(parts: Sequence[Part], row: int) -> str:
    """File and row in it, for people."""
    part = next(part for part in parts if part.first <= row < part.first + part.rows)
    return f"{part.name} row {row - part.first}"


def holds_vectors(kind: pa.DataType) -> bool:
    """Whether a column's type is a list of numbers."""
    return _kind(kind) == "vectors"


def _kind(kind: pa.DataType) -> str | None:
    """Images, vectors, or neither."""
    if pa.types.is_struct(kind):
        inner = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else pa.null()
        return "images" if pa.types.is_binary(inner) or pa.types.is_large_binary(inner) else None
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "images"
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    numbers = any(test(kind) for test in lists) and (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    )
    return "vectors" if numbers else None
