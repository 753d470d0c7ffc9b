"""Inputs of predict: what is found, in which order, and what is said of records that cannot be used."""

import itertools
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raydistill.data.images import ImageForm
from raydistill.data.new_images import NewImages
from raydistill.deployment import records as module
from raydistill.deployment.answerer import Answerer, convert_rows
from raydistill.deployment.records import open_records
from raydistill.errors import DataError

SHAPE = (2, 3)


def make(dtype="float32", images=None, shape=SHAPE):
    ask = lambda batch: torch.zeros(len(batch), 2)  # noqa: E731
    return Answerer("student", ask, ("a", "b"), shape, dtype, images)


IMAGES = make("uint8", NewImages(ImageForm(4, 1, "crop"), (4, 4), "uint8"), (4, 4))


def gather(records):
    blocks = list(records.read())
    assert sum(len(block.files) for block in blocks) == records.total
    starts = itertools.accumulate((len(block.files) for block in blocks), initial=0)
    problems = {
        start + place: told
        for start, block in zip(starts, blocks, strict=False)
        for place, told in block.problems.items()
    }
    return np.concatenate([block.x for block in blocks]), problems, blocks


def write(path, x, **more):
    if path.suffix == ".npz":
        (np.savez_compressed if more.get("compressed") else np.savez)(path, y=np.arange(3), x=x)
    elif path.suffix == ".npy":
        np.save(path, x)
    else:
        pq.write_table(pa.table({"id": range(len(x)), "v": list(x.reshape(len(x), -1))}), path, row_group_size=7)
    return str(path)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_come_whole_and_in_order_block_by_block(tmp_path, monkeypatch, suffix, compressed):
    monkeypatch.setattr(module, "BLOCK_ROWS", 8)
    x = np.random.default_rng(0).normal(size=(50, *SHAPE)).astype(np.float32)
    first, second = (
        write(tmp_path / f"{name}{suffix}", part, compressed=compressed)
        for name, part in (("b", x[:31]), ("a", x[31:]))
    )
    found, problems, blocks = gather(open_records([first, second], make()))
    np.testing.assert_array_equal(found, x)
    assert problems == {}
    assert max(len(block.x) for block in blocks) <= 8
    assert [row for block in blocks for row in block.rows] == [*range(31), *range(19)]
    assert [file for block in blocks for file in block.files] == [first] * 31 + [second] * 19


def test_an_array_in_fortran_order_is_read_as_it_is(tmp_path):
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(5, *SHAPE)))
    found, _, _ = gather(open_records([write(tmp_path / "x.npz", x)], make()))
    np.testing.assert_array_equal(found, x.astype(np.float32))


def test_rows_that_cannot_be_used_keep_their_place(tmp_path):
    x = np.zeros((6, *SHAPE))
    x[1, 0, 0], x[4, 1, 2] = np.nan, 1e300
    found, problems, _ = gather(open_records([write(tmp_path / "x.npy", x)], make()))
    assert set(problems) == {1, 4}
    assert "NaN, infinity" in problems[1]
    np.testing.assert_array_equal(found, 0)


def test_vectors_of_another_length_keep_their_place(tmp_path):
    pq.write_table(pa.table({"v": [[1.0] * 6, [1.0] * 5, None, [1.0] * 5 + [None], [2.0] * 6]}), tmp_path / "x.parquet")
    found, problems, _ = gather(open_records([str(tmp_path / "x.parquet")], make()))
    assert set(problems) == {1, 2, 3}
    assert problems[1] == "5 numbers instead of 6"
    np.testing.assert_array_equal(found[[0, 4]], [np.full(SHAPE, 1.0), np.full(SHAPE, 2.0)])


@pytest.mark.parametrize(
    ("given", "dtype", "bad"),
    [
        ([[0.0], [255.0], [255.5], [-1.0], [np.nan]], "uint8", {2, 3, 4}),
        ([[0], [255], [256], [-1]], "uint8", {2, 3}),
        ([[1.5], [np.inf], [1e39]], "float32", {1, 2}),
        (np.array([[2**63], [5]], np.uint64), "int64", {0}),
    ],
)
def test_numbers_that_the_stored_type_does_not_hold_are_problems(given, dtype, bad):
    x = np.array(given)
    converted, problems = convert_rows(x, dtype)
    assert set(problems) == bad
    assert converted.dtype == dtype
    good = [row for row in range(len(x)) if row not in bad]
    np.testing.assert_array_equal(converted[good], x[good])


def test_images_of_folders_globs_and_files_in_the_order_of_their_names(tmp_path):
    for index, name in enumerate(("b/2.png", "b/1.jpg", "a.bmp", "b/c/3.PNG", "b/.hidden.png", "b/notes.txt")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.fromarray(np.full((4, 4), 40 * index, np.uint8)).save(path)
    inputs = [str(tmp_path / "b"), str(tmp_path / "*.bmp")]
    found, problems, blocks = gather(open_records(inputs, IMAGES))
    names = [file.removeprefix(f"{tmp_path}/") for block in blocks for file in block.files]
    assert names == ["b/1.jpg", "b/2.png", "b/c/3.PNG", "a.bmp"]
    np.testing.assert_allclose(found[:, 0, 0], [40, 0, 120, 80], atol=2)
    assert problems == {}
    assert blocks[0].rows is None


def test_corrupt_images_are_told_and_the_others_read(tmp_path):
    for name in ("1.png", "2.png", "3.png"):
        Image.fromarray(np.full((40, 40), 9, np.uint8)).save(tmp_path / name)
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "4.png").write_bytes(b"")
    found, problems, _ = gather(open_records([str(tmp_path)], IMAGES))
    assert set(problems) == {1, 3}
    assert all(problems.values())
    np.testing.assert_array_equal(found[[0, 2]], 9)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.npz", {"x": np.zeros((3, 5))}, r"holds shape \(3, 5\); give \(examples, 2, 3\)"),
        ("x.npz", {"x": np.zeros((0, 2, 3))}, r"holds shape \(0, 2, 3\)"),
        ("x.npz", {}, r"holds shape \(0,\)"),
        ("x.npz", {"x": np.full((3, 2, 3), "a")}, "give integers or floats"),
        ("x.npz", b"no zip", r"not a readable \.npz"),
        ("x.npy", b"no array", r"not a readable \.npy"),
        ("x.npy", np.full((3, 2, 3), np.nan), "no example .* can be used: each has NaN"),
        ("x.parquet", b"no table", r"not a readable \.parquet"),
        ("x.parquet", {"a": [1], "b": ["c"]}, "x_column: cannot be told among a, b"),
        ("x.parquet", {"a": [[1.0]], "b": [[1.0]]}, "x_column: cannot be told among a, b; name"),
        ("x.parquet", {"a": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))}, "give vectors of 6 numbers"),
        ("x.txt", b"text", "of no known kind"),
        ("x.png", b"image", "takes no images, but arrays of shape"),
    ],
)
def test_inputs_that_do_not_fit_are_told_in_a_line(tmp_path, name, content, told):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".npz"):
        np.savez(path, **content)
    elif name.endswith(".npy"):
        np.save(path, content)
    else:
        pq.write_table(pa.table(content), path)
    with pytest.raises(DataError, match=told) as raised:
        gather(open_records([str(path)], make()))
    assert "\n" not in str(raised.value)


def test_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([{1: 2}, None], dtype=object))
    np.save(tmp_path / "x.npy", np.array([{1: 2}, None], dtype=object))
    for name in ("x.npz", "x.npy"):
        with pytest.raises(DataError, match="without pickles"):
            open_records([str(tmp_path / name)], make())


def test_a_file_that_is_cut_short_is_told_in_a_line(tmp_path):
    write(tmp_path / "x.npz", np.zeros((500, *SHAPE)))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        data = archive.read("x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", data[:-100])
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        gather(open_records([str(tmp_path / "x.npz")], make()))


def test_missing_mixed_and_empty_inputs(tmp_path):
    with pytest.raises(DataError, match="does not exist; give files, a folder, or a glob"):
        open_records([str(tmp_path / "none*.png")], IMAGES)
    with pytest.raises(DataError, match="holds no images"):
        open_records([str(tmp_path)], IMAGES)
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 4)))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="one kind at a time"):
        open_records([str(tmp_path / "x.npy"), str(tmp_path / "a.png")], IMAGES)
    with pytest.raises(DataError, match="x_column: images have no columns"):
        open_records([str(tmp_path / "a.png")], IMAGES, "v")
