"""Runs that grow from another: what is kept and what is trained, and that nothing the old run knew is held out."""

import re
import shutil

import numpy as np
import pytest
import torch
from builders import Recorder, list_results, quick_config, run_quick
from markupsafe import escape
from sklearn.datasets import load_digits

from raydistill.commands.cli import main
from raydistill.commands.dry_run import forecast_run
from raydistill.commands.flags import read_settings
from raydistill.commands.launch import format_plan
from raydistill.data.arrays import open_examples, read_split
from raydistill.deployment.export import export_student
from raydistill.deployment.loading import load_ensemble
from raydistill.display import Silent
from raydistill.errors import ConfigError, DataError, RunFolderError
from raydistill.method.specialists import Group, specialist_log_probs
from raydistill.report import read_report
from raydistill.stages.growth import list_changed_settings
from raydistill.stages.origin import _find_known, _spread
from raydistill.stages.warm import count_warm_passes, list_warm
from raydistill.storage.files import read_array, read_json
from raydistill.storage.run_folder import RunFolder
from raydistill.training.scoring import predict_logits

SETTINGS = {
    "specialists": {"groups": 4, "epochs": 2},
    "grouping": {"overlap": 0.0, "bootstraps": 0},
    "generalist": {"epochs": 8, "options": {"hidden": [24]}},
}


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def write_digits(path, wanted, x=None, **more):
    digits = load_digits()
    chosen = np.flatnonzero(wanted)
    images = digits.images.astype(np.uint8)[chosen] if x is None else x[chosen]
    np.savez(path, x_train=images, y_train=digits.target[chosen].astype(str), **more)


def config_of(folder, name, data, **changes):
    return quick_config(folder / name, **{"data": f"npz:{data}", **SETTINGS, **changes})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grow")
    target = load_digits().target
    write_digits(folder / "old.npz", target < 9)
    write_digits(folder / "all.npz", target < 10)
    return folder


@pytest.fixture(scope="module")
def old(place):
    return run_quick(config_of(place, "old", place / "old.npz"))


@pytest.fixture(scope="module")
def grown(place, old):
    return run_quick(config_of(place, "grown", place / "all.npz", grow_from=old.path))


@pytest.fixture(scope="module")
def told(grown):
    return read_report(grown)["grown"]


def test_only_the_groups_of_the_new_class_are_trained(told, grown):
    assert told["new_classes"] == ["9"]
    members = read_array(grown.stage_folder("groups") / "members.npy")
    trained = {one["index"] for one in told["trained"]}
    assert trained == set(np.flatnonzero(members[:, 9]).tolist())
    assert 1 <= len(trained) <= 2
    assert len(told["kept"]) == len(members) - len(trained)
    assert all(one["reasons"] == ["its group gained 9"] for one in told["trained"])


def test_what_was_trained_is_what_ran(told, grown):
    jobs = [record["job"] for record in read_json(grown.timing_path("specialists"))]
    assert jobs == [f"specialist {one['index']:03d}" for one in told["trained"]]


def test_kept_specialists_say_of_old_classes_what_they_said(told, grown, old):
    """Where the generalist is sure that an example is of an old class, which is what 1 - P_g(new) multiplies."""
    before, after = load_ensemble(old.path), load_ensemble(grown.path)
    examples = open_examples(grown)
    rows = read_split(grown, "test")
    for one in told["kept"]:
        index, source = one["index"], one["source"]
        logits = [
            predict_logits(model, examples.x, rows) for model in (before.specialists[source], after.specialists[index])
        ]
        torch.testing.assert_close(logits[1][:, :9], logits[0])
        group = after.groups[index]
        assert group.unseen == (9,)
        sure = torch.full((len(rows), 10), -40.0)
        sure[:, 0] = 0.0
        said = specialist_log_probs(logits[1], group, sure.log_softmax(1))
        expected = specialist_log_probs(logits[0], Group(before.groups[source].members, 9))
        torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-5)


def test_equation_5_has_its_certified_gap(grown):
    summary = read_json(grown.stage_folder("ensemble") / "ensemble.json")
    assert summary["largest_gap_nats"] <= 1e-9
    log_probs = load_ensemble(grown.path)(open_examples(grown).x[:300])
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(300))


def test_networks_start_warm_and_take_their_share_of_passes(told, grown):
    assert told["warm"] == ["generalist", "student/student", "student/labels_only", "student/generalist_targets"]
    student = read_json(grown.student_folder("student") / "training.json")["history"]
    assert len(student) == 2  # of the 4 that are set
    assert read_report(grown)["student"]["test_accuracy"] > 0.7


def test_the_page_says_what_was_kept(told, grown, old):
    page, before = ((run.stage_folder("report") / "report.html").read_text() for run in (grown, old))
    assert 'id="kept"' not in before
    assert '<a href="#kept">What was kept</a>' in page
    text = page[page.index('id="kept"') : page.index('id="confidence"')]
    sentence, kept, trained = read_report(grown)["conclusions"]["kept"], len(told["kept"]), len(told["trained"])
    assert str(escape(sentence)) in text
    assert f"Grown from {old.location}: {kept} of {kept + trained} specialists were kept, {trained} w" in sentence
    assert "the generalist, the student and 2 controls began from the old weights, with 50%" in sentence
    known, new = told["examples"]["known"], int((load_digits().target == 9).sum())
    assert f"Of 1,797 examples, {known:,} were in that run and {new} are new. Class 9 is new, no class is" in sentence
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", text, re.DOTALL)
    assert len(rows) == kept + trained
    for one in told["kept"]:
        assert f"kept as number {one['source']} there" in rows[one["index"]]
        assert "has not seen 9" in rows[one["index"]]
    for one in told["trained"]:
        assert ">trained<" in rows[one["index"]]
        assert "its group gained 9" in rows[one["index"]]


def test_the_model_card_says_that_the_student_started_warm(grown, old, tmp_path):
    for run, started in ((grown, True), (old, False)):
        export_student(run.path, "safetensors", tmp_path / run.path.name, card=tmp_path / "CARD.md")
        assert ("weights of an earlier run's student" in (tmp_path / "CARD.md").read_text()) is started


def test_nothing_that_the_old_run_learned_from_is_held_out(grown, old, told):
    """Row numbers differ; images tell. Digits holds no image twice."""
    splits = {}
    for run in (old, grown):
        x = open_examples(run).x
        splits[run] = {
            name: {x[row].numpy().tobytes() for row in read_split(run, name)}
            for name in ("fit", "confuse", "tune", "test")
        }
    for name, images in splits[old].items():
        assert images <= splits[grown][name]
    assert told["examples"] == {"known": sum(map(len, splits[old].values())), "leaked": 0}


def test_again_skips_everything_without_the_old_run(place, grown, old, tmp_path):
    copied = shutil.copytree(grown.path, tmp_path / "grown")
    away = old.path.rename(old.path.with_name("away"))
    try:
        display = Recorder()
        config = grown.read_config().model_copy(update={"run_dir": str(copied)})
        run = run_quick(config, display=display)
        assert all(display.skipped)
        assert list_results(run) == list_results(grown)
    finally:
        away.rename(old.path)


def test_the_same_data_keeps_all_specialists(place, old):
    run = run_quick(config_of(place, "same", place / "old.npz", grow_from=old.path), until="specialists")
    plan = format_plan(run)
    members = [read_array(one.stage_folder("groups") / "members.npy") for one in (old, run)]
    kept = read_json(run.stage_folder("specialists") / "grown.json")
    holding = [one["source"] for one in kept]
    np.testing.assert_array_equal(members[0][holding], members[1][[one["index"] for one in kept]])
    assert len(kept) >= 2
    assert all(one["unseen"] == [] for one in kept)
    assert "kept as they are" in plan


def test_more_data_of_some_classes_trains_their_groups_alone(place, old):
    members = read_array(old.stage_folder("groups") / "members.npy")
    digits = load_digits()
    label = int(np.flatnonzero(members[0])[0])
    wanted = digits.target == label
    extra = np.roll(digits.images.astype(np.uint8)[wanted], 1, axis=2)
    with np.load(place / "old.npz") as file:
        x, y = (
            np.concatenate([file["x_train"], extra]),
            np.concatenate([file["y_train"], np.full(len(extra), str(label))]),
        )
    np.savez(place / "more.npz", x_train=x, y_train=y)
    config = config_of(place, "more", place / "more.npz", grow_from=old.path, grow={"changed": 0.3})
    run = run_quick(config, until="groups")
    plan = format_plan(run)
    now = read_json(run.stage_folder("groups") / "grown.json")
    reached = [index for index, source in enumerate(now["sources"]) if source >= 0 and members[source, label]]
    for index in reached:
        assert f"specialist {index:03d} is trained: " in plan
    assert "of its examples changed" in plan or "odds" in plan


def test_other_settings_of_specialists_train_them_all(place, old):
    config = config_of(place, "slower", place / "all.npz", grow_from=old.path, specialists={"groups": 4, "epochs": 3})
    plan = format_plan(run_quick(config, until="groups"))
    assert "changed: specialists.epochs 2 -> 3" in plan
    assert "kept as they are" not in plan


def test_another_prior_keeps_no_network(place, old):
    """What the old networks say holds for other shares of classes: equation 5 must mix like with like."""
    display = Notes()
    config = config_of(place, "equal", place / "all.npz", grow_from=old.path, balance={"prior": "equal"})
    run = run_quick(config, until="specialists", display=display)
    assert any(note.startswith("balance.prior is equal and was natural in the old run") for note in display.notes)
    assert read_json(run.stage_folder("specialists") / "grown.json") == []
    plan = format_plan(run)
    sources = read_json(run.stage_folder("groups") / "grown.json")["sources"]
    assert plan.count("changed: balance.prior natural -> equal") == sum(source >= 0 for source in sources) > 0
    assert list_warm(run, config) == []
    assert count_warm_passes(run, config, "generalist", 8) == 8
    assert len(read_json(run.stage_folder("generalist") / "training.json")["history"]) > 4  # more than a warm one's


def test_another_sampling_trains_specialists_anew_from_warm_networks(place, grown):
    """Networks of the same prior: what they say holds for the same shares, however classes were sampled."""
    settings = grown.read_manifest()["settings"]
    config = config_of(place, "any", place / "all.npz", grow_from="there", balance={"sampling": "sqrt"})
    assert list_changed_settings(settings, config) == ["balance.sampling natural -> sqrt"]
    assert "generalist" in list_warm(grown, config)
    given = config_of(place, "any", place / "all.npz", grow_from="there", generalist={"checkpoint": "g.pt"})
    assert list_warm(grown, given)[0] == "student/student"


def test_growing_twice_remembers_what_was_never_seen(place, grown):
    config = config_of(place, "twice", place / "all.npz", grow_from=grown.path)
    run = run_quick(config, until="specialists")
    before = {one["index"]: one["unseen"] for one in read_json(grown.stage_folder("specialists") / "grown.json")}
    kept = read_json(run.stage_folder("specialists") / "grown.json")
    assert kept
    for one in kept:
        assert one["unseen"] == before.get(one["source"], [])
    assert any(one["unseen"] == [9] for one in kept)


def test_dry_run_says_so(place, old, tmp_path):
    config = config_of(tmp_path, "run", place / "all.npz", grow_from=str(old.path))
    found = forecast_run(config, display=Silent())
    assert found.stages[0].name == "origin"
    assert {line.what: line.passes for line in found.networks}["generalist"] == 4
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_without_groups_grows_too(place, old):
    config = config_of(place, "alone", place / "all.npz", grow_from=old.path, teacher={"kind": "generalist"})
    run = run_quick(config)
    report = read_report(run)
    assert report["grown"]["kept"] == []
    assert report["grown"]["warm"][0] == "generalist"
    assert "old: the generalist, the student and 1 control began" in report["conclusions"]["kept"]
    page = (run.stage_folder("report") / "report.html").read_text()
    assert "<table" not in page[page.index('id="kept"') : page.index('id="confidence"')]


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"grow_from": "/no/such"}, RunFolderError, "grow_from: '/no/such' is not a run folder"),
        ({"generalist": {"options": {"hidden": [32]}}}, ConfigError, "generalist.options is {'hidden': [24]} there"),
        ({"specialists": {"groups": 3}}, ConfigError, "specialists.groups: 3 is not what the run has"),
    ],
)
def test_what_cannot_grow_is_refused(place, old, tmp_path, changes, error, told):
    with pytest.raises(error) as raised:
        run_quick(config_of(tmp_path, "run", place / "all.npz", **{"grow_from": old.path, **changes}))
    assert told in str(raised.value)


def test_an_unfinished_or_damaged_run_is_refused(place, old, tmp_path):
    begun = run_quick(config_of(tmp_path, "begun", place / "old.npz"), until="splits")
    with pytest.raises(RunFolderError, match="has no finished generalist"):
        run_quick(config_of(tmp_path, "run", place / "all.npz", grow_from=begun.path))
    broken = RunFolder(shutil.copytree(old.path, tmp_path / "broken"))
    (broken.stage_folder("generalist") / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(RunFolderError, match=r"a file of generalist in .* is damaged"):
        run_quick(config_of(tmp_path, "run", place / "all.npz", grow_from=broken.path))


def test_a_run_does_not_grow_from_itself(place, old):
    with pytest.raises(RunFolderError, match="is this very run folder"):
        run_quick(config_of(place, "old", place / "all.npz", grow_from=old.path), on_change="redo")


def test_examples_of_another_type_are_refused(place, old, tmp_path):
    digits = load_digits()
    write_digits(tmp_path / "d.npz", digits.target < 10, digits.images.astype(np.float32))
    with pytest.raises(DataError, match="its examples are uint8"):
        run_quick(config_of(tmp_path, "run", tmp_path / "d.npz", grow_from=old.path))


def test_known_rows_take_the_split_that_was_used_first():
    rows, places = np.array([7, 5, 7, 9], dtype=np.uint64), np.array([3, 1, 0, -1], dtype=np.int8)
    np.testing.assert_array_equal(_find_known(np.array([5, 7, 8, 9], dtype=np.uint64), rows, places), [1, 0, -1, -1])
    np.testing.assert_array_equal(_spread(np.array([-1, 2, -1, 1, -1]), np.array([0, 0, 1, 2, 2])), [2, 2, -1, 1, 1])


def test_a_test_set_of_its_own_and_what_leaks_into_it(place, old, tmp_path, capsys):
    """Ten test images are ones that the old run was fitted to; images that it tested on may be trained on now."""
    fit = open_examples(old).x[read_split(old, "fit")[:10]].numpy()
    write_digits(
        tmp_path / "d.npz",
        load_digits().target < 10,
        x_test=np.concatenate([fit, load_digits().images[-200:].astype(np.uint8)]),
        y_test=np.concatenate(
            [
                open_examples(old).y[read_split(old, "fit")[:10]].numpy().astype(str),
                load_digits().target[-200:].astype(str),
            ]
        ),
    )
    run = run_quick(config_of(tmp_path, "run", tmp_path / "d.npz", grow_from=old.path), until="splits")
    assert read_json(run.stage_folder("splits") / "known.json")["leaked"] >= 10
    assert len(read_split(run, "test")) == 210


def test_the_flag(tmp_path):
    arguments = ["--data", "digits", "--run-dir", str(tmp_path / "run"), "--grow-from", "/no/such"]
    assert read_settings("run", arguments)[0].grow_from == "/no/such"
    assert main(["run", *arguments, "--cluster.backend", "none"]) == 2


def test_rows_without_labels_are_no_test_set(place, old):
    """The test split is drawn, and no example of it is, or was, one to learn from."""
    x = load_digits().images.astype(np.uint8)
    write_digits(place / "unlabeled.npz", load_digits().target < 10, x_unlabeled=x[:50] ^ 1)
    run = run_quick(config_of(place, "unlabeled", place / "unlabeled.npz", grow_from=old.path), until="splits")
    splits = {
        name: read_array(run.stage_folder("splits") / f"{name}.npy") for name in ("fit", "confuse", "tune", "test")
    }
    rows = np.concatenate(list(splits.values()))
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(x)))  # each once, and none of the unlabeled ones
    assert read_json(run.stage_folder("splits") / "known.json") == {
        "known": int((load_digits().target < 9).sum()),
        "leaked": 0,
    }
