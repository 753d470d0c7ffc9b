"""Folders: what is in them, and what follows them, which hears of every file that is written or removed.

Comes in: a path that this process changes, or wants to see as others have changed it. Goes out: calls of each `Replica`
that follows a folder above it (mirror.py: its objects in a store).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol


class Replica(Protocol):
    """What follows a folder of this node."""

    def push(self, path: Path) -> None:
        """A file is new."""

    def remove(self, path: Path) -> None:
        """A file or folder is gone."""

    def pull(self, folder: Path) -> None:
        """Make the folder what the replica says."""


_replicas: dict[Path, Replica] = {}


def follow_folder(folder: Path, replica: Replica) -> None:
    """From now on the replica hears of what this process writes and removes below the folder."""
    _replicas[folder] = replica


def refresh(folder: Path) -> None:
    """See what other nodes have written below a folder; nothing to do where all share it."""
    for replica in _find_replicas(folder):
        replica.pull(folder)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    for replica in _find_replicas(path):
        replica.remove(path)


def publish(path: Path) -> None:
    """Tell replicas of a file, or of all files of a folder, that were not written by this module."""
    for replica in _find_replicas(path):
        for file in [path] if path.is_file() else list_files(path):
            replica.push(file)


def list_files(folder: Path) -> list[Path]:
    """Finished files below a folder, sorted; temporary and partial ones, which begin with a dot, are left out."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _find_replicas(path: Path) -> list[Replica]:
    return [replica for folder, replica in _replicas.items() if path.is_relative_to(folder)]
