"""Which Parquet files a source has: one, or those of a folder, on disk or in an object store.

Comes in: a path, or a URI such as s3://bucket/folder. Goes out: files by part of the source, each a `Found`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from raydistill.data.catalogue import PARTS
from raydistill.data.ingest_errors import IngestError
from raydistill.storage.job import is_uri
from raydistill.storage.mirror import describe, describe_state, open_store

SUFFIX = ".parquet"
PART = re.compile(r"(train|test)|(confuse|tune|validation|valid|val)(?![a-z])")
"""How names of files and folders begin that say what their records are for."""


@dataclass(frozen=True)
class Found:
    """A file. path: or URI; name: below the source; state: JSON that changes with its bytes."""

    path: str
    name: str
    state: Sequence[Any]


def open_file(path: str, **options: Any) -> pq.ParquetFile:
    """Open a file, by its path or URI, for reading. Raises OSError, or what its store raises."""
    if not is_uri(path):
        return pq.ParquetFile(path, **options)
    filesystem, name = open_store(path, "source")
    return pq.ParquetFile(name, filesystem=filesystem, **options)


def find_files(source: str) -> tuple[dict[str, list[Found]], list[str]]:
    """Files by part, in the order of their names; and what lies in the folder beside.

    Raises DataError where there are none of a training part, or links leave the source, or a store does not answer.
    """
    files, names = list_objects(source) if is_uri(source) else list_folder(Path(source))
    if [file.path for file in files] == [source]:
        return {"train": files}, []
    by_part = divide_files(files, source)
    used = {file.name.partition("/")[0] for files in by_part.values() for file in files}
    return by_part, sorted(name for name in names if name not in used and not name.startswith("."))


def list_folder(root: Path) -> tuple[list[Found], list[str]]:
    """Parquet files of a folder and of its parts, or the file itself; and names of all that lies in the folder."""
    paths, names = [root], []
    if not root.is_file():
        paths = sorted(
            path for folder in (root, *(root / part for part in PARTS)) for path in folder.glob(f"*{SUFFIX}")
        )
        names = [path.name for path in root.iterdir()]
    for path in paths:
        if not path.resolve().is_relative_to(root.resolve()):
            raise IngestError("source", f"{str(path)!r} is a link that leaves the source; copy what it links to")
    return [Found(str(path), _name_below(str(root), str(path)), _stamp(path)) for path in paths], names


def list_objects(uri: str) -> tuple[list[Found], list[str]]:
    """The same of an object store."""
    filesystem, root = open_store(uri, "source")
    try:
        entries = filesystem.ls(root, detail=True)
        top = {_name_below(root, entry["name"]): entry for entry in entries}
        inner = [filesystem.ls(top[part]["name"], detail=True) for part in PARTS if _is_folder(top.get(part))]
    except Exception as error:  # every store has errors of its own
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else describe(error)
        raise IngestError(
            "source",
            f"{uri!r} cannot be listed ({reason}); give a Parquet file, or a folder of them, that this user or machine"
            " may list and read",
        ) from error
    scheme = uri.partition("://")[0]
    files = [
        Found(f"{scheme}://{entry['name']}", _name_below(root, entry["name"]), [describe_state(entry)])
        for entry in (*entries, *(entry for part in inner for entry in part))
        if entry["name"].endswith(SUFFIX) and not _is_folder(entry)
    ]
    return sorted(files, key=lambda file: PurePosixPath(file.name)), list(top)


def divide_files(files: Sequence[Found], source: str) -> dict[str, list[Found]]:
    """Those in train/, test/ and so on, or whose names begin so; where there are none of these, all are of training."""
    found: dict[str, list[Found]] = {part: [] for part in PARTS}
    for file in files:
        begin = PART.match(file.name)
        if begin is not None:
            found[begin[0]].append(file)
    if not found["train"] and not found["test"]:
        found = {"train": list(files)}
    if not found["train"]:
        raise IngestError("source", f"{source!r} has no Parquet files of a training part; give some")
    return {part: files for part, files in found.items() if files}


def _name_below(root: str, path: str) -> str:
    """A path's name relative to the source; of the source itself, its last part."""
    return path.removeprefix(root.rstrip("/")).lstrip("/") or path.rpartition("/")[2]


def _is_folder(entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and entry["type"] == "directory"


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
