"""A column of encoded images or of vectors, as Apache Arrow holds it; and which columns of a table are what.

Comes in: Arrow arrays of Parquet files (parquet.py) or of a Hugging Face dataset (hugging_face.py). Goes out: examples.
Only bytes and numbers are read: a path that a record names is not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.data.catalogue import Columns
from raydistill.data.images import (
    SAMPLED,
    CorruptRecord,
    FormWish,
    ImageForm,
    decode_image,
    peek_images,
    settle_form,
)
from raydistill.data.ingest_errors import IngestError, Setting
from raydistill.storage.files import Array

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


def choose_columns(schema: pa.Schema, columns: Columns) -> Columns:
    """The columns with those of inputs and labels, which are given or the only choice. Raises DataError."""
    _check_named(schema, columns)
    taken = {columns.x, columns.split, columns.keep_apart}
    choices = [name for name in LABEL_COLUMNS if name in schema.names and name not in taken]
    if columns.label is None and len(choices) != 1:
        told = f"cannot be told among {', '.join(schema.names)}; name it with"
        raise IngestError("label_column", told, flag="label_column")
    label = columns.label or choices[0]
    taken |= {label}
    usable = [field.name for field in schema if field.name not in taken and _kind(field.type) is not None]
    if columns.x is None and len(usable) != 1:
        told = f"cannot be told among {', '.join(schema.names)}; name the column of encoded images or of vectors with"
        raise IngestError("x_column", told, flag="x_column")
    return replace(columns, x=columns.x or usable[0], label=label)


def _check_named(schema: pa.Schema, columns: Columns) -> None:
    """Raise IngestError for columns that the table does not have."""
    given: dict[Setting, str | None] = {
        "x_column": columns.x,
        "label_column": columns.label,
        "splits.column": columns.split,
        "splits.keep_apart": columns.keep_apart,
    }
    for setting, name in given.items():
        if name is not None and name not in schema.names:
            raise IngestError(setting, f"{name!r} is no column of the source; it has {', '.join(schema.names)}")


def count_sample(schema: pa.Schema, column: str, wish: FormWish | ImageForm) -> int:
    """How many values `describe_values` wants to see."""
    if holds_vectors(schema.field(column).type):
        return 1
    return 0 if isinstance(wish, ImageForm) else SAMPLED


def describe_values(schema: pa.Schema, column: str, wish: FormWish | ImageForm, sample: Sequence[Any]) -> Values:
    """What the column holds. sample: its first values that are not null. Raises DataError for other types."""
    kind = schema.field(column).type
    if _kind(kind) == "images":
        encoded = (value["bytes"] if isinstance(value, dict) else value for value in sample)
        return Values(column, settle_form(wish, peek_images(encoded)))
    if _kind(kind) != "vectors":
        raise IngestError("x_column", f"{column!r} is of type {kind}; give encoded images (bytes), or lists of numbers")
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else len(sample[0]) if sample else 0
    if width == 0:
        raise IngestError("x_column", f"{column!r} begins with an empty vector; give vectors of one length, 1 or more")
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
