"""Runs on sources by name: what the data stage decodes, what it tells, and the splits that the user gives."""

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import Recorder, quick_config, run_quick
from PIL import Image

from raydistill.commands.cli import main
from raydistill.data import ingest as blocks_module
from raydistill.data import ingestion
from raydistill.data.arrays import read_split
from raydistill.data.images import FormWish, ImageForm, decode_image, peek_images, settle_form
from raydistill.display import Silent
from raydistill.errors import ConfigError, DataError
from raydistill.execution.in_process import InProcess
from raydistill.report.describe import describe_data
from raydistill.settings.config import build_config
from raydistill.stages.context import Context
from raydistill.storage.files import read_array, read_json
from raydistill.storage.run_folder import RunFolder


def encode(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def draw(seed, shape=(16, 16)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_folder(root, each=10, classes="abc", shape=(16, 16), seed=0):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(each):
            (root / name / f"{index:02d}.png").write_bytes(encode(draw(1000 * seed + 100 * label + index, shape)))
    return f"images:{root}"


def make_table(path, rows=60, **columns):
    """Vectors of one number, their row; string labels."""
    x = pa.array([[float(row)] for row in range(rows)], pa.list_(pa.float32()))
    labels = np.array(["ant", "bee", "cat"])[np.arange(rows) % 3]
    pq.write_table(pa.table({"embedding": x, "species": labels, **columns}), path)
    return f"parquet:{path}?x=embedding&y=species"


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def prepare(tmp_path, data, until="splits", **settings):
    notes = Notes()
    run = run_quick(small_config(tmp_path / "run", data, **settings), notes, until=until)
    return run, notes.lines


def small_config(run_dir, data, **settings):
    return quick_config(run_dir, data=data, specialists={"groups": 2}, **settings)


def find_rows(run, name):
    """The rows of the source that a split has, where x is the row."""
    x = read_array(run.stage_folder("data") / "x.npy")
    return x[read_split(run, name).numpy(), 0].astype(int)


# Image folders


def test_an_image_folder_becomes_pillows_arrays(tmp_path):
    data = make_folder(tmp_path / "images")
    (tmp_path / "images/notes.txt").touch()
    run, lines = prepare(tmp_path, data, images={"size": 12, "channels": 3, "resize": "stretch"})
    folder, form = run.stage_folder("data"), ImageForm(12, 3, "stretch")
    expected = [decode_image(path.read_bytes(), form) for path in sorted((tmp_path / "images").rglob("*.png"))]
    np.testing.assert_array_equal(read_array(folder / "x.npy"), np.stack(expected))
    np.testing.assert_array_equal(read_array(folder / "y.npy"), np.repeat([0, 1, 2], 10))
    assert read_json(folder / "classes.json") == ["a", "b", "c"]
    assert read_json(folder / "form.json") == {"size": 12, "channels": 3, "resize": "stretch"}
    assert lines[0] == "left out: notes.txt, which is no image by its name, or lies in no class folder"
    assert lines[1] == "images become 12x12 RGB"
    assert not run.ingest_folder.exists()


def test_corrupt_records_are_told_listed_and_counted(tmp_path):
    data = make_folder(tmp_path / "images", each=30)
    (tmp_path / "images/b/05.png").write_bytes(b"no image")
    settings = {"images": {"max_corrupt": "5%"}}
    run, lines = prepare(tmp_path, data, **settings)
    assert "corrupt records left out: 1, such as b/05.png; see 01_data/corrupt.json" in lines
    assert [record["name"] for record in read_json(run.stage_folder("data") / "corrupt.json")] == ["b/05.png"]
    facts = describe_data(Context(run, small_config(run.path, data, **settings), Silent(), InProcess))
    assert (facts["examples"], facts["corrupt"], facts["given"]) == (89, 1, [])


def test_too_many_corrupt_records_end_the_run_and_a_larger_limit_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 8)
    data = make_folder(tmp_path / "images")
    for name in ("a/03", "c/09"):
        (tmp_path / f"images/{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^images.max_corrupt: 2 of 30 .* more than 1 .* --images.max_corrupt$"):
        prepare(tmp_path, data, images={"max_corrupt": 1})
    decoded, before = [], blocks_module._write_block
    monkeypatch.setattr(blocks_module, "_write_block", lambda *given: decoded.append(given) or before(*given))
    run, _ = prepare(tmp_path, data, images={"max_corrupt": 2})
    assert not decoded  # every block had been done, and the last of them told
    assert len(read_array(run.stage_folder("data") / "y.npy")) == 28
    recorder = Recorder()
    run_quick(small_config(tmp_path / "run", data, images={"max_corrupt": 7}), recorder, until="splits")
    assert recorder.skipped == [True, True]


def test_an_interrupted_stage_goes_on_with_its_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 8)
    data, decoded, before = make_folder(tmp_path / "images"), [], blocks_module._write_block

    def write_block(work, block, *others):
        decoded.append(block.index)
        if decoded == [0, 1, 2]:
            raise KeyboardInterrupt
        return before(work, block, *others)

    monkeypatch.setattr(blocks_module, "_write_block", write_block)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, data)
    run, _ = prepare(tmp_path, data)
    assert decoded == [0, 1, 2, 2, 3]
    assert len(read_array(run.stage_folder("data") / "x.npy")) == 30


def test_a_kill_behind_the_ingest_costs_no_decoding(tmp_path, monkeypatch):
    data = make_folder(tmp_path / "images")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_stage", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(tmp_path, data)
    monkeypatch.setattr(ingestion, "write_blocks", lambda *_: 1 / 0)
    run, _ = prepare(tmp_path, data)
    assert len(read_array(run.stage_folder("data") / "x.npy")) == 30


def test_changed_images_are_decoded_again_and_no_linked_file_is_written(tmp_path):
    data = make_folder(tmp_path / "images")
    run, _ = prepare(tmp_path, data, until="data")
    other = run_quick(small_config(tmp_path / "other", data), until="splits", start_from=run.path)
    before = (other.stage_folder("data") / "x.npy").read_bytes()
    for size in (16, 8):
        (tmp_path / "images/a/00.png").write_bytes(encode(draw(99)))
        prepare(tmp_path, data, until="data", images={"size": size})
    assert read_array(run.stage_folder("data") / "x.npy").shape == (30, 8, 8)
    assert (other.stage_folder("data") / "x.npy").read_bytes() == before


def test_folders_of_parts_are_the_splits(tmp_path):
    for seed, (part, each) in enumerate({"train": 8, "confuse": 2, "val": 3, "test": 4}.items()):
        make_folder(tmp_path / "images" / part, each, seed=seed)
    run, lines = prepare(tmp_path, f"images:{tmp_path / 'images'}")
    sizes = {name: len(read_split(run, name)) for name in ("fit", "confuse", "tune", "test")}
    assert sizes == {"fit": 24, "confuse": 6, "tune": 9, "test": 12}
    x = read_array(run.stage_folder("data") / "x.npy")
    np.testing.assert_array_equal(x[read_split(run, "tune").numpy()][0], draw(2000))
    np.testing.assert_array_equal(x[read_split(run, "test").numpy()][-1], draw(3203))
    assert lines[-1] == "fit 24, confuse 6 (given), tune 9 (given), test 12 (given)"
    context = Context(run, small_config(run.path, f"images:{tmp_path / 'images'}"), Silent(), InProcess)
    assert describe_data(context)["given"] == ["confuse", "tune", "test"]


@pytest.mark.parametrize(
    ("shapes", "kinds", "form"),
    [
        ([(28, 28)], ["L"], ImageForm(28, 1, "crop")),
        ([(32, 32)], ["L", "RGB"], ImageForm(32, 3, "crop")),
        ([(96, 96)], ["RGB"], ImageForm(64, 3, "crop")),
        ([(30, 50), (45, 60), (44, 90)], ["L"], ImageForm(40, 1, "crop")),
        ([(5, 9)], ["L"], ImageForm(8, 1, "crop")),
        ([], [], ImageForm(64, 3, "crop")),
    ],
)
def test_images_choose_their_form(shapes, kinds, form):
    sample = [encode(np.asarray(Image.new(kind, shape))) for shape in shapes for kind in kinds]
    assert settle_form(FormWish(), peek_images([b"broken", None, *sample])) == form


def test_what_is_asked_for_is_not_chosen():
    sample = [encode(draw(0))]
    assert settle_form(FormWish(size=9), peek_images(sample)) == ImageForm(9, 1, "crop")
    assert settle_form(FormWish(channels=3, resize="pad"), peek_images(sample)) == ImageForm(16, 3, "pad")
    assert settle_form(FormWish(9, 3), iter([1 / 1])) == ImageForm(9, 3, "crop")  # nothing is looked at


# Tables


def test_a_table_of_vectors_with_text_labels(tmp_path):
    run, lines = prepare(tmp_path, make_table(tmp_path / "t.parquet"))
    folder = run.stage_folder("data")
    np.testing.assert_array_equal(read_array(folder / "x.npy")[:, 0], np.arange(60))
    assert read_json(folder / "classes.json") == ["ant", "bee", "cat"]
    assert not (folder / "form.json").exists()
    assert not any("images" in line for line in lines)


def test_a_table_of_images_leaves_its_form(tmp_path):
    images = [encode(draw(row)) for row in range(30)]
    pq.write_table(pa.table({"picture": images, "label": np.arange(30) % 3}), tmp_path / "t.parquet")
    run, _ = prepare(tmp_path, f"parquet:{tmp_path / 't.parquet'}")
    np.testing.assert_array_equal(read_array(run.stage_folder("data") / "x.npy")[7], draw(7))
    assert read_json(run.stage_folder("data") / "form.json") == {"size": 16, "channels": 1, "resize": "crop"}


def test_a_column_says_the_splits_wherever_the_rows_lie(tmp_path):
    names = np.array(["test", "train", "train", "validation", "train"])[np.arange(60) // 3 % 5]
    data = make_table(tmp_path / "t.parquet", part=pa.array(names).dictionary_encode(), who=np.arange(60))
    run, _ = prepare(tmp_path, data, splits={"column": "part", "keep_apart": "who"})
    np.testing.assert_array_equal(find_rows(run, "test"), np.flatnonzero(names == "test"))
    np.testing.assert_array_equal(find_rows(run, "tune"), np.flatnonzero(names == "validation"))
    drawn = np.sort(np.concatenate([find_rows(run, "fit"), find_rows(run, "confuse")]))
    np.testing.assert_array_equal(drawn, np.flatnonzero(names == "train"))
    y = read_array(run.stage_folder("data") / "y.npy")
    np.testing.assert_array_equal(y, read_array(run.stage_folder("data") / "x.npy")[:, 0] % 3)


def test_a_column_keeps_rows_together(tmp_path):
    who = np.arange(240) // 12
    data = make_table(tmp_path / "t.parquet", rows=240, who=[f"patient {number}" for number in who])
    run, _ = prepare(tmp_path, data, splits={"keep_apart": "who"})
    owners = [set(who[find_rows(run, name)]) for name in ("fit", "confuse", "tune", "test")]
    assert sum(map(len, owners)) == 20


@pytest.mark.parametrize(
    ("settings", "columns", "told"),
    [
        ({"column": "part"}, {}, "splits.column: 'part' is no column of the source; it has embedding, species"),
        ({"column": "part"}, {"part": ["train", "dev"] * 30}, "splits.column: 'part': 'dev' is not a split; allowed"),
        ({"column": "part"}, {"part": ["train", None] * 30}, "splits.column: 'part': 'None' is not a split"),
        ({"column": "part"}, {"part": [0, 1] * 30}, "splits.column: 'part' holds 0; give text: train, fit, confuse"),
        ({"column": "part"}, {"part": ["test"] * 60}, r"y_train: class 0 \('ant'\) of 0 to 2 has no example"),
        (
            {"column": "part"},
            {"part": ["tune", "train", "train"] * 5 + ["train"] * 45},
            "splits.tune: class 'bee' has no example there",
        ),
        (
            {"column": "part", "keep_apart": "who"},
            {"part": ["train"] * 30 + ["test"] * 30, "who": np.arange(60) // 4},
            "splits.keep_apart: 'who': examples of '7' are in train and in test",
        ),
        (
            {"keep_apart": "who"},
            {"who": pa.array([[1]] * 60)},
            "splits.keep_apart: 'who' is of type list.*; give text or",
        ),
    ],
)
def test_splits_that_cannot_be_used_are_told_before_training(tmp_path, settings, columns, told):
    data = make_table(tmp_path / "t.parquet", **columns)
    with pytest.raises(DataError, match=told):
        prepare(tmp_path, data, splits=settings)


def test_a_saved_dataset_with_validation(tmp_path):
    datasets = pytest.importorskip("datasets")
    labels = datasets.ClassLabel(names=["x", "y", "z"])
    features = datasets.Features({"vector": datasets.Sequence(datasets.Value("float32")), "kind": labels})
    sizes, first, splits = {"test": 6, "validation": 9, "train": 30, "extra": 3}, 0, {}
    for name, count in sizes.items():
        rows = {"vector": [[float(first + row)] for row in range(count)], "kind": [row % 3 for row in range(count)]}
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
        first += count
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    run, lines = prepare(tmp_path, f"hf:{tmp_path / 'saved'}?y=kind")
    np.testing.assert_array_equal(find_rows(run, "test"), np.arange(6))
    np.testing.assert_array_equal(find_rows(run, "tune"), np.arange(6, 15))
    assert sorted([*find_rows(run, "fit"), *find_rows(run, "confuse")]) == list(range(15, 45))
    assert read_json(run.stage_folder("data") / "classes.json") == ["x", "y", "z"]
    assert lines[0] == "left out: split extra"


def test_a_npz_says_its_splits(tmp_path):
    names = np.array(["train", "train", "confuse", "test"])[np.arange(72) // 3 % 4]
    x = np.arange(72, dtype=np.float32)[:, None]
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.arange(72) % 3, part=names)
    run, _ = prepare(tmp_path, f"npz:{tmp_path / 'd.npz'}", splits={"column": "part"})
    for name in ("confuse", "test"):
        np.testing.assert_array_equal(find_rows(run, name), np.flatnonzero(names == name))


def test_arrays_keep_splits_and_what_stays_together(tmp_path, capsys):
    names = np.array(["test", "train", "train", "tune"])[np.arange(96) // 3 % 4]
    data = make_table(tmp_path / "t.parquet", rows=96, part=names, who=np.arange(96) // 3)
    options = ["--split-column", "part", "--keep-apart", "who", "--backend", "none"]
    assert main(["ingest", data, "--output", str(tmp_path / "out"), *options]) == 0
    assert f"arrays:{tmp_path / 'out'}" in capsys.readouterr().out
    arrays = f"arrays:{tmp_path / 'out'}"
    run, _ = prepare(tmp_path, arrays, splits={"column": "part", "keep_apart": "who"})
    np.testing.assert_array_equal(find_rows(run, "test"), np.flatnonzero(names == "test"))
    np.testing.assert_array_equal(find_rows(run, "tune"), np.flatnonzero(names == "tune"))
    fit, confuse = (set(find_rows(run, name) // 3) for name in ("fit", "confuse"))
    assert not fit & confuse
    for name in ("column", "keep_apart"):
        with pytest.raises(DataError, match=f"splits.{name}: 'other' is not in arrays:"):
            prepare(tmp_path / name, arrays, splits={name: "other"})


# Settings


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ({"size": 0}, "images.size: 0 is not allowed"),
        ({"channels": 2}, "images.channels: 2 is not allowed"),
        ({"max_corrupt": "many"}, "images.max_corrupt: 'many' is not allowed: give a number of records such as 10, or"),
        ({"max_corrupt": 1.5}, "images.max_corrupt: 1.5 is not allowed: give a number"),
        ({"max_corrupt": -1}, "images.max_corrupt: -1 is not allowed"),
    ],
)
def test_bad_settings_are_told(tmp_path, images, told):
    with pytest.raises(ConfigError, match=told):
        build_config({"data": "digits", "run_dir": tmp_path, "images": images})


@pytest.mark.parametrize(("given", "limit"), [("12", 12), ("5%", 0.05), (3, 3), (0.5, 0.5), ("1.0", 1.0), (1.0, 1.0)])
def test_limits_are_numbers_or_shares(tmp_path, given, limit):
    read = build_config({"data": "digits", "run_dir": tmp_path, "images": {"max_corrupt": given}}).images.max_corrupt
    assert (read, type(read)) == (limit, type(limit))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"column": "part"}, "splits.column: a folder of images has no columns such as 'part'; leave it out"),
        ({"keep_apart": "part"}, "splits.keep_apart: a folder of images has no columns such as 'part'"),
    ],
)
def test_images_have_no_columns(tmp_path, settings, told):
    with pytest.raises(DataError, match=told):
        prepare(tmp_path, make_folder(tmp_path / "images"), splits=settings)


def test_a_run_folder_within_the_images_is_told(tmp_path):
    data = make_folder(tmp_path)
    with pytest.raises(DataError, match=r"^run_dir: .* lies within the source; give a folder outside"):
        prepare(tmp_path, data)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "data: y cannot be told among embedding, species, other; name it with ?y=NAME behind the source"),
        (
            "?x=species&y=species",
            "data: x 'species' is of type string; give encoded images (bytes), or lists of numbers",
        ),
        ("?y=kind", "data: y 'kind' is no column of the source; it has embedding, species, other"),
        (
            "?y=species",
            "data: x cannot be told among embedding, species, other; name the column of encoded images or of vectors"
            " with ?x=NAME behind the source",
        ),
    ],
)
def test_a_runs_columns_are_told_in_its_own_words(tmp_path, query, told):
    data = make_table(tmp_path / "t.parquet", other=pa.array([[0.0]] * 60)).partition("?")[0]
    with pytest.raises(DataError, match=f"^{re.escape(told)}$"):
        prepare(tmp_path, data + query)


def test_names_of_records_are_no_words_of_settings(tmp_path):
    data = make_folder(tmp_path / "images")
    (tmp_path / "images/a/--size --max-corrupt.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"\(a/--size --max-corrupt\.png: .* give a larger --images\.max_corrupt$"):
        prepare(tmp_path, data, images={"max_corrupt": 0})
