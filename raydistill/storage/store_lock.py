"""The lock of a run folder in an object store: an object that its owner renews, or else anyone may take.

It is created in one step of the store, or not at all, if it is there. Clocks of different machines are not compared:
whoever finds a lock watches it, and it is free when it has not changed for LOCK_SECONDS.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid

from raydistill.errors import RunFolderError, StorageError
from raydistill.storage.mirror import Mirror

LOCK_SECONDS = 30.0
REFUSALS = (StorageError, OSError)  # OSError: told at once, such as a token that has expired


class StoreLock:
    """Who works in a run folder of a store."""

    NAME = ".lock.json"

    def __init__(self, mirror: Mirror) -> None:
        self._mirror, self._token, self._beats = mirror, uuid.uuid4().hex, 0
        self._released, self._lost = threading.Event(), False

    def acquire(self) -> None:
        """Take the lock. Raises RunFolderError if another process works in the folder."""
        while not self._mirror.create(self.NAME, self._describe()):
            self._wait_for_silence()
            self._mirror.remove(self._mirror.local / self.NAME)
        threading.Thread(target=self._renew, daemon=True).start()

    def check(self) -> None:
        """Raise RunFolderError if somebody has taken the lock because this process was silent for too long."""
        if self._lost:
            raise RunFolderError(
                f"run_dir: {self._mirror.uri!r} was taken by another process while this one was silent;"
                " wait for that one, then run the same command again"
            )

    def release(self) -> None:
        """Give the lock back; a store that refuses this does so without a word, and the lock falls by its silence."""
        self._released.set()
        with contextlib.suppress(*REFUSALS):
            if self._holds():
                self._mirror.remove(self._mirror.local / self.NAME)

    def is_held(self) -> bool:
        """Whether anyone holds it, alive or not."""
        return self._mirror.read(self.NAME) is not None

    def _wait_for_silence(self) -> None:
        """Return when the owner is gone: a dead process of this host, or one that does not renew its lock."""
        first = self._mirror.read(self.NAME)
        if first is None or _is_dead(first):
            return
        owner, deadline = json.loads(first), time.monotonic() + LOCK_SECONDS
        told = f"process {owner['pid']} on {owner['host']}"
        print(f"run_dir: locked by {told}; waiting up to {LOCK_SECONDS:g} s for a sign of it", file=sys.stderr)
        while time.monotonic() < deadline:
            time.sleep(1.0)
            now = self._mirror.read(self.NAME)
            if now is None:
                return
            if now != first:
                raise RunFolderError(
                    f"run_dir: {self._mirror.uri!r} is in use by {told}; wait for it, or take another --run-dir"
                )

    def _renew(self) -> None:
        while not self._lost and not self._released.wait(LOCK_SECONDS / 6):
            with contextlib.suppress(*REFUSALS):
                self._renew_once()

    def _renew_once(self) -> None:
        if self._holds():
            self._beats += 1
            self._mirror.write(self.NAME, self._describe())
        else:
            self._lost = not self._released.is_set()

    def _holds(self) -> bool:
        content = self._mirror.read(self.NAME)
        return content is not None and json.loads(content)["token"] == self._token

    def _describe(self) -> bytes:
        owner = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "beats": self._beats}
        return json.dumps(owner).encode()


def _is_dead(lock: bytes) -> bool:
    owner = json.loads(lock)
    if owner["host"] != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except OSError as error:  # not permitted: somebody else's, and alive
        return isinstance(error, ProcessLookupError)
    return False
