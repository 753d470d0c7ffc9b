"""Splits that an array of a .npz file gives: its test rows become the test part, others keep what is said of them.

Comes in: a `Source` whose rows are all of training, and an array of text. Goes out: the `Source` with its parts.
"""

from __future__ import annotations

from dataclasses import replace

from raydistill.data.examples import Source
from raydistill.data.splits import SPLIT_NAMES, TEST, check_apart, number_splits
from raydistill.errors import DataError
from raydistill.storage.files import Array


def take_splits(source: Source, names: Array, column: str, keep_apart: str | None) -> Source:
    """The source with the splits that an array names. column, keep_apart: names of arrays, for errors.

    names: (N,) text. Raises DataError for other shapes and types, unknown names, a second test part, and values of
    keep_apart that are torn apart.
    """
    where = f"splits.column: {column!r}"
    if names.shape != source.y_train.shape or names.dtype.kind not in "US":
        raise DataError(
            f"{where} has shape {names.shape} and type {names.dtype}; give text for each example of x_train:"
            f" {', '.join(SPLIT_NAMES)}"
        )
    text = [name.decode(errors="replace") if isinstance(name, bytes) else name for name in names.tolist()]
    split = number_splits(text, where)
    if source.keep_apart is not None and source.keep_apart.shape == split.shape:
        check_apart(source.keep_apart, split, f"splits.keep_apart: {keep_apart!r}")
    test, kept = split == TEST, split != TEST
    if not test.any():
        return replace(source, split=split)
    if source.x_test is not None:
        raise DataError(f"{where} names test examples, and the file has x_test, too; leave one of them out")
    return replace(
        source,
        x_train=source.x_train[kept],
        y_train=source.y_train[kept],
        x_test=source.x_train[test],
        y_test=source.y_train[test],
        keep_apart=None if source.keep_apart is None else source.keep_apart[kept],
        split=split[kept],
    )
