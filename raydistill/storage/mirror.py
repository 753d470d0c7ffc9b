"""A run folder in an object store, and its verified copy on each node.

    stages ─► files.py ─► the copy, a local folder ─► push ─► objects below s3://…, gs://… (whatever fsspec knows)
                               ▲                                   │
                               └── pull: what is new or differs ◄──┘

Comes in: a URI. Goes out: a `Mirror`, whose local folder stages use as any other. An object is whole or absent, as a
file is. What a store refuses is tried again for a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from raydistill.errors import ConfigError, RunFolderError, StorageError, describe_in_line
from raydistill.settings.credentials import check_credentials, hide_credentials
from raydistill.storage.boundary import stays_inside
from raydistill.storage.files import Value, hash_file, try_again
from raydistill.storage.folders import list_files

RETRY_SECONDS = 60.0
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, NotImplementedError)  # no second try helps


def check_uri(uri: str, field: str = "run_dir") -> None:
    """Raise ConfigError for a URI that names no folder; with credentials, it would be told to everyone."""
    check_credentials({field: uri})
    rest = uri.partition("://")[2]
    if not rest.strip("/"):
        raise ConfigError(f"{field}: {uri!r} names no bucket; give scheme://bucket/folder")
    if set("*?[]") & set(rest):  # which stores' clients take for patterns, when they remove as well
        raise ConfigError(f"{field}: {uri!r} has one of * ? [ ]; take another name")


def open_store(uri: str, field: str = "run_dir") -> tuple[Any, str]:
    """The file system of a URI, and the path in it. field: the setting that has it.

    Raises ConfigError if the file system is unknown, or its package is missing.
    """
    check_uri(uri, field)
    scheme = uri.partition("://")[0]
    try:
        filesystem, root = fsspec.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        extra = f"; pip install 'raydistill[{EXTRAS[scheme]}]'" if scheme in EXTRAS else ""
        raise ConfigError(f"{field}: {uri!r} needs a package that is missing ({error}){extra}") from None
    except ValueError as error:
        raise ConfigError(f"{field}: {uri!r} is not allowed ({error}); give a folder, s3://… or gs://…") from None
    return filesystem, root.rstrip("/")


def cache_folder(uri: str) -> Path:
    """Where this node keeps its copy: below RAYDISTILL_CACHE, or ~/.cache/raydistill."""
    root = Path(os.environ.get("RAYDISTILL_CACHE", "~/.cache/raydistill")).expanduser().absolute()
    return root / f"{uri.rpartition('/')[2]}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"


class Mirror:
    """Objects below a URI and their copy in a local folder, which the processes of a node share.

    Beside each file, `.NAME.object` tells which state of the object it is a copy of.
    """

    def __init__(self, uri: str) -> None:
        """Raises ConfigError. Nothing is read yet."""
        self._filesystem, self._root = open_store(uri)
        self.uri = uri.rstrip("/")
        self.local = cache_folder(self.uri)

    def push(self, path: Path) -> None:
        """Write a file of the copy to the store. Raises StorageError."""
        if path.name.startswith("."):
            return
        target = self._object(path)
        self._persist(f"write {self._name(path)}", lambda: self._filesystem.put_file(str(path), target))
        info = self._persist(f"read {self._name(path)}", lambda: self._filesystem.info(target))
        _note_state(path, describe_state(info))

    def remove(self, path: Path) -> None:
        """Remove an object, or all below a folder. Raises StorageError."""
        with contextlib.suppress(FileNotFoundError):
            self._persist(f"remove {self._name(path)}", lambda: self._filesystem.rm(self._object(path), recursive=True))

    def pull(self, folder: Path, checksums: Mapping[str, str] | None = None) -> None:
        """Make a folder of the copy what the store has: new and changed objects come, files without an object go.

        checksums: SHA-256 of files, by their names in the folder; what comes must have it.
        Raises StorageError if it has not, or the store does not answer.
        """
        self.local.mkdir(parents=True, exist_ok=True)
        with FileLock(self.local / f".pull-{self._name(folder).replace('/', '-')}.lock"):
            objects = self._list(folder)
            for path, state in objects.items():
                if _read_state(path) != state or not path.exists():
                    self._fetch(path, state, (checksums or {}).get(path.relative_to(folder).as_posix()))
            for path in list_files(folder):
                if path not in objects:
                    path.unlink(missing_ok=True)

    def pull_file(self, path: Path) -> None:
        """The same for one file; one that is not in the store is removed here."""
        try:
            info = self._persist(f"read {self._name(path)}", lambda: self._filesystem.info(self._object(path)))
        except FileNotFoundError:
            path.unlink(missing_ok=True)
            return
        if _read_state(path) != describe_state(info) or not path.exists():
            self._fetch(path, describe_state(info), None)

    def forget(self, folder: Path) -> None:
        """Take the files of a folder of the copy for unknown, so that the next pull brings them anew."""
        for path in list_files(folder):
            _state_path(path).unlink(missing_ok=True)

    def has_objects(self) -> bool:
        """Whether there is anything in the store but the lock. Raises RunFolderError if it cannot be asked."""
        try:
            return bool(self._list(self.local))
        except (OSError, StorageError) as error:
            raise RunFolderError(f"run_dir: {self.uri!r} cannot be read ({describe(error)}); check it") from None

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None if there is none."""
        try:
            return self._persist(f"read {name}", lambda: self._filesystem.cat_file(f"{self._root}/{name}"))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        self._persist(f"write {name}", lambda: self._filesystem.pipe_file(f"{self._root}/{name}", content))

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one, in one step of the store; False: there is one."""
        try:
            self._persist(
                f"write {name}", lambda: self._filesystem.pipe_file(f"{self._root}/{name}", content, mode="create")
            )
        except FileExistsError:
            return False
        return True

    def _list(self, folder: Path) -> dict[Path, str]:
        """Objects below a folder as the paths of their copies, each with its state."""
        prefix = self._object(folder)
        found = self._persist(f"list {self._name(folder)}", lambda: self._filesystem.find(prefix, detail=True))
        names = {name.removeprefix(self._root).lstrip("/"): info for name, info in found.items()}
        return {
            self.local / name: describe_state(info)
            for name, info in names.items()
            if stays_inside(name) and not name.rpartition("/")[2].startswith(".")
        }

    def _fetch(self, path: Path, state: str, checksum: str | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            for _ in range(2):
                self._persist(
                    f"read {self._name(path)}",
                    lambda: self._filesystem.get_file(self._object(path), str(aside)),
                )
                if checksum is None or hash_file(aside) == checksum:
                    aside.replace(path)
                    _note_state(path, state)
                    return
        finally:
            aside.unlink(missing_ok=True)
        raise StorageError(
            f"run_dir: {self._name(path)} in {self.uri!r} is damaged (its checksum is not the manifest's);"
            " run the same command again to redo its stage"
        )

    def _persist(self, what: str, action: Callable[[], Value]) -> Value:
        """Try until the store does it, or a minute has passed. Raises StorageError, or what no second try mends."""
        try:
            return try_again(action, RETRY_SECONDS, lambda error: not isinstance(error, _FINAL))
        except _FINAL:
            raise
        except Exception as error:  # every store has errors of its own
            raise StorageError(
                f"run_dir: {self.uri!r} did not {what} for {RETRY_SECONDS:g} s ({describe(error)});"
                " the same command goes on when it answers again"
            ) from error

    def _name(self, path: Path) -> str:
        """A path of the copy as the name of its object, relative to the URI."""
        return path.relative_to(self.local).as_posix()

    def _object(self, path: Path) -> str:
        name = self._name(path)
        return self._root if name == "." else f"{self._root}/{name}"


def describe_state(info: Mapping[str, Any]) -> str:
    """What changes when an object does: its tag or checksum where the store has one, else size and time."""
    tag = next((info[name] for name in ("ETag", "etag", "md5Hash", "mtime") if info.get(name)), "")
    return f"{info.get('size')} {tag}"


def describe(error: BaseException) -> str:
    """An error of a store in one line."""
    return hide_credentials(describe_in_line(error)[:300])


def _state_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.object")


def _note_state(path: Path, state: str) -> None:
    _state_path(path).write_text(state)


def _read_state(path: Path) -> str | None:
    try:
        return _state_path(path).read_text()
    except FileNotFoundError:
        return None
