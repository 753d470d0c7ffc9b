"""The run folder: atomic files, keys, verification, ownership and the lock."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import random_array

from raydistill.errors import RunFolderError
from raydistill.settings.config import build_config
from raydistill.storage.files import (
    map_array,
    read_json,
    read_sparse,
    write_array,
    write_aside,
    write_json,
    write_mapped,
    write_sparse,
)
from raydistill.storage.manifest import list_changes
from raydistill.storage.run_folder import ORIGIN, STAGES, RunFolder


def make(tmp_path, **settings):
    config = build_config({"data": "digits", "run_dir": tmp_path / "run", **settings})
    run = RunFolder(config.run_dir)
    run.open(config)
    return run, config


def finish(run, stage="data", content=b"abc", settings=1):
    key = run.stage_key(stage, settings, ())
    run.begin_stage(stage, key)
    (run.stage_folder(stage) / "file.bin").write_bytes(content)
    run.finish_stage(stage, key, 1.0)
    return key


def test_failed_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})

    def fail_halfway():
        with write_aside(tmp_path / "a.json") as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))


def test_mapped_arrays_are_private(tmp_path):
    with write_mapped(tmp_path / "a.npy", (3, 2), np.float32) as array:
        array[:] = 7
    mapped = map_array(tmp_path / "a.npy")
    mapped[0] = 1
    np.testing.assert_array_equal(map_array(tmp_path / "a.npy"), np.full((3, 2), 7))


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        map_array(tmp_path / "a.npy")


def test_sparse_matrices_come_back_from_the_same_bytes(tmp_path):
    matrix = random_array((40, 40), density=0.1, format="csr", rng=np.random.default_rng(0))
    write_sparse(tmp_path / "a.npz", matrix)
    write_sparse(tmp_path / "b.npz", matrix)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    np.testing.assert_array_equal(read_sparse(tmp_path / "a.npz").toarray(), matrix.toarray())


def test_pickled_sparse_matrices_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", format=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        read_sparse(tmp_path / "a.npz")


def test_object_arrays_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        write_array(tmp_path / "a.npy", np.array([{}], dtype=object))


def test_folders_are_numbered_in_the_pipelines_order(tmp_path):
    from raydistill.pipeline import PIPELINE

    run, _ = make(tmp_path)
    assert tuple(stage.name for stage in PIPELINE) == (ORIGIN, *STAGES)
    folders = [run.stage_folder(name).name for name in STAGES]
    assert folders == sorted(folders)


def test_stages_depend_only_on_stages_before(tmp_path):
    from raydistill.pipeline import PIPELINE

    for index, stage in enumerate(PIPELINE):
        assert set(stage.inputs) <= {before.name for before in PIPELINE[:index]}


def test_finished_stage_is_known_until_something_changes(tmp_path):
    run, _ = make(tmp_path)
    key = finish(run)
    assert run.is_finished("data", key)
    assert not run.is_finished("data", run.stage_key("data", 2, ()))
    assert not run.is_finished("splits", key)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_files_are_noticed(tmp_path, damage):
    run, _ = make(tmp_path)
    key = finish(run)
    file = run.stage_folder("data") / "file.bin"
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(b"abd" if damage == "flip" else b"ab")
    assert not run.is_finished("data", key)


def test_keys_follow_the_inputs_files(tmp_path):
    run, _ = make(tmp_path)
    finish(run)
    before = run.stage_key("splits", 1, ("data",))
    finish(run)  # the same bytes again
    assert run.stage_key("splits", 1, ("data",)) == before
    finish(run, content=b"other")
    assert run.stage_key("splits", 1, ("data",)) != before


def test_partial_files_stay_for_the_same_key_only(tmp_path):
    run, _ = make(tmp_path)
    partial = run.stage_folder("generalist") / "checkpoint"
    run.begin_stage("generalist", "key 1")
    partial.write_text("half")
    run.begin_stage("generalist", "key 1")
    assert partial.exists()
    run.begin_stage("generalist", "key 2")
    assert not partial.exists()


def test_other_configuration_is_refused_once_training_began(tmp_path):
    run, _ = make(tmp_path)
    changed = build_config({"data": "digits", "run_dir": run.path, "search": {"trials": 3}})
    run.open(changed)  # nothing to lose yet
    run.begin_stage("generalist", "key")
    before = run.manifest_path.read_bytes()
    with pytest.raises(RunFolderError, match=r"search\.trials 3 -> 8.*--on-change redo"):
        make(tmp_path)
    assert run.manifest_path.read_bytes() == before
    run.open(build_config({"data": "digits", "run_dir": run.path}), on_change="redo")
    make(tmp_path)


def test_where_it_runs_is_not_part_of_the_configuration(tmp_path):
    run, _ = make(tmp_path)
    run.begin_stage("generalist", "key")
    before = run.manifest_path.read_bytes()
    make(tmp_path, cluster={"backend": "none"})
    assert run.manifest_path.read_bytes() == before


def test_foreign_folders_are_refused_untouched(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="not a run folder"):
        make(tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["{}", "[]", "hello", '{"raydistill_format": 99}'])
def test_foreign_manifests_are_refused(tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"manifest\.json"):
        make(tmp_path)
    assert (tmp_path / "run" / "manifest.json").read_text() == text


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "run").acquire_lock()


HOLD = """
import sys, time
from pathlib import Path
from raydistill.storage.run_folder import RunFolder
lock = RunFolder(Path(sys.argv[1])).acquire_lock()
print("held", flush=True)
time.sleep(60)
"""


def test_lock_is_exclusive_and_falls_with_its_process(tmp_path):
    run, _ = make(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert run.is_locked()
        with pytest.raises(RunFolderError, match=f"in use by process {holder.pid}"):
            run.acquire_lock()
        holder.kill()
        holder.wait()
    assert not run.is_locked()
    run.acquire_lock().release()
    assert read_json(run.path / ".owner.json")["pid"] == os.getpid()


def test_changes_are_named_with_their_section():
    assert list_changes({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 5, "d": 3}}) == ["b.c 2 -> 5"]


def test_manifest_is_plain_json(tmp_path):
    run, _ = make(tmp_path)
    finish(run)
    assert json.loads(run.manifest_path.read_text())["stages"]["data"]["files"].keys() == {"file.bin"}
