"""Python's data as a folder of arrays: every form, its content and its name, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from raydistill.data import objects
from raydistill.data.ingest import count_block_rows
from raydistill.data.ingested import identify_arrays, open_arrays
from raydistill.data.objects import is_dataset, read_object
from raydistill.data.stored import choose_type, give_data
from raydistill.errors import DataError

COUNT = 1100  # more than two blocks of a Dataset, and of a folder
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (COUNT, 4, 5), dtype=np.uint8)
Y = RNG.permutation(np.arange(COUNT) % 3)
NAMES = np.array(["cat", "dog", "eel"])


class Pairs(torch.utils.data.Dataset):
    """A torch Dataset."""

    def __init__(self, x, y, classes=None):
        self.x, self.y = x, y
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def give(data, folder):
    return open_arrays(folder_of(give_data(data, folder)))


def folder_of(name):
    kind, _, path = name.partition(":")
    assert kind == "arrays"
    return Path(path)


def test_arrays_are_what_was_given(tmp_path):
    given = give((X, NAMES[Y]), tmp_path)
    np.testing.assert_array_equal(given.x, X)
    np.testing.assert_array_equal(given.y, Y)
    assert (given.class_names, given.train, given.x.dtype) == (["cat", "dog", "eel"], COUNT, np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        {"x": X, "y": NAMES[Y]},
        {"x_train": X, "y_train": NAMES[Y]},
        {"x_train": X, "y_train": Y, "class_names": NAMES},
        (torch.from_numpy(X), NAMES[Y].tolist()),
        (X, NAMES[Y].astype(object)),
        (X, pd.Series(NAMES[Y])),
        Pairs(X, NAMES[Y]),
        Pairs(torch.from_numpy(X), torch.from_numpy(Y), NAMES.tolist()),
        Pairs([Image.fromarray(image) for image in X], Y.tolist(), NAMES.tolist()),
        {"train": Pairs(X, Y, NAMES.tolist())},
    ],
)
def test_the_same_content_has_the_same_name_in_every_form(data, tmp_path):
    assert give_data(data, tmp_path) == give_data((X, NAMES[Y]), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_written_once_and_mended(tmp_path):
    name = give_data((X, Y), tmp_path)
    folder = folder_of(name)
    before = (folder / "x.npy").stat().st_mtime_ns
    assert give_data((X, Y), tmp_path) == name
    assert (folder / "x.npy").stat().st_mtime_ns == before
    (folder / "y.npy").unlink()
    assert give_data((X, Y), tmp_path) == name
    assert len(open_arrays(folder).y) == COUNT


def test_other_content_has_another_name(tmp_path):
    changed = X.copy()
    changed[-1, -1, -1] += 1
    names = {give_data(data, tmp_path) for data in [(X, Y), (changed, Y), (X, NAMES[Y]), (X[::-1], Y), (X / 1.0, Y)]}
    assert len(names) == 5
    assert len({identify_arrays(folder_of(name)) for name in names}) == 5


def test_a_test_part_follows_the_training_part(tmp_path):
    for data in [
        (X[:900], Y[:900], X[900:], Y[900:]),
        (Pairs(X[:900], Y[:900]), Pairs(X[900:], Y[900:])),
        {"train": Pairs(X[:900], Y[:900]), "test": Pairs(X[900:], Y[900:])},
    ]:
        given = give(data, tmp_path)
        np.testing.assert_array_equal(given.x, X)
        assert given.train == 900
    assert len(list(tmp_path.iterdir())) == 1


def test_a_dataset_is_read_a_block_at_a_time(tmp_path):
    held, most = 0, 0

    class Counted(Pairs):
        def __getitem__(self, index):
            nonlocal held, most
            held += 1
            most = max(most, held)
            return super().__getitem__(index)

    for x, _ in read_object(Counted(X, Y)).train():
        assert len(x) <= objects.BLOCK_ITEMS
        held = 0
    assert most == objects.BLOCK_ITEMS < COUNT


def test_a_table_has_the_label_column_apart(tmp_path):
    frame = pd.DataFrame({"a": [1, 2, 3], "label": ["u", "v", "w"], "b": [0.5, 0.25, 2.0]})
    for table in (frame, pa.Table.from_pandas(frame)):
        given = give(table, tmp_path)
        np.testing.assert_array_equal(given.x, [[1, 0.5], [2, 0.25], [3, 2]])
        assert (given.class_names, given.x.dtype) == (["u", "v", "w"], np.float32)


def test_palette_images_become_colours(tmp_path):
    images = [Image.fromarray(image).convert("P") for image in X[:3]]
    assert give(Pairs(images, [0, 1, 2]), tmp_path).x.shape == (3, 4, 5, 3)


@pytest.mark.parametrize(
    ("came", "stored"),
    [
        (np.float64, np.float32),
        (np.float16, np.float32),
        (np.uint16, np.int32),
        (np.uint64, np.int64),
        (np.int8, np.int8),
        (np.dtype(">i4"), np.int32),
    ],
)
def test_types_are_those_that_torch_has(came, stored, tmp_path):
    assert choose_type(np.dtype(came)) == stored
    given = give((X.astype(came), Y), tmp_path)
    assert given.x.dtype == stored
    np.testing.assert_array_equal(given.x, X.astype(came))


def test_blocks_are_cut_as_those_of_an_ingest(tmp_path):
    """Checksums by block are compared by open_arrays; here, that there is one for each."""
    folder = folder_of(give_data((X, Y), tmp_path))
    rows = count_block_rows(X.shape[1:], "uint8")
    assert len(np.load(folder / "checksums.npy")) == -(-COUNT // rows) > 2
    whole = folder_of(give_data((X[: 2 * rows], Y[: 2 * rows]), tmp_path))
    assert len(np.load(whole / "checksums.npy")) == 2


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (3, "int is not allowed; give a --data string"),
        ((X,), "tuple of 1 is not allowed"),
        ((X, Y, X), "tuple of 3 is not allowed"),
        (X, r"numpy.ndarray of shape \(1100, 4, 5\) is not allowed"),
        ({"x": X}, "'y_train' is missing"),
        ({"x": X, "y": Y, "z": Y}, "'z' is unknown"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "give both or neither"),
        ((X, Y[:-1]), "give one label for each example"),
        ((X[:, 0, 0], Y), "at least one example and one feature"),
        ((X, Y + 1), r"allowed are 0 to|has no example"),
        ((X, Y * 1.0), "labels of type float64"),
        ((X, Y % 2), "2 classes; give at least 3"),
        (([[1, 2], [3]], [0, 1]), "is no array"),
        ((np.array([[object()], [object()]]), [0, 1]), "holds object"),
        ((X * 1j, Y), "type complex128"),
        (Pairs([], []), "no items"),
        (Pairs([X[0], X[0, 1:]], [0, 1]), r"shapes \(3, 5\) and \(4, 5\); give the Dataset a transform"),
        (Pairs(X[:3], [0.5, 1, 2]), "the label of item 0 is float"),
        ([{"x": 1}] * 3, "list of 3 is not allowed"),
        (pd.DataFrame({"a": [1], "b": [2]}), "column of labels cannot be told among a, b"),
        (pd.DataFrame({"a": ["x"], "y": [0]}), "column 'a' holds no plain numbers"),
        (pd.DataFrame({"y": [0]}), "no column beside the labels"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(data, told, tmp_path):
    with pytest.raises(DataError, match=told) as caught:
        give_data(data, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_items_that_are_no_pairs_are_refused(tmp_path):
    class Single(Pairs):
        def __getitem__(self, index):
            return {"image": self.x[index]}

    with pytest.raises(DataError, match=r"item 0 is dict; give a Dataset whose items are pairs"):
        give_data(Single(X, Y), tmp_path)


def test_what_counts_as_a_dataset():
    assert is_dataset(Pairs(X, Y))
    assert not any(
        map(is_dataset, (X, [1, 2], "digits", {"x": 1}, torch.ones(2), pd.DataFrame({"a": [1]}), pd.Series([1])))
    )
