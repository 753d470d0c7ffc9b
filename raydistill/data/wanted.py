"""What is to be ingested, and what lists it.

Comes in: a source by name or path, and what its records shall become. Goes out: its `Catalogue`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raydistill.data.catalogue import Catalogue, Columns, list_images
from raydistill.data.images import FormWish, ImageForm
from raydistill.data.ingest_errors import IngestError, Setting
from raydistill.data.names import Named, check_store, holds_parquet, is_remote, is_saved, parse_name
from raydistill.errors import DataError


@dataclass(frozen=True)
class Wanted:
    """What is read and what it becomes.

    source: a path, or a name such as hf:NAME (names.py). x_column, label_column: None where the source has only one
    that fits. split_column: says which split each record is for. keep_apart: column whose equal values stay in one.
    """

    source: str
    form: FormWish | ImageForm
    x_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    keep_apart: str | None = None

    @property
    def named(self) -> Named:
        """The source by name. Raises DataError for a name that cannot be read."""
        return parse_name(self.source, "source")

    @property
    def columns(self) -> Columns:
        """All that are named, here or in the source's name."""
        options = self.named.options
        x, label = self.x_column or options.get("x"), self.label_column or options.get("y")
        return Columns(x, label, self.split_column, self.keep_apart)


def open_source(wanted: Wanted, output: Path) -> Catalogue:
    """List what the source holds. output: where a dataset of the Hub is kept. Raises DataError, or ConfigError."""
    named = wanted.named
    check_store(named, "source")
    if named.kind == "torchvision":
        from raydistill.data.torchvision_sets import list_torchvision

        check_no_columns(wanted, "torchvision's data sets have")
        return list_torchvision(named, wanted.form)
    if named.in_store:
        return open_parquet(named.place, wanted)
    root = Path(named.place).expanduser().absolute()
    if named.kind == "hf" or (root.is_dir() and is_saved(root)):
        from raydistill.data.hugging_face import download_dataset, list_saved

        if is_remote(named):
            root = output / "work" / "source"
            download_dataset(named.place, root)
        return list_saved(root, wanted.form, wanted.columns)
    if not root.exists():
        raise IngestError(
            "source",
            f"{named.place!r} does not exist; give a folder of images, Parquet files, a saved Hugging Face"
            " dataset, or hf:NAME for one of the Hub",
        )
    if output.resolve().is_relative_to(root.resolve()):
        raise IngestError("output", f"{str(output)!r} lies within the source; give a folder outside {named.place!r}")
    if named.kind == "parquet" or (not named.kind and holds_parquet(root)):
        return open_parquet(str(root), wanted)
    check_no_columns(wanted, "a folder of images has")
    return list_images(root, wanted.form)


def open_parquet(source: str, wanted: Wanted) -> Catalogue:
    """List what Parquet files hold. source: a path or a URI."""
    from raydistill.data.parquet import list_parquet

    return list_parquet(source, wanted.form, wanted.columns)


def check_no_columns(wanted: Wanted, who: str) -> None:
    """Raise DataError where columns are named of a source without any. who: that source, in words, with its verb."""
    if wanted.x_column or wanted.label_column:
        raise DataError(f"x_column, label_column: {who} no columns; leave them out")
    given: dict[Setting, str | None] = {"splits.column": wanted.split_column, "splits.keep_apart": wanted.keep_apart}
    for setting, name in given.items():
        if name is not None:
            raise IngestError(setting, f"{who} no columns such as {name!r}; leave it out")
