"""Sources: what is loaded, and that every kind of bad data is told in one line that names it."""

import os

import numpy as np
import pytest
from sklearn.datasets import load_digits

from raydistill.data.sources import check_source, identify_source, load_source
from raydistill.errors import DataError
from raydistill.settings.config import build_config


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
    with pytest.raises(DataError, match=r"openml:letter.*no network"):
        load("openml:letter", tmp_path)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.uint64, ">i4"])
def test_labels_may_be_integers_of_any_size(tmp_path, kind):
    source = load(save(tmp_path, y_train=(np.arange(60) % 3).astype(kind)), tmp_path)
    np.testing.assert_array_equal(source.y_train, np.arange(60) % 3)
    assert (source.y_train.dtype, source.class_names) == (np.int64, ["0", "1", "2"])


def test_text_may_be_bytes(tmp_path):
    names = np.array(["ä".encode(), b"b", b"c"])
    source = load(save(tmp_path, y_train=names[np.arange(60) % 3], class_names=names), tmp_path)
    assert source.class_names == ["ä", "b", "c"]
    np.testing.assert_array_equal(source.y_train, np.arange(60) % 3)


def test_other_arrays_of_the_file_are_left_alone(tmp_path):
    assert load(save(tmp_path, notes=np.array([{}])), tmp_path).class_names == ["0", "1", "2"]


def test_test_part_of_the_same_kind_is_taken(tmp_path):
    for train, test in (("f4", "f8"), ("f8", "f4"), ("u1", "u1"), ("i8", "u1"), ("<f4", ">f4")):
        x_train, x_test = np.zeros((60, 4), train), np.zeros((6, 4), test)
        assert load(save(tmp_path, x_train=x_train, x_test=x_test, y_test=np.arange(6) % 3), tmp_path)


def spoil(value, kind=np.float32):
    """Features of which example 17 has one of that value."""
    x = np.zeros((60, 4), kind)
    x[17, 2] = value
    return x


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"y_train": np.arange(60) % 3 - 1}, "y_train: label -1 of example 0; allowed are 0 to .*; number"),
        (
            {"y_train": np.arange(60) % 3 + 10**12},
            "y_train: label 1000000000000 of example 0; allowed are 0 to 59; num",
        ),
        ({"y_train": np.full(60, 2**64 - 1, np.uint64)}, "y_train: label 18446744073709551615 of example 0; allowed"),
        ({"y_train": np.arange(60) % 3 * 2}, r"y_train: class 1 \('1'\) of 0 to 4 has no example; give it some, or"),
        ({"class_names": np.array(list("abcd"))}, r"y_train: class 3 \('d'\) of 0 to 3 has no example"),
        ({"y_train": np.arange(60) % 3 / 1.0}, "y_train: labels of type float64; give integers"),
        ({"y_train": np.arange(60) % 3 == 1}, "y_train: labels of type bool; give integers"),
        ({"y_train": np.arange(60)[:, None] % 3}, r"y_train: shape \(60, 1\) is not allowed; give \(examples,\)"),
        ({"y_train": np.array(["a", "b", "c"] * 20)[:, None]}, r"y_train: shape \(60, 1\) is not allowed"),
        ({"y_train": np.array(3)}, r"y_train: shape \(\) is not allowed; give \(examples,\)"),
        ({"y_train": np.array("a")}, r"y_train: shape \(\) is not allowed"),
        ({"y_train": np.arange(0)}, "one label for each"),
        ({"y_train": np.array([b"\xff", b"b", b"c"] * 20)}, "y_train: bytes that are not UTF-8"),
        ({"y_train": np.array([{}] * 60)}, "array 'y_train': Object arrays cannot be loaded.*; write numbers or text"),
        (
            {"y_train": np.array(list("abd") * 20), "class_names": np.array(list("abc"))},
            "y_train: 'd' is not one of the 3",
        ),
        (
            {"y_train": np.array(list("aab") * 20), "class_names": np.array(list("aba"))},
            "class_names: 'a' stands for several classes; give each its own name",
        ),
        ({"class_names": np.array("abc")}, r"class_names: shape \(\), type <U3; give \(classes,\), text or integers"),
        ({"class_names": np.array([[0.5]])}, r"class_names: shape \(1, 1\), type float64; give"),
        (
            {"y_train": np.arange(60) % 4, "class_names": np.array(list("abc"))},
            "y_train: label 3 of example 3; allowed are 0 to 2; number the classes from 0 without gaps",
        ),
        ({"y_train": np.arange(59) % 3}, "one label for each"),
        ({"y_train": None}, "no array 'y_train'"),
        ({"x_train": spoil(np.nan)}, "x_train: example 17 has NaN, infinity, .*; remove, fill or scale"),
        ({"x_train": np.full((60, 4), np.inf)}, "x_train: example 0 has NaN, infinity"),
        ({"x_train": spoil(1e39, np.float64)}, "x_train: example 17 has .* beyond the range of float32"),
        ({"x_train": spoil(2**63, np.uint64)}, "x_train: example 17 has .* beyond the range of float32 or int64"),
        ({"x_train": np.zeros(60)}, r"x_train: shape \(60,\); give \(examples, ...\)"),
        ({"x_train": np.array(1.0)}, r"x_train: shape \(\); give \(examples, ...\)"),
        ({"x_train": np.zeros((0, 4)), "y_train": np.arange(0)}, r"x_train: shape \(0, 4\); give"),
        ({"x_train": np.zeros((60, 0))}, "x_train: shape"),
        ({"x_train": np.zeros((60, 4), complex)}, "type complex128"),
        ({"x_train": np.zeros((60, 4), bool)}, "type bool"),
        ({"x_train": np.array([["a"]] * 60)}, "x_train: type <U1; give integers or floats"),
        ({"y_train": np.arange(60) % 2}, "y_train: 2 classes; give at least 3"),
        ({"x_test": np.zeros((6, 4))}, "both or neither"),
        ({"y_test": np.arange(6) % 3}, "both or neither"),
        (
            {"x_test": np.zeros((6, 5)), "y_test": np.arange(6) % 3},
            r"x_test: shape \(5,\) .* \(4,\); give both the same",
        ),
        ({"x_test": np.zeros((6, 4)), "y_test": np.arange(5) % 3}, "x_test, y_test: shapes"),
        ({"x_test": np.zeros((6, 4)), "y_test": np.arange(6)}, "y_test: label 3 of example 3; allowed are 0 to 2"),
        ({"x_test": np.zeros((6, 4)), "y_test": np.array(list("012012"))}, "y_test: type <U1, but y_train's is int64"),
        (
            {"x_test": np.zeros((6, 4), int), "y_test": np.arange(6) % 3},
            "x_test: type int64 does not go into .* float32",
        ),
        (
            {"x_train": np.zeros((60, 4), np.uint8), "x_test": np.full((6, 4), 0.5), "y_test": np.arange(6) % 3},
            "x_test: type float64 does not go into x_train's uint8; give both the same type",
        ),
        (
            {"x_train": np.zeros((60, 4), np.uint8), "x_test": np.full((6, 4), 300), "y_test": np.arange(6) % 3},
            "x_test: type int64 does not go into x_train's uint8",
        ),
        (
            {
                "y_train": np.array(list("abc") * 20),
                "x_test": np.zeros((1, 4), np.float32),
                "y_test": np.array(["z"]),
            },
            "y_test: 'z' is not one of the 3 classes; add it to",
        ),
        ({"x_train": np.array([{}] * 60)}, "readable .npz .*array 'x_train': Object arrays"),
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


@pytest.mark.parametrize("value", [np.zeros((60, 2)), np.zeros(59), np.array(1)])
def test_keep_apart_has_a_value_for_each_example(tmp_path, value):
    with pytest.raises(DataError, match=r"keep_apart: shape .* for 60 examples; give one value for each"):
        load(save(tmp_path, face=value), tmp_path, splits={"keep_apart": "face"})


def test_damaged_files_are_told(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", **good())
    whole, told = (tmp_path / "data.npz").read_bytes(), []
    for place in range(60, len(whole) - 30, 7):
        (tmp_path / "data.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            load(f"npz:{tmp_path / 'data.npz'}", tmp_path)
        except DataError as error:
            told.append(str(error))
    assert len(told) > 20
    assert not any("\n" in line for line in told)
    (tmp_path / "data.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load(f"npz:{tmp_path / 'data.npz'}", tmp_path)


def test_a_file_of_somebody_else_is_told(tmp_path, monkeypatch):
    data = save(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataError, match="is not readable by this user; change"):
        check_source(data)


def test_files_that_are_not_npz_are_told(tmp_path):
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "single.npy", np.zeros(3))
    for name, told in {"empty.npz": "is empty", "text.npz": "readable", "single.npy": "single array"}.items():
        with pytest.raises(DataError, match=told):
            load(f"npz:{tmp_path / name}", tmp_path)


@pytest.mark.parametrize("data", ["digit", "npz:", "openml:", "", "images:/no/such", "hf:./no", "npz:/no/such.npz"])
def test_unknown_sources_are_refused_before_anything_starts(data):
    with pytest.raises(DataError, match="data:"):
        check_source(data)


def test_identity_follows_the_file(tmp_path):
    def identity():
        return identify_source(build_config({"data": save(tmp_path), "run_dir": tmp_path}))

    before = identity()
    assert identity() == before
    save(tmp_path, x_train=np.ones((60, 4), np.float32))
    data = f"npz:{tmp_path / 'data.npz'}"
    assert identify_source(build_config({"data": data, "run_dir": tmp_path})) != before
