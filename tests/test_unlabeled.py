"""Unlabeled examples: read from every source, stored last, part of the transfer set alone."""

import numpy as np
import pytest
import torch
from builders import quick_config, run_quick
from PIL import Image
from sklearn.datasets import load_digits

from raydistill.data.arrays import open_examples, read_split, read_transfer_rows
from raydistill.data.examples import Source
from raydistill.data.images import ImageForm
from raydistill.data.unlabeled import check_unlabeled, identify_unlabeled, load_unlabeled, open_images
from raydistill.errors import DataError, ModelError
from raydistill.report import read_report
from raydistill.settings.config import build_config
from raydistill.stages import student
from raydistill.stages.networks import count_passes
from raydistill.stages.repair import count_classes
from raydistill.storage.files import read_json
from raydistill.training.batches import repeat_rows, shuffle_rows
from raydistill.training.biases import find_scarce_classes

DIGITS = load_digits()
IMAGES, LABELS = DIGITS.images.astype(np.uint8), DIGITS.target


def make_source(shape=(4,), dtype=np.float32, **changes):
    return Source(np.zeros((6, *shape), dtype), np.arange(6) % 3, ["a", "b", "c"], **changes)


def load(setting, source=None):
    config = build_config({"data": "digits", "run_dir": "r", "transfer": {"unlabeled": setting}})
    return load_unlabeled(config, source or make_source())


def save_images(folder, *names, size=(5, 5), mode="L"):
    for shade, name in enumerate(names, start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, shade * 10 if mode == "L" else (shade * 10, 0, 0)).save(folder / name)
    return f"images:{folder}"


@pytest.mark.parametrize("arrays", [{"x": 1.0}, {"x_unlabeled": 1.0, "x": 2.0}, {"x_train": 1.0}])
def test_npz_by_its_arrays(tmp_path, arrays):
    np.savez(tmp_path / "u.npz", **{name: np.full((7, 4), value, np.float32) for name, value in arrays.items()})
    (x,) = load(f"npz:{tmp_path / 'u.npz'}")
    np.testing.assert_array_equal(x, np.ones((7, 4)))


def test_those_of_the_run_itself_come_first():
    own = make_source(x_unlabeled=np.ones((2, 4), np.float32))
    assert [len(part) for part in load(None, own)] == [2]


def test_images_of_all_depths_by_name(tmp_path):
    setting = save_images(tmp_path, "b/2.png", "a.png", "b/1.png", ".hidden/x.png")
    (tmp_path / "notes.txt").write_text("no image")
    check_unlabeled(setting)
    rows = open_images(tmp_path, make_source((5, 5), np.uint8))
    assert rows[0 : len(rows)].shape == (3, 5, 5)
    np.testing.assert_array_equal(rows[0:3][:, 2, 2], [20, 30, 10])  # a.png was the second, b/1.png the third


def test_images_of_any_size_are_decoded_as_the_runs_own(tmp_path):
    save_images(tmp_path, "a.png", size=(64, 32), mode="RGB")
    rows = open_images(tmp_path, make_source((5, 5, 3), np.uint8, form=ImageForm(5, 3, "stretch")))
    assert rows[0:1].shape == (1, 5, 5, 3)


@pytest.mark.parametrize(
    ("shape", "dtype", "told"),
    [
        ((8, 8), np.uint8, "5 x 5 pixels, the run's examples 8 x 8; resize"),
        ((4,), np.float32, "the run's examples .4,. of float32; give npz:"),
        ((5, 5), np.float32, "type uint8"),
    ],
)
def test_images_of_another_size_are_refused_with_a_remedy(tmp_path, shape, dtype, told):
    save_images(tmp_path, "a.png")
    with pytest.raises(DataError, match=told):
        open_images(tmp_path, make_source(shape, dtype))[0:1]


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"transfer\.unlabeled: '.*broken.png' is no image"):
        open_images(tmp_path, make_source((5, 5), np.uint8))[0:1]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.zeros((3, 5), np.float32)}, r"shape \(5,\) of an example is not x_train's \(4,\)"),
        ({"x": np.zeros((3, 4), np.int64)}, "type int64 does not go into x_train's float32"),
        ({"x": np.full((3, 4), np.nan, np.float32)}, "example 0 has NaN"),
        ({"x": np.zeros(3, np.float32)}, r"shape \(3,\)"),
        ({"x_train": np.zeros((3, 4)), "y_train": np.zeros(3)}, "has labels, y_train"),
        ({"z": np.zeros((3, 4))}, "has no array x, only z"),
    ],
)
def test_unusable_arrays_are_told(tmp_path, arrays, told):
    np.savez(tmp_path / "u.npz", **arrays)
    with pytest.raises(DataError, match=f"transfer.unlabeled: .*{told}"):
        load(f"npz:{tmp_path / 'u.npz'}")


@pytest.mark.parametrize(
    "setting", ["file.npz", "npz:", "openml:x", "npz:/nowhere.npz", "images:/nowhere", "arrays:/no"]
)
def test_settings_that_cannot_work_are_refused_at_once(setting):
    with pytest.raises(DataError, match=r"transfer\.unlabeled|arrays"):
        check_unlabeled(setting)


def test_their_bytes_are_part_of_the_key(tmp_path):
    keys = []
    for value in (0, 1):
        np.savez(tmp_path / "u.npz", x=np.full((3, 4), value, np.float32))
        keys.append(identify_unlabeled(f"npz:{tmp_path / 'u.npz'}"))
    setting = save_images(tmp_path / "images", "a.png")
    keys.append(identify_unlabeled(setting))
    save_images(tmp_path / "images", "b.png")
    keys.append(identify_unlabeled(setting))
    assert len({str(key) for key in keys}) == 4
    assert identify_unlabeled(None) == {}


def test_rows_are_repeated_evenly_up_to_the_count():
    rows = torch.arange(100, 110)
    repeated = repeat_rows(rows, 37)(torch.Generator().manual_seed(1))
    assert len(repeated) == 37
    assert set((repeated - 100).bincount().tolist()) == {3, 4}
    once, shuffled = (make(torch.Generator().manual_seed(1)) for make in (repeat_rows(rows, 10), shuffle_rows(rows)))
    assert torch.equal(once, shuffled)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """600 labelled digits without the class 3 among the labelled half of the transfer set, and 1000 without labels."""
    folder = tmp_path_factory.mktemp("unlabeled")
    np.savez(
        folder / "data.npz",
        **{"x_train": IMAGES[:600], "y_train": LABELS[:600], "x_test": IMAGES[1600:], "y_test": LABELS[1600:]},
        x_unlabeled=IMAGES[600:800],
    )
    np.savez(folder / "more.npz", x=IMAGES[800:1600])
    config = quick_config(
        folder / "run",
        data=f"npz:{folder / 'data.npz'}",
        transfer={"share": 0.5, "without": ["3"], "unlabeled": f"npz:{folder / 'more.npz'}"},
    )
    return run_quick(config), config


def test_they_are_the_last_rows_and_in_no_split(run):
    run, _ = run
    examples = open_examples(run)
    parts = read_json(run.stage_folder("data") / "parts.json")
    assert parts == {"train": 600, "test": 197, "unlabeled": 1000}
    np.testing.assert_array_equal(examples.x[797:], IMAGES[600:1600])
    assert set(examples.y[797:].tolist()) == {-1}
    assert all(int(read_split(run, name).max()) < 797 for name in ("fit", "confuse", "tune", "test"))


def test_they_enter_the_transfer_set_whatever_its_settings_choose(run):
    run, _ = run
    rows, labels = read_transfer_rows(run), open_examples(run).y
    assert rows[-1000:].tolist() == list(range(797, 1797))
    chosen = labels[rows[:-1000]]
    fit = labels[read_split(run, "fit")]
    assert set(chosen.tolist()) == {0, 1, 2, 4, 5, 6, 7, 8, 9}
    assert len(chosen) == pytest.approx(int((fit != 3).sum()) / 2, abs=5)
    transfer = read_report(run)["transfer"]
    assert transfer["unlabeled"] == 1000
    assert transfer["examples"] == len(rows)
    assert transfer["share_of_training"] == pytest.approx(len(chosen) / len(fit))
    assert read_report(run)["data"]["examples"] == 797


def test_the_teacher_tells_what_classes_they_are(run):
    """So that class 3, which no label tells of, is scarce for the control on labels only, and not for the student."""
    run, _ = run
    examples = open_examples(run)
    counts, labelled = count_classes(run, examples, False), count_classes(run, examples, True)
    assert labelled[3] == 0
    assert float(counts.sum()) == pytest.approx(len(read_transfer_rows(run)), rel=1e-4)
    assert float(counts[3]) == pytest.approx(100, abs=40)  # of 1000 digits
    reference = examples.y[read_split(run, "tune")].bincount(minlength=10)
    assert find_scarce_classes(counts, reference).tolist() == []
    assert not (run.student_folder("student") / "repair.json").exists()
    assert read_json(run.student_folder("labels_only") / "repair.json")["classes"] == [3]


@pytest.mark.parametrize("labelled", [True, False])
def test_the_control_on_labels_takes_as_many_steps_on_labelled_rows(run, monkeypatch, labelled):
    run, config = run
    trained = []
    monkeypatch.setattr(student, "train_model", lambda model, batches, *_, **__: trained.append(batches))
    student.train_student_network(run, config, "student", "student", None, None, None, labelled=labelled)
    rows, labels = trained[0].rows_of(0), open_examples(run).y
    assert len(rows) == len(read_transfer_rows(run))
    assert bool((labels[rows] >= 0).all()) == labelled
    assert len(rows.unique()) == (len(rows) - 1000 if labelled else len(rows))


def test_default_passes_of_a_large_transfer_set(run):
    """Those of a generalist of so many rows, not those of the few labelled ones."""
    run, config = run
    plain = config.model_copy(
        update={
            "student": config.student.model_copy(update={"epochs": None}),
            "generalist": config.generalist.model_copy(update={"epochs": None}),
        }
    )
    assert count_passes(run, plain, "student") == round(1.8 * 40)
    given = plain.model_copy(update={"generalist": config.generalist})
    assert count_passes(run, given, "student") == round(1.8 * 4)


def test_a_model_whose_biases_cannot_be_repaired_is_refused_before_training(tmp_path):
    np.savez(tmp_path / "u.npz", x=IMAGES[:50])
    config = quick_config(
        tmp_path / "run",
        transfer={"unlabeled": f"npz:{tmp_path / 'u.npz'}"},
        student={"model": "test_unlabeled:without_biases"},
    )
    with pytest.raises(ModelError, match="no biases"):
        run_quick(config)


def without_biases(input_shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes, bias=False))
