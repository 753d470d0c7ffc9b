"""Sources: from a --data setting to checked arrays.

Comes in: `digits`, `glyphs`, `npz:PATH`, `arrays:DIR` or `openml:NAME`; those of names.py are decoded by
stages/ingest.py and come here as arrays. Goes out: a `Source`, whose arrays have been checked, or a `DataError` of one
line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.data.examples import Source, check_examples
from raydistill.data.ingested import check_arrays, identify_arrays, open_arrays
from raydistill.data.labels import index_labels
from raydistill.data.names import INGESTED, check_named, stamp_source, suggest_name
from raydistill.data.npz import check_npz, read_npz
from raydistill.errors import DataError, describe_in_line
from raydistill.settings.config import Config
from raydistill.storage.files import hash_file, read_json

Map = Callable[..., list[Any]]
"""As `Executor.map`: a function, the items, and a callback for (done, total)."""
Progress = Callable[[int, int], None]

FORMS = "images:FOLDER, parquet:PATH, hf:NAME, torchvision:NAME, npz:PATH, arrays:DIR, openml:NAME, digits or glyphs"


def check_source(data: str) -> None:
    """Refuse a --data setting that cannot work, before anything starts. Raises DataError."""
    kind, _, name = data.partition(":")
    if kind in INGESTED:
        check_named(data)
    elif kind == "npz" and name:
        check_npz(name)
    elif kind == "arrays" and name:
        check_arrays(Path(name).expanduser())
    elif data not in ("digits", "glyphs") and not (kind == "openml" and name):
        near = suggest_name(data)
        raise DataError(f"data: {data!r} is not allowed; " + (f"did you mean {near!r}?" if near else f"give {FORMS}"))


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
        source = read_npz(Path(name).expanduser(), config.splits.keep_apart, config.splits.column)
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
