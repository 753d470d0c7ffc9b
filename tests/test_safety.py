"""A run folder from somebody else: whatever is planted in it, none of it runs.

Every file of a finished run is replaced in turn by one whose unpickling would write a mark, with its checksum in the
manifest made right, and everything that reads run folders is run on it.
"""

import contextlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import run_quick, whole_config
from sklearn.datasets import load_digits

from raydistill.commands.cli import main
from raydistill.data.sources import check_source
from raydistill.deployment.loading import load_ensemble, load_student, load_teacher
from raydistill.deployment.predict import predict_file
from raydistill.errors import DataError, ModelError, RaydistillError
from raydistill.networks.models import find_constructor
from raydistill.report import compare_runs
from raydistill.storage.files import hash_file
from raydistill.storage.run_folder import RunFolder


class Bomb:
    """Pickles to a call of Path.touch."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def plant_array(path, bomb):
    array = np.empty(3, dtype=object)
    array[:] = bomb
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=True)


def plant_arrays(path, bomb):
    """As a sparse matrix, of whose parts one is an object."""
    array = np.empty(3, dtype=object)
    array[:] = bomb
    parts = dict.fromkeys(("format", "shape", "data", "indices", "indptr"), array)
    with path.open("wb") as file:
        np.savez(file, **parts)


def plant_torch(path, bomb):
    torch.save({"weights": bomb}, path)


def plant_pickle(path, bomb):
    path.write_bytes(pickle.dumps(bomb))


PLANTERS = {
    ".npy": (plant_array, plant_pickle),
    ".npz": (plant_arrays, plant_pickle),
    ".safetensors": (plant_torch, plant_pickle),
    ".json": (plant_pickle,),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(whole_config(tmp_path_factory.mktemp("safety") / "run"))


@pytest.fixture
def copied(finished, tmp_path):
    return RunFolder(shutil.copytree(finished.path, tmp_path / "run"))


@pytest.fixture
def bomb(tmp_path):
    return Bomb(tmp_path / "it-ran")


def make_true(run, path):
    """Let the manifest, and a network's finished mark, say that the file is as it should be."""
    if path == run.manifest_path:
        return
    mark = path.parent / "training.json"
    if path.suffix == ".safetensors" and mark.exists():
        mark.write_text(json.dumps({**json.loads(mark.read_text()), "sha256": hash_file(path)}))
    manifest = json.loads(run.manifest_path.read_text())
    for stage, record in manifest["stages"].items():
        record["files"] = {name: hash_file(run.stage_folder(stage) / name) for name in record["files"]}
    run.manifest_path.write_text(json.dumps(manifest))


def read_everything(run, inputs):
    """All that reads a run folder; it may refuse what it finds in whatever words."""
    batch = torch.zeros(2, 8, 8, dtype=torch.uint8)
    readers = [
        lambda: load_student(run.path)(batch),
        lambda: load_student(run.path, "labels_only")(batch),
        lambda: load_ensemble(run.path)(batch),
        lambda: load_teacher(run.path)(batch),
        lambda: predict_file(run.path, inputs),
        lambda: compare_runs(run.path, run.path, "student", "generalist"),
        lambda: main(["status", str(run.path)]),
        lambda: main(["report", str(run.path)]),
        lambda: main(["export", str(run.path)]),
    ]
    for read in readers:
        with contextlib.suppress(Exception):
            read()


def list_planted():
    """One file of each kind that a run folder has, by its relative path in a whole run."""
    return [
        "manifest.json",
        "01_data/x.npy",
        "01_data/y.npy",
        "01_data/classes.json",
        "02_splits/fit.npy",
        "02_splits/normalisation.json",
        "03_generalist/weights.safetensors",
        "04_confusion/top.npy",
        "04_confusion/probs.npy",
        "04_confusion/affinity.npz",
        "05_groups/members.npy",
        "05_groups/groups.json",
        "06_specialists/000/weights.safetensors",
        "06_specialists/000/training.json",
        "07_seeds/001/weights.safetensors",
        "09_targets/rows.npy",
        "09_targets/ensemble/log_probs.npy",
        "10_search/search.json",
        "11_student/student/weights.safetensors",
        "12_report/report.json",
        "12_report/predicted.npy",
        "timings/specialists.json",
    ]


def test_the_bombs_go_off_where_pickles_are_read(bomb, tmp_path):
    """Or the tests below would show nothing."""
    readers = {
        plant_array: lambda path: np.load(path, allow_pickle=True),
        plant_arrays: lambda path: np.load(path, allow_pickle=True)["data"],
        plant_torch: lambda path: torch.load(path, weights_only=False),
        plant_pickle: lambda path: pickle.loads(path.read_bytes()),
    }
    for plant, read in readers.items():
        path = tmp_path / "file.npz"
        plant(path, bomb)
        read(path)
        assert bomb.mark.exists()
        bomb.mark.unlink()


def test_every_kind_of_file_is_planted(finished):
    def kind(path):
        return path.suffix, path.name if path.suffix == ".json" else path.parts[0]

    wanted = {kind(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.suffix in PLANTERS}
    unread = {"08_ensemble", "ensemble.json", "parts.json", "cache.json", "repair.json"}
    planted = {kind(Path(name)) for name in list_planted()}
    assert {found for found in wanted - planted if found[1] not in unread and found[0] != ".json"} == set()


@pytest.mark.parametrize(
    ("name", "plant"), [(name, plant) for name in list_planted() for plant in PLANTERS[Path(name).suffix]]
)
def test_nothing_in_a_run_folder_is_unpickled(copied, bomb, tmp_path, name, plant):
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, x=load_digits().images[:5].astype(np.uint8))
    path, config = copied.path / name, copied.read_config()
    assert path.exists()
    plant(path, bomb)
    make_true(copied, path)
    read_everything(copied, inputs)
    with contextlib.suppress(Exception):
        run_quick(config, on_change="redo", until="splits" if name.startswith("01") else "targets")
    assert not bomb.mark.exists()


@pytest.mark.parametrize("plant", [plant_torch, plant_pickle])
def test_a_checkpoint_is_not_unpickled(copied, bomb, plant):
    """What a training goes on from: the weights are gone, a checkpoint is there."""
    folder = copied.specialist_folder(0)
    (folder / "training.json").unlink()
    plant(folder / "checkpoint.safetensors", bomb)
    with contextlib.suppress(Exception):
        run_quick(copied.read_config(), until="specialists")
    assert not bomb.mark.exists()


def test_files_of_other_kinds_are_not_looked_at(copied, bomb, tmp_path):
    for name in ("weights.pt", "checkpoint.pt", "model.pkl", "ray/tuner.pkl", "ray/search-0/tuner.pkl", "data.joblib"):
        path = copied.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        plant_torch(path, bomb)
    (copied.stage_folder("report") / "report.json").unlink()
    run_quick(copied.read_config())
    assert not bomb.mark.exists()


@pytest.mark.parametrize("part", ["x_train", "y_train", "x_test", "class_names"])
def test_data_and_inputs_are_not_unpickled(finished, bomb, tmp_path, part):
    bombs = np.empty(30, dtype=object)
    bombs[:] = bomb
    path = tmp_path / "data.npz"
    arrays = {"x_train": np.zeros((30, 4)), "y_train": np.arange(30) % 3, part: bombs}
    np.savez(path, **arrays)
    check_source(f"npz:{path}")
    with pytest.raises(DataError, match="without pickles"):
        run_quick(whole_config(tmp_path / "new", data=f"npz:{path}"))
    np.savez(path, x=bombs)
    with pytest.raises(DataError, match=r"readable \.npz"):
        predict_file(finished.path, path)
    assert not bomb.mark.exists()


@pytest.mark.parametrize("model", ["os:system", "subprocess:run", "builtins:exec", "runpy:run_path", "posixpath:join"])
def test_a_manifest_names_no_function_of_python_as_its_model(copied, model):
    with pytest.raises(ModelError, match="Python's own modules have no networks"):
        find_constructor(model)
    manifest = json.loads(copied.manifest_path.read_text())
    manifest["settings"]["generalist"]["model"] = model
    copied.manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(ModelError):
        load_student(copied.path)


def test_names_of_classes_are_neither_paths_nor_markup(tmp_path):
    names = ["../../escaped", "/tmp/escaped", "<script>alert(1)</script>"]
    x = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    labels = np.arange(600) % 3
    x[:, :3] += 3 * np.eye(3, dtype=np.float32)[labels]
    np.savez(tmp_path / "data.npz", x_train=x, y_train=labels, class_names=np.array(names))
    before = set(tmp_path.iterdir()) | {tmp_path / "run"}
    run = run_quick(whole_config(tmp_path / "run", data=f"npz:{tmp_path / 'data.npz'}", specialists={"groups": 2}))
    assert set(tmp_path.iterdir()) == before
    assert not Path("/tmp/escaped").exists()
    page = (run.stage_folder("report") / "report.html").read_text()
    assert "&lt;script&gt;alert" in page
    assert "<script>alert" not in page


def test_a_bad_zip_is_told_in_a_line(finished, tmp_path):
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../x.npy", b"no array")
    with pytest.raises(RaydistillError):
        predict_file(finished.path, path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.npz"]
