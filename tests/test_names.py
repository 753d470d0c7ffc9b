"""Names of sources: taken apart, checked, and their files known again."""

import os

import pytest

from raydistill.data.names import Named, check_named, data_path, parse_name, stamp_files
from raydistill.data.sources import check_source
from raydistill.errors import DataError


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("images:/a b/c?d", Named("images", "/a b/c?d")),
        (
            "parquet:x.parquet?x=an+embedding&y=the%26label",
            Named("parquet", "x.parquet", {"x": "an+embedding", "y": "the&label"}),
        ),
        ("hf:owner/name@small?y=kind", Named("hf", "owner/name@small", {"y": "kind"})),
        (
            "torchvision:EMNIST?root=~/x&split=letters",
            Named("torchvision", "EMNIST", {"root": "~/x", "split": "letters"}),
        ),
        ("npz:x?y=z", Named("", "npz:x?y=z")),
        ("/plain/folder", Named("", "/plain/folder")),
    ],
)
def test_names_are_taken_apart(text, named):
    assert parse_name(text) == named


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("images:", "data: 'images:' names nothing; give images: and what to read"),
        ("parquet:?x=a", "names nothing"),
        ("parquet:p?label=a", "'label=a' in .* is not allowed; behind the question mark give x=COLUMN and y=COLUMN"),
        ("hf:n?x", "data: 'x' in 'hf:n.x' is not allowed"),
        ("parquet:p?x=", "'x=' in"),
        ("parquet:p?x=a&x=b", "'x' is given twice"),
        ("torchvision:A?root", "give KEY=VALUE"),
    ],
)
def test_names_that_cannot_be_used_are_told(text, told):
    with pytest.raises(DataError, match=told):
        parse_name(text)


def test_files_must_be_there(tmp_path):
    (tmp_path / "file").touch()
    for text in (f"images:{tmp_path}/no", f"images:{tmp_path}/file", f"parquet:{tmp_path}/no"):
        with pytest.raises(DataError, match="does not exist or is not a f"):
            check_named(text)
    with pytest.raises(DataError, match="no folder that save_to_disk has written"):
        check_named(f"hf:{tmp_path}")
    check_named("hf:owner/name")  # of the Hub
    assert data_path("hf:owner/name") is None
    (tmp_path / "state.json").touch()
    assert data_path(f"hf:{tmp_path}") == tmp_path


def test_bare_paths_get_a_kind(tmp_path):
    for name in ("a.npz", "p.parquet", "text", "pictures/a/x.png", "tables/train/0.parquet", "ours/arrays.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/dataset_dict.json").touch()
    kinds = {"a.npz": "npz", "p.parquet": "parquet", "pictures": "images", "tables": "parquet", "ours": "arrays"}
    for name, kind in {**kinds, "saved": "hf"}.items():
        with pytest.raises(DataError, match=rf"is not allowed; did you mean '{kind}:{tmp_path / name}'\?"):
            check_source(str(tmp_path / name))
    for name in ("text", "nothing"):
        with pytest.raises(DataError, match="is not allowed; give images:FOLDER, parquet:PATH"):
            check_source(str(tmp_path / name))


def test_stamps_follow_every_file(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/x", "a/y"):
        (tmp_path / name).write_text("1")
        os.utime(tmp_path / name, ns=(0, 0))
    seen = [stamp_files(tmp_path), stamp_files(tmp_path)]
    os.utime(tmp_path / "a/x", ns=(0, 1))
    seen.append(stamp_files(tmp_path))
    (tmp_path / "a/y").rename(tmp_path / "z")
    seen.append(stamp_files(tmp_path))
    (tmp_path / "z").write_text("12")
    os.utime(tmp_path / "z", ns=(0, 0))
    seen.append(stamp_files(tmp_path))
    assert seen[0] == seen[1]
    assert len(set(seen)) == 4
