"""The files of a finished stage, as its record in the manifest has them: names below its folder, with their SHA-256.

Comes in: a folder, and such a record. Goes out: the record of a folder, or whether a folder is as it says.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from raydistill.storage.files import hash_file, link_file
from raydistill.storage.folders import list_files


def hash_files(folder: Path) -> dict[str, str]:
    """The record of all files of a folder."""
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in list_files(folder)}


def verify_files(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether the folder has all of these files as they were."""
    try:
        return all(hash_file(folder / name) == checksum for name, checksum in files.items())
    except OSError:
        return False


def link_files(source: Path, target: Path, files: Mapping[str, str]) -> bool:
    """Link files to a folder that is made anew. Returns whether they are there as they were."""
    shutil.rmtree(target, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        for name in files:
            link_file(source / name, target / name)
    return verify_files(target, files)
