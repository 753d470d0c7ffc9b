"""The run folder: the only thing that stages share, and the only mechanism of resuming.

    manifest.json      configuration, version, and for each finished stage its key, seconds, and its files' checksums
    01_data/ …         one folder a stage, in the order of the pipeline; 00_origin/ of a run that grows from another
    timings/           how long things took; read by the report, never by a stage's key
    ingest/            records that are decoded, while the data stage runs
    ray/               scratch of Ray's own; never read back

A stage's key hashes its settings, the version of the package and the checksums of its inputs. A stage whose key stands
and whose files verify is skipped. A stage that was interrupted finds its own partial files, if its key still stands.

A run may start from another: a stage that finished there with the same key is taken over as hard links. This is safe
because no file of a stage is ever changed in place: all are written aside and renamed (files.py), or removed.

A folder in an object store is worked on in a copy on each node (mirror.py): what is written there goes to the store at
once, and a finished stage comes from it, verified, when a process first asks for its folder.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raydistill.errors import RunFolderError, StorageError
from raydistill.settings.config import Config
from raydistill.settings.credentials import check_credentials
from raydistill.storage.boundary import check_links
from raydistill.storage.files import link_file, write_json, write_text
from raydistill.storage.folder_lock import FolderLock
from raydistill.storage.folders import follow_folder, publish, refresh, remove
from raydistill.storage.job import is_uri
from raydistill.storage.manifest import compare_manifest, load_manifest, make_key, new_manifest, result_settings
from raydistill.storage.mirror import Mirror
from raydistill.storage.stage_files import hash_files, link_files, verify_files
from raydistill.storage.store_lock import StoreLock
from raydistill.version import __version__

ORIGIN = "origin"
"""The stage before all others, in runs that grow from another."""
STAGES = (
    "data",
    "splits",
    "generalist",
    "confusion",
    "groups",
    "specialists",
    "seeds",
    "ensemble",
    "targets",
    "search",
    "student",
    "report",
)


class RunFolder:
    """Every path of a run, its manifest and its lock."""

    def __init__(self, location: Path | str) -> None:
        """location: a folder, or a URI of an object store. Raises ConfigError for a URI that cannot be used."""
        self._mirror = Mirror(str(location)) if is_uri(location) else None
        self.path = self._mirror.local if self._mirror else Path(location).expanduser().absolute()
        self.location = self._mirror.uri if self._mirror else str(self.path)
        self._lock: StoreLock | None = None
        self._current: set[str] = set()  # what of a store is known to be here: stages, and the manifest
        if self._mirror:
            follow_folder(self.path, self._mirror)

    @property
    def manifest_path(self) -> Path:
        """The one file that says what is finished."""
        return self.path / "manifest.json"

    def stage_folder(self, stage: str) -> Path:
        """Folder of a stage, numbered in the order of the pipeline; a finished one comes from the store first.

        Raises StorageError if the store does not give it as the manifest says.
        """
        folder = self.path / name_folder(stage)
        if self._mirror and stage not in self._current:
            self._current.add(stage)
            record = self.read_manifest()["stages"].get(stage)
            if record is not None:
                self._mirror.pull(folder, record["files"])
        return folder

    @property
    def ingest_folder(self) -> Path:
        """Where records are decoded before the data stage takes them; outside of what a store follows."""
        return self.path.with_name(f"{self.path.name}.ingest") if self._mirror else self.path / "ingest"

    def specialist_folder(self, index: int) -> Path:
        """Folder of one specialist."""
        return self.stage_folder("specialists") / f"{index:03d}"

    def seed_folder(self, index: int) -> Path:
        """Folder of the generalist of another seed, index 1 or more."""
        return self.stage_folder("seeds") / f"{index:03d}"

    def student_folder(self, name: str) -> Path:
        """Folder of the student or of one of its controls."""
        return self.stage_folder("student") / name

    def timing_path(self, stage: str) -> Path:
        """Where a stage leaves times of its parts; outside its folder, so that results do not depend on them."""
        return self.path / "timings" / f"{stage}.json"

    def open(self, config: Config, on_change: str = "refuse", start_from: Path | str | None = None) -> None:
        """Create the folder, or check that it belongs to this configuration.

        start_from: another run, whose finished stages a new folder takes over where their keys stand. It is remembered
        in the manifest, and of no effect on a folder that has one.
        Raises RunFolderError if it is not a run folder, or was made with other settings and on_change is 'refuse'; or
        if start_from cannot be used.
        """
        settings = result_settings(config)
        check_credentials({"start_from": start_from})
        source = None if start_from is None else RunFolder(start_from)
        if source is not None and source.path.resolve() == self.path.resolve():
            raise RunFolderError(
                f"start_from: {source.location!r} is this very run folder; give that of another run, or leave it out"
            )
        if not self._has_manifest():
            self.check_unused()
            if source is not None:
                source.check_source()
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.manifest_path, new_manifest(settings, None if source is None else source.location))
            return
        refusal, manifest = self.describe_refusal(config), self.read_manifest()
        if refusal and on_change == "refuse":
            raise RunFolderError(refusal)
        if manifest["settings"] != settings or manifest["version"] != __version__:
            write_json(self.manifest_path, {**manifest, "version": __version__, "settings": settings})

    def describe_refusal(self, config: Config) -> str:
        """Why a run of other settings is refused here, in a line; empty where there is nothing to refuse."""
        changes = compare_manifest(self.read_manifest(), config)
        if not changes or not self._begun_path("generalist").exists():  # before it, nothing is worth keeping
            return ""
        return (
            f"run_dir: {self.location!r} holds a run of another configuration ({'; '.join(changes[:3])}"
            f"{'; …' if len(changes) > 3 else ''}); take another --run-dir, or add --on-change redo"
        )

    def check_source(self) -> None:
        """Whether another run can start from this one. Raises RunFolderError if not."""
        try:
            version = self.read_manifest()["version"]
        except RunFolderError as error:
            told = str(error).removeprefix("run_dir: ")
            raise RunFolderError(f"start_from: {told}; give the folder of another run") from None
        if version != __version__:
            raise RunFolderError(
                f"start_from: {self.location!r} was written by version {version}, this is {__version__} and would redo"
                " every stage; leave --start-from out"
            )
        check_links(self.path)

    def read_manifest(self) -> dict[str, Any]:
        """Read the manifest. Raises RunFolderError if there is none, or it is not ours."""
        self._refresh_manifest()
        return load_manifest(self.manifest_path, self.location)

    def read_config(self) -> Config:
        """The configuration that the run was made with."""
        return Config.model_validate({**self.read_manifest()["settings"], "run_dir": self.location})

    def acquire_lock(self) -> FolderLock | StoreLock:
        """Lock the folder for this process; the lock falls with the process, in a store half a minute later.

        Raises RunFolderError if another process works in the folder, or a link in it leads out of it.
        """
        if not self._has_manifest():
            self.check_unused()
        if self._mirror is None:
            self.path.mkdir(parents=True, exist_ok=True)
            check_links(self.path)
            lock = FolderLock(self.path)
            lock.acquire()
            return lock
        self._lock = StoreLock(self._mirror)
        self._lock.acquire()
        self._current.clear()
        for folder in (self.path / "begun", self.path / "timings"):
            self._mirror.pull(folder)
        return self._lock

    def is_locked(self) -> bool:
        """Whether a process works in the folder now; in a store, or did until half a minute ago."""
        lock = StoreLock(self._mirror) if self._mirror else FolderLock(self.path)
        return lock.is_held()

    def stage_key(self, stage: str, settings: Mapping[str, Any], inputs: Iterable[str]) -> str:
        """Hash of what decides a stage's results: its settings, the version, and its inputs' files."""
        finished = self.read_manifest()["stages"]
        return make_key(stage, settings, {name: finished[name]["files"] for name in inputs})

    def is_finished(self, stage: str, key: str) -> bool:
        """Whether the stage ran with this key, and all its files still have their checksums."""
        record = self._find_record(stage, key)
        return record is not None and self._verify(stage, record["files"])

    def has_begun(self, stage: str) -> bool:
        """Whether the stage was ever begun."""
        refresh(self._begun_path(stage).parent)
        return self._begun_path(stage).exists()

    def begin_stage(self, stage: str, key: str) -> None:
        """Prepare the stage's folder: partial files of the same key stay, anything else goes."""
        self._current.add(stage)
        folder, mark = self.stage_folder(stage), self._begun_path(stage)
        if not mark.exists() or mark.read_text().strip() != key:
            remove(folder)
        refresh(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._mark_begun(stage, key)

    def finish_stage(self, stage: str, key: str, seconds: float) -> None:
        """Enter the stage into the manifest, with the checksums of all its files."""
        manifest = self.read_manifest()
        folder = self.stage_folder(stage)
        refresh(folder)
        manifest["stages"][stage] = {
            "key": key,
            "seconds": round(seconds, 3),
            "finished": time.time(),
            "files": hash_files(folder),
        }
        self._write_manifest(manifest)

    def take_over(self, stage: str, key: str) -> bool:
        """Link a stage's files from the run that this one starts from, if it finished there with this key."""
        manifest = self.read_manifest()
        if manifest.get("start_from") is None:
            return False
        source = RunFolder(manifest["start_from"])
        record = source._find_record(stage, key) if source._has_manifest() else None
        if record is None or not self._link_stage(source, stage, record["files"]):
            return False
        self._mark_begun(stage, key)
        self._link_timing(source, stage)
        manifest["stages"][stage] = record
        self._write_manifest(manifest)
        return True

    def _link_stage(self, source: RunFolder, stage: str, files: Mapping[str, str]) -> bool:
        """Whether another run's files of a stage are this run's now; if not, nothing has changed.

        They are linked aside and verified there: a process may be redoing the stage in the other run.
        """
        self._current.add(stage)
        folder, aside = self.stage_folder(stage), self.path / f".{stage}"
        linked = False
        with contextlib.suppress(StorageError):
            linked = link_files(source.stage_folder(stage), aside, files)
        if not linked:
            shutil.rmtree(aside, ignore_errors=True)
            return False
        remove(self._begun_path(stage))  # it always tells whose files the folder holds
        remove(folder)
        aside.rename(folder)
        publish(folder)
        return True

    def _link_timing(self, source: RunFolder, stage: str) -> None:
        """Take over when and where the stage's jobs ran."""
        refresh(source.timing_path(stage).parent)
        if source.timing_path(stage).exists():
            link_file(source.timing_path(stage), self.timing_path(stage))
            publish(self.timing_path(stage))

    def _has_manifest(self) -> bool:
        self._refresh_manifest()
        return self.manifest_path.exists()

    def _refresh_manifest(self) -> None:
        """Fetch the manifest, once: after that, whoever holds the lock is the only one to write it."""
        if self._mirror and "manifest" not in self._current:
            self._mirror.pull_file(self.manifest_path)
            self._current.add("manifest")

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        if self._lock is not None:
            self._lock.check()
        write_json(self.manifest_path, manifest)

    def _verify(self, stage: str, files: Mapping[str, str]) -> bool:
        """Whether the stage's files have these checksums, here; else whether the store has them."""
        with contextlib.suppress(StorageError):
            if verify_files(self.stage_folder(stage), files):
                return True
            if self._mirror:
                self._mirror.forget(self.stage_folder(stage))
                self._mirror.pull(self.stage_folder(stage), files)
                return verify_files(self.stage_folder(stage), files)
        return False

    def _find_record(self, stage: str, key: str) -> dict[str, Any] | None:
        """The manifest's record of a stage, if it ran with this key."""
        record = self.read_manifest()["stages"].get(stage)
        return record if record is not None and record["key"] == key else None

    def _begun_path(self, stage: str) -> Path:
        return self.path / "begun" / stage

    def _mark_begun(self, stage: str, key: str) -> None:
        mark = self._begun_path(stage)
        if not mark.exists() or mark.read_text() != key:
            write_text(mark, key)

    def check_unused(self) -> None:
        """Raise RunFolderError for a folder that holds anything, and no run; and for a file."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"run_dir: {str(self.path)!r} is a file; give a folder")
        ours = {".lock", ".owner.json", "given"}
        used = self.path.exists() and bool({entry.name for entry in self.path.iterdir()} - ours)
        if self._mirror.has_objects() if self._mirror else used:
            raise RunFolderError(
                f"run_dir: {self.location!r} is not empty and not a run folder (no manifest.json);"
                " give a new or empty one"
            )


def name_folder(stage: str) -> str:
    """Name of a stage's folder."""
    return f"{(ORIGIN, *STAGES).index(stage):02d}_{stage}"
