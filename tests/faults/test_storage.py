"""Storage that refuses to write, a full disk, damaged files: nothing is lost, and the end is that of a quiet run."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import list_results, quick_config, run_quick

from raydistill.commands.cli import main
from raydistill.errors import DiskFullError, RunFolderError, StorageError
from raydistill.execution.jobs import Failure, JobFailed, is_final, report_failures
from raydistill.storage import files
from raydistill.storage.run_folder import RunFolder

TESTS = Path(__file__).parent.parent
PASSING, FULL = OSError(errno.EIO, "Input/output error"), OSError(errno.ENOSPC, "No space left on device")
WRITERS = {
    "text": lambda path: files.write_text(path, "text"),
    "array": lambda path: files.write_array(path, np.arange(3)),
    "tensors": lambda path: files.write_tensors(path, {"a": torch.arange(3)}),
}
# Storage refuses from the first file of a stage on, for so many seconds; the file system is asked to flush each file.
REFUSED = """
import errno, os, sys, time
from builders import quick_config, run_quick
run_dir, stage, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
flush, begun = os.fsync, []
def refuse(number):
    if f"_{stage}/" in os.readlink(f"/proc/self/fd/{number}"):
        begun.append(time.monotonic())
        if begun[-1] - begun[0] < seconds:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
    flush(number)
os.fsync = refuse
run_quick(quick_config(run_dir))
print(len(begun), begun[-1] - begun[0])
"""
# The disk has room for so many bytes more below the run folder, once the specialists have begun.
FILLED = """
import errno, os, sys
from raydistill.commands.cli import main
room, flush = int(sys.argv[1]), os.fsync
def fill(number):
    global room
    path = os.readlink(f"/proc/self/fd/{number}")
    if "_specialists/" in path:
        room -= os.fstat(number).st_size
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    flush(number)
os.fsync = fill
raise SystemExit(main(sys.argv[2:]))
"""
FLAGS = [
    *("--data", "digits", "--generalist.epochs", "4", "--generalist.options", '{"hidden": [24]}'),
    *("--specialists.groups", "3", "--specialists.epochs", "2", "--grouping.bootstraps", "2", "--search.trials", "3"),
    *("--search.epochs", "2", "--student.epochs", "4", "--cluster.backend", "none"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_quick(quick_config(tmp_path_factory.mktemp("undisturbed") / "run"))


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has stopped before the specialists."""
    return run_quick(quick_config(tmp_path_factory.mktemp("before") / "run"), until="groups").path


@pytest.fixture
def run(before: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(before, tmp_path / "run")
    return RunFolder(tmp_path / "run")


class Refusal:
    """os.fsync refuses so many times; time passes only by sleeping."""

    def __init__(self, patch: pytest.MonkeyPatch, error: OSError, times: float) -> None:
        self.error, self.times, self.pauses = error, times, list[float]()
        patch.setattr(os, "fsync", self.flush)
        patch.setattr(files.time, "sleep", self.pauses.append)
        patch.setattr(files.time, "monotonic", lambda: sum(self.pauses))

    def flush(self, number: int) -> None:
        self.times -= 1
        if self.times >= 0:
            raise self.error


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_waits_for_what_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writer: str) -> None:
    refusal = Refusal(monkeypatch, PASSING, 6)
    WRITERS[writer](tmp_path / "file.x")
    assert refusal.pauses == [0.25, 0.5, 1, 2, 4, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["file.x"]


def test_a_writer_gives_up_after_a_minute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusal = Refusal(monkeypatch, PASSING, float("inf"))
    with pytest.raises(StorageError, match=rf"storage: '{tmp_path}' refuses to be written for 60 s \(Input/output"):
        files.write_text(tmp_path / "file", "text")
    assert 50 < sum(refusal.pauses) <= 60
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writer: str) -> None:
    refusal = Refusal(monkeypatch, FULL, 1)
    told = rf"^storage: '{tmp_path}' cannot be written \(No space left on device; [\d,]+ bytes free\); make room"
    with pytest.raises(DiskFullError, match=told):
        WRITERS[writer](tmp_path / "file")
    assert refusal.pauses == []
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusal = Refusal(monkeypatch, OSError(errno.EROFS, "Read-only file system"), 1)
    with pytest.raises(OSError, match="Read-only"):
        files.write_text(tmp_path / "file", "text")
    assert refusal.pauses == []


def test_what_is_tried_again() -> None:
    assert is_final(FloatingPointError("loss is nan"))
    assert is_final(DiskFullError("no room"))
    assert not is_final(StorageError("refuses"))
    assert not is_final(ValueError("no examples"))


def test_a_full_disk_is_no_jobs_failure() -> None:
    bad, full = Failure("a", 1, "ValueError: no"), Failure("b", 1, "DiskFullError: storage: 'x'; make room")
    assert isinstance(report_failures([bad], []), JobFailed)
    error = report_failures([bad, full], [])
    assert type(error) is DiskFullError
    assert str(error) == "storage: 'x'; make room"


@pytest.mark.slow
def test_storage_that_refuses_for_ten_seconds(finished: RunFolder, run: RunFolder) -> None:
    done = run_program(REFUSED, str(run.path), "specialists", "10")
    assert (done.returncode, done.stderr) == (0, "")
    attempts, seconds = done.stdout.split()
    assert float(seconds) >= 10
    assert int(attempts) < 40
    assert list_results(run) == list_results(finished)


def test_a_full_disk_and_room_made(finished: RunFolder, run: RunFolder) -> None:
    """One line, no traceback; the same command goes on, also where skipping was allowed, and keeps what there was."""
    command = ["run", "--run-dir", str(run.path), *FLAGS, "--specialists.on_failure", "skip"]
    weights = (finished.specialist_folder(0) / "weights.safetensors").stat().st_size
    full = run_program(FILLED, str(10 * weights), *command)  # enough for one with its checkpoints
    assert full.returncode == 2
    last = full.stderr.splitlines()[-1]
    assert last.startswith(f"raydistill: storage: '{run.path}/06_specialists/")
    assert "bytes free); make room, and the same command goes on from here" in last
    assert "Traceback" not in full.stderr
    assert not (run.stage_folder("specialists") / "skipped.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in run.stage_folder("specialists").glob("*/training.json")}
    assert kept
    assert main(command) == 0
    assert list_results(run) == list_results(finished)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB, for those who may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system; the patched one above always runs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_small_disk(finished: RunFolder, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--run-dir", str(small_disk / "run"), *FLAGS]
    assert main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"raydistill: storage: '{small_disk}/run")
    assert "(No space left on device; " in last
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main(command) == 0
    assert list_results(RunFolder(small_disk / "run")) == list_results(finished)


def test_a_full_disk_before_an_array_is_mapped(small_disk: Path) -> None:
    """A page of a map that has no room would end the process by SIGBUS."""
    with pytest.raises(DiskFullError), files.write_mapped(small_disk / "x.npy", (2**21,), np.uint8) as array:
        array[:] = 1


def flip_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    replace_file(path, bytes(damaged))


def truncate(path: Path) -> None:
    replace_file(path, path.read_bytes()[:-9])


def replace_file(path: Path, content: bytes) -> None:
    path.unlink()  # it may be linked from another run
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_bit, truncate])
@pytest.mark.parametrize(
    "name", ["01_data/x.npy", "03_generalist/weights.safetensors", "05_groups/groups.json", "09_targets/rows.npy"]
)
def test_a_damaged_artefact_is_made_again(finished: RunFolder, tmp_path: Path, name: str, damage: Any) -> None:
    shutil.copytree(finished.path, tmp_path / "run")
    damage(tmp_path / "run" / name)
    run = run_quick(quick_config(tmp_path / "run"))
    assert list_results(run) == list_results(finished)


def test_a_damaged_manifest_is_told(finished: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "run")
    truncate(tmp_path / "run" / "manifest.json")
    with pytest.raises(RunFolderError, match=r"manifest.json' cannot be read"):
        run_quick(quick_config(tmp_path / "run"))


KILLED = """
import os, signal, sys
from builders import quick_config, run_quick
from raydistill.training import loop as training
save = training._save
def save_and_die(path, *rest):
    save(path, *rest)
    if "_specialists/001" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
training._save = save_and_die
run_quick(quick_config(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def killed(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second specialist."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    shutil.copytree(before, folder)
    assert run_program(KILLED, str(folder)).returncode == -signal.SIGKILL
    return folder


@pytest.mark.parametrize("damage", [flip_bit, truncate])
def test_a_damaged_checkpoint_is_not_gone_on_from(
    finished: RunFolder, killed: Path, tmp_path: Path, damage: Any
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    damage(run.specialist_folder(1) / "checkpoint.safetensors")
    began = time.time_ns()
    run_quick(quick_config(run.path))
    assert list_results(run) == list_results(finished)
    assert (run.specialist_folder(0) / "training.json").stat().st_mtime_ns < began


def test_a_full_disk_before_tensors_are_whole(small_disk: Path) -> None:
    """safetensors tells the system's error in the text of its own alone."""
    with pytest.raises(DiskFullError, match="No space left on device"):
        files.write_tensors(small_disk / "x.safetensors", {"a": torch.zeros(10**6)})
    assert list(small_disk.iterdir()) == []
