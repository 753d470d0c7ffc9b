"""Tables of predictions: the three kinds of file say the same of the same answers."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import log_softmax

from raydistill.deployment.records import Block
from raydistill.deployment.tables import open_table
from raydistill.errors import ConfigError

NAMES = ("cat", "dog, big", "bird")
LOG_PROBS = log_softmax(np.random.default_rng(0).normal(size=(7, 3)), axis=1).astype(np.float32)
FILES = [f"{index}.png" for index in range(7)]
PROBLEMS = {2: "cut short", 5: "no image"}


def write(path, top=1, of_images=True):
    with open_table(path, NAMES, top, 7, of_images) as append:
        for part in (slice(0, 4), slice(4, 7)):
            places = range(7)[part]
            problems = {place - places[0]: told for place, told in PROBLEMS.items() if place in places}
            rows = None if of_images else list(places)
            append(Block(np.zeros((len(places), 1)), FILES[part], rows, problems), LOG_PROBS[part])


def expected(place, top):
    if place in PROBLEMS:
        return [(None, None)] * top
    order = sorted(range(3), key=lambda index: -LOG_PROBS[place, index])[:top]
    return [(NAMES[index], float(np.exp(LOG_PROBS[place, index]))) for index in order]


@pytest.mark.parametrize("top", [1, 3])
@pytest.mark.parametrize("of_images", [True, False])
def test_parquet_and_csv_hold_the_most_probable_classes(tmp_path, top, of_images):
    write(tmp_path / "t.parquet", top, of_images)
    write(tmp_path / "t.csv", top, of_images)
    table = pq.read_table(tmp_path / "t.parquet").to_pylist()
    with open(tmp_path / "t.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(table[0]) == list(lines[0])
    assert ("row" in table[0]) is not of_images
    for place, (row, line) in enumerate(zip(table, lines, strict=True)):
        assert row["file"] == line["file"] == FILES[place]
        assert row["problem"] == PROBLEMS.get(place)
        assert line["problem"] == PROBLEMS.get(place, "")
        for at, (name, probability) in enumerate(expected(place, top)):
            end = f"_{at + 1}" if at else ""
            assert row[f"class{end}"] == name
            assert line[f"class{end}"] == (name or "")
            assert row[f"probability{end}"] == (None if name is None else pytest.approx(probability, rel=1e-6))
            assert line[f"probability{end}"] == ("" if name is None else f"{np.float32(probability):.6g}")


def test_npz_holds_every_probability(tmp_path):
    write(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as file:
        good = [place for place in range(7) if place not in PROBLEMS]
        np.testing.assert_allclose(file["probability"][good], np.exp(LOG_PROBS[good]), rtol=1e-6)
        assert np.isnan(file["probability"][list(PROBLEMS)]).all()
        best = np.where(np.isin(range(7), good), LOG_PROBS.argmax(axis=1), -1)
        np.testing.assert_array_equal(file["class_index"], best)
        assert file["class_name"].tolist() == [NAMES[index] if index >= 0 else "" for index in best]
        assert dict(zip(file["problem_index"].tolist(), file["problem"].tolist(), strict=True)) == PROBLEMS
        assert file["file"].tolist() == FILES


def test_a_table_that_is_not_finished_is_not_there(tmp_path):
    def stop_halfway(path):
        with open_table(path, NAMES, 1, 7, True) as append:
            append(Block(np.zeros((4, 1)), FILES[:4], None, {}), LOG_PROBS[:4])
            raise KeyboardInterrupt

    for name in ("t.parquet", "t.csv", "t.npz"):
        with pytest.raises(KeyboardInterrupt):
            stop_halfway(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"output: .*t\.txt.* give a file that ends in \.parquet, \.csv, \.npz"):
        write(tmp_path / "t.txt")
