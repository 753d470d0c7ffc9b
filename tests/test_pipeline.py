"""The pipeline end to end on digits, in this process: the run, its resume after a kill in each stage, what it gives."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import Recorder, list_results, quick_config, run_quick, whole_config
from sklearn.datasets import load_digits
from torch import nn

import raydistill
from raydistill.data.arrays import open_examples, read_split, read_transfer_rows
from raydistill.errors import ConfigError, ModelError, RunFolderError
from raydistill.method.targets import SoftTargets
from raydistill.stages.teacher import build_views
from raydistill.storage.files import read_json, read_tensors
from raydistill.storage.run_folder import STAGES, RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = whole_config(tmp_path_factory.mktemp("pipeline") / "run")
    return run_quick(config)


def test_every_stage_is_entered_with_its_files(finished):
    stages = finished.read_manifest()["stages"]
    assert tuple(stages) == STAGES
    assert all(record["files"] for record in stages.values())


def test_again_skips_everything(finished):
    before, display = list_results(finished), Recorder()
    run_quick(finished.read_config(), display=display)
    assert display.skipped == [True] * len(STAGES)
    assert list_results(finished) == before


def test_no_pickle_is_left(finished):
    suffixes = {path.suffix for path in finished.path.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".npy", ".npz", ".safetensors", ".html", ".lock", ""}
    for path in finished.path.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as parts:
            assert all(part.dtype != object for part in parts.values())  # reads each of them


def test_a_changed_file_redoes_its_stage_and_what_depends_on_it(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    run, display = RunFolder(tmp_path / "run"), Recorder()
    weights = run.specialist_folder(1) / "weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-5] ^= 1
    weights.write_bytes(damaged)
    untouched = (run.specialist_folder(0) / "weights.safetensors").stat().st_mtime_ns
    run_quick(run.read_config(), display=display)
    assert list_results(run) == list_results(finished)
    assert display.skipped[:5] == [True] * 5
    assert not display.skipped[STAGES.index("specialists")]
    assert display.skipped[STAGES.index("student")]  # the redone specialist is the same, and so all that follows
    assert (run.specialist_folder(0) / "weights.safetensors").stat().st_mtime_ns == untouched


def test_another_search_redoes_search_and_student_only(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    display = Recorder()
    config = whole_config(tmp_path / "run", search={"trials": 2})
    with pytest.raises(RunFolderError, match=r"search\.trials 3 -> 2"):
        run_quick(config)
    run_quick(config, display=display, on_change="redo")
    assert STAGES[display.skipped.index(False)] == "search"


def test_plan_stops_before_the_fan_out(tmp_path):
    run = run_quick(quick_config(tmp_path / "run"), until="groups")
    assert list(run.read_manifest()["stages"]) == ["data", "splits", "generalist", "confusion", "groups"]


def test_controls_have_the_students_steps_and_start(finished):
    histories = [
        read_json(finished.student_folder(name) / "training.json")["history"]
        for name in ("student", "labels_only", "generalist_targets", "seeds_targets")
    ]
    assert [len(history) for history in histories] == [4, 4, 4, 4]


def test_student_beats_guessing(finished):
    report = read_json(finished.stage_folder("report") / "report.json")
    assert report["student"]["test_accuracy"] > 0.5


def test_student_and_ensemble_from_python(finished):
    images = load_digits().images.astype(np.uint8)[:50]
    batch = torch.from_numpy(images)
    logits = raydistill.load_student(finished.path)(batch)
    assert logits.shape == (50, 10)
    log_probs = raydistill.load_ensemble(finished.path)(batch)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(50))
    assert float((log_probs.argmax(1) == torch.from_numpy(load_digits().target[:50])).double().mean()) > 0.5


def test_cache_holds_what_the_ensemble_says(finished):
    rows = read_split(finished, "fit")[:40]
    examples = open_examples(finished)
    targets = SoftTargets.open(finished.stage_folder("targets") / "ensemble")
    said = raydistill.load_ensemble(finished.path)(examples.x[rows])
    torch.testing.assert_close(targets.read(torch.arange(40)).exp(), said.exp(), atol=2e-3, rtol=1e-2)


def test_sparse_caches_have_a_tail_for_each_teacher(tmp_path):
    sparse = {"dense_classes": 2, "top_k": 3, "tail_rank": 9}
    run = run_quick(whole_config(tmp_path / "run", targets=sparse), until="targets")
    for teacher in ("ensemble", "generalist", "seeds"):
        targets = SoftTargets.open(run.stage_folder("targets") / teacher)
        assert targets.log_probs.shape[1] == 3
        assert 1 <= targets.tails.basis.rank <= 9
    rows, examples = read_transfer_rows(run)[:40], open_examples(run)
    said = raydistill.load_ensemble(run.path)(examples.x[rows])
    cached = SoftTargets.open(run.stage_folder("targets") / "ensemble").read(torch.arange(40))
    torch.testing.assert_close(cached.exp(), said.exp(), atol=2e-2, rtol=2e-2)


def test_more_directions_than_classes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"targets.tail_rank: 10 is not allowed with 10 classes; give 0 to 9"):
        run_quick(quick_config(tmp_path, targets={"dense_classes": 2, "top_k": 3, "tail_rank": 10}), until="generalist")


def test_views_are_cached_with_the_answer_to_each(finished):
    config, examples, rows = finished.read_config(), open_examples(finished), read_transfer_rows(finished)
    views, teacher = build_views(finished, config, examples), raydistill.load_ensemble(finished.path)
    targets = SoftTargets.open(finished.stage_folder("targets") / "ensemble")
    assert targets.log_probs.shape == (8 * len(rows), 10)
    for view in (0, 3, 7):
        shown = views.show(examples.x[rows[:20]], rows[:20], view)
        assert torch.equal(shown, examples.x[rows[:20]]) == (view == 0)
        cached = targets.read(view * len(rows) + torch.arange(20))
        torch.testing.assert_close(cached.exp(), teacher(shown).exp(), atol=2e-3, rtol=1e-2)


def test_seeds_are_other_networks_of_the_same_kind(finished):
    first, second = (
        read_tensors(folder / "weights.safetensors")[0]
        for folder in (finished.stage_folder("generalist"), finished.seed_folder(1))
    )
    assert first.keys() == second.keys()
    assert not torch.equal(first["network.1.weight"], second["network.1.weight"])


@pytest.mark.parametrize(
    ("teacher", "stages", "students"),
    [
        ({"kind": "generalist"}, {"seeds", "confusion", "groups", "specialists", "ensemble"}, ["labels_only"]),
        (
            {"kind": "seeds", "seeds": 2},
            {"confusion", "groups", "specialists"},
            ["generalist_targets", "labels_only"],
        ),
    ],
)
def test_other_teachers_leave_out_what_they_do_not_need(tmp_path, teacher, stages, students):
    run = run_quick(quick_config(tmp_path / "run", teacher=teacher))
    assert tuple(run.read_manifest()["stages"]) == tuple(name for name in STAGES if name not in stages)
    assert sorted(path.name for path in run.stage_folder("student").iterdir()) == [*students, "student"]
    with pytest.raises(ConfigError, match=r"until: there is no stage 'groups' with teacher.kind"):
        run_quick(run.read_config(), until="groups")
    with pytest.raises(RunFolderError, match="has no specialists; load its teacher with load_teacher"):
        raydistill.load_ensemble(run.path)
    images, rows = open_examples(run).x, read_transfer_rows(run)[:20]
    cached = SoftTargets.open(run.stage_folder("targets") / teacher["kind"]).read(torch.arange(20))
    torch.testing.assert_close(
        raydistill.load_teacher(run.path)(images[rows]).exp(), cached.exp(), atol=2e-3, rtol=1e-2
    )


def test_a_point_is_not_searched(tmp_path):
    point = {"temperature": [3, 3], "label_weight": [0.1, 0.1]}
    run = run_quick(quick_config(tmp_path / "run", search=point), until="search")
    found = read_json(run.stage_folder("search") / "search.json")
    assert found["trials"] == []
    assert (found["best"]["temperature"], found["best"]["label_weight"]) == (3, 0.1)


def test_students_without_controls(tmp_path):
    run = run_quick(quick_config(tmp_path / "run", student={"controls": False}))
    assert [path.name for path in run.stage_folder("student").iterdir()] == ["student"]


def test_absent_classes_are_repaired(tmp_path):
    transfer = {"without": ["3", "8"]}
    runs = [
        run_quick(quick_config(tmp_path / repair, student={"epochs": 30}, transfer={**transfer, "repair": repair}))
        for repair in ("auto", "never")
    ]
    examples = open_examples(runs[0])
    assert set(examples.y[read_transfer_rows(runs[0])].tolist()) == {0, 1, 2, 4, 5, 6, 7, 9}
    found = read_json(runs[0].student_folder("student") / "repair.json")
    assert found["classes"] == [3, 8]
    assert found["tune_accuracy_after"] > found["tune_accuracy_before"] + 0.02
    assert not (runs[1].student_folder("student") / "repair.json").exists()
    repaired, plain = (raydistill.load_student(run.path)(examples.x[:50]) for run in runs)
    expected = plain.clone()
    expected[:, [3, 8]] += torch.tensor(found["offsets"])
    torch.testing.assert_close(repaired, expected, rtol=1e-4, atol=1e-4)


def test_labels_alone_may_end_early(tmp_path):
    student = {"epochs": 40, "labels_patience": 1, "learning_rate": 0.05}
    run = run_quick(quick_config(tmp_path / "run", student=student))
    lengths = {
        name: len(read_json(run.student_folder(name) / "training.json")["history"])
        for name in ("student", "labels_only")
    }
    assert lengths["labels_only"] < lengths["student"] == 40


def test_unfinished_runs_are_told(tmp_path):
    run = run_quick(quick_config(tmp_path / "run"), until="groups")
    with pytest.raises(RunFolderError, match="no finished 'student'"):
        raydistill.load_student(run.path)
    with pytest.raises(RunFolderError, match="no finished specialists"):
        raydistill.load_ensemble(run.path)
    with pytest.raises(RunFolderError, match="no finished teacher"):
        raydistill.load_teacher(run.path)


def no_biases(input_shape, classes):
    """A network whose last layer has no biases."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), classes, bias=False))


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"specialists": {"groups": 6}}, ConfigError, "specialists.groups: 6 for 10 classes"),
        ({"generalist": {"model": "nope"}}, ModelError, "'nope' is not allowed"),
        ({"student": {"model": "mlp", "options": {"wide": 1}}}, ModelError, "does not take options"),
        ({"student": {"model": f"{__name__}:no_biases"}, "transfer": {"without": ["3"]}}, ModelError, "repair never"),
        ({"transfer": {"without": ["x"]}}, ConfigError, "transfer.without: 'x' is not a class"),
        ({"targets": {"views": 4}}, ConfigError, "targets.views: 4 is not allowed; give 1 to 1"),
    ],
)
def test_misfits_are_told_before_training(tmp_path, changes, error, told):
    with pytest.raises(error, match=told):
        run_quick(quick_config(tmp_path / "run", **changes))
    run = RunFolder(tmp_path / "run")
    assert set(run.read_manifest()["stages"]) == {"data", "splits"}
    run_quick(quick_config(tmp_path / "run"), until="groups")  # the corrected command goes on in the same folder


def test_a_covariance_of_too_many_classes_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("raydistill.method.confusion.MOST_DENSE_CLASSES", 9)
    with pytest.raises(ConfigError, match=r"grouping.method: 'kmeans' for 10 classes is not allowed"):
        run_quick(quick_config(tmp_path / "run", grouping={"method": "kmeans"}))
    assert set(RunFolder(tmp_path / "run").read_manifest()["stages"]) == {"data", "splits"}


KILLED_DRIVER = """
import os, signal, sys, time
from builders import run_quick, whole_config
from raydistill.storage import files
stage, run_dir = sys.argv[1], sys.argv[2]
replace, seen = os.replace, []
def replace_then_maybe_die(source, target):
    replace(source, target)
    if f"_{stage}/" in str(target):          # die after the second file that this stage completes, or its only one
        seen.append(target)
        if len(seen) == 2 or stage in ("ensemble", "search"):
            os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace_then_maybe_die
run_quick(whole_config(run_dir))
"""


FEWER = ("data", "generalist", "specialists", "search", "student")  # one for each way in which a stage works


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[] if stage in FEWER else pytest.mark.slow) for stage in STAGES]
)
def test_killed_in_any_stage_ends_the_same(finished, tmp_path, stage):
    """SIGKILL while the stage is writing; the same command again ends with the files of an undisturbed run."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", KILLED_DRIVER, stage, str(tmp_path / "run")]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    display, began = Recorder(), time.monotonic()
    run = run_quick(whole_config(tmp_path / "run"), display=display)
    before = STAGES.index(stage)
    assert display.skipped == [True] * before + [False] * (len(STAGES) - before)
    assert list_results(run) == list_results(finished)
    assert time.monotonic() - began < 60
