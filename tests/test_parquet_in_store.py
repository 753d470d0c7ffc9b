"""Parquet files in an object store as a source: an S3-speaking server on loopback against the same files on disk."""

import io
import pickle

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import Recorder, list_results, quick_config, run_quick
from object_store import BUCKET, run_object_store
from sklearn.datasets import load_digits

from raydistill.commands.cli import main
from raydistill.commands.ingest import ingest
from raydistill.data import ingest as blocks_module
from raydistill.data.images import ImageForm
from raydistill.data.ingestion import run_here
from raydistill.data.sources import check_source, identify_source
from raydistill.data.wanted import Wanted, open_source
from raydistill.display import Silent
from raydistill.errors import ConfigError, DataError
from raydistill.storage.files import read_array

NAMES = ("x.npy", "y.npy", "classes.json", "parts.json", "checksums.npy", "corrupt.json")
FORM = ImageForm(8, 1, "crop")


@pytest.fixture(scope="module", autouse=True)
def store():
    with run_object_store() as store:
        yield store


@pytest.fixture
def uri(tmp_path):
    return f"{BUCKET}/{tmp_path.name}"


def make_table(start, count):
    """Vectors that say which they are, and their classes."""
    rows = np.arange(start, start + count)
    return pa.table(
        {"vector": (rows[:, None] + np.zeros(4, np.float32)).tolist(), "kind": [f"k{row % 3}" for row in rows]}
    )


def put(place, name, table=None, content=b""):
    """Write a table, or bytes, to a folder or a URI."""
    file = io.BytesIO()
    if table is not None:
        pq.write_table(table, file, row_group_size=7)
    filesystem, root = fsspec.url_to_fs(str(place), use_listings_cache=False)
    filesystem.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(f"{root}/{name}", content or file.getvalue())


def ingest_here(source, output, **columns):
    wanted = Wanted(str(source), FORM, **{"x_column": "vector", "label_column": "kind", **columns})
    return ingest(wanted, output, limit=0, run_blocks=run_here, display=Silent())


def test_a_folder_in_a_store_becomes_what_the_same_folder_on_disk_becomes(uri, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 8)
    for place in (uri, tmp_path / "table"):
        for index, name in enumerate(("train-1.parquet", "train-0.parquet", "test/0.parquet", "train/0.parquet")):
            put(place, name, make_table(100 * index, 30))
        put(place, "other/0.parquet", make_table(0, 30))
        put(place, "extra-0.parquet", make_table(0, 30))
        put(place, "notes.txt", content=b"x")
    notes = []
    for source, output in ((uri, tmp_path / "store"), (tmp_path / "table", tmp_path / "disk")):
        catalogue = open_source(Wanted(str(source), FORM, "vector", "kind"), output)
        notes.append(catalogue.left_out)
        ingest_here(source, output)
    assert notes == [["extra-0.parquet", "notes.txt", "other"]] * 2
    for name in NAMES:
        assert (tmp_path / "store" / name).read_bytes() == (tmp_path / "disk" / name).read_bytes()
    expected = [row for start in (300, 100, 0, 200) for row in range(start, start + 30)]  # by name; test last
    assert read_array(tmp_path / "store" / "x.npy")[:, 0].tolist() == expected


def test_the_reader_travels(uri, tmp_path):
    put(uri, "0.parquet", make_table(0, 30))
    catalogue = open_source(Wanted(uri, FORM, "vector", "kind"), tmp_path)
    out = np.zeros((5, 4), np.float32)
    with pickle.loads(pickle.dumps(catalogue.reader)).open() as rows:
        assert rows.fill(20, (), out) == {}
    assert out[:, 0].tolist() == [20, 21, 22, 23, 24]


def test_an_object_that_has_changed_is_noticed(uri, tmp_path):
    put(uri, "0.parquet", make_table(0, 30))
    assert ingest_here(uri, tmp_path / "out").decoded == 1
    assert ingest_here(uri, tmp_path / "out").decoded == 0
    put(uri, "0.parquet", make_table(1, 30))
    with pytest.raises(DataError, match=r"holds arrays of another source, .* or of files that have changed since"):
        ingest_here(uri, tmp_path / "out")


def test_the_command_with_columns_behind_one_object(uri, tmp_path, capsys):
    put(uri, "test.parquet", make_table(0, 30))
    source = f"parquet:{uri}/test.parquet?x=vector&y=kind"
    assert main(["ingest", source, "--output", str(tmp_path / "out"), "--backend", "none"]) == 0
    assert capsys.readouterr().out.startswith("30 examples, 4 float32, in ")


def test_a_run_on_a_store(uri, tmp_path):
    x, y = load_digits(return_X_y=True)
    table = pa.table({"x": x.astype(np.float32).tolist(), "y": y})
    put(uri, "digits.parquet", table)
    put(tmp_path, "digits.parquet", table)
    run = run_quick(quick_config(tmp_path / "store", data=f"parquet:{uri}"), until="generalist")
    local = run_quick(quick_config(tmp_path / "disk", data=f"parquet:{tmp_path}/digits.parquet"), until="generalist")
    assert list_results(run)["generalist"] == list_results(local)["generalist"]
    recorder = Recorder()
    run_quick(run.read_config(), display=recorder, until="generalist")
    assert recorder.skipped == [True] * 3
    before = identify_source(run.read_config())
    put(uri, "digits.parquet", table.slice(1))
    assert identify_source(run.read_config()) != before


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "{uri}/none",
            "source: '{uri}/none' cannot be listed (it does not exist); give a Parquet file, or a folder of",
        ),
        ("s3://no-such-bucket/f", "source: 's3://no-such-bucket/f' cannot be listed (it does not exist); give a Par"),
        ("{uri}/text", "source: '{uri}/text' has no Parquet files of a training part; give some"),
        ("{uri}/cut", "source: '0.parquet' cannot be read ("),
        ("images:{uri}/text", "source: '{uri}/text' is in an object store, where only Parquet is read; give parquet:"),
        ("hf:{uri}/text", "source: '{uri}/text' is in an object store, where only Parquet is read; give parquet:"),
        ("s3://", "source: 's3://' names no bucket; give scheme://bucket/folder"),
        ("s3://key:hidden@b/f", "source: 's3://***@b/f' holds credentials, and settings are written"),
        ("nowhere://b/f", "source: 'nowhere://b/f' is not allowed ("),
    ],
)
def test_what_cannot_be_read_is_one_line(uri, tmp_path, source, told):
    put(uri, "text/notes.txt", content=b"x")
    put(uri, "cut/0.parquet", content=b"PAR1 no table")
    with pytest.raises((DataError, ConfigError)) as caught:
        ingest_here(source.format(uri=uri), tmp_path / "out")
    assert str(caught.value).startswith(told.format(uri=uri))
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("{uri}", "data: '{uri}' is not allowed; did you mean 'parquet:{uri}'?"),
        ("images:{uri}", "data: '{uri}' is in an object store, where only Parquet is read; give parquet:{uri} where"),
        ("npz:{uri}/x.npz", "data: '{uri}/x.npz' does not exist or is not a file; give the path of a .npz file"),
        ("parquet:s3://", "data: 's3://' names no bucket; give scheme://bucket/folder"),
    ],
)
def test_what_a_run_cannot_take_is_told_in_its_words(uri, data, told):
    with pytest.raises((DataError, ConfigError)) as caught:
        check_source(data.format(uri=uri))
    assert str(caught.value).startswith(told.format(uri=uri))


def test_a_runs_missing_folder_is_told_in_its_words(uri, tmp_path):
    with pytest.raises(DataError, match=f"^data: '{uri}' cannot be listed"):
        run_quick(quick_config(tmp_path / "run", data=f"parquet:{uri}"), until="data")
