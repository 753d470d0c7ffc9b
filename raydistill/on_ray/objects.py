"""A Ray Dataset as blocks of examples and labels, in its own order: what `raydistill.Run` takes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray.data

from raydistill.data.columns import LABEL_COLUMNS
from raydistill.data.objects import to_array
from raydistill.errors import DataError
from raydistill.storage.files import Array

BLOCK_ROWS = 512
X_COLUMNS = ("x", "image", "features")


def read_blocks(dataset: ray.data.Dataset) -> Iterator[tuple[Array, Array]]:
    """Columns x and y, 512 rows at a time. Raises DataError where they cannot be told, or rows differ in shape."""
    names = dataset.columns() or []
    x, y = choose_column(names, X_COLUMNS, "examples"), choose_column(names, LABEL_COLUMNS, "labels")
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True  # the same content twice is the same data
    context.enable_progress_bars = context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        for batch in dataset.iter_batches(batch_size=BLOCK_ROWS, batch_format="numpy"):
            yield to_array(stack(batch[x]), f"column {x!r}"), to_array(batch[y], f"column {y!r}")


def choose_column(names: list[str], known: tuple[str, ...], what: str) -> str:
    """The one column that is named as such. Raises DataError for none or several."""
    found = [name for name in known if name in names]
    if len(found) != 1:
        raise DataError(
            f"data: the Ray Dataset's column of {what} cannot be told among {', '.join(names) or 'no columns'}; name"
            f" one of them {' or '.join(known)}, with rename_columns"
        )
    return found[0]


def stack(column: Any) -> Any:
    """A column of lists or of arrays as one array, where their shapes allow it."""
    return column.tolist() if column.dtype.kind == "O" else column
