"""--dry-run: it names the stages that a run then does, says why, refuses what a run refuses, and writes nothing."""

import json
import shutil

import numpy as np
import pytest
from builders import quick_config, run_quick
from sklearn.datasets import load_digits

from raydistill.commands.cli import main
from raydistill.commands.dry_run import forecast_run
from raydistill.display import Silent
from raydistill.errors import ConfigError, DataError, RunFolderError, StorageError
from raydistill.storage.run_folder import RunFolder

QUICK = ["--cluster.backend", "none", "--generalist.epochs", "4", "--generalist.options", '{"hidden": [24]}']


class Names(Silent):
    """done: stages that were not skipped."""

    def __init__(self):
        self.done, self._name = [], ""

    def begin_stage(self, name, number, total):
        self._name = name

    def end_stage(self, seconds, skipped):
        self.done += [] if skipped else [self._name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("dry") / "run"))


def forecast(config, **options):
    return forecast_run(config, display=Silent(), **options)


def runs(found):
    return [stage.name for stage in found.stages if stage.runs]


def reasons(found):
    return {stage.name: stage.reason for stage in found.stages}


def snapshot(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_new_run_writes_nothing_and_tells_all(tmp_path):
    found = forecast(quick_config(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
    assert len(runs(found)) == 11
    assert found.facts["data"] == "1,797 examples of 8x8 uint8, 10 classes"
    networks = {line.what: (line.networks, line.passes) for line in found.networks}
    expected = {"generalist": (1, 4), "specialists": (3, 2), "trials": (3, 2), "student and controls": (3, 4)}
    assert networks == expected


@pytest.mark.parametrize(
    ("changes", "first", "reason"),
    [
        ({"search": {"trials": 2}}, "search", "changed: search.trials 3 -> 2"),
        ({"specialists": {"groups": 2}}, "groups", "changed: specialists.groups 3 -> 2"),
        ({"seed": 1}, "splits", "changed: seed 0 -> 1"),
        ({"student": {"shift": 1}}, "targets", "changed: student.shift 0 -> 1"),
    ],
)
def test_what_it_says_is_what_a_run_does(finished, tmp_path, changes, first, reason):
    """Whether later stages come out the same is not known without doing them: it may name more, never fewer."""
    run = RunFolder(shutil.copytree(finished.path, tmp_path / "run"))
    config = quick_config(run.path, **changes)
    before = snapshot(tmp_path)
    found = forecast(config, on_change="redo")
    assert snapshot(tmp_path) == before
    assert not found.obstacles
    assert runs(found)[0] == first
    assert reasons(found)[first] == reason
    display = Names()
    run_quick(config, display=display, on_change="redo")
    assert set(display.done) <= set(runs(found))
    assert display.done[0] == first


def test_nothing_to_do(finished, capsys):
    assert runs(forecast(finished.read_config())) == []


def test_other_settings_would_be_refused(finished):
    obstacles = forecast(quick_config(finished.path, search={"trials": 2})).obstacles
    assert len(obstacles) == 1
    assert "search.trials 3 -> 2" in obstacles[0]
    assert "--on-change redo" in obstacles[0]


def test_a_run_folder_in_use_would_be_refused(finished):
    lock = finished.acquire_lock()
    try:
        assert "is in use" in forecast(finished.read_config()).obstacles[0]
    finally:
        lock.release()


def test_a_damaged_file(finished, tmp_path):
    run = RunFolder(shutil.copytree(finished.path, tmp_path / "run"))
    (run.specialist_folder(1) / "weights.safetensors").write_bytes(b"damaged")
    found = forecast(run.read_config())
    assert runs(found)[0] == "specialists"
    assert reasons(found)["specialists"] == "a file is damaged or gone"


def test_another_file_of_data(tmp_path):
    digits = load_digits()
    images, path = digits.images.astype(np.uint8), tmp_path / "d.npz"
    np.savez(path, x_train=images, y_train=digits.target)
    config = quick_config(tmp_path / "run", data=f"npz:{path}")
    run_quick(config, until="generalist")
    np.savez(path, x_train=images[:1700], y_train=digits.target[:1700])
    found = forecast(config, until="generalist")
    assert reasons(found)["data"] == "changed: the files of the data"
    assert runs(found) == ["data", "splits", "generalist"]


def test_a_run_that_starts_from_another(finished, tmp_path):
    found = forecast(quick_config(tmp_path / "new", search={"trials": 2}), start_from=str(finished.path))
    assert runs(found) == ["search", "student", "report"]
    assert reasons(found)["generalist"] == f"taken over from {finished.path}"
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_stopped_in_the_middle(finished, tmp_path):
    run = run_quick(quick_config(tmp_path / "run"), until="generalist")
    run.begin_stage("confusion", "key")
    found = forecast(run.read_config())
    assert runs(found)[0] == "confusion"
    assert reasons(found)["confusion"] == "goes on from where it was"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"data": "npz:/no/such.npz"}, DataError),
        ({"specialists": {"groups": 9}}, ConfigError),
        ({"transfer": {"without": ["eleven"]}}, ConfigError),
        ({"generalist": {"workers": 2}}, ConfigError),
    ],
)
def test_what_a_run_refuses(tmp_path, changes, error):
    with pytest.raises(error):
        forecast(quick_config(tmp_path / "run", **changes))
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(RunFolderError, match="not a run folder"):
        forecast(quick_config(tmp_path / "mine"))
    monkeypatch.setattr("pathlib.Path.replace", lambda *arguments: (_ for _ in ()).throw(OSError(95, "refused")))
    with pytest.raises(StorageError, match="rename files"):
        forecast(quick_config(tmp_path / "run"))


def test_the_commands(capsys, tmp_path):
    arguments = ["--data", "digits", "--run-dir", str(tmp_path / "run"), *QUICK, "--dry-run"]
    assert main(["run", *arguments]) == 0
    text = capsys.readouterr().out
    assert "nothing stands in the way" in text
    assert "next:" in text
    assert main(["plan", *arguments]) == 0
    assert "specialists " not in capsys.readouterr().out
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"x": 1}))
    assert main(["run", *arguments]) == 2


def test_no_cluster_at_the_address(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests leave this process joined to theirs
    config = quick_config(tmp_path / "run", cluster={"backend": "ray", "address": "127.0.0.1:9"})
    with pytest.raises(ConfigError, match=r"no Ray at '127\.0\.0\.1:9'"):
        forecast(config)
    assert list(tmp_path.iterdir()) == []
