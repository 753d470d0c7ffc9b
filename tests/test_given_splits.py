"""Splits that an array of a .npz file gives."""

import numpy as np
import pytest

from raydistill.data.sources import load_source
from raydistill.errors import DataError
from raydistill.settings.config import build_config

NAMES = np.array(["train", "test", "tune"] * 20)
X = np.arange(60, dtype=np.float32)[:, None]
Y = np.repeat(np.arange(3), 20)


def load(tmp_path, column="split", keep_apart=None, **arrays):
    np.savez(tmp_path / "data.npz", **{"x_train": X, "y_train": Y, "split": NAMES, **arrays})
    splits = {"column": column, "keep_apart": keep_apart}
    config = build_config({"data": f"npz:{tmp_path / 'data.npz'}", "run_dir": tmp_path / "run", "splits": splits})
    return load_source(config, list, lambda *_: None)


def test_test_rows_become_the_test_part(tmp_path):
    source = load(tmp_path, keep_apart="row", row=np.arange(60))
    kept = np.flatnonzero(NAMES != "test")
    np.testing.assert_array_equal(source.x_train, X[kept])
    np.testing.assert_array_equal(source.y_train, Y[kept])
    np.testing.assert_array_equal(source.x_test, X[1::3])
    np.testing.assert_array_equal(source.y_test, Y[1::3])
    np.testing.assert_array_equal(source.keep_apart, kept)
    np.testing.assert_array_equal(source.split, np.tile([0, 2], 20))


def test_bytes_and_no_test_rows(tmp_path):
    source = load(tmp_path, split=np.array([b"fit", b"confuse", b"val"] * 20))
    assert source.x_test is None
    np.testing.assert_array_equal(source.split, np.tile([0, 1, 2], 20))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"split": NAMES[:59]}, r"splits.column: 'split' has shape \(59,\) and type <U5; give text for each example"),
        ({"split": np.arange(60)}, "has shape .* and type int64; give text for each example of x_train: train, fit"),
        ({"split": np.char.replace(NAMES, "tune", "dev")}, "splits.column: 'split': 'dev' is not a split; allowed are"),
        ({"x_test": X, "y_test": Y}, "splits.column: 'split' names test examples, and the file has x_test, too"),
        ({"who": np.arange(60) // 2}, "splits.keep_apart: 'who': examples of '0' are in train and in test .30 v"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, arrays, told):
    with pytest.raises(DataError, match=told):
        load(tmp_path, keep_apart="who" if "who" in arrays else None, **arrays)


def test_a_missing_array_is_told(tmp_path):
    with pytest.raises(DataError, match="no array 'part', only split, x_train, y_train"):
        load(tmp_path, column="part")
