"""Sources by name: `KIND:PLACE`, and for some kinds `?KEY=VALUE&KEY=VALUE` behind it.

Comes in: what --data or `raydistill ingest` is given. Goes out: a `Named`, or a `DataError` of one line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from raydistill.data.ingest_errors import IngestError
from raydistill.errors import DataError
from raydistill.storage.files import hash_json
from raydistill.storage.job import is_uri
from raydistill.storage.mirror import check_uri

INGESTED = ("images", "parquet", "hf", "torchvision")
"""Kinds whose records are decoded, a block at a time, by the machinery of `raydistill ingest`."""
COLUMN_KEYS = ("x", "y")
KEYS: Mapping[str, tuple[str, ...] | None] = {"parquet": COLUMN_KEYS, "hf": COLUMN_KEYS, "torchvision": None}
"""Keys that a kind takes; None: any, the library checks them."""


@dataclass(frozen=True)
class Named:
    """A source by name. kind: '' where there is no known one; options: what follows the question mark."""

    kind: str
    place: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_store(self) -> bool:
        """Whether the place is in an object store."""
        return is_uri(self.place)


def parse_name(text: str, setting: str = "data") -> Named:
    """Take a name apart; a bare URI is that of Parquet. setting: where it was given, for errors.

    Raises DataError for kinds without a place, unknown keys.
    """
    kind, _, place = text.partition(":")
    if kind not in INGESTED and place.startswith("//"):
        kind, place = "parquet", text
    if kind not in INGESTED:
        return Named("", text)
    query = ""
    if kind in KEYS:
        place, _, query = place.partition("?")
    if not place:
        raise DataError(f"{setting}: {text!r} names nothing; give {kind}: and what to read behind it")
    return Named(kind, place, _parse_options(kind, query, text, setting))


def _parse_options(kind: str, query: str, text: str, setting: str) -> dict[str, str]:
    options = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = (unquote(part) for part in pair.partition("="))
        allowed = KEYS[kind]
        if not equals or not value or (allowed is not None and key not in allowed):
            shown = "KEY=VALUE" if allowed is None else " and ".join(f"{name}=COLUMN" for name in allowed)
            raise DataError(f"{setting}: {pair!r} in {text!r} is not allowed; behind the question mark give {shown}")
        if key in options:
            raise DataError(f"{setting}: {key!r} is given twice in {text!r}; give it once")
        options[key] = value
    return options


def check_named(text: str) -> None:
    """Refuse a name whose files are not there or cannot be read. Raises DataError; ConfigError as `check_uri`."""
    named, path = parse_name(text), data_path(text)
    check_store(named, "data")
    if path is None:
        if named.kind == "hf" and named.place.startswith((".", "/", "~")):
            raise DataError(
                f"data: {named.place!r} is no folder that save_to_disk has written; give one, or a name of the Hub"
            )
        return
    wanted = "a folder with a folder of images for each class" if named.kind == "images" else "a file or a folder"
    if not path.exists() or (named.kind == "images" and not path.is_dir()):
        raise DataError(f"data: {named.place!r} does not exist or is not {wanted}; give the path of one")
    if not os.access(path, os.R_OK):
        raise DataError(f"data: {named.place!r} is not readable by this user; change its permissions or give another")


def check_store(named: Named, setting: str) -> None:
    """Refuse a source in an object store that is not Parquet, or is no URI to be used."""
    if not named.in_store:
        return
    if named.kind != "parquet":
        raise DataError(
            f"{setting}: {named.place!r} is in an object store, where only Parquet is read; give"
            f" parquet:{named.place} where it is a folder of such files, or copy it to a disk that all nodes see"
        )
    check_uri(named.place, setting)


def data_path(text: str) -> Path | None:
    """Where the files of a name are; None where a library fetches them, or they are in an object store."""
    named = parse_name(text)
    return None if is_remote(named) or named.in_store else Path(named.place).expanduser().absolute()


def is_remote(named: Named) -> bool:
    """Whether a source is fetched by a library: a name of the Hub, or of torchvision; else it is a path."""
    return named.kind == "torchvision" or (named.kind == "hf" and not is_saved(Path(named.place).expanduser()))


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk of the datasets library has written the folder."""
    return any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json"))


def holds_parquet(root: Path) -> bool:
    """Whether the path is a file, or a folder of Parquet files."""
    return root.is_file() or any(any(root.glob(form)) for form in ("*.parquet", "train/*.parquet", "test/*.parquet"))


def suggest_name(text: str) -> str | None:
    """The name of a source for a bare path, by what is there; None where nothing is."""
    path = Path(text).expanduser()
    if parse_name(text).kind == "parquet":  # a bare URI
        return f"parquet:{text}"
    if not text or not path.exists():
        return None
    if path.suffix == ".npz":
        return f"npz:{text}"
    if (path / "arrays.json").is_file():
        return f"arrays:{text}"
    if is_saved(path):
        return f"hf:{text}"
    if holds_parquet(path):
        return f"parquet:{text}" if path.is_dir() or path.suffix == ".parquet" else None
    return f"images:{text}"


def stamp_source(text: str) -> str | None:
    """Hash of what changes with the files of a name; None where a library fetches them."""
    named, root = parse_name(text), data_path(text)
    if named.in_store and named.kind == "parquet":
        from raydistill.data.parquet_files import list_objects

        try:
            found = list_objects(named.place)[0]
        except IngestError as error:
            raise DataError(f"data: {error.problem}") from error
        return hash_json([[file.name, *file.state] for file in found])
    return None if root is None else stamp_files(root)


def stamp_files(root: Path) -> str:
    """Hash of names, sizes and times of change of a file, or of all files below a folder."""
    found = [root] if root.is_file() else [Path(place, name) for place, _, names in os.walk(root) for name in names]
    stamps = []
    for path in found:
        status = path.lstat()
        stamps.append([os.fsencode(path.relative_to(root)).hex(), status.st_size, status.st_mtime_ns])
    return hash_json(sorted(stamps))
