"""Sources: from a --data setting to checked arrays.

Comes in: `digits`, `glyphs`, `npz:PATH` or `openml:NAME`. Goes out: a `Source`, whose arrays have been checked, or a
`DataError` of one line.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.config import Config
from raydistill.errors import DataError
from raydistill.files import Array, hash_file

Map = Callable[..., list[Any]]
"""As `Executor.map`: a function, the items, and a callback for (done, total)."""
Progress = Callable[[int, int], None]

FORMS = "digits, glyphs, npz:PATH or openml:NAME"


@dataclass(frozen=True)
class Source:
    """Examples as they came.

    Shapes: x_train (N, ...), y_train (N,), x_test and y_test likewise or None, keep_apart (N,) or None. y counts from 0.
    """

    x_train: Array
    y_train: Array
    class_names: list[str]
    x_test: Array | None = None
    y_test: Array | None = None
    keep_apart: Array | None = None


def check_source(data: str) -> None:
    """Refuse a --data setting that cannot work, before anything starts. Raises DataError."""
    kind, _, name = data.partition(":")
    if data in ("digits", "glyphs") or (kind == "openml" and name):
        return
    if kind != "npz" or not name:
        raise DataError(f"data: {data!r} is not allowed; give {FORMS}")
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"data: {name!r} does not exist or is not a file; give the path of a .npz file")
    if path.stat().st_size == 0:
        raise DataError(f"data: {name!r} is empty; give a .npz file with x_train and y_train")


def identify_source(config: Config) -> dict[str, Any]:
    """What decides the source's bytes; part of the data stage's key."""
    kind, _, name = config.data.partition(":")
    identity: dict[str, Any] = {"data": config.data, "keep_apart": config.splits.keep_apart}
    if config.data == "glyphs":
        identity |= {"seed": config.seed, **config.glyphs.model_dump()}
    if kind == "npz":
        identity["sha256"] = hash_file(Path(name).expanduser())
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
        source = _read_npz(Path(name).expanduser(), config.splits.keep_apart)
    else:
        source = _fetch_openml(name)
    if config.splits.keep_apart is not None and source.keep_apart is None:
        raise DataError(
            f"splits.keep_apart: {config.splits.keep_apart!r} is not in {config.data}; only npz files have it"
        )
    check_examples(source)
    return source


def check_examples(source: Source) -> None:
    """Check shapes, numbers and labels of both parts. Raises DataError that names the array."""
    classes = len(source.class_names)
    _check_part("train", source.x_train, source.y_train, classes)
    if source.keep_apart is not None and len(source.keep_apart) != len(source.y_train):
        raise DataError(
            f"keep_apart: {len(source.keep_apart)} values for {len(source.y_train)} examples; give one for each"
        )
    if (source.x_test is None) != (source.y_test is None):
        raise DataError("x_test, y_test: only one of them is given; give both or neither")
    if source.x_test is not None and source.y_test is not None:
        _check_part("test", source.x_test, source.y_test, classes)
        if source.x_test.shape[1:] != source.x_train.shape[1:]:
            raise DataError(
                f"x_test: shape {source.x_test.shape[1:]} differs from x_train's {source.x_train.shape[1:]}"
            )
    if classes < 3:
        raise DataError(f"y_train: {classes} classes; specialists need at least 3, of which some are confused")


def index_labels(labels: Array, class_names: Sequence[str] | None, where: str) -> tuple[Array, list[str]]:
    """Turn integer or text labels into indices from 0, and name the classes. Raises DataError for other types."""
    if labels.dtype.kind in "US":
        names = sorted(set(labels.astype(str))) if class_names is None else list(class_names)
        place = {name: index for index, name in enumerate(names)}
        unknown = sorted(set(labels.astype(str)) - place.keys())
        if unknown:
            raise DataError(
                f"{where}: {unknown[0]!r} is not one of the {len(names)} classes; add it to the training labels"
            )
        return np.array([place[label] for label in labels.astype(str)], dtype=np.int64), names
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels of type {labels.dtype}; give integers from 0, or text")
    if class_names is not None:
        return labels.astype(np.int64), list(class_names)
    return labels.astype(np.int64), [str(index) for index in range(int(labels.max(initial=-1)) + 1)]


def _check_part(part: str, x: Array, y: Array, classes: int) -> None:
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"x_{part}: shape {x.shape}; give (examples, ...) with at least one example and one feature")
    if y.ndim != 1 or len(x) != len(y):
        raise DataError(f"x_{part}, y_{part}: shapes {x.shape} and {y.shape}; give one label for each example")
    if x.dtype.kind not in "iuf" or x.dtype.itemsize > 8:
        raise DataError(f"x_{part}: type {x.dtype}; give integers or floats of at most 64 bits")
    if x.dtype.kind == "f":
        bad = next((row for row in range(0, len(x), 4096) if not np.isfinite(x[row : row + 4096]).all()), None)
        if bad is not None:
            row = bad + int(np.argwhere(~np.isfinite(x[bad : bad + 4096]))[0][0])
            raise DataError(f"x_{part}: example {row} has NaN or infinity; remove or fill such values")
    if y.min() < 0 or y.max() >= classes:
        row = int(np.argmax((y < 0) | (y >= classes)))
        raise DataError(f"y_{part}: label {y[row]} of example {row}; allowed are 0 to {classes - 1}")


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


def _read_npz(path: Path, keep_apart: str | None) -> Source:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"data: {str(path)!r} is a single array; give a .npz file with x_train and y_train")
        with loaded as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"data: {str(path)!r} is not a readable .npz file without pickles ({error})") from None
    for name in ("x_train", "y_train", *([keep_apart] if keep_apart else [])):
        if name not in arrays:
            raise DataError(f"data: {str(path)!r} has no array {name!r}; it has {', '.join(sorted(arrays)) or 'none'}")
    given = [str(name) for name in arrays["class_names"]] if "class_names" in arrays else None
    y_train, names = index_labels(arrays["y_train"], given, "y_train")
    y_test = arrays.get("y_test")
    return Source(
        x_train=arrays["x_train"],
        y_train=y_train,
        class_names=names,
        x_test=arrays.get("x_test"),
        y_test=None if y_test is None else index_labels(y_test, names, "y_test")[0],
        keep_apart=arrays[keep_apart] if keep_apart else None,
    )


def _fetch_openml(name: str) -> Source:
    from sklearn.datasets import fetch_openml

    dataset, _, version = name.partition("@")
    try:
        fetched = fetch_openml(
            dataset, version=int(version) if version else "active", as_frame=False, parser="liac-arff"
        )
    except Exception as error:  # whatever network, name or file can bring: the user needs the one line
        raise DataError(f"data: openml:{name} could not be fetched ({error}); check the name and the network") from None
    features, target = np.asarray(fetched.data), np.asarray(fetched.target)
    if features.dtype.kind not in "iuf":
        raise DataError(f"data: openml:{name} has features that are not numbers; give a numeric data set")
    labels, names = index_labels(target.astype(str) if target.dtype.kind == "O" else target, None, "target")
    return Source(features.astype(np.float32), labels, names)
