"""Runs on digits on several raylets while parts die: the end is that of an undisturbed run, bit for bit."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from builders import run_quick

from benchmarks.raylets import Raylets
from raydistill.storage.files import read_json
from raydistill.storage.run_folder import STAGES, RunFolder

from .cluster import Driver, frozen
from .drivers import slow_config

LEASE_SECONDS = 20.0  # longer than a busy machine is silent
ON_RAY = ("generalist", "specialists", "seeds", "search", "student")  # the others run in the driver: test_pipeline.py
TRAINING = {
    "generalist": "checkpoint.safetensors",
    "specialists": "*/training.json",
    "seeds": "001/checkpoint.safetensors",
    "search": "trials/*/checkpoint.safetensors",
    "student": "student/checkpoint.safetensors",
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A whole run without Ray."""
    return run_quick(slow_config(tmp_path_factory.mktemp("undisturbed") / "run"))


@pytest.fixture
def prepare(undisturbed: RunFolder, tmp_path: Path) -> Callable[[str], RunFolder]:
    """Gives a copy of the undisturbed run in which a stage and all after it are still to do."""

    def copy(stage: str) -> RunFolder:
        run = RunFolder(tmp_path / "run")
        kept = STAGES[: STAGES.index(stage)]
        skipped = shutil.ignore_patterns(*(f"*_{name}" for name in STAGES if name not in kept))
        shutil.copytree(undisturbed.path, run.path, ignore=skipped)
        for name in STAGES:
            if name not in kept:
                (run.path / "begun" / name).unlink()
        return run

    return copy


def files_of(run: RunFolder, stage: str) -> Any:
    return run.read_manifest()["stages"][stage]["files"]


def times_of(run: RunFolder) -> dict[Path, int]:
    """When each finished network was finished."""
    return {path: path.stat().st_mtime_ns for path in run.path.glob("*_s*/*/training.json")}


def test_specialists_whose_worker_node_and_queue_are_killed(raylets: Raylets, tmp_path: Path) -> None:
    """Short ones, because this test is one of the quick half."""
    epochs = 60
    run_quick(slow_config(tmp_path / "run", epochs=epochs), until="groups")
    shutil.copytree(tmp_path / "run", tmp_path / "undisturbed")
    undisturbed = run_quick(slow_config(tmp_path / "undisturbed", epochs=epochs), until="specialists")
    run = RunFolder(tmp_path / "run")
    driver = Driver(raylets, "run", {"run_dir": str(run.path), "until": "specialists", "epochs": epochs})
    folder = run.stage_folder("specialists")
    driver.wait_for(lambda: any(folder.glob("*/checkpoint.safetensors")))
    find_workers(raylets)[0].kill()
    driver.wait_for(lambda: any(folder.glob("*/training.json")))
    first = times_of(run)
    raylets.find("ray::JobQueue")[0].kill()
    driver.wait_for(lambda: len(times_of(run)) > len(first))
    first = times_of(run)
    raylets.kill(raylets.nodes[0])
    driver.finish()
    assert files_of(run, "specialists") == files_of(undisturbed, "specialists")
    assert {path: times_of(run)[path] for path in first} == first


@pytest.mark.slow
def test_a_worker_frozen_in_a_specialist_that_goes_on_after_its_lease(
    raylets: Raylets, prepare: Callable[[str], RunFolder], undisturbed: RunFolder
) -> None:
    """Another has finished the specialist by then; its own watchdog ends it before it writes anything."""
    run = prepare("specialists")
    settings = {"run_dir": str(run.path), "until": "specialists", "lease_seconds": LEASE_SECONDS}
    driver, folder = Driver(raylets, "run", settings), run.stage_folder("specialists")
    driver.wait_for(lambda: len(list(folder.glob("*/checkpoint.safetensors"))) == 2)  # of both workers
    process, began = find_workers(raylets)[0], time.monotonic()
    with frozen(process):
        driver.wait_for(lambda: len(times_of_stage(run, "specialists")) == 5)
        driver.wait_for(lambda: not any(folder.glob("*/checkpoint.safetensors")))
        assert process.status() == psutil.STATUS_STOPPED
        assert time.monotonic() - began > LEASE_SECONDS - 2  # it beat a second before
        finished = snapshot(folder)
    process.wait(20)
    driver.finish()
    assert snapshot(folder) == finished
    assert files_of(run, "specialists") == files_of(undisturbed, "specialists")
    outcomes = read_json(run.timing_path("specialists"))
    assert sorted(outcome["attempts"] for outcome in outcomes) == [1, 1, 1, 1, 2]
    (again,) = (outcome for outcome in outcomes if outcome["attempts"] == 2)
    assert not again["worker"].endswith(f":{process.pid}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ON_RAY)
def test_the_driver_killed_and_started_on_another_node(
    raylets: Raylets, prepare: Callable[[str], RunFolder], undisturbed: RunFolder, stage: str
) -> None:
    run = prepare(stage)
    settings = {"run_dir": str(run.path), "until": stage}
    driver = Driver(raylets, "run", settings)
    driver.wait_for(lambda: any(run.stage_folder(stage).glob(TRAINING[stage])))
    driver.kill()
    first = times_of(run)
    Driver(raylets, "run", {**settings, "through": raylets.addresses[raylets.nodes[-1]]}).finish()
    assert files_of(run, stage) == files_of(undisturbed, stage)
    assert {path: times_of(run)[path] for path in first} == first


@pytest.mark.slow
def test_the_driver_told_to_end(raylets: Raylets, prepare: Callable[[str], RunFolder], undisturbed: RunFolder) -> None:
    run = prepare("specialists")
    settings = {"run_dir": str(run.path), "until": "specialists"}
    driver = Driver(raylets, "run", settings)
    driver.wait_for(lambda: times_of_stage(run, "specialists"))
    driver.process.send_signal(signal.SIGTERM)
    _, lines = driver.process.communicate(timeout=28)
    assert driver.process.returncode == 143
    assert lines.splitlines()[-1] == "raydistill: interrupted; the same command goes on from here"
    assert "Traceback" not in lines
    first = times_of(run)
    Driver(raylets, "run", settings).finish()
    assert files_of(run, "specialists") == files_of(undisturbed, "specialists")
    assert {path: times_of(run)[path] for path in first} == first


@pytest.mark.slow
def test_a_trial_killed(raylets: Raylets, prepare: Callable[[str], RunFolder], undisturbed: RunFolder) -> None:
    run = prepare("search")
    driver = Driver(raylets, "run", {"run_dir": str(run.path), "until": "search"})
    driver.wait_for(lambda: any(run.stage_folder("search").glob("trials/*/checkpoint.safetensors")))
    trials = raylets.find("ray::ImplicitFunc")
    assert trials
    trials[0].kill()
    driver.finish()
    assert files_of(run, "search") == files_of(undisturbed, "search")


def snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Bytes and times of all files."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def find_workers(raylets: Raylets) -> list[psutil.Process]:
    """Workers of the pool."""
    return raylets.find("ray::RayTrainWorker")


def times_of_stage(run: RunFolder, stage: str) -> list[Path]:
    """Finished networks of a stage."""
    return [path for path in times_of(run) if run.stage_folder(stage) in path.parents]
