"""Labels: from integers or text to class numbers from 0, and the names of the classes.

Comes in: labels (N,) and perhaps class names (K,), as a file held them. Goes out: int64 indices (N,) and K names, or a
`DataError` of one line.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raydistill.errors import DataError
from raydistill.storage.files import Array

FEWEST_CLASSES = 3  # of two, no group could be confused more than another


def index_labels(labels: Array, class_names: Sequence[str] | None, where: str) -> tuple[Array, list[str]]:
    """Turn integer or text labels (N,) into indices from 0, and name the classes.

    class_names: names in the order of their numbers, or None: the labels themselves. where: the array, for errors.
    Raises DataError for other types and shapes, and for labels outside the classes.
    """
    if labels.ndim != 1:
        raise DataError(f"{where}: shape {labels.shape} is not allowed; give (examples,), one label for each example")
    if labels.dtype.kind in "US":
        return _index_text(_decode_text(labels, where), class_names, where)
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels of type {labels.dtype}; give integers from 0, or text")
    check_labels(labels, len(labels) if class_names is None else len(class_names), where)
    indices = labels.astype(np.int64)
    if class_names is None:
        return indices, [str(index) for index in range(int(indices.max(initial=-1)) + 1)]
    return indices, list(class_names)


def list_names(names: Array) -> list[str]:
    """The class names (K,), text or integers, as str. Raises DataError for anything else."""
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise DataError(f"class_names: shape {names.shape}, type {names.dtype}; give (classes,), text or integers")
    return [str(name) for name in _decode_text(names, "class_names")]


def check_labels(labels: Array, classes: int, where: str) -> None:
    """Raise DataError for a label outside 0 to classes - 1. where: the array, for errors."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{where}: label {labels[row]} of example {row}; allowed are 0 to {classes - 1}; number the classes from 0"
            " without gaps, in all parts alike"
        )


def check_classes(labels: Array, class_names: Sequence[str]) -> None:
    """Raise DataError for fewer than 3 classes, or a class without a training example. labels: (N,) from 0 to K - 1."""
    classes = len(class_names)
    if classes < FEWEST_CLASSES:
        raise DataError(
            f"y_train: {classes} classes; give at least {FEWEST_CLASSES}, or specialists have nothing to tell apart"
        )
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        absent = int(np.argmin(counts))
        raise DataError(
            f"y_train: class {absent} ({class_names[absent]!r}) of 0 to {classes - 1} has no example;"
            " give it some, or leave it out and number the others from 0 without gaps"
        )


def _index_text(labels: Array, class_names: Sequence[str] | None, where: str) -> tuple[Array, list[str]]:
    distinct, index = np.unique(labels, return_inverse=True)
    names = distinct.tolist() if class_names is None else list(class_names)
    place = {name: number for number, name in enumerate(names)}
    if len(place) < len(names):
        twice = next(name for number, name in enumerate(names) if place[name] != number)
        raise DataError(f"class_names: {twice!r} stands for several classes; give each its own name, or integer labels")
    unknown = [name for name in distinct.tolist() if name not in place]
    if unknown:
        raise DataError(
            f"{where}: {unknown[0]!r} is not one of the {len(names)} classes; add it to class_names or training labels"
        )
    return np.array([place[name] for name in distinct.tolist()], dtype=np.int64)[index], names


def _decode_text(text: Array, where: str) -> Array:
    try:
        return np.char.decode(text, "utf-8") if text.dtype.kind == "S" else text
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: bytes that are not UTF-8 ({error}); give text as str") from None
