"""A run that starts from another: what it takes over and what it redoes, and that the other run stays as it was."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import list_results, quick_config, run_quick

from raydistill.commands.cli import main
from raydistill.commands.flags import read_settings
from raydistill.display import Silent
from raydistill.errors import RunFolderError
from raydistill.storage.files import read_json, write_json
from raydistill.storage.folders import list_files
from raydistill.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("source") / "run"))


class Recorder(Silent):
    """redone: names of the stages that were not skipped."""

    def __init__(self):
        self.redone, self._name = [], ""

    def begin_stage(self, name, number, count):
        self._name = name

    def end_stage(self, seconds, skipped):
        self.redone += [] if skipped else [self._name]


def fork(source, run_dir, **changes):
    """Another search, or other changes, from the source. Gives the new run and the stages that it did itself."""
    display = Recorder()
    config = quick_config(run_dir, **(changes or {"search": {"trials": 2}}))
    run = run_quick(config, display=display, start_from=source.path)
    return run, display.redone


def snapshot(run):
    """Bytes and times of everything in a run folder."""
    files = [path for path in run.path.rglob("*") if path.is_file()]
    return {path.relative_to(run.path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def count_links(run, stage):
    folder = run.stage_folder(stage)
    return {(folder / name).stat().st_nlink for name in list_files(folder)}


def test_another_search_redoes_what_it_reaches_and_leaves_the_source_alone(finished, tmp_path):
    before = snapshot(finished)
    run, redone = fork(finished, tmp_path / "run")
    assert redone == ["search", "student", "report"]
    assert snapshot(finished) == before
    assert run.read_config().search.trials == 2
    assert len(read_json(run.stage_folder("search") / "search.json")["trials"]) == 2
    assert list_results(run) == list_results(run_quick(quick_config(tmp_path / "alone", search={"trials": 2})))


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"specialists": {"groups": 2}}, "groups"),
        ({"student": {"epochs": 3}}, "search"),
        ({"transfer": {"share": 0.5}}, "targets"),
        ({"teacher": {"kind": "seeds", "seeds": 2}}, "seeds"),
    ],
)
def test_what_if(finished, tmp_path, changes, first):
    _, redone = fork(finished, tmp_path / "run", **changes)
    assert redone[0] == first


def test_the_same_settings_redo_nothing(finished, tmp_path):
    run = run_quick(quick_config(tmp_path / "run"), start_from=finished.path)
    assert run.read_manifest()["stages"] == finished.read_manifest()["stages"]


def test_files_are_linked(finished, tmp_path):
    run, _ = fork(finished, tmp_path / "run")
    assert all(links > 1 for links in count_links(run, "specialists"))
    assert count_links(run, "student") == {1}
    assert run.timing_path("specialists").samefile(finished.timing_path("specialists"))


def test_files_are_copied_where_links_fail(finished, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    run, redone = fork(finished, tmp_path / "run")
    assert redone == ["search", "student", "report"]
    assert count_links(run, "specialists") == {1}


def test_a_fork_of_a_fork(finished, tmp_path):
    first, _ = fork(finished, tmp_path / "first")
    before = snapshot(first)
    second, redone = fork(first, tmp_path / "second", search={"trials": 2}, student={"epochs": 3})
    assert redone == ["search", "student", "report"]
    assert snapshot(first) == before
    shutil.rmtree(first.path)
    assert run_quick(second.read_config()).path == second.path


def test_the_same_command_again_skips_everything_even_without_the_source(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "source")
    source = RunFolder(tmp_path / "source")
    run, _ = fork(source, tmp_path / "run")
    before = list_results(run)
    assert fork(source, run.path)[1] == []
    shutil.rmtree(source.path)
    assert fork(source, run.path)[1] == []
    assert list_results(run) == before


def test_a_folder_with_a_run_ignores_the_flag(finished, tmp_path):
    run = run_quick(quick_config(tmp_path / "run"), until="data")
    _, redone = fork(finished, run.path, search={"trials": 3})
    assert redone[0] == "splits"
    with pytest.raises(RunFolderError, match=r"search\.trials 3 -> 2.*--on-change redo"):
        fork(finished, run.path)


def test_a_fork_goes_back_to_the_sources_settings(finished, tmp_path):
    run, _ = fork(finished, tmp_path / "run")
    run_quick(quick_config(run.path), on_change="redo")
    assert list_results(run) == list_results(finished)


KILLED_FORK = """
import os, pathlib, signal, sys
from builders import quick_config, run_quick
source, run_dir, last = sys.argv[1:]
link = os.link
def link_or_die(source, target, **options):
    link(source, target, **options)
    if last in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
os.link = link_or_die
run_quick(quick_config(run_dir, search={"trials": 2}), start_from=pathlib.Path(source))
"""


@pytest.mark.parametrize("last", ["parts.json", ".specialists/001/training.json", "timings/specialists.json"])
def test_killed_while_taking_over_goes_on_with_the_same_command(finished, tmp_path, last):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", KILLED_FORK, str(finished.path), str(tmp_path / "run"), last]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run, redone = fork(finished, tmp_path / "run")
    assert redone == ["search", "student", "report"]
    assert {path.name for path in run.path.iterdir() if path.name.startswith(".")} <= {".lock", ".owner.json"}


def test_an_interrupted_source_gives_what_it_has_finished(finished, tmp_path):
    source = run_quick(quick_config(tmp_path / "source"), until="groups")
    lock = source.acquire_lock()  # a process works in it
    _, redone = fork(source, tmp_path / "run")
    lock.release()
    assert redone == ["specialists", "ensemble", "targets", "search", "student", "report"]


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_stage_that_does_not_verify_is_redone(finished, tmp_path, damage):
    shutil.copytree(finished.path, tmp_path / "source")
    source = RunFolder(tmp_path / "source")
    weights = source.specialist_folder(1) / "weights.safetensors"
    weights.unlink()
    if damage == "change":
        shutil.copy(source.specialist_folder(0) / "weights.safetensors", weights)
    run, redone = fork(source, tmp_path / "run", search={"trials": 3})
    assert redone == ["specialists"]
    assert list_results(run) == list_results(finished)


def test_a_damaged_file_of_a_taken_stage_is_mended_without_the_rest(finished, tmp_path):
    run, _ = fork(finished, tmp_path / "run")
    weights, other = (run.specialist_folder(index) / "weights.safetensors" for index in (0, 1))
    inode = other.stat().st_ino
    weights.unlink()
    run.timing_path("specialists").unlink()
    write_json(run.manifest_path, {**run.read_manifest(), "start_from": str(tmp_path / "gone")})
    display = Recorder()
    run_quick(run.read_config(), display=display)
    assert display.redone == ["specialists"]
    assert other.stat().st_ino == inode


def refuse(source, run_dir):
    """What is told of a folder that a run cannot start from."""
    with pytest.raises(RunFolderError) as caught:
        run_quick(quick_config(run_dir), start_from=source)
    return str(caught.value)


def test_what_is_no_run_folder_is_refused(tmp_path):
    told = refuse(tmp_path / "none", tmp_path / "run")
    assert re.fullmatch(r"start_from: .*none' is not a run folder.*give the folder of another run.*", told)
    (tmp_path / "file").write_text("x")
    told = refuse(tmp_path / "file", tmp_path / "run")
    assert re.fullmatch(r"start_from: .*cannot be read.*give the folder of another run.*", told)
    assert not RunFolder(tmp_path / "run").manifest_path.exists()


def test_the_very_same_folder_is_refused(finished, tmp_path):
    (tmp_path / "link").symlink_to(finished.path)
    for source, run_dir in ((tmp_path / "link", finished.path), (tmp_path / "run", tmp_path / "run")):
        assert re.fullmatch("start_from: .*this very run folder.*", refuse(source, run_dir))


def test_another_version_is_refused(finished, tmp_path):
    source = RunFolder(tmp_path / "source")
    write_json(source.manifest_path, {**finished.read_manifest(), "version": "0.0.1"})
    told = refuse(source.path, tmp_path / "run")
    assert re.fullmatch(r"start_from: .*version 0\.0\.1.*leave --start-from out.*", told)


def test_on_the_command_line(finished, tmp_path, capsys):
    write_json(tmp_path / "settings.yaml", finished.read_manifest()["settings"])  # JSON is YAML too
    arguments = ["--config", str(tmp_path / "settings.yaml"), "--cluster.backend", "none"]
    arguments += ["--run-dir", str(tmp_path / "run"), "--start-from", str(finished.path), "--search.trials", "2"]
    assert main(["plan", *arguments]) == 0
    assert "gain at most" in capsys.readouterr().out
    assert main(["run", *arguments]) == 0
    taken, own = (RunFolder(tmp_path / "run").stage_folder(name) for name in ("specialists", "search"))
    assert (taken / "000" / "weights.safetensors").stat().st_nlink > 1
    assert (own / "search.json").stat().st_nlink == 1


def test_left_out_it_is_none():
    assert read_settings("run", ["--data", "digits", "--run-dir", "/tmp/x"])[1].start_from is None
