"""Ingest in this process: the arrays against Pillow's and numpy's own, corrupt records, resuming, and bad input."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import quick_config, run_quick
from PIL import Image, ImageOps

from raydistill.commands.cli import main
from raydistill.commands.ingest import ingest
from raydistill.data import ingest as blocks_module
from raydistill.data.images import CorruptRecord, ImageForm, decode_image
from raydistill.data.ingested import open_arrays
from raydistill.data.ingestion import run_here
from raydistill.data.sources import check_source, identify_source
from raydistill.data.wanted import Wanted
from raydistill.display import Silent
from raydistill.errors import ConfigError, DataError
from raydistill.settings.images import read_limit
from raydistill.storage.files import read_array, read_json

FORM = ImageForm(8, 3, "crop")


def encode(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def draw(index, shape=(12, 9, 3)):
    return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


def make_folder(root, each=5, classes="abc", part=""):
    """PNGs whose pixels say which they are; returns their bytes in the order of the listing."""
    images = []
    for label, name in enumerate(classes):
        for index in range(each):
            path = root / part / name / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(draw(100 * label + index)))
            images.append(path.read_bytes())
    return images


def write_parquet(path, x, labels, x_type=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": pa.array(x, x_type or pa.binary()), "label": pa.array(labels)}
    pq.write_table(pa.table(columns), path, **options)
    return path


def ingest_here(source, output, limit=0, form=FORM, run_blocks=run_here, **columns):
    wanted = Wanted(str(source), form, **columns)
    return ingest(wanted, output, limit=limit, run_blocks=run_blocks, display=Silent())


def small_blocks(monkeypatch, rows=4):
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", rows)


# The arrays


def test_a_folder_becomes_pillows_arrays_in_order_of_class_and_name(tmp_path):
    images = make_folder(tmp_path / "images")
    assert ingest_here(tmp_path / "images", tmp_path / "out").decoded == 1
    arrays = open_arrays(tmp_path / "out")
    assert (arrays.x.dtype, arrays.x.shape, arrays.train) == (np.uint8, (15, 8, 8, 3), 15)
    assert arrays.class_names == ["a", "b", "c"]
    np.testing.assert_array_equal(arrays.y, np.repeat([0, 1, 2], 5))
    for data, got in zip(images, arrays.x, strict=True):
        expected = ImageOps.fit(Image.open(io.BytesIO(data)), (8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(got, np.asarray(expected))


def test_folder_parquet_and_dataset_give_identical_files(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    small_blocks(monkeypatch)
    images, labels = make_folder(tmp_path / "images"), np.repeat(list("abc"), 5).tolist()
    write_parquet(tmp_path / "one" / "all.parquet", images, labels, row_group_size=6)
    for number, part in enumerate((slice(7), slice(7, 15))):  # several files, dictionary-encoded text
        write_parquet(tmp_path / "two" / f"{number}.parquet", images[part], pa.array(labels[part]).dictionary_encode())
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abc"))})
    rows = {"image": [{"bytes": data, "path": None} for data in images], "label": np.repeat([0, 1, 2], 5).tolist()}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    for source in ("images", "one", "two", "saved"):
        ingest_here(tmp_path / source, tmp_path / "out" / source)
    ingest_here(tmp_path / "one" / "all.parquet", tmp_path / "out" / "file")
    for name in ("x.npy", "y.npy", "classes.json", "parts.json", "checksums.npy", "corrupt.json"):
        assert len({(folder / name).read_bytes() for folder in (tmp_path / "out").iterdir()}) == 1


def test_parts_train_and_test_come_in_this_order(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    images = make_folder(tmp_path / "images", part="train")
    tuned = make_folder(tmp_path / "images", each=1, part="validation")
    make_folder(tmp_path / "images", each=1, part="extra")
    held_out = make_folder(tmp_path / "images", each=2, classes="bc", part="test")
    labels = {"train": list("aaaaabbbbbccccc"), "test": list("bbcc")}
    write_parquet(tmp_path / "table" / "train-0.parquet", images, labels["train"])
    write_parquet(tmp_path / "table" / "test-0.parquet", held_out, labels["test"])
    write_parquet(tmp_path / "table" / "validation-0.parquet", tuned, list("abc"))
    write_parquet(tmp_path / "table" / "extra-0.parquet", images, labels["train"])
    for source, beside in (("images", "extra/"), ("table", "extra-0.parquet")):
        record = ingest_here(tmp_path / source, tmp_path / source / ".." / f"{source}_out").record
        assert record["left_out"] == [beside]
    assert (tmp_path / "images_out/x.npy").read_bytes() == (tmp_path / "table_out/x.npy").read_bytes()
    np.testing.assert_array_equal(read_array(tmp_path / "table_out/y.npy")[15:], [0, 1, 2, 1, 1, 2, 2])
    np.testing.assert_array_equal(read_array(tmp_path / "table_out/split.npy"), [0] * 15 + [2] * 3)
    assert read_json(tmp_path / "table_out/parts.json") == {"train": 18, "test": 4}


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 3), pa.list_(pa.float64()), pa.large_list(pa.float16())])
def test_vectors_are_stored_as_float32(tmp_path, kind, monkeypatch):
    small_blocks(monkeypatch)
    vectors = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float16)
    write_parquet(tmp_path / "v.parquet", list(vectors.astype(float)), np.arange(20) % 3, kind, row_group_size=7)
    ingest_here(tmp_path / "v.parquet", tmp_path / "out")
    arrays = open_arrays(tmp_path / "out")
    assert arrays.x.dtype == np.float32
    np.testing.assert_allclose(arrays.x, vectors.astype(np.float32), rtol=1e-6)


def test_vectors_of_bytes_stay_bytes(tmp_path):
    vectors = draw(0, (9, 5))
    write_parquet(tmp_path / "v.parquet", list(vectors), np.arange(9) % 3, pa.list_(pa.uint8(), 5))
    ingest_here(tmp_path / "v.parquet", tmp_path / "out")
    np.testing.assert_array_equal(open_arrays(tmp_path / "out").x, vectors)


def test_images_of_all_modes():
    grey = ImageForm(4, 1, "stretch")
    pixels = draw(3, (4, 4))
    np.testing.assert_array_equal(decode_image(encode(pixels), grey), pixels)
    np.testing.assert_array_equal(decode_image(encode(pixels), ImageForm(4, 3, "pad"))[..., 2], pixels)
    deep = pixels.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(decode_image(encode(deep), grey), pixels)
    clear = np.dstack([pixels, pixels, pixels, np.zeros_like(pixels)])
    assert (decode_image(encode(clear), grey) == 255).all()  # transparent: over white
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    np.testing.assert_array_equal(decode_image(encode(pixels, exif=turned), grey), pixels[::-1, ::-1])
    with pytest.raises(CorruptRecord, match="pixels of type F"):
        decode_image(encode(pixels.astype(np.float32), "TIFF"), grey)


def test_resizing_crops_pads_or_stretches():
    pixels = np.repeat(np.array([[10, 20, 30]], np.uint8), 6, axis=1).repeat(6, axis=0)  # 6 x 18
    assert (decode_image(encode(pixels), ImageForm(6, 1, "crop")) == 20).all()
    padded = decode_image(encode(pixels), ImageForm(9, 1, "pad"))
    assert (padded[:3] == 0).all()
    assert (padded[3:6, 4] == 20).all()
    stretched = decode_image(encode(pixels), ImageForm(3, 1, "stretch"))
    assert stretched[0, 0] < stretched[0, 1] < stretched[0, 2]


def test_large_jpegs_are_decoded_at_a_lower_scale_without_harm():
    smooth = np.linspace(0, 255, 512).astype(np.uint8)[None].repeat(512, axis=0)
    got = decode_image(encode(smooth, "JPEG", quality=95), ImageForm(16, 1, "crop"))
    expected = Image.fromarray(smooth).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(got.astype(int), np.asarray(expected).astype(int), atol=3)


# Corrupt records


def test_corrupt_records_are_listed_and_left_out(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    images = make_folder(tmp_path / "images")
    whole = ingest_here(tmp_path / "images", tmp_path / "whole") and read_array(tmp_path / "whole" / "x.npy")
    (tmp_path / "images/b/01.png").write_bytes(images[6][:-30])
    (tmp_path / "images/c/04.png").write_bytes(b"")
    for output, limit in (("number", 2), ("share", 0.14)):
        record = ingest_here(tmp_path / "images", tmp_path / output, limit).record
        assert record["corrupt"] == 2
        arrays = open_arrays(tmp_path / output)
        np.testing.assert_array_equal(arrays.x, np.delete(whole, [6, 14], axis=0))
        np.testing.assert_array_equal(arrays.y, np.delete(np.repeat([0, 1, 2], 5), [6, 14]))
        assert [entry["name"] for entry in read_json(tmp_path / output / "corrupt.json")] == ["b/01.png", "c/04.png"]
        assert all(entry["reason"] for entry in read_json(tmp_path / output / "corrupt.json"))


def test_every_flipped_byte_of_a_png_is_noticed_or_harmless():
    pixels = draw(1, (8, 8, 3))
    data, noticed = encode(pixels), 0
    for place in range(len(data)):
        try:
            got = decode_image(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :], FORM)
        except CorruptRecord:
            noticed += 1
        else:
            np.testing.assert_array_equal(got, pixels)
    assert noticed > 0.9 * len(data)


def test_more_corrupt_records_than_allowed_are_one_line_and_nothing_is_lost(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    make_folder(tmp_path / "images")
    for name in ("a/00.png", "c/04.png"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"max_corrupt: 2 of 15 .* more than 1 \(a/00.png: cannot identify") as raised:
        ingest_here(tmp_path / "images", tmp_path / "out", 1)
    assert "\n" not in str(raised.value)
    assert len(read_json(tmp_path / "out/corrupt.json")) == 2
    with pytest.raises(DataError, match=r"holds no finished ingest .* goes on with it"):
        check_source(f"arrays:{tmp_path / 'out'}")
    assert ingest_here(tmp_path / "images", tmp_path / "out", 2).decoded == 0  # all blocks were finished before


def test_corrupt_rows_of_tables_are_named_by_file_and_row(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    images, labels = [encode(draw(index)) for index in range(12)], (np.arange(12) % 3).tolist()
    images[5], labels[7] = None, None
    write_parquet(tmp_path / "t" / "0.parquet", images[:4], labels[:4])
    write_parquet(tmp_path / "t" / "1.parquet", images[4:], labels[4:])
    ingest_here(tmp_path / "t", tmp_path / "out", 2)
    assert read_json(tmp_path / "out/corrupt.json") == [
        {"name": "1.parquet row 1", "reason": "no bytes"},
        {"name": "1.parquet row 3", "reason": "no label"},
    ]
    np.testing.assert_array_equal(open_arrays(tmp_path / "out").y, np.delete(np.arange(12) % 3, [5, 7]))


def test_corrupt_vectors(tmp_path):
    vectors = [[float(i), 1.0] for i in range(12)]
    vectors[3], vectors[4], vectors[5] = [1.0], None, [1.0, None]
    vectors[6], vectors[7] = [1.0, float("nan")], [1e39, 0.0]
    write_parquet(tmp_path / "v.parquet", vectors, np.arange(12) % 3, pa.list_(pa.float64()))
    ingest_here(tmp_path / "v.parquet", tmp_path / "out", 5)
    reasons = [entry["reason"] for entry in read_json(tmp_path / "out/corrupt.json")]
    spoilt = "nothing, NaN, infinity, or beyond the range of float32"
    assert reasons == ["1 numbers instead of 2", "0 numbers instead of 2", spoilt, spoilt, spoilt]
    np.testing.assert_array_equal(open_arrays(tmp_path / "out").x[:, 0], [0, 1, 2, 8, 9, 10, 11])


# Resuming


class Killed(Exception):
    pass


def kill_after(count):
    """Runs so many blocks, and then is killed."""

    def run_blocks(work, blocks, on_mark):
        run_here(work, blocks[:count], on_mark)
        raise Killed

    return run_blocks


def test_what_was_finished_before_a_kill_is_not_decoded_again(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    make_folder(tmp_path / "images")
    ingest_here(tmp_path / "images", tmp_path / "whole")
    with pytest.raises(Killed):
        ingest_here(tmp_path / "images", tmp_path / "out", run_blocks=kill_after(3))
    assert ingest_here(tmp_path / "images", tmp_path / "out").decoded == 1  # of 4
    assert ingest_here(tmp_path / "images", tmp_path / "out").decoded == 0
    for name in ("x.npy", "checksums.npy", "y.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out/work").exists()


def test_a_block_is_done_again_where_its_bytes_mark_or_images_have_changed(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    make_folder(tmp_path / "images")
    with pytest.raises(Killed):
        ingest_here(tmp_path / "images", tmp_path / "out", run_blocks=kill_after(4))
    with open(tmp_path / "out/work/x.npy", "r+b") as file:  # block 0: never reached the disk
        file.seek(128)
        file.write(b"\0" * 50)
    (tmp_path / "out/work/blocks/00000001.json").write_text("{")
    (tmp_path / "images/c/03.png").write_bytes(encode(draw(999)))  # block 3
    assert ingest_here(tmp_path / "images", tmp_path / "out").decoded == 3
    ingest_here(tmp_path / "images", tmp_path / "whole")
    assert (tmp_path / "out/x.npy").read_bytes() == (tmp_path / "whole/x.npy").read_bytes()


@pytest.mark.parametrize("limit", [0, 1])
def test_a_kill_at_the_very_end_costs_no_decoding(tmp_path, monkeypatch, limit):
    small_blocks(monkeypatch)
    make_folder(tmp_path / "images")
    if limit:
        (tmp_path / "images/b/02.png").write_bytes(b"")
    ingest_here(tmp_path / "images", tmp_path / "whole", limit)
    with monkeypatch.context() as patch:
        patch.setattr("raydistill.data.ingested.write_array", raise_on("checksums.npy"))
        with pytest.raises(Killed):
            ingest_here(tmp_path / "images", tmp_path / "out", limit)
    assert ingest_here(tmp_path / "images", tmp_path / "out", limit).decoded == 0
    assert (tmp_path / "out/x.npy").read_bytes() == (tmp_path / "whole/x.npy").read_bytes()
    assert len(open_arrays(tmp_path / "out").y) == 15 - limit


def raise_on(name):
    from raydistill.storage.files import write_array

    def write(path, array):
        if path.name == name:
            raise Killed
        write_array(path, array)

    return write


def test_a_finished_folder_is_not_overwritten(tmp_path):
    make_folder(tmp_path / "images")
    ingest_here(tmp_path / "images", tmp_path / "out")
    before = (tmp_path / "out/x.npy").read_bytes()
    with pytest.raises(DataError, match="holds arrays of another source, of other settings"):
        ingest_here(tmp_path / "images", tmp_path / "out", form=ImageForm(9, 3, "crop"))
    (tmp_path / "images/a/09.png").write_bytes(encode(draw(5)))
    with pytest.raises(DataError, match="files that have changed since; give another --output"):
        ingest_here(tmp_path / "images", tmp_path / "out")
    assert (tmp_path / "out/x.npy").read_bytes() == before


# Bad input


def prepare_bad(root, case):
    """A source that cannot be used; returns its path and columns."""
    make_folder(root / "images")
    images, labels = [encode(draw(0))] * 6, [0, 1, 2] * 2
    if case == "nothing":
        return root / "none", {}
    if case == "empty":
        (root / "empty").mkdir()
        return root / "empty", {}
    if case == "two classes":
        make_folder(root / "two", classes="ab")
        return root / "two", {}
    if case == "new class in test":
        make_folder(root / "parts", part="train")
        make_folder(root / "parts", part="test", classes="z")
        return root / "parts", {}
    if case == "link to a file":
        (root / "secret.png").write_bytes(encode(draw(0)))
        (root / "images/a/link.png").symlink_to(root / "secret.png")
    if case == "link to a folder":
        (root / "images/d").symlink_to(root / "images/a")
    if case == "name":
        (root / "images/a" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    if case == "columns of images":
        return root / "images", {"x_column": "image"}
    if case == "cut":
        path = write_parquet(root / "cut.parquet", images, labels)
        path.write_bytes(path.read_bytes()[:-20])
        return path, {}
    if case == "unlike":
        write_parquet(root / "t/0.parquet", images, labels)
        write_parquet(root / "t/1.parquet", images, list("abcabc"))
        return root / "t", {}
    if case == "parquet link":
        path = write_parquet(root / "far.parquet", images, labels)
        (root / "t").mkdir()
        (root / "t/0.parquet").symlink_to(path)
        return root / "t", {}
    if case == "labels":
        return write_parquet(root / "l.parquet", images, [0.5] * 6), {}
    if case == "strings":
        return write_parquet(root / "s.parquet", ["x"] * 6, labels, pa.string()), {"x_column": "image"}
    if case == "no such column":
        return write_parquet(root / "s.parquet", images, labels), {"label_column": "kind"}
    if case == "which column":
        table = pa.table({"a": images, "b": images, "label": labels})
        pq.write_table(table, root / "w.parquet")
        return root / "w.parquet", {}
    if case == "which label":
        pq.write_table(pa.table({"a": images, "y": labels, "target": labels}), root / "w.parquet")
        return root / "w.parquet", {}
    if case in ("no split column", "split", "split of numbers", "torn apart"):
        splits = [0, 1] * 3 if case == "split of numbers" else ["train", "dev" if case == "split" else "test"] * 3
        pq.write_table(pa.table({"image": images, "label": labels, "part": splits}), root / "s.parquet")
        named = {"split_column": "split" if case == "no split column" else "part", "label_column": "label"}
        return root / "s.parquet", named | ({"keep_apart": "label"} if case == "torn apart" else {})
    if case == "unknown key":
        return f"parquet:{root}/s.parquet?z=label", {}
    return root / "images", {}


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("nothing", r"source: .* does not exist; give a folder of images, Parquet files, a saved .* or hf:NAME"),
        ("empty", "source: .* has no images in class folders .*; give a folder with a folder"),
        ("two classes", r"source: .* has images in 2 class folders alone \(a/, b/\); give a folder with .* 3 at least"),
        ("new class in test", "source: class 'z' of test/ is not in train/; add it"),
        ("link to a file", "source: .*link.png' is a link to .*secret.png'; links .* are not followed; copy"),
        ("link to a folder", "source: .*d' is a link to .*a'; links to folders"),
        ("name", r"source: the name .*\\udcff.png' is not plain text; rename it"),
        ("columns of images", "x_column, label_column: a folder of images has no columns; leave them out"),
        ("cut", "source: 'cut.parquet' cannot be read .*; mend or remove the file"),
        ("unlike", r"source: column 'label' of '1.parquet' differs .* \(type string, not int64\)"),
        ("parquet link", "source: .*0.parquet' is a link that leaves the source"),
        ("labels", "label of train: labels of type float64; give integers from 0, or text"),
        ("strings", "x_column: 'image' is of type string; give encoded images"),
        ("no such column", "label_column: 'kind' is no column of the source; it has image, label"),
        ("which column", "x_column: cannot be told among a, b, label; name the column"),
        ("which label", "label_column: cannot be told among a, y, target; name it with --label-column"),
        ("no split column", "^split_column: 'split' is no column of the source"),
        ("split", "^split_column: 'part': 'dev' is not a split; allowed are train"),
        ("split of numbers", "^split_column: 'part' holds 0; give text: train"),
        ("torn apart", "^keep_apart: 'label': examples of '0' are in train and in test"),
        (
            "unknown key",
            r"^source: 'z=label' in .* is not allowed; behind the question mark give x=COLUMN and y=COLUMN",
        ),
    ],
)
def test_bad_sources_are_one_line(tmp_path, case, told):
    source, columns = prepare_bad(tmp_path, case)
    with pytest.raises(DataError, match=told) as raised:
        ingest_here(source, tmp_path / "out", **columns)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out/arrays.json").exists()


def test_paths_in_tables_are_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(encode(draw(0)))
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}] + [{"bytes": encode(draw(1)), "path": "x"}] * 8
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    write_parquet(tmp_path / "t.parquet", rows, np.arange(9) % 3, kind)
    ingest_here(tmp_path / "t.parquet", tmp_path / "out", 1)
    assert read_json(tmp_path / "out/corrupt.json") == [{"name": "t.parquet row 0", "reason": "no bytes"}]


def test_outputs_that_cannot_be_used(tmp_path, monkeypatch):
    make_folder(tmp_path / "images")
    (tmp_path / "file").touch()
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.tex").touch()
    for output, told in {"file": "is a file", "used": "holds 'thesis.tex'", "images/d": "within the source"}.items():
        with pytest.raises(DataError, match=told):
            ingest_here(tmp_path / "images", tmp_path / output)
    monkeypatch.setattr(blocks_module.shutil, "disk_usage", lambda path: Room)
    with pytest.raises(DataError, match=r"needs 0\.0 GB more, and 0\.0 GB are free; make room"):
        ingest_here(tmp_path / "images", tmp_path / "out")


class Room:
    free = 100


@pytest.mark.parametrize(("text", "limit"), [("0", 0), ("12", 12), ("0.25", 0.25), ("5%", 0.05), ("1.0", 1.0)])
def test_limits(text, limit):
    assert read_limit(text) == limit
    assert type(read_limit(text)) is type(limit)


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "101%", "nan", ""])
def test_bad_limits_are_told(text):
    with pytest.raises(ConfigError, match=r"max_corrupt: .* is not allowed; give a number of records"):
        read_limit(text)


def test_a_missing_library_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the library datasets; pip install 'raydistill\[datasets\]'"):
        ingest_here("hf:mnist", tmp_path / "out")


def test_a_dataset_of_the_hub_is_fetched_once(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, configuration):
        asked.append((name, configuration))
        rows = {"vector": [[1.0, float(i)] for i in range(9)], "label": [0, 1, 2] * 3}
        return datasets.DatasetDict(
            {"train": datasets.Dataset.from_dict(rows), "extra": datasets.Dataset.from_dict(rows)}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(Killed):
        ingest_here("hf:owner/name@small", tmp_path / "out", run_blocks=kill_after(0))
    record = ingest_here("hf:owner/name@small", tmp_path / "out").record
    assert ingest_here("hf:owner/name@small", tmp_path / "out").record == record
    with pytest.raises(DataError, match="holds arrays of another source"):
        ingest_here("hf:owner/name", tmp_path / "out")
    assert asked == [("owner/name", "small")]
    assert record["left_out"] == ["split extra"]
    np.testing.assert_array_equal(open_arrays(tmp_path / "out").x[:, 1], range(9))


# The arrays as a source


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """The digits, as PNGs, ingested in small blocks."""
    from sklearn.datasets import load_digits

    small_blocks(monkeypatch, 64)
    digits = load_digits()
    pixels = [encode((image * 15).astype(np.uint8)) for image in digits.images]
    write_parquet(tmp_path / "digits.parquet", pixels, digits.target)
    ingest_here(tmp_path / "digits.parquet", tmp_path / "digits", form=ImageForm(8, 1, "crop"))
    return tmp_path / "digits"


def test_a_run_links_the_arrays_and_trains_on_them(arrays, tmp_path):
    run = run_quick(quick_config(tmp_path / "run", data=f"arrays:{arrays}"), until="generalist")
    assert (run.stage_folder("data") / "x.npy").samefile(arrays / "x.npy")
    assert read_array(run.stage_folder("data") / "y.npy").shape == (1797,)
    history = read_json(run.stage_folder("generalist") / "training.json")["history"]
    assert history[-1]["value"] > 0.8
    assert read_json(run.stage_folder("data") / "form.json") == {"size": 8, "channels": 1, "resize": "crop"}


def test_changed_arrays_are_noticed(arrays, tmp_path):
    config = quick_config(tmp_path / "run", data=f"arrays:{arrays}")
    identity = identify_source(config)
    assert identity == identify_source(config)
    with open(arrays / "x.npy", "r+b") as file:
        file.seek(128 + 64 * 64 * 5)  # a block that is not looked at every time
        file.write(b"\1\2\3")
    with pytest.raises(DataError, match=r"x.npy' has changed since it was written, in rows 320 to 383; ingest again"):
        run_quick(config, until="data")
    with open(arrays / "x.npy", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match=r"x.npy' has 1000 bytes instead of 115136; ingest again"):
        check_source(config.data)


@pytest.mark.parametrize("name", ["y.npy", "classes.json", "parts.json", "checksums.npy"])
def test_changes_of_other_files_are_noticed(arrays, name):
    data = bytearray((arrays / name).read_bytes())
    data[-3] ^= 1
    (arrays / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}' has changed since it was written; ingest again"):
        open_arrays(arrays)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"raydistill_arrays": 99}'])
def test_records_of_somebody_else_are_told(tmp_path, text):
    (tmp_path / "arrays.json").write_text(text)
    with pytest.raises(DataError, match="ingest again"):
        check_source(f"arrays:{tmp_path}")


def test_the_command(tmp_path, capsys):
    make_folder(tmp_path / "images")
    command = ["ingest", str(tmp_path / "images"), "--output", str(tmp_path / "out"), "--backend", "none"]
    assert main([*command, "--size", "6", "--channels", "1"]) == 0
    said = capsys.readouterr()
    assert "15 examples, 6x6 uint8, in" in said.out
    assert f"raydistill run --data arrays:{tmp_path / 'out'}" in said.out
    assert "[1/1] ingest: done in" in said.err
    (tmp_path / "images/a/00.png").write_bytes(b"")
    assert main([*command[:3], str(tmp_path / "other"), *command[4:], "--max-corrupt", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*command, "--size", "0"]) == 2
    assert "size: 0 is not allowed; give 1 to 4096 pixels" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/arrays.json").read_text())["settings"]["form"]["size"] == 6
