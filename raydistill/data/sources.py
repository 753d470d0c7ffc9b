"""Sources: from a --data setting to checked arrays.

Comes in: `digits`, `glyphs`, `npz:PATH`, `arrays:DIR` or `openml:NAME`; those of names.py are decoded by
stages/ingest.py and come here as arrays. Goes out: a `Source`, whose arrays have been checked, or a `DataError` of one
line.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.config import Config
from raydistill.data.given import take_splits
from raydistill.data.images import ImageForm
from raydistill.data.ingested import check_arrays, identify_arrays, open_arrays
from raydistill.data.labels import check_classes, check_labels, index_labels, list_names
from raydistill.data.names import INGESTED, check_named, stamp_source, suggest_name
from raydistill.errors import DataError, describe_in_line
from raydistill.files import Array, hash_file, read_json

Map = Callable[..., list[Any]]
"""As `Executor.map`: a function, the items, and a callback for (done, total)."""
Progress = Callable[[int, int], None]

FORMS = "images:FOLDER, parquet:PATH, hf:NAME, torchvision:NAME, npz:PATH, arrays:DIR, openml:NAME, digits or glyphs"
BLOCK_VALUES = 1 << 22  # numbers that are checked at once
PARTS = ("x_train", "y_train", "x_test", "y_test", "class_names", "x_unlabeled")  # arrays of a .npz file
READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Source:
    """Examples as they came.

    x_train: (N, ...). y_train: (N,) classes, from 0. x_test, y_test: likewise, or None. keep_apart: (N,) or None.
    file: .npy file that holds x_train, then x_test, as they are to be stored, and is never changed; or None. form: how
    encoded images became examples, or None. split: (N,) numbers of SPLITS that the training rows are given, or None.
    corrupt: name and reason of each record that was left out. x_unlabeled: more examples, without labels, or None.
    """

    x_train: Array
    y_train: Array
    class_names: list[str]
    x_test: Array | None = None
    y_test: Array | None = None
    keep_apart: Array | None = None
    file: Path | None = None
    form: ImageForm | None = None
    split: Array | None = None
    corrupt: Sequence[Mapping[str, str]] = ()
    x_unlabeled: Array | None = None


def check_source(data: str) -> None:
    """Refuse a --data setting that cannot work, before anything starts. Raises DataError."""
    kind, _, name = data.partition(":")
    if data in ("digits", "glyphs") or (kind == "openml" and name):
        return
    if kind == "arrays" and name:
        check_arrays(Path(name).expanduser())
        return
    if kind in INGESTED:
        check_named(data)
        return
    if kind != "npz" or not name:
        near = suggest_name(data)
        raise DataError(f"data: {data!r} is not allowed; " + (f"did you mean {near!r}?" if near else f"give {FORMS}"))
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"data: {name!r} does not exist or is not a file; give the path of a .npz file")
    if path.stat().st_size == 0:
        raise DataError(f"data: {name!r} is empty; give a .npz file with x_train and y_train")
    if not os.access(path, os.R_OK):
        raise DataError(f"data: {name!r} is not readable by this user; change its permissions or give another file")


def identify_source(config: Config) -> dict[str, Any]:
    """What decides the source's bytes; part of the data stage's key."""
    kind, _, name = config.data.partition(":")
    identity: dict[str, Any] = {
        "data": config.data,
        "keep_apart": config.splits.keep_apart,
        "column": config.splits.column,
    }
    if config.data == "glyphs":
        identity |= {"seed": config.seed, **config.glyphs.model_dump()}
    if kind == "npz":
        identity["sha256"] = hash_file(Path(name).expanduser())
    if kind == "arrays":
        identity["sha256"] = identify_arrays(Path(name).expanduser())
    if kind in INGESTED:
        identity["images"] = config.images.model_dump(exclude={"max_corrupt"})
        identity["files"] = stamp_source(config.data)
    return identity


def load_source(config: Config, map_items: Map, on_done: Progress) -> Source:
    """Load and check the examples that `config.data` names. Raises DataError."""
    check_source(config.data)
    kind, _, name = config.data.partition(":")
    if config.data == "glyphs":
        source = _render_glyphs(config, map_items, on_done)
    elif config.data == "digits":
        source = _load_digits()
    elif kind == "npz":
        source = _read_npz(Path(name).expanduser(), config.splits.keep_apart, config.splits.column)
    elif kind == "arrays":
        source = open_source_arrays(Path(name).expanduser(), config, on_done)
    else:
        source = _fetch_openml(name)
    _check_columns(config, source)
    check_examples(source)
    return source


def _check_columns(config: Config, source: Source) -> None:
    """Raise DataError for columns that such a source does not have."""
    for setting, found in (("keep_apart", source.keep_apart), ("column", source.split)):
        name = getattr(config.splits, setting)
        if name is not None and found is None:
            raise DataError(
                f"splits.{setting}: {name!r} is not in {config.data}; npz, parquet and hf have such, and arrays that"
                " raydistill ingest made with it; leave it out"
            )


def check_examples(source: Source) -> None:
    """Check shapes, numbers and labels of both parts. Raises DataError that names the array."""
    classes = len(source.class_names)
    _check_part("train", source.x_train, source.y_train, classes)
    check_classes(source.y_train, source.class_names)
    if source.keep_apart is not None and source.keep_apart.shape != source.y_train.shape:
        raise DataError(
            f"keep_apart: shape {source.keep_apart.shape} for {len(source.y_train)} examples; give one value for each"
        )
    if source.x_test is not None and source.y_test is not None:
        _check_part("test", source.x_test, source.y_test, classes)
        _check_alike(source.x_train, source.x_test, "x_test")
    elif source.x_test is not None or source.y_test is not None:
        raise DataError("x_test, y_test: only one of them is given; give both or neither")
    if source.x_unlabeled is not None:
        check_beside(source.x_train, source.x_unlabeled, "x_unlabeled")


def check_beside(x_train: Array, x: Array, name: str) -> None:
    """Check examples (N, ...) that are stored beside x_train, and have no labels. Raises DataError that names them."""
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{name}: shape {x.shape}; give (examples, ...) with at least one example and one feature")
    _check_numbers(x, name)
    _check_alike(x_train, x, name)


def _check_part(part: str, x: Array, y: Array, classes: int) -> None:
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"x_{part}: shape {x.shape}; give (examples, ...) with at least one example and one feature")
    if y.ndim != 1 or len(x) != len(y):
        raise DataError(f"x_{part}, y_{part}: shapes {x.shape} and {y.shape}; give one label for each example")
    _check_numbers(x, f"x_{part}")
    check_labels(y, classes, f"y_{part}")


def _check_numbers(x: Array, name: str) -> None:
    if x.dtype.kind not in "iuf" or x.dtype.itemsize > 8:
        raise DataError(f"{name}: type {x.dtype}; give integers or floats of at most 64 bits")
    row = _find_unusable(x)
    if row is not None:
        raise DataError(
            f"{name}: example {row} has NaN, infinity, or a number beyond the range of float32 or int64;"
            " remove, fill or scale such values"
        )


def _find_unusable(x: Array) -> int | None:
    """The first example with a number that cannot be stored, a block at a time."""
    if x.dtype.kind != "f" and x.dtype != np.uint64:
        return None
    largest = np.finfo(np.float32).max if x.dtype.kind == "f" else np.iinfo(np.int64).max
    rows = max(1, BLOCK_VALUES // max(1, x[:1].size))
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        good = np.abs(block) <= largest  # false for NaN
        if not good.all():
            return start + int(np.argwhere(~good)[0][0])
    return None


def _check_alike(x_train: Array, x: Array, name: str) -> None:
    """Refuse another part that the training part's type would change: both are stored as one array."""
    if x.shape[1:] != x_train.shape[1:]:
        raise DataError(
            f"{name}: shape {x.shape[1:]} of an example is not x_train's {x_train.shape[1:]}; give both the same"
        )
    train, other = x_train.dtype, x.dtype
    fits = np.can_cast(other, train) or train == np.float32
    if (train.kind == "f") != (other.kind == "f") or not fits:
        raise DataError(f"{name}: type {other} does not go into x_train's {train}; give both the same type")


def _load_digits() -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Source(digits.images.astype(np.uint8), digits.target.astype(np.int64), [str(name) for name in range(10)])


def _render_glyphs(config: Config, map_items: Map, on_done: Progress) -> Source:
    from raydistill.data import glyphs

    letters = glyphs.list_letters()
    render = partial(glyphs.render_face, variants=config.glyphs.variants, size=config.glyphs.size, seed=config.seed)
    faces = map_items(render, list(glyphs.FACES), on_done)  # a face: (K, variants, size, size)
    images = np.concatenate([face.reshape(-1, *face.shape[2:]) for face in faces])
    labels = np.tile(np.repeat(np.arange(len(letters)), config.glyphs.variants), len(faces))
    return Source(images, labels, letters)


def open_source_arrays(
    folder: Path, config: Config, on_done: Progress = lambda done, total: None, whole: bool = True
) -> Source:
    """A folder that was ingested, as a source. whole: whether every byte is verified. Raises DataError."""
    arrays = open_arrays(folder, on_done, whole)
    train, has_test = arrays.train, arrays.train < len(arrays.y)
    held = arrays.record["settings"]
    has_apart = config.splits.keep_apart is not None and held.get("keep_apart") == config.splits.keep_apart
    split = arrays.split
    if split is None and config.splits.column is not None and held.get("split_column") == config.splits.column:
        split = np.zeros(train, np.int8)  # it names no split but train and test
    if config.splits.column is not None and held.get("split_column") != config.splits.column:
        split = None  # not what is asked for
    return Source(
        arrays.x[:train],
        arrays.y[:train],
        arrays.class_names,
        x_test=arrays.x[train:] if has_test else None,
        y_test=arrays.y[train:] if has_test else None,
        keep_apart=arrays.keep_apart[:train] if has_apart and arrays.keep_apart is not None else None,
        file=folder / "x.npy",
        form=arrays.form,
        split=split,
        corrupt=read_json(folder / "corrupt.json"),
    )


def _read_npz(path: Path, keep_apart: str | None, column: str | None) -> Source:
    arrays = _read_arrays(path, [name for name in (keep_apart, column) if name is not None])
    names, labels, test_labels = arrays.get("class_names"), arrays["y_train"], arrays.get("y_test")
    y_train, class_names = index_labels(labels, None if names is None else list_names(names), "y_train")
    if test_labels is not None and (test_labels.dtype.kind in "US") != (labels.dtype.kind in "US"):
        raise DataError(
            f"y_test: type {test_labels.dtype}, but y_train's is {labels.dtype}; give both integers or text"
        )
    source = Source(
        x_train=arrays["x_train"],
        y_train=y_train,
        class_names=class_names,
        x_test=arrays.get("x_test"),
        y_test=None if test_labels is None else index_labels(test_labels, class_names, "y_test")[0],
        keep_apart=arrays[keep_apart] if keep_apart else None,
        x_unlabeled=arrays.get("x_unlabeled"),
    )
    return source if column is None else take_splits(source, arrays[column], column, keep_apart)


def _read_arrays(path: Path, named: Sequence[str]) -> dict[str, Array]:
    """The arrays of a .npz file that raydistill knows, and those named. Raises DataError."""
    required = ["x_train", "y_train", *named]
    name = None
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"data: {str(path)!r} is a single array; give a .npz file with x_train and y_train")
            arrays = {}
            for name in dict.fromkeys((*required, *PARTS)):
                if name in file.files:
                    arrays[name] = np.asarray(file[name])
                elif name in required:
                    held = ", ".join(sorted(file.files)) or "none"
                    raise DataError(f"data: {str(path)!r} has no array {name!r}, only {held}; save it under that name")
            return arrays
    except READ_ERRORS as error:
        what = "it" if name is None else f"its array {name!r}"
        raise DataError(
            f"data: {str(path)!r} is not a readable .npz file without pickles ({what}: {describe_in_line(error)});"
            " write numbers or text with numpy.savez"
        ) from None


def _fetch_openml(name: str) -> Source:
    from sklearn.datasets import fetch_openml

    dataset, _, version = name.partition("@")
    try:
        fetched = fetch_openml(
            dataset, version=int(version) if version else "active", as_frame=False, parser="liac-arff"
        )
    except Exception as error:  # whatever network, name or file can bring: the user needs the one line
        raise DataError(
            f"data: openml:{name} could not be fetched ({describe_in_line(error)}); check the name and the network"
        ) from None
    features, target = np.asarray(fetched.data), np.asarray(fetched.target)
    if features.dtype.kind not in "iuf":
        raise DataError(f"data: openml:{name} has features that are not numbers; give a numeric data set")
    labels, names = index_labels(target.astype(str) if target.dtype.kind == "O" else target, None, "target")
    return Source(features.astype(np.float32), labels, names)
