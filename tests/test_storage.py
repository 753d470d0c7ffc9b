"""Run folders in an object store: a real S3-speaking server on loopback, and two nodes with caches of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import Recorder, list_results, quick_config, run_quick
from object_store import BUCKET, run_object_store

import raydistill
from raydistill.commands.cli import main
from raydistill.data.arrays import open_examples
from raydistill.errors import ConfigError, RunFolderError, StorageError
from raydistill.storage import mirror as storage
from raydistill.storage import store_lock
from raydistill.storage.mirror import Mirror
from raydistill.storage.run_folder import RunFolder
from raydistill.storage.store_lock import StoreLock


@pytest.fixture(scope="module")
def store():
    with run_object_store() as store:
        yield store


@pytest.fixture
def uri(store, request):
    return f"{BUCKET}/{request.node.name}".replace("[", "-").replace("]", "")


@pytest.fixture
def on_node(tmp_path, monkeypatch):
    """Work as on the node of that name: with its cache."""

    def choose(name):
        monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / name))

    choose("node-a")
    return choose


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a run in a folder gives."""
    return list_results(run_quick(quick_config(tmp_path_factory.mktemp("local") / "run")))


def put_bytes(uri, name, content):
    fsspec.filesystem("s3", use_listings_cache=False).pipe_file(f"{uri}/{name}", content)


def get_bytes(uri, name):
    return fsspec.filesystem("s3", use_listings_cache=False).cat_file(f"{uri}/{name}")


def test_a_run_in_a_store_is_the_run_in_a_folder_and_other_nodes_see_it(uri, on_node, expected, capsys):
    run = run_quick(quick_config(uri))
    assert list_results(run) == expected
    assert run.path.is_relative_to(os.environ["RAYDISTILL_CACHE"])
    student = raydistill.load_student(uri)
    images = open_examples(run).x[:50]

    on_node("node-b")
    display = Recorder()
    again = run_quick(quick_config(uri), display)
    assert again.path != run.path
    assert display.skipped == [True] * 11
    assert list_results(again) == expected
    assert torch.equal(raydistill.load_student(uri)(images), student(images))

    on_node("node-c")
    assert main(["status", uri]) == 0
    assert capsys.readouterr().out.startswith(f"{uri}: digits, not running\n  data         done in ")
    here = RunFolder(uri).path.iterdir()
    assert [path.name for path in here if path.is_dir()] == []  # it fetched no stage for that


def test_records_are_decoded_beside_the_store(uri, on_node, tmp_path):
    rows = {"v": [[float(row)] for row in range(60)], "label": [row % 3 for row in range(60)]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    config = quick_config(uri, data=f"parquet:{tmp_path / 't.parquet'}", specialists={"groups": 2})
    run = run_quick(config, until="data")
    assert run.ingest_folder.is_dir()
    assert not run.ingest_folder.is_relative_to(run.path)
    on_node("node-b")
    again = run_quick(config, until="splits")
    assert open_examples(again).x[:, 0].tolist() == list(range(60))
    assert not any("ingest" in name for name in fsspec.filesystem("s3", use_listings_cache=False).find(uri))
    assert not again.ingest_folder.exists()


def test_a_run_goes_on_on_another_node_where_it_was_killed(uri, on_node, expected, tmp_path):
    """Killed after its first specialist, while the second is trained; that one is not trained again."""
    program = f"""
import os, signal
from builders import quick_config, run_quick
from raydistill.training import loop as training
save, saved = training._save, []
def die(path, *rest):
    save(path, *rest)
    if path.parent.name == "001":
        os.kill(os.getpid(), signal.SIGKILL)
training._save = die
run_quick(quick_config({uri!r}))
"""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    killed = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert killed.returncode == -9
    written = fsspec.filesystem("s3", use_listings_cache=False).info(f"{uri}/06_specialists/000/weights.safetensors")
    assert b'"epoch": 1' in get_bytes(uri, "06_specialists/001/checkpoint.safetensors").replace(b"\\", b"")

    on_node("node-b")
    run = run_quick(quick_config(uri))
    assert list_results(run) == expected
    store = fsspec.filesystem("s3", use_listings_cache=False)
    assert store.info(f"{uri}/06_specialists/000/weights.safetensors") == written  # as it was, its time as well
    assert not store.exists(f"{uri}/06_specialists/001/checkpoint.safetensors")


@pytest.mark.parametrize(
    "damage", [lambda x: x[:-9], lambda x: x[:-9] + bytes([x[-9] ^ 1]) + x[-8:]], ids=["truncated", "flipped"]
)
def test_a_damaged_object_redoes_its_stage(uri, on_node, expected, damage):
    name = "06_specialists/001/weights.safetensors"
    run_quick(quick_config(uri), until="ensemble")
    good = get_bytes(uri, name)
    put_bytes(uri, name, damage(good))

    on_node("node-b")
    with pytest.raises(StorageError, match=r"06_specialists/001/weights.safetensors in .* is damaged"):
        RunFolder(uri).stage_folder("specialists")
    assert list_results(run_quick(quick_config(uri), until="ensemble"))["specialists"] == expected["specialists"]
    assert get_bytes(uri, name) == good


def test_a_damaged_copy_is_fetched_again(uri, on_node):
    run = run_quick(quick_config(uri), until="splits")
    copy = run.stage_folder("data") / "x.npy"
    good = copy.read_bytes()
    copy.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    display = Recorder()
    run_quick(quick_config(uri), display, until="splits")
    assert display.skipped == [True, True]
    assert copy.read_bytes() == good


def test_a_run_starts_from_one_in_a_store(uri, on_node, expected):
    run_quick(quick_config(uri), until="groups")
    display = Recorder()
    other = run_quick(quick_config(f"{uri}-other"), display, start_from=uri, until="groups")
    assert display.skipped == [True] * 5
    on_node("node-b")
    display = Recorder()
    run_quick(quick_config(f"{uri}-other"), display, until="groups")
    assert display.skipped == [True] * 5
    assert list_results(other)["groups"] == expected["groups"]


def test_what_a_store_refuses_is_tried_again(store, uri, on_node, tmp_path, monkeypatch):
    mirror = Mirror(uri)
    path = mirror.local / "01_data" / "y.npy"
    path.parent.mkdir(parents=True)
    np.save(path, np.arange(5))
    store.stop()
    threading.Timer(3.0, store.start).start()
    began = time.monotonic()
    mirror.push(path)
    assert time.monotonic() - began > 2.5
    assert get_bytes(uri, "01_data/y.npy") == path.read_bytes()

    monkeypatch.setattr(storage, "RETRY_SECONDS", 1.0)
    store.stop()
    with pytest.raises(StorageError, match=r"did not write 01_data/y.npy for 1 s .* the same command goes on"):
        mirror.push(path)
    store.start()


def test_only_one_driver_at_a_time(uri, on_node, monkeypatch, capsys):
    monkeypatch.setattr(store_lock, "LOCK_SECONDS", 2.0)
    monkeypatch.setattr(store_lock.socket, "gethostname", lambda: "host-a")
    first = StoreLock(Mirror(uri))
    first.acquire()
    assert first.is_held()
    monkeypatch.setattr(store_lock.socket, "gethostname", lambda: "host-b")
    with pytest.raises(RunFolderError, match=rf"{uri!r} is in use by process {os.getpid()} on host-a; wait for it"):
        StoreLock(Mirror(uri)).acquire()
    first.release()
    assert not first.is_held()
    first.check()
    capsys.readouterr()


def test_a_silent_driver_loses_the_lock(uri, on_node, monkeypatch, capsys):
    monkeypatch.setattr(store_lock, "LOCK_SECONDS", 2.0)
    monkeypatch.setattr(store_lock.socket, "gethostname", lambda: "host-a")
    silent = StoreLock(Mirror(uri))
    monkeypatch.setattr(silent, "_renew", lambda: None)
    silent.acquire()
    monkeypatch.setattr(store_lock.socket, "gethostname", lambda: "host-b")
    second = StoreLock(Mirror(uri))
    began = time.monotonic()
    second.acquire()
    assert 1.0 < time.monotonic() - began < 6.0
    monkeypatch.undo()
    silent._renew_once()
    with pytest.raises(RunFolderError, match="was taken by another process while this one was silent"):
        silent.check()
    silent.release()
    assert second.is_held()  # nobody gives back what is another's
    second.release()
    assert f"locked by process {os.getpid()} on host-a; waiting up to 2 s" in capsys.readouterr().err


def test_a_store_that_refuses_once_takes_no_lock_away(uri, on_node, monkeypatch):
    monkeypatch.setattr(store_lock, "LOCK_SECONDS", 1.2)
    mirror, refusals = Mirror(uri), []
    write = mirror.write

    def refuse_first(name, content):
        if not refusals:
            refusals.append(name)
            raise PermissionError("ExpiredToken")
        write(name, content)

    monkeypatch.setattr(mirror, "write", refuse_first)
    lock = StoreLock(mirror)
    lock.acquire()
    deadline = time.monotonic() + 20
    while json.loads(mirror.read(StoreLock.NAME))["beats"] < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert refusals == [StoreLock.NAME]
    assert json.loads(mirror.read(StoreLock.NAME))["beats"] >= 2
    lock.check()
    lock.release()


def test_a_store_that_refuses_the_release_fails_no_run(uri, on_node, monkeypatch, capsys):
    monkeypatch.setattr(store_lock, "LOCK_SECONDS", 2.0)
    monkeypatch.setattr(store_lock.socket, "gethostname", lambda: "host-a")
    mirror, refusals = Mirror(uri), []

    def refuse(path):
        refusals.append(path)
        raise PermissionError("ExpiredToken")

    monkeypatch.setattr(mirror, "remove", refuse)
    lock = StoreLock(mirror)
    lock.acquire()
    lock.release()
    assert refusals == [mirror.local / StoreLock.NAME]
    monkeypatch.setattr(store_lock.socket, "gethostname", lambda: "host-b")
    second = StoreLock(Mirror(uri))
    second.acquire()  # nobody renews the first one
    second.release()
    assert not second.is_held()
    assert "waiting up to 2 s" in capsys.readouterr().err


def test_the_lock_of_a_dead_process_of_this_host_is_free_at_once(uri, on_node):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock = StoreLock(Mirror(uri))
    put_bytes(uri, StoreLock.NAME, lock._describe().replace(str(os.getpid()).encode(), str(dead.pid).encode()))
    began = time.monotonic()
    lock.acquire()
    assert time.monotonic() - began < 1.0
    lock.release()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://key:secret@bucket/run", r"run_dir: 's3://\*\*\*@bucket/run' holds credentials"),
        ("s3://", "run_dir: 's3://' names no bucket"),
        ("nowhere://bucket/run", "run_dir: 'nowhere://bucket/run' is not allowed"),
        ("s3://bucket/run-*", r"run_dir: 's3://bucket/run-\*' has one of"),
    ],
    ids=["credentials", "no bucket", "unknown", "pattern"],
)
def test_uris_that_cannot_be(uri, told):
    with pytest.raises(ConfigError, match=told) as caught:
        RunFolder(uri)
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_named():
    program = (
        "import sys; sys.modules['s3fs'] = None; from raydistill.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "status", "s3://bucket/run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("raydistill: run_dir: 's3://bucket/run' needs a package that is missing")
    assert done.stderr.endswith("; pip install 'raydistill[s3]'\n")


def test_a_bucket_that_is_not_there(store, on_node):
    with pytest.raises(RunFolderError, match="run_dir: 's3://absent/run'"):
        run_quick(quick_config("s3://absent/run"))


def test_a_folder_of_something_else_is_refused(uri, on_node):
    put_bytes(uri, "holiday.jpg", b"x")
    with pytest.raises(RunFolderError, match="is not empty and not a run folder"):
        run_quick(quick_config(uri))
