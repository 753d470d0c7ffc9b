"""The lock of a run folder on a file system, which falls with the process that holds it; see store_lock.py for a store.

Comes in: the folder. Goes out: that no other process works in it, or who does.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from raydistill.errors import RunFolderError
from raydistill.storage.files import read_json, write_json


class FolderLock:
    """Who works in a run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, FileLock(folder / ".lock")

    def acquire(self) -> None:
        """Take the lock. Raises RunFolderError if another process works in the folder."""
        try:
            self._file.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"run_dir: {str(self._folder)!r} is in use by {self._read_owner()}; wait for it (raydistill status"
                f" {self._folder} tells how far it is), or take another --run-dir"
            ) from None
        write_json(self._folder / ".owner.json", {"host": socket.gethostname(), "pid": os.getpid()})

    def release(self) -> None:
        """Give the lock back."""
        self._file.release()

    def is_held(self) -> bool:
        """Whether a process holds it."""
        try:
            with self._file.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def _read_owner(self) -> str:
        try:
            owner = read_json(self._folder / ".owner.json")
            return f"process {owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
