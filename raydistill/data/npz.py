"""A .npz file as a source.

Comes in: a file with x_train, y_train and perhaps others of PARTS, and the names of more arrays that are wanted. Goes
out: a `Source`, or a `DataError` of one line.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raydistill.data.examples import Source
from raydistill.data.given import take_splits
from raydistill.data.labels import index_labels, list_names
from raydistill.errors import DataError, describe_in_line
from raydistill.storage.files import Array

PARTS = ("x_train", "y_train", "x_test", "y_test", "class_names", "x_unlabeled")  # arrays that raydistill knows
READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


def check_npz(name: str) -> None:
    """Refuse a path that is no file, or none that can be read, before anything starts. Raises DataError."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"data: {name!r} does not exist or is not a file; give the path of a .npz file")
    if path.stat().st_size == 0:
        raise DataError(f"data: {name!r} is empty; give a .npz file with x_train and y_train")
    if not os.access(path, os.R_OK):
        raise DataError(f"data: {name!r} is not readable by this user; change its permissions or give another file")


def read_npz(path: Path, keep_apart: str | None, column: str | None) -> Source:
    """The arrays of a file. keep_apart, column: the two of splits, names of arrays or None. Raises DataError."""
    arrays = _read_arrays(path, [name for name in (keep_apart, column) if name is not None])
    names, labels, test_labels = arrays.get("class_names"), arrays["y_train"], arrays.get("y_test")
    y_train, class_names = index_labels(labels, None if names is None else list_names(names), "y_train")
    if test_labels is not None and (test_labels.dtype.kind in "US") != (labels.dtype.kind in "US"):
        raise DataError(
            f"y_test: type {test_labels.dtype}, but y_train's is {labels.dtype}; give both integers or text"
        )
    source = Source(
        x_train=arrays["x_train"],
        y_train=y_train,
        class_names=class_names,
        x_test=arrays.get("x_test"),
        y_test=None if test_labels is None else index_labels(test_labels, class_names, "y_test")[0],
        keep_apart=arrays[keep_apart] if keep_apart else None,
        x_unlabeled=arrays.get("x_unlabeled"),
    )
    return source if column is None else take_splits(source, arrays[column], column, keep_apart)


def _read_arrays(path: Path, named: Sequence[str]) -> dict[str, Array]:
    """The arrays of a .npz file that raydistill knows, and those named. Raises DataError."""
    required = ["x_train", "y_train", *named]
    name = None
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"data: {str(path)!r} is a single array; give a .npz file with x_train and y_train")
            arrays = {}
            for name in dict.fromkeys((*required, *PARTS)):
                if name in file.files:
                    arrays[name] = np.asarray(file[name])
                elif name in required:
                    held = ", ".join(sorted(file.files)) or "none"
                    raise DataError(f"data: {str(path)!r} has no array {name!r}, only {held}; save it under that name")
            return arrays
    except READ_ERRORS as error:
        what = "it" if name is None else f"its array {name!r}"
        raise DataError(
            f"data: {str(path)!r} is not a readable .npz file without pickles ({what}: {describe_in_line(error)});"
            " write numbers or text with numpy.savez"
        ) from None
