"""Data that Python holds: arrays, tables, torch Datasets, Ray Datasets, as blocks of examples and labels.

Comes in: what was given to `raydistill.Run`. Goes out: `Given`, parts that are read a block at a time, or a `DataError`
that names what is allowed. data/stored.py writes them into a folder that a run takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from raydistill.data.columns import LABEL_COLUMNS
from raydistill.data.labels import list_names
from raydistill.errors import DataError
from raydistill.storage.files import Array

Blocks = Callable[[], Iterator[tuple[Array, Array]]]
"""Examples (n, ...) and labels (n,) of a part, a block at a time, in order; called once."""
ALLOWED = (
    "a --data string such as 'digits', arrays (x, y) or (x_train, y_train, x_test, y_test), a dict of arrays x_train,"
    " y_train and perhaps x_test, y_test, class_names, a torch Dataset of pairs (x, y) or two of them (train, test), a"
    " Ray Dataset with columns x and y, or a pandas or pyarrow table with a column of labels"
)
NAMES = ("x_train", "y_train", "x_test", "y_test", "class_names")
BLOCK_ITEMS = 512  # of a torch Dataset that are in memory at once
BLOCK_BYTES = 1 << 26  # of an array that are converted at once


@dataclass(frozen=True)
class Given:
    """A training part and perhaps a test part. class_names: (K,), or None: the labels themselves."""

    train: Blocks
    test: Blocks | None = None
    class_names: list[str] | None = None


def read_object(data: Any) -> Given:
    """Recognise what was given. Reads no examples yet. Raises DataError for anything but what `ALLOWED` names."""
    if isinstance(data, Mapping):
        return _read_mapping(data)
    if is_table(data):
        return Given(_read_table(data))
    if is_dataset(data):
        return Given(_open_dataset(data, "data"), class_names=_names_of(data))
    if isinstance(data, list | tuple) and len(data) == 2 and all(map(is_dataset, data)):
        train, test = data
        return Given(_open_dataset(train, "train"), _open_dataset(test, "test"), _names_of(train))
    if isinstance(data, list | tuple) and len(data) in (2, 4):
        return _read_arrays(dict(zip(NAMES, data, strict=False)))
    raise DataError(f"data: {_describe(data)} is not allowed; give {ALLOWED}")


def is_table(data: Any) -> bool:
    """Whether it is a pandas DataFrame or a pyarrow Table, without importing either."""
    return _comes_from(data, "pandas", "DataFrame") or _comes_from(data, "pyarrow", "Table")


def is_dataset(data: Any) -> bool:
    """Whether it is a Ray Dataset, or has items by number as a torch Dataset has, and is no sequence or array."""
    if _comes_from(data, "ray", "Dataset"):
        return True
    by_number = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    plain = isinstance(data, Sequence | Mapping | np.ndarray) or hasattr(data, "__array__") or is_table(data)
    return by_number and not plain and not hasattr(data, "iloc")


def to_array(value: Any, name: str) -> Array:
    """Numbers or text as an array; text of any kind becomes fixed-width. Raises DataError for anything else."""
    if hasattr(value, "detach"):  # a torch tensor, wherever it is
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {_describe(value)} is no array ({error}); give examples of one shape") from None
    if array.dtype.kind in "OT":
        array = _to_plain(array, name)
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


def _to_plain(array: Array, name: str) -> Array:
    """An array of objects as one of text or numbers."""
    flat = array.ravel().tolist()
    if all(isinstance(value, str) for value in flat):
        return array.astype(np.str_)
    kinds = sorted({type(value).__name__ for value in flat})
    try:
        plain = np.array(array.tolist())
    except ValueError:
        plain = array
    if plain.dtype.kind not in "iufb":
        raise DataError(f"{name}: holds {', '.join(kinds)}; give numbers of one shape, or text for labels")
    return plain


def _read_mapping(data: Mapping[Any, Any]) -> Given:
    keys = {str(key): value for key, value in data.items()}
    if keys.keys() <= {"train", "test"} and "train" in keys:
        if not all(map(is_dataset, keys.values())):
            raise DataError(f"data: train and test must be torch or Ray Datasets; give those, or {ALLOWED}")
        test = _open_dataset(keys["test"], "test") if "test" in keys else None
        return Given(_open_dataset(keys["train"], "train"), test, _names_of(keys["train"]))
    renamed = {{"x": "x_train", "y": "y_train"}.get(key, key): value for key, value in keys.items()}
    unknown = sorted(renamed.keys() - set(NAMES))
    missing = [name for name in NAMES[:2] if name not in renamed]
    if unknown or missing:
        told = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is unknown"
        raise DataError(f"data: {told}; a dict of arrays has {', '.join(NAMES)}, the last three as you like")
    return _read_arrays(renamed)


def _read_arrays(data: Mapping[str, Any]) -> Given:
    x, y = to_array(data["x_train"], "x_train"), to_array(data["y_train"], "y_train")
    names = data.get("class_names")
    test = [data.get("x_test"), data.get("y_test")]
    if (test[0] is None) != (test[1] is None):
        raise DataError("x_test, y_test: only one of them is given; give both or neither")
    held_out = None
    if test[0] is not None:
        held_out = _cut(to_array(test[0], "x_test"), to_array(test[1], "y_test"), "test")
    return Given(_cut(x, y, "train"), held_out, None if names is None else list_names(to_array(names, "class_names")))


def _cut(x: Array, y: Array, part: str) -> Blocks:
    """An array in blocks, so that a change of its type does not double it."""
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"x_{part}: shape {x.shape}; give (examples, ...) with at least one example and one feature")
    if y.ndim != 1 or len(x) != len(y):
        raise DataError(f"x_{part}, y_{part}: shapes {x.shape} and {y.shape}; give one label for each example")
    rows = max(1, BLOCK_BYTES // max(1, x[:1].nbytes))

    def blocks() -> Iterator[tuple[Array, Array]]:
        for start in range(0, len(x), rows):
            yield x[start : start + rows], y[start : start + rows]

    return blocks


def _read_table(table: Any) -> Blocks:
    """Vectors of all columns of numbers but the label's."""
    if hasattr(table, "to_pandas"):
        columns = {name: table[name].to_numpy() for name in table.column_names}
    else:
        columns = {str(name): table[name].to_numpy() for name in table.columns}
    labels = [name for name in LABEL_COLUMNS if name in columns]
    if len(labels) != 1:
        raise DataError(
            f"data: the table's column of labels cannot be told among {', '.join(columns)}; name one of them"
            f" {' or '.join(LABEL_COLUMNS)}, or give arrays (x, y)"
        )
    y = to_array(columns.pop(labels[0]), labels[0])
    features = {name: to_array(values, f"column {name!r}") for name, values in columns.items()}
    text = next((name for name, values in features.items() if values.dtype.kind not in "iuf" or values.ndim != 1), None)
    if text is not None or not features:
        what = f"column {text!r} holds no plain numbers" if text else "there is no column beside the labels"
        raise DataError(f"data: {what}; encode or drop it, or give arrays (x, y)")
    return _cut(np.stack([values.astype(np.float32) for values in features.values()], axis=1), y, "train")


def _open_dataset(data: Any, name: str) -> Blocks:
    if _comes_from(data, "ray", "Dataset"):
        from raydistill.on_ray.objects import read_blocks

        return partial(read_blocks, data)
    if len(data) == 0:
        raise DataError(f"{name}: the Dataset has no items; give one with at least one for each class")
    return partial(_read_items, data, name)


def _read_items(data: Any, name: str) -> Iterator[tuple[Array, Array]]:
    """A torch Dataset's pairs, stacked. Only one block of them is in memory."""
    items = (_read_item(data, index, name) for index in range(len(data)))
    while block := list(itertools.islice(items, BLOCK_ITEMS)):
        x = [pair[0] for pair in block]
        shapes = {array.shape for array in x}
        if len(shapes) > 1:
            raise DataError(
                f"{name}: items have shapes {' and '.join(map(str, sorted(shapes)[:2]))}; give the Dataset a transform"
                " that makes all of one shape"
            )
        yield np.stack(x), to_array([pair[1] for pair in block], f"labels of {name}")


def _read_item(data: Any, index: int, name: str) -> tuple[Array, Any]:
    item = data[index]
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise DataError(f"{name}: item {index} is {_describe(item)}; give a Dataset whose items are pairs (x, y)")
    x, y = item
    if hasattr(x, "convert"):  # a PIL image
        x = x.convert({"1": "L", "P": "RGB"}.get(x.mode, x.mode))
    label = y.item() if hasattr(y, "item") else y
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise DataError(f"{name}: the label of item {index} is {_describe(label)}; give a whole number or text")
    return to_array(x, f"{name}[{index}]"), label


def _names_of(data: Any) -> list[str] | None:
    """What torchvision's datasets and image folders know of their classes."""
    names = getattr(data, "classes", None)
    whole = isinstance(names, list | tuple) and len(names) > 0 and all(isinstance(name, str) for name in names)
    return list(names) if whole else None  # type: ignore[arg-type]


def _comes_from(data: Any, package: str, name: str) -> bool:
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == package for kind in type(data).__mro__)


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    length = f" of {len(value)}" if isinstance(value, list | tuple) else ""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.") + (
        f" of shape {tuple(shape)}" if isinstance(shape, tuple) else length
    )
