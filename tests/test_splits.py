"""Splits: disjoint, complete, stratified, seeded; examples that belong together stay together."""

import numpy as np
import pytest

from raydistill.data.splits import SPLITS, check_apart, number_splits, place_rows, split_rows
from raydistill.errors import DataError

SHARES = {"confuse": 0.12, "tune": 0.12, "test": 0.16}


def names(classes):
    return [f"class {index}" for index in range(classes)]


def test_every_row_is_in_one_split():
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    splits = split_rows(labels, names(10), SHARES, seed=0)
    assert tuple(splits) == SPLITS
    np.testing.assert_array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(5000))


def test_each_class_has_its_share_in_each_split():
    labels = np.repeat(np.arange(5), [1000, 500, 200, 100, 50])
    splits = split_rows(labels, names(5), SHARES, seed=0)
    for name, share in SHARES.items():
        counts = np.bincount(labels[splits[name]])
        np.testing.assert_allclose(counts, share * np.bincount(labels), atol=0.51)


def test_small_classes_are_in_every_split():
    labels = np.repeat(np.arange(3), 4)
    splits = split_rows(labels, names(3), SHARES, seed=0)
    assert all(np.bincount(labels[rows], minlength=3).min() >= 1 for rows in splits.values())


def test_seed_decides():
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    first, again, other = (split_rows(labels, names(10), SHARES, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["tune"], again["tune"])
    assert not np.array_equal(first["tune"], other["tune"])


def test_rows_of_one_value_stay_together():
    labels = np.tile(np.arange(20), 40)
    faces = np.repeat(np.arange(40), 20)
    splits = split_rows(labels, names(20), SHARES, seed=3, keep_apart=faces)
    owners = [set(faces[rows]) for rows in splits.values()]
    assert sum(map(len, owners)) == 40
    for name, share in SHARES.items():
        assert len(splits[name]) / 800 == pytest.approx(share, abs=0.04)


def test_refuses_a_class_with_too_few_examples():
    labels = np.array([0] * 50 + [1] * 50 + [2] * 3)
    with pytest.raises(DataError, match="'class 2' has no example"):
        split_rows(labels, names(3), SHARES, seed=0)


def test_refuses_a_class_without_examples():
    with pytest.raises(DataError, match="'class 3'"):
        split_rows(np.arange(300) % 3, names(4), SHARES, seed=0)


def test_refuses_shares_that_leave_nothing():
    with pytest.raises(DataError, match="splits"):
        split_rows(np.arange(300) % 3, names(3), {"confuse": 0.5, "tune": 0.5}, seed=0)


def test_refuses_too_few_values():
    with pytest.raises(DataError, match="keep_apart"):
        split_rows(np.arange(300) % 3, names(3), SHARES, seed=0, keep_apart=np.arange(300) % 2)


# What the user says


def test_names_of_splits_become_their_numbers():
    names_given = ["train", "fit", "confuse", "tune", "validation", "val", "valid", "test"]
    np.testing.assert_array_equal(number_splits(names_given, "here"), [0, 0, 1, 2, 2, 2, 2, 3])
    with pytest.raises(DataError, match="here: 'None', 'dev' is not a split; allowed are train, fit, confuse, tune"):
        number_splits(["train", "dev", None, "dev"], "here")
    with pytest.raises(DataError, match="'0', '1', '2', '3', '4' and 2 more is not a split"):
        number_splits(list("0123456"), "here")


def test_given_splits_stay_and_the_others_are_drawn_from_the_rest():
    labels = np.tile(np.arange(4), 100)
    given = np.zeros(400, np.int8)
    given[300:] = 2
    splits = place_rows(labels, names(4), SHARES, seed=0, given=given)
    np.testing.assert_array_equal(splits["tune"], np.arange(300, 400))
    for name in ("confuse", "test"):
        assert (splits[name] < 300).all()
        np.testing.assert_allclose(np.bincount(labels[splits[name]]), SHARES[name] * 75, atol=0.51)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(400))


def test_nothing_is_drawn_where_all_is_given():
    given = np.repeat(np.arange(4, dtype=np.int8), 6)
    splits = place_rows(np.arange(24) % 3, names(3), SHARES, seed=0, given=given)
    for number, name in enumerate(SPLITS):
        np.testing.assert_array_equal(splits[name], np.flatnonzero(given == number))


def test_nothing_given_is_as_before():
    labels = np.arange(300) % 3
    for name, rows in place_rows(labels, names(3), SHARES, seed=0).items():
        np.testing.assert_array_equal(rows, split_rows(labels, names(3), SHARES, seed=0)[name])


def test_a_given_split_without_a_class_is_told():
    given = np.zeros(300, np.int8)
    given[[0, 1, 3, 4]] = 1  # classes 0 and 1
    with pytest.raises(DataError, match=r"splits\.confuse: class 'class 2' .*; add some there, or leave"):
        place_rows(np.arange(300) % 3, names(3), SHARES, seed=0, given=given)


def test_what_is_drawn_keeps_values_apart():
    faces, labels = np.repeat(np.arange(40), 20), np.tile(np.arange(20), 40)
    given = np.where(faces >= 30, 2, 0).astype(np.int8)
    splits = place_rows(labels, names(20), {"confuse": 0.2, "tune": 0.2}, seed=0, given=given, keep_apart=faces)
    owners = [set(faces[rows]) for rows in splits.values()]
    assert sum(map(len, owners)) == 40
    assert set(faces[splits["tune"]]) == set(range(30, 40))


def test_values_that_the_given_splits_tear_apart_are_told():
    faces, given = np.array(["p1", "p2", "p2", "p3", "p3"]), np.array([0, 0, 0, 1, 3], np.int8)
    check_apart(faces[:3], given[:3], "here")
    with pytest.raises(DataError, match=r"here: examples of 'p3' are in confuse and in test \(1 values are torn"):
        check_apart(faces, given, "here")


@pytest.mark.parametrize(
    ("shares", "few", "found"),
    [
        (SHARES, 1, {"fit": 1, "confuse": 0, "tune": 0, "test": 0}),
        (SHARES, 2, {"fit": 1, "confuse": 0, "tune": 0, "test": 1}),
        (SHARES, 3, {"fit": 1, "confuse": 1, "tune": 0, "test": 1}),
        (SHARES, 4, {"fit": 1, "confuse": 1, "tune": 1, "test": 1}),
        ({"confuse": 0.1, "tune": 0.1}, 2, {"fit": 1, "confuse": 1, "tune": 0}),
    ],
)
def test_rare_classes_may_be_absent_where_that_is_allowed(shares, few, found):
    labels = np.array([0] * 50 + [1] * 50 + [2] * few)
    splits = split_rows(labels, names(3), shares, seed=0, rare="allow")
    assert {name: int((labels[rows] == 2).sum()) for name, rows in splits.items()} == found
    if few < 1 + len(shares):
        with pytest.raises(DataError, match=r"'class 2' has no example there .* give --splits\.rare allow"):
            split_rows(labels, names(3), shares, seed=0)
