"""The run folder's storage: room, and whether files can be written, read, renamed, linked and locked there.

Comes in: a folder, or a URI of an object store. Goes out: findings. What is written is removed again; a folder that is
not there yet is not made: its nearest parent is tried instead.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path
from typing import Any

from filelock import FileLock

from raydistill.doctor.finding import Finding, Status
from raydistill.errors import RaydistillError, describe_in_line
from raydistill.settings.credentials import hide_credentials
from raydistill.storage.job import is_uri
from raydistill.storage.mirror import cache_folder, open_store

GIGABYTE = 1e9
LITTLE_ROOM, NO_ROOM = 5.0, 0.2  # GB
STORE_SECONDS = 6.0
SLOW_SECONDS = 1.0


def check_storage(location: str) -> list[Finding]:
    """Room and operations at a run folder."""
    if is_uri(location):
        return [check_room(cache_folder(location), "the copy of it here"), check_store(location)]
    folder = find_parent(Path(location).expanduser().absolute())
    return [check_room(folder), check_operations(folder)]


def find_parent(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def check_room(folder: Path, what: str = "") -> Finding:
    """Bytes free."""
    free = shutil.disk_usage(find_parent(folder)).free / GIGABYTE
    text = f"{free:.1f} GB free in {folder}{f' ({what})' if what else ''}"
    if free < LITTLE_ROOM:
        status: Status = "fail" if free < NO_ROOM else "warn"
        return Finding("disk", status, text, "make room, or give another --run-dir (RAYDISTILL_CACHE for copies)")
    return Finding("disk", "ok", text)


def check_operations(folder: Path) -> Finding:
    """Write, flush, read, rename, link and lock a file in a folder of its own, and remove it."""
    if not folder.is_dir():
        return Finding("storage", "fail", f"{folder} is a file", "give a folder as --run-dir")
    began = time.monotonic()
    failed: tuple[str, Exception] | None = None
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place:
            failed = _try_in_turn(Path(place))
    except OSError as error:
        failed = failed or ("be written", error)
    if failed and failed[0] == "be linked":
        text = f"{folder} has no hard links ({describe_in_line(failed[1])})"
        return Finding("storage", "warn", text, "nothing: --start-from copies files there instead of linking them")
    if failed:
        text = f"{folder} cannot {failed[0]} ({describe_in_line(failed[1])})"
        return Finding(
            "storage", "fail", text, "give a --run-dir that this user may write to, on a disk with file locks"
        )
    seconds = time.monotonic() - began
    text = f"{folder}: write, read, rename, link and lock work, in {1000 * seconds:.0f} ms"
    if seconds > SLOW_SECONDS:
        return Finding("storage", "warn", text, "it is slow: a --run-dir on a nearer disk makes checkpoints cheaper")
    return Finding("storage", "ok", text)


def _try_in_turn(place: Path) -> tuple[str, Exception] | None:
    """The first operation that fails, and why; linking last, which is the only one that is not needed."""
    steps: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("be written", lambda: _write_flushed(place / "a")),
        ("be read as it was written", lambda: _compare(place / "a")),
        ("rename files", lambda: (place / "a").replace(place / "b")),
        ("lock files", lambda: _lock(place / ".lock")),
        ("be linked", lambda: (place / "c").hardlink_to(place / "b")),
    )
    for what, step in steps:
        try:
            step()
        except Exception as error:  # file systems answer in many ways
            return what, error
    return None


def _write_flushed(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(b"raydistill")
        file.flush()
        os.fsync(file.fileno())


def _compare(path: Path) -> None:
    if path.read_bytes() != b"raydistill":
        raise OSError("other bytes came back")


def _lock(path: Path) -> None:
    with FileLock(path).acquire(timeout=0):
        pass


def check_store(uri: str) -> Finding:
    """Write, read, create once and remove an object below the URI, within STORE_SECONDS."""
    shown = hide_credentials(uri)
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        seconds = pool.submit(_try_store, uri).result(timeout=STORE_SECONDS)
    except TimeoutError:
        remedy = "look at the network, the bucket's region and the endpoint"
        return Finding("storage", "fail", f"{shown} did not answer in {STORE_SECONDS:g} s", remedy)
    except RaydistillError as error:  # it says what to do
        text, _, remedy = hide_credentials(str(error)).partition("; ")
        return Finding("storage", "fail", text, remedy)
    except Exception as error:  # every store has errors of its own
        reason = hide_credentials(describe_in_line(error)[:200])
        remedy = "look at the bucket's name, and at what this user or machine may do there (write, read, list, delete)"
        return Finding("storage", "fail", f"{shown} refuses ({reason})", remedy)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return Finding("storage", "ok", f"{shown}: write, read, list and remove work, in {1000 * seconds:.0f} ms")


def _try_store(uri: str) -> float:
    began = time.monotonic()
    filesystem, root = open_store(uri)
    name = f"{root}/.doctor-{secrets.token_hex(4)}"
    filesystem.pipe_file(name, b"raydistill", mode="create")
    try:
        if filesystem.cat_file(name) != b"raydistill":
            raise OSError("other bytes came back")
        filesystem.find(root)
        with contextlib.suppress(FileExistsError):
            filesystem.pipe_file(name, b"again", mode="create")
            raise OSError("an object that is there was written over: two runs could share a run folder")
    finally:
        filesystem.rm(name)
    return time.monotonic() - began
