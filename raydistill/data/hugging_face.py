"""Hugging Face datasets as a source of `raydistill ingest`; needs the extra `raydistill[datasets]`.

Comes in: the folder of a dataset that was saved with `save_to_disk`, or a name on the Hub. Goes out: a `Catalogue`:
split train, then validation, then test.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raydistill.data.catalogue import PARTS, Catalogue, Columns, Rows
from raydistill.data.columns import Part, TableRows, Values, choose_columns, count_sample, describe_values
from raydistill.data.images import FormWish, ImageForm, describe_problem
from raydistill.data.ingest_errors import IngestError
from raydistill.data.names import is_saved
from raydistill.data.table import list_read, make_catalogue

BATCH_ROWS = 64


@dataclass(frozen=True)
class SavedReader:
    """Opens a saved dataset. parts: its splits."""

    root: str
    parts: tuple[Part, ...]
    values: Values

    @contextlib.contextmanager
    def open(self) -> Iterator[Rows]:
        """Map the dataset's files."""
        splits = load_splits(Path(self.root))[0]
        columns = [splits[part.path].with_format("arrow") for part in self.parts]

        def take(start: int, stop: int) -> Iterator[pa.Array]:
            for part, rows in zip(self.parts, columns, strict=True):
                first, last = max(start - part.first, 0), min(stop - part.first, part.rows)
                for at in range(first, last, BATCH_ROWS):
                    yield from rows[at : min(at + BATCH_ROWS, last)].column(self.values.column).chunks

        yield TableRows(take, self.values, self.parts)


def list_saved(root: Path, wish: FormWish | ImageForm, columns: Columns) -> Catalogue:
    """Rows of splits train, validation and test. Raises DataError where folder, columns or labels cannot be used."""
    splits, others = load_splits(root)
    first = splits["train"]
    schema = first.with_format("arrow")[:0].schema
    columns = choose_columns(schema, columns)
    x = str(columns.x)
    values = describe_values(schema, x, wish, _first_values(first, x, count_sample(schema, x, wish)))
    parts: list[Part] = []
    tables: dict[str, pa.Table] = {}
    for name, split in splits.items():
        parts.append(Part(name, f"split {name}", parts[-1].first + parts[-1].rows if parts else 0, len(split)))
        lacking = sorted({x, *list_read(columns)} - set(split.column_names))
        if lacking:
            raise IngestError("source", f"split {name!r} lacks column {lacking[0]!r}; give all splits the same")
        tables[name] = split.select_columns(list_read(columns)).with_format("arrow")[:]
    names = getattr(first.features[columns.label], "names", None)
    identity = [[part.name, part.rows, splits[part.path]._fingerprint] for part in parts]
    reader = SavedReader(str(root), tuple(parts), values)
    return make_catalogue(reader, parts, values, tables, columns, names, identity, others)


def load_splits(root: Path) -> tuple[dict[str, Any], list[str]]:
    """Splits of a saved dataset that are called as PARTS, a single one as train; and what other splits there are."""
    library = import_datasets()
    try:
        loaded = library.load_from_disk(str(root))
    except Exception as error:  # whatever a damaged folder can bring: the user needs the one line
        raise IngestError(
            "source",
            f"{str(root)!r} is no readable dataset ({describe_problem(error)}); save it again with save_to_disk",
        ) from error
    splits = dict(loaded) if isinstance(loaded, library.DatasetDict) else {"train": loaded}
    if "train" not in splits:
        raise IngestError("source", f"{str(root)!r} has splits {', '.join(map(str, splits))}; one must be 'train'")
    kept = {part: splits[part] for part in PARTS if part in splits}
    return kept, [f"split {name}" for name in splits if name not in kept]


def download_dataset(name: str, folder: Path) -> None:
    """Fetch a dataset from the Hub, NAME or NAME@CONFIGURATION, and save it where all nodes see it; once.

    Raises IngestError where it cannot be fetched.
    """
    if is_saved(folder):
        return
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    dataset, _, configuration = name.partition("@")
    try:
        import_datasets().load_dataset(dataset, configuration or None).save_to_disk(str(aside))
    except IngestError:
        raise
    except Exception as error:  # whatever network, name or file can bring: the user needs the one line
        raise IngestError(
            "source", f"hf:{name} could not be fetched ({describe_problem(error)}); check the name and the network"
        ) from error
    aside.rename(folder)


def import_datasets() -> Any:
    """The datasets library, silent. Raises IngestError where it is missing."""
    try:
        import datasets
    except ImportError:
        raise IngestError(
            "source", "a Hugging Face dataset needs the library datasets; pip install 'raydistill[datasets]'"
        ) from None
    datasets.disable_progress_bars()
    return datasets


def _first_values(split: Any, column: str, count: int) -> list[Any]:
    """The first values that are not null."""
    rows = split.select_columns([column]).with_format("arrow")
    blocks = (rows[at : at + BATCH_ROWS].column(0) for at in range(0, len(rows) if count else 0, BATCH_ROWS))
    known = (value.as_py() for block in blocks for value in block if value.is_valid)
    return list(itertools.islice(known, count))
