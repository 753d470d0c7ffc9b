"""Examples as a source gives them, and what must hold of them before anything is made of them.

Comes in: arrays that a source was read into, as a `Source`. Goes out: nothing, or a `DataError` of one line that names
the array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raydistill.data.images import ImageForm
from raydistill.data.labels import check_classes, check_labels
from raydistill.errors import DataError
from raydistill.storage.files import Array

BLOCK_VALUES = 1 << 22  # numbers that are checked at once


@dataclass(frozen=True)
class Source:
    """Examples as they came.

    x_train: (N, ...). y_train: (N,) classes, from 0. x_test, y_test: likewise, or None. keep_apart: (N,) or None.
    file: .npy file that holds x_train, then x_test, as they are to be stored, and is never changed; or None. form: how
    encoded images became examples, or None. split: (N,) numbers of SPLITS that the training rows are given, or None.
    corrupt: name and reason of each record that was left out. x_unlabeled: more examples, without labels, or None.
    """

    x_train: Array
    y_train: Array
    class_names: list[str]
    x_test: Array | None = None
    y_test: Array | None = None
    keep_apart: Array | None = None
    file: Path | None = None
    form: ImageForm | None = None
    split: Array | None = None
    corrupt: Sequence[Mapping[str, str]] = ()
    x_unlabeled: Array | None = None


def check_examples(source: Source) -> None:
    """Check shapes, numbers and labels of both parts. Raises DataError that names the array."""
    classes = len(source.class_names)
    _check_part("train", source.x_train, source.y_train, classes)
    check_classes(source.y_train, source.class_names)
    if source.keep_apart is not None and source.keep_apart.shape != source.y_train.shape:
        raise DataError(
            f"keep_apart: shape {source.keep_apart.shape} for {len(source.y_train)} examples; give one value for each"
        )
    if source.x_test is not None and source.y_test is not None:
        _check_part("test", source.x_test, source.y_test, classes)
        _check_alike(source.x_train, source.x_test, "x_test")
    elif source.x_test is not None or source.y_test is not None:
        raise DataError("x_test, y_test: only one of them is given; give both or neither")
    if source.x_unlabeled is not None:
        check_beside(source.x_train, source.x_unlabeled, "x_unlabeled")


def check_beside(x_train: Array, x: Array, name: str) -> None:
    """Check examples (N, ...) that are stored beside x_train, and have no labels. Raises DataError that names them."""
    _check_shape(x, name)
    _check_numbers(x, name)
    _check_alike(x_train, x, name)


def _check_part(part: str, x: Array, y: Array, classes: int) -> None:
    _check_shape(x, f"x_{part}")
    if y.ndim != 1 or len(x) != len(y):
        raise DataError(f"x_{part}, y_{part}: shapes {x.shape} and {y.shape}; give one label for each example")
    _check_numbers(x, f"x_{part}")
    check_labels(y, classes, f"y_{part}")


def _check_shape(x: Array, name: str) -> None:
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{name}: shape {x.shape}; give (examples, ...) with at least one example and one feature")


def _check_numbers(x: Array, name: str) -> None:
    if x.dtype.kind not in "iuf" or x.dtype.itemsize > 8:
        raise DataError(f"{name}: type {x.dtype}; give integers or floats of at most 64 bits")
    row = _find_unusable(x)
    if row is not None:
        raise DataError(
            f"{name}: example {row} has NaN, infinity, or a number beyond the range of float32 or int64;"
            " remove, fill or scale such values"
        )


def _find_unusable(x: Array) -> int | None:
    """The first example with a number that cannot be stored, a block at a time."""
    if x.dtype.kind != "f" and x.dtype != np.uint64:
        return None
    largest = np.finfo(np.float32).max if x.dtype.kind == "f" else np.iinfo(np.int64).max
    rows = max(1, BLOCK_VALUES // max(1, x[:1].size))
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        good = np.abs(block) <= largest  # false for NaN
        if not good.all():
            return start + int(np.argwhere(~good)[0][0])
    return None


def _check_alike(x_train: Array, x: Array, name: str) -> None:
    """Refuse another part that the training part's type would change: both are stored as one array."""
    if x.shape[1:] != x_train.shape[1:]:
        raise DataError(
            f"{name}: shape {x.shape[1:]} of an example is not x_train's {x_train.shape[1:]}; give both the same"
        )
    train, other = x_train.dtype, x.dtype
    fits = np.can_cast(other, train) or train == np.float32
    if (train.kind == "f") != (other.kind == "f") or not fits:
        raise DataError(f"{name}: type {other} does not go into x_train's {train}; give both the same type")
