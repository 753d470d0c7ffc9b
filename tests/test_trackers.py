"""MLflow and Weights & Biases, offline: settings, passes, figures, the page; nothing twice, and no secrets."""

import json

import pytest
from tracked_runs import Notes, list_histories, track

from raydistill.storage.files import read_json
from raydistill.tracking.points import NAMES

ALL = ("tensorboard", "mlflow", "wandb")
pytestmark = [
    pytest.mark.slow,  # to import both takes 10 s
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow|sqlalchemy"),  # MLflow's use of SQLAlchemy
]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run that all trackers watched."""
    folder, notes = tmp_path_factory.mktemp("tracked"), Notes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(folder))
        patch.setenv("WANDB_API_KEY", "s" * 40)
        patch.chdir(folder)  # MLflow's artifacts
        run = track(folder / "run", notes, names=ALL)
        assert not [note for note in notes.notes if "tracking" in note]
        yield run


def test_mlflow_has_settings_passes_figures_and_the_page(tracked):
    from mlflow import MlflowClient

    run = tracked
    client = MlflowClient()
    experiment = client.get_experiment_by_name("raydistill")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["search.trials"] == "3"
    assert found.data.params["generalist.options"] == "{'hidden': [24]}"
    for name, history in list_histories(run).items():
        for own, shown in NAMES.items():
            metrics = client.get_metric_history(found.info.run_id, f"{name}/{shown}")
            assert [(metric.step, metric.value) for metric in metrics] == [
                (record["epoch"], record[own]) for record in history
            ]
    report = read_json(run.stage_folder("report") / "report.json")
    assert found.data.metrics["student/test_accuracy"] == report["student"]["test_accuracy"]
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ["report.html"]


def read_records(path):
    """Records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            yield parts
            parts = b""


def read_wandb(folder):
    """History rows and the last summary of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows, summary = [], {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in map(Record.FromString, read_records(path)):
            items = record.history.item
            if items:
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return rows, summary


def test_wandb_has_passes_and_figures(tracked):
    run = tracked
    rows, summary = read_wandb(run.path.parent)
    for name, history in list_histories(run).items():
        mine = [row for row in rows if f"{name}/pass" in row]
        assert [row[f"{name}/pass"] for row in mine] == [record["epoch"] for record in history]
        assert [row[f"{name}/valid_loss"] for row in mine] == [record["valid_loss"] for record in history]
    report = read_json(run.stage_folder("report") / "report.json")
    assert summary["student/test_accuracy"] == report["student"]["test_accuracy"]


def test_no_secret_is_written_anywhere(tracked):
    run = tracked
    for path in run.path.parent.rglob("*"):
        if path.is_file():
            assert b"s" * 40 not in path.read_bytes(), path


def test_a_run_that_is_started_again_tells_nothing_twice(tracked):
    from mlflow import MlflowClient

    run = tracked
    client = MlflowClient()
    rows = read_wandb(run.path.parent)[0]
    track(run.path, names=ALL)
    assert read_wandb(run.path.parent)[0] == rows
    (found,) = client.search_runs([client.get_experiment_by_name("raydistill").experiment_id])
    assert found.info.status == "FINISHED"
    assert len(client.get_metric_history(found.info.run_id, "student/loss")) == 4
