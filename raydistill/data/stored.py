"""Python's data as a folder of arrays: written once, named by its content, the same form as an ingest's.

Comes in: `Given`, and the folder for all such data of a run. Goes out: the --data string `arrays:…/HASH`. The same
content has the same name, so that a run that is started again with it goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from raydistill.data.ingest import count_block_rows
from raydistill.data.ingested import check_arrays, finish_folder, identify_arrays, read_record
from raydistill.data.labels import check_classes, index_labels
from raydistill.data.objects import Blocks, Given, read_object
from raydistill.errors import DataError, DiskFullError
from raydistill.storage.files import FULL, Array, describe_full, hash_json, write_array, write_json

NAME_DIGITS = 16


def give_data(data: Any, folder: Path) -> str:
    """Write Python's data below the folder, unless it is there. Returns the --data string.

    Raises DataError for what cannot be used, DiskFullError where there is no room.
    """
    given = read_object(data)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{uuid.uuid4().hex[:8]}"
    try:
        with _told_when_full(aside):
            aside.mkdir()
            name = hash_json([write_given(given, aside), read_labels_kind(aside)])[:NAME_DIGITS]
        if not is_whole(folder / name):
            shutil.rmtree(folder / name, ignore_errors=True)
            aside.rename(folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return f"arrays:{folder / name}"


def is_whole(folder: Path) -> bool:
    """Whether the folder is there and its files are as they were written."""
    try:
        check_arrays(folder)
    except DataError:
        return False
    return True


def write_given(given: Given, folder: Path) -> str:
    """Write all files of the folder. Returns the hash of their content."""
    parts = [given.train] if given.test is None else [given.train, given.test]
    labels: list[Array] = []
    with open(folder / "x.npy", "wb") as file:
        shape, kind, sums = write_examples(file, (_note_labels(part, labels) for part in parts))
    y, names = name_labels(labels, given.class_names)
    write_array(folder / "y.npy", np.concatenate(y))
    write_json(folder / "classes.json", names)
    write_json(folder / "parts.json", {"train": len(y[0]), "test": len(y[1]) if len(y) > 1 else 0})
    write_json(folder / "corrupt.json", [])
    settings = {"source": "Python", "labels": kind_of_labels(labels[0], given.class_names)}
    finish_folder(folder, sums, shape, kind, key="", corrupt=0, left_out=[], settings=settings, form=None)
    return identify_arrays(folder)


def kind_of_labels(labels: Array, class_names: list[str] | None) -> str:
    """Whether labels were given as numbers alone, or as text or numbers with names: predictions are of that kind."""
    return "numbers" if class_names is None and labels.dtype.kind in "iu" else "text"


def read_labels_kind(folder: Path) -> str | None:
    """What `kind_of_labels` said of a folder's labels; None of one that was not made of Python's data, or is gone."""
    try:
        settings = read_record(folder)["settings"]
    except (DataError, KeyError):
        return None
    kind = settings.get("labels") if isinstance(settings, dict) else None
    return kind if isinstance(kind, str) else None


def name_labels(labels: list[Array], class_names: list[str] | None) -> tuple[list[Array], list[str]]:
    """Labels of the training part, and perhaps of the test part, as class numbers; and the names of the classes."""
    train, names = index_labels(labels[0], class_names, "y_train")
    check_classes(train, names)
    if len(labels) == 1:
        return [train], names
    if (labels[0].dtype.kind == "U") != (labels[1].dtype.kind == "U"):
        raise DataError(
            f"y_test: type {labels[1].dtype}, but y_train's is {labels[0].dtype}; give both integers or text"
        )
    return [train, index_labels(labels[1], names, "y_test")[0]], names


def write_examples(file: IO[bytes], parts: Iterable[Iterator[Array]]) -> tuple[tuple[int, ...], str, list[str]]:
    """Write examples as an .npy file whose length is known at its end. Returns shape, type and blocks' checksums."""
    blocks = Checked(file)
    for part in parts:
        for x in part:
            blocks.append(x)
    return blocks.finish()


class Checked:
    """An .npy file that grows, and the checksum of each of its blocks, which are cut as those of an ingest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._rows = file, 0
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] | None = None
        self._sums: list[str] = []
        self._hash, self._left = hashlib.sha256(), 0

    def append(self, x: Array) -> None:
        """Write examples (n, ...). Raises DataError where shape or type are not those of the first ones."""
        if self._dtype is None:
            self._begin(x)
        assert self._dtype is not None
        if x.shape[1:] != self._shape:
            raise DataError(
                f"x: example {self._rows} has shape {x.shape[1:]}, the first has {self._shape}; give all the same shape"
            )
        if choose_type(x.dtype) != self._dtype and not np.can_cast(x.dtype, self._dtype):
            raise DataError(
                f"x: example {self._rows} has type {x.dtype}, the first are {self._dtype}; give all the same type"
            )
        with np.errstate(over="ignore"):  # infinity is refused with the example's number when the run begins
            stored = np.ascontiguousarray(x, dtype=self._dtype)
        self._file.write(stored.data)
        self._rows += len(stored)
        self._sum(stored)

    def finish(self) -> tuple[tuple[int, ...], str, list[str]]:
        """Write the header, with the number of examples. Returns shape, type and checksums."""
        if self._dtype is None:
            raise DataError("x: there are no examples; give some for each class")
        if self._left < self._size:
            self._sums.append(self._hash.hexdigest())
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        return (self._rows, *self._shape), str(self._dtype), self._sums

    def _begin(self, x: Array) -> None:
        self._shape, self._dtype = x.shape[1:], choose_type(x.dtype)
        if not self._shape or 0 in self._shape:
            raise DataError(f"x: examples have shape {self._shape}; give at least one number for each")
        self._size = self._left = count_block_rows(self._shape, str(self._dtype))
        self._write_header()

    def _write_header(self) -> None:
        """NumPy leaves room in a header for a number of rows that grows, so that its length stays."""
        assert self._dtype is not None
        self._file.seek(0)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self._rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def _sum(self, x: Array) -> None:
        start = 0
        while start < len(x):
            part = x[start : start + self._left]
            self._hash.update(part.data)
            self._left -= len(part)
            start += len(part)
            if self._left == 0:
                self._sums.append(self._hash.hexdigest())
                self._hash, self._left = hashlib.sha256(), self._size


def choose_type(came: np.dtype[Any]) -> np.dtype[Any]:
    """Type in which examples are stored: floats as float32; integers as they came, or larger where torch lacks them.

    Raises DataError for anything but numbers.
    """
    if came.kind not in "iuf" or came.itemsize > 8:
        raise DataError(f"x: type {came}; give integers or floats of at most 64 bits")
    if came.kind == "f":
        return np.dtype(np.float32)
    if came.kind == "u" and came.itemsize > 1:
        return np.dtype(np.int32 if came.itemsize == 2 else np.int64)
    return came.newbyteorder("=")


def _note_labels(part: Blocks, labels: list[Array]) -> Iterator[Array]:
    """The part's examples; its labels are added to the list when all have been read."""
    found = []
    for x, y in part():
        found.append(y)
        yield x
    labels.append(np.concatenate(found) if found else np.empty(0, np.int64))


@contextlib.contextmanager
def _told_when_full(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(describe_full(folder / "x.npy", error)) from error
        raise
