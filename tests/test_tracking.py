"""Trackers: what they are told is what the run folder holds, once, in order, whatever happens to run or tracker."""

import threading
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tracked_runs import Notes, list_histories, track

from raydistill.errors import ConfigError
from raydistill.execution.jobs import JobEvent
from raydistill.storage.files import read_json
from raydistill.storage.run_folder import RunFolder
from raydistill.tracking import feed as feeds
from raydistill.tracking import watch as watching
from raydistill.tracking.feed import Feed, flatten
from raydistill.tracking.ledger import Ledger
from raydistill.tracking.points import NAMES, Facts, Point, StageNews, name_network, read_event

FACTS = Facts("project", "name", {"seed": 0}, "1")


class Fake:
    """A tracker that keeps what it is told."""

    name = "fake"

    def __init__(self):
        self.calls = []

    def open(self, facts, known):
        self.calls.append(("open", known))
        return known or f"run {len(self.calls)}"

    def log(self, network, points):
        self.calls += [(network, point.epoch) for point in points]

    def end_trial(self, trial):
        self.calls.append(trial)

    def log_figures(self, figures):
        self.calls.append(figures)

    def attach(self, page, verdict):
        self.calls.append((page, verdict))

    def end_stage(self):
        pass

    def close(self, succeeded):
        self.calls.append(("close", succeeded))


def read_board(run):
    """Scalars by folder and tag, as TensorBoard reads them."""
    board = run.path / "tensorboard"
    found = {}
    for folder in sorted({path.parent for path in board.rglob("events.*")}):
        events = EventAccumulator(str(folder)).Reload()
        scalars = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
        }
        found[folder.relative_to(board).as_posix()] = scalars
    return found


def check_board(run):
    """Every pass of every network, once and in order, and the figures of the report."""
    board = read_board(run)
    for name, history in list_histories(run).items():
        for own, shown in NAMES.items():
            expected = [(record["epoch"], pytest.approx(record[own], rel=1e-6)) for record in history]
            assert board[name][shown] == expected
    report = read_json(run.stage_folder("report") / "report.json")
    for name in ("generalist", "ensemble", "student"):
        assert board[name]["test/accuracy"] == [(0, pytest.approx(report[name]["test_accuracy"], rel=1e-6))]
    for index, trial in enumerate(report["search"]["trials"]):
        shown = board[f"trials/{index:03d}"]["valid_accuracy"]
        assert shown == [(epoch, pytest.approx(value)) for epoch, value in enumerate(trial["values"], start=1)]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run with TensorBoard's files, and its notes."""
    notes = Notes()
    return track(tmp_path_factory.mktemp("tracked") / "run", notes), notes


def test_tensorboard_shows_what_the_run_folder_holds(tracked):
    run, notes = tracked
    check_board(run)
    assert not [note for note in notes.notes if "tracking" in note]
    texts = EventAccumulator(str(run.path / "tensorboard" / "report")).Reload().Tags()["tensors"]
    assert {"settings/text_summary", "verdict/text_summary"} <= set(texts)


def test_trials_are_rows_of_the_hparams_table(tracked):
    run, _ = tracked
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    trials = read_json(run.stage_folder("search") / "search.json")["trials"]
    for index, trial in enumerate(trials):
        events = EventAccumulator(str(run.path / "tensorboard" / f"trials/{index:03d}")).Reload()
        data = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        values = HParamsPluginData.FromString(data).session_start_info.hparams
        assert values["temperature"].number_value == pytest.approx(trial["temperature"])
        assert values["label_weight"].number_value == pytest.approx(trial["label_weight"])


def test_a_run_that_is_started_again_tells_nothing_twice(tracked):
    run, _ = tracked
    board = read_board(run)
    track(run.path)
    assert read_board(run) == board


def test_trackers_change_no_key(tracked, tmp_path):
    run, _ = tracked
    plain = track(tmp_path / "run", names=())
    assert not (plain.path / "tensorboard").exists()
    keys = [{name: record["key"] for name, record in each.read_manifest()["stages"].items()} for each in (run, plain)]
    assert keys[0] == keys[1]
    track(plain.path)  # what was finished before is told, too
    check_board(plain)
    assert read_board(plain)["student"] == read_board(run)["student"]


class Interrupt(Notes):
    """Interrupts the student after its second pass."""

    def on_event(self, event):
        if event.job == "student" and event.progress.get("epoch") == 2:
            raise KeyboardInterrupt


def test_a_run_that_was_interrupted_goes_on_without_gaps_or_doubles(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        track(tmp_path / "run", Interrupt())
    run = RunFolder(tmp_path / "run")
    assert [step for step, _ in read_board(run)["student"]["loss"]] == [1]
    track(run.path)
    check_board(run)


def test_other_settings_are_told_anew(tmp_path):
    run = track(tmp_path / "run")
    track(run.path, on_change="redo", student={"epochs": 2}, search={"trials": 1})
    check_board(run)
    board = read_board(run)
    assert len(board["student"]["loss"]) == 2
    assert "trials/001" not in board


def test_a_tracker_that_fails_ends_no_run_and_is_told_once(tmp_path, monkeypatch):
    class Broken(Fake):
        def log(self, network, points):
            raise ConnectionError("no route to https://user:secret@host/api")

    monkeypatch.setattr(watching, "choose_trackers", lambda settings: {"fake": lambda folder: Broken()})
    notes = Notes()
    run = track(tmp_path / "run", notes)
    told = [note for note in notes.notes if "tracking" in note]
    assert told == ["tracking: fake failed and is left out, the run goes on: no route to https://***@host/api"]
    assert (run.stage_folder("report") / "report.html").exists()


def test_a_missing_package_is_told_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(watching.importlib.util, "find_spec", lambda name: None)
    for name in ("mlflow", "wandb"):
        with pytest.raises(ConfigError, match=rf"tracking.{name}: .*pip install 'raydistill\[{name}\]'"):
            track(tmp_path / "run", names=(name,))
    assert not list(tmp_path.iterdir())


def start_feed(folder, tracker, note=lambda text: None):
    return Feed(tracker, Ledger(folder / "fake.jsonl", "identity"), FACTS, note)


def points(*epochs):
    return [Point(epoch, {"loss": 1.0}) for epoch in epochs]


def test_a_gap_is_filled_when_the_stage_has_ended(tmp_path):
    tracker = Fake()
    feed = start_feed(tmp_path, tracker)
    for seen in (points(1), points(1, 2), points(4), points(5, 6)):  # what reached the driver
        feed.tell_points("a", seen)
    feed.tell_stage(StageNews("student", "key", {"a": points(1, 2, 3, 4, 5, 6)}))
    feed.close(True)
    assert tracker.calls == [("open", None), *(("a", epoch) for epoch in range(1, 7)), ("close", True)]


def test_a_stage_that_was_made_again_is_told_anew_with_all_before_it(tmp_path):
    first = start_feed(tmp_path, Fake())
    first.tell_stage(StageNews("generalist", "g", {"a": points(1)}))
    first.tell_stage(StageNews("student", "old", {"b": points(1, 2)}))
    first.close(True)
    tracker = Fake()
    again = start_feed(tmp_path, tracker)
    again.tell_stage(StageNews("generalist", "g", {"a": points(1)}))
    again.tell_stage(StageNews("student", "new", {"b": points(1, 2)}))
    again.close(False)
    told = [("open", "run 1"), ("open", None), ("a", 1), ("b", 1), ("b", 2), ("close", False)]
    assert tracker.calls == told


def test_a_line_that_was_cut_off_and_other_settings_are_not_believed(tmp_path):
    path = tmp_path / "tracking" / "x.jsonl"
    ledger = Ledger(path, "one")
    ledger.begin("run 7")
    ledger.note_points("a", points(1, 2))
    with open(path, "a") as file:
        file.write('{"network": "a", "epo')
    again = Ledger(path, "one")
    assert (again.known, again.choose("a", points(1, 2, 3))) == ("run 7", points(3))
    assert (Ledger(path, "two").known, Ledger(path, "two").choose("a", points(1))) == (None, points(1))


def test_nobody_waits_for_a_tracker(tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "CLOSE_SECONDS", 0.1)
    gate, notes = threading.Event(), []

    class Slow(Fake):
        def log(self, network, points):
            gate.wait(30)

    feed = start_feed(tmp_path, Slow(), notes.append)
    began = time.monotonic()
    for epoch in range(1, 100):
        feed.tell_points("a", points(epoch))
    feed.close(True)
    assert time.monotonic() - began < 5
    gate.set()
    assert len(notes) == 1
    assert "fake has not answered" in notes[0]


@pytest.mark.parametrize(
    ("job", "network"),
    [
        ("generalist", "generalist"),
        ("generalist 002", "seeds/002"),
        ("specialist 013", "specialists/013"),
        ("trial 000", "trials/000"),
        ("labels_only", "labels_only"),
    ],
)
def test_networks_have_folders(job, network):
    assert name_network(job) == network


def test_events_within_a_pass_tell_the_passes_before():
    record = {"epoch": 2, "loss": 1.0, "valid_loss": 2.0, "value": 0.5, "learning_rate": 0.1}
    event = JobEvent("student", "running", "", {"epoch": 2, "epochs": 9, "fraction": 0.3, "recent": [record]})
    values = {"loss": 1.0, "valid_loss": 2.0, "valid_accuracy": 0.5, "learning_rate": 0.1}
    assert read_event(event) == [Point(2, values)]
    trial = JobEvent("trial 000", "running", "", {"epoch": 1, "epochs": 9, "value": 0.5})
    assert read_event(trial) == [Point(1, {"valid_accuracy": 0.5})]
    assert read_event(JobEvent("student", "running", "", {"epoch": 0, "epochs": 9, "recent": []})) == []


def test_settings_are_flat():
    nested = {"seed": 1, "search": {"trials": 2, "label_weight": [0, 1]}, "student": {"options": {"hidden": [3]}}}
    flat = {"seed": 1, "search.trials": 2, "search.label_weight": [0, 1], "student.options": {"hidden": [3]}}
    assert flatten(nested) == flat
