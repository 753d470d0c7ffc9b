"""Sources: what is loaded, and that every kind of bad data is told in one line that names it."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from raydistill.config import build_config
from raydistill.data import sources
from raydistill.data.sources import check_source, load_source
from raydistill.errors import DataError


def load(data, tmp_path, **settings):
    config = build_config({"data": data, "run_dir": tmp_path / "run", **settings})
    return load_source(config, lambda function, items, on_done: [function(item) for item in items], lambda *_: None)


def good():
    return {"x_train": np.zeros((60, 4), np.float32), "y_train": np.arange(60) % 3}


def save(tmp_path, **changes):
    arrays = {name: value for name, value in {**good(), **changes}.items() if value is not None}
    np.savez(tmp_path / "data.npz", **arrays)
    return f"npz:{tmp_path / 'data.npz'}"


def test_digits_are_sklearns(tmp_path):
    source = load("digits", tmp_path)
    np.testing.assert_array_equal(source.x_train, load_digits().images)
    assert source.x_train.dtype == np.uint8
    assert source.class_names == list("0123456789")


def test_glyphs_come_by_face_in_class_order(tmp_path):
    source = load("glyphs", tmp_path, glyphs={"variants": 4})
    assert source.x_train.shape == (16 * 523 * 4, 20, 20)
    np.testing.assert_array_equal(np.bincount(source.y_train), [64] * 523)


def test_npz_brings_all_its_arrays(tmp_path):
    data = save(
        tmp_path,
        x_test=np.ones((6, 4), np.float32),
        y_test=np.arange(6) % 3,
        class_names=np.array(["a", "b", "c"]),
        face=np.arange(60) % 5,
    )
    source = load(data, tmp_path, splits={"keep_apart": "face"})
    assert source.class_names == ["a", "b", "c"]
    assert source.x_test.shape == (6, 4)
    np.testing.assert_array_equal(source.keep_apart, np.arange(60) % 5)


def test_text_labels_become_numbers(tmp_path):
    data = save(tmp_path, y_train=np.array(["cat", "ant", "bee"] * 20))
    source = load(data, tmp_path)
    assert source.class_names == ["ant", "bee", "cat"]
    np.testing.assert_array_equal(source.y_train[:3], [2, 0, 1])


def test_openml_is_asked_by_name_and_version(tmp_path, monkeypatch):
    asked = {}

    def fetch(name, **options):
        from sklearn.utils import Bunch

        asked.update(options, name=name)
        return Bunch(data=np.ones((9, 2)), target=np.array(["x", "y", "z"] * 3, dtype=object))

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    source = load("openml:letter@1", tmp_path)
    assert (asked["name"], asked["version"]) == ("letter", 1)
    assert source.class_names == ["x", "y", "z"]


def test_openml_failure_is_one_line(tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    with pytest.raises(DataError, match="openml:letter.*no network"):
        load("openml:letter", tmp_path)


NAN = np.zeros((60, 4), np.float32)
NAN[17, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"y_train": np.arange(60) % 3 - 1}, "label -1 of example 0"),
        ({"y_train": np.arange(60) % 3 / 1.0}, "labels of type float64"),
        (
            {"y_train": np.arange(60) % 4, "class_names": np.array(list("abc"))},
            "label 3 of example 3; allowed are 0 to 2",
        ),
        ({"y_train": np.arange(59) % 3}, "one label for each"),
        ({"y_train": None}, "no array 'y_train'"),
        ({"x_train": NAN}, "example 17 has NaN"),
        ({"x_train": np.full((60, 4), np.inf)}, "example 0 has NaN or infinity"),
        ({"x_train": np.zeros(60)}, "x_train: shape"),
        ({"x_train": np.zeros((60, 0))}, "x_train: shape"),
        ({"x_train": np.zeros((60, 4), complex)}, "type complex128"),
        ({"x_train": np.zeros((60, 4), bool)}, "type bool"),
        ({"y_train": np.arange(60) % 2}, "2 classes"),
        ({"x_test": np.zeros((6, 4))}, "both or neither"),
        ({"x_test": np.zeros((6, 5)), "y_test": np.arange(6) % 3}, "x_test: shape"),
        ({"x_test": np.zeros((6, 4)), "y_test": np.arange(6)}, "y_test: label 3"),
        ({"x_train": np.array([{}] * 60)}, "readable .npz"),
    ],
)
def test_bad_npz_is_one_line(tmp_path, changes, told):
    with pytest.raises(DataError, match=told) as raised:
        load(save(tmp_path, **changes), tmp_path)
    assert "\n" not in str(raised.value)


def test_missing_keep_apart_is_told(tmp_path):
    with pytest.raises(DataError, match="no array 'face'"):
        load(save(tmp_path), tmp_path, splits={"keep_apart": "face"})
    with pytest.raises(DataError, match="keep_apart"):
        load("digits", tmp_path, splits={"keep_apart": "face"})


def test_files_that_are_not_npz_are_told(tmp_path):
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "single.npy", np.zeros(3))
    for name, told in {"empty.npz": "is empty", "text.npz": "readable", "single.npy": "single array"}.items():
        with pytest.raises(DataError, match=told):
            load(f"npz:{tmp_path / name}", tmp_path)


@pytest.mark.parametrize("data", ["digit", "npz:", "openml:", "", "images:/x", "npz:/no/such.npz"])
def test_unknown_sources_are_refused_before_anything_starts(data):
    with pytest.raises(DataError, match="data:"):
        check_source(data)


def test_identity_follows_the_file(tmp_path):
    def identity():
        return sources.identify_source(build_config({"data": save(tmp_path), "run_dir": tmp_path}))

    before = identity()
    assert identity() == before
    save(tmp_path, x_train=np.ones((60, 4), np.float32))
    data = f"npz:{tmp_path / 'data.npz'}"
    assert sources.identify_source(build_config({"data": data, "run_dir": tmp_path})) != before
