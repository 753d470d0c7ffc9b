"""Unlabeled examples: from the `transfer.unlabeled` setting to rows that are stored beside the labelled ones.

Comes in: `npz:PATH`, `arrays:DIR` or `images:FOLDER`, and the labelled examples, whose shape and type they must have.
Goes out: arrays, or `ImageRows` that decode as they are read; or a `DataError` of one line.

Source: Hinton, Vinyals, Dean 2015, section 2: the transfer set may consist of unlabeled examples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raydistill.data.catalogue import SUFFIXES
from raydistill.data.examples import Source, check_beside
from raydistill.data.images import CorruptRecord, ImageForm, decode_image
from raydistill.data.ingested import check_arrays, identify_arrays, open_arrays
from raydistill.data.npz import READ_ERRORS
from raydistill.errors import DataError, describe_in_line
from raydistill.settings.config import Config
from raydistill.storage.files import Array, hash_file, hash_json

FIELD = "transfer.unlabeled"
FORMS = "npz:PATH, arrays:DIR or images:FOLDER"
NAMES = ("x_unlabeled", "x", "x_train")  # arrays of a .npz file that may hold them


@dataclass(frozen=True)
class ImageRows:
    """Image files as rows of an array: a slice of it is decoded when it is taken. exact: they must have that size."""

    files: Sequence[Path]
    form: ImageForm
    exact: bool

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: slice) -> Array:
        """Images (n, ...) uint8. Raises DataError for one that is corrupt or of another size."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            return np.stack(list(threads.map(self._decode, self.files[rows])))

    def _decode(self, path: Path) -> Array:
        try:
            data = path.read_bytes()
            if self.exact:
                _check_size(path, self.form.size)
            return decode_image(data, self.form)
        except (OSError, CorruptRecord) as error:
            raise DataError(f"{FIELD}: {str(path)!r} is no image ({describe_in_line(error)}); remove it") from None


Rows = Array | ImageRows
"""What has a length, and slices of examples."""


def check_unlabeled(setting: str | None) -> None:
    """Refuse a setting that cannot work, before anything starts. Raises DataError."""
    if setting is None:
        return
    kind, path = _parse(setting)
    if kind == "arrays":
        check_arrays(path)
    elif kind == "npz" and not (path.is_file() and os.access(path, os.R_OK)):
        raise DataError(f"{FIELD}: {str(path)!r} is not a readable file; give the path of a .npz file")
    elif kind == "images" and not list_files(path):
        raise DataError(f"{FIELD}: {str(path)!r} has no images ({', '.join(SUFFIXES)}); give a folder that has some")


def identify_unlabeled(setting: str | None) -> dict[str, Any]:
    """What decides their bytes; part of the data stage's key. Images: names, sizes and times of change."""
    if setting is None:
        return {}
    kind, path = _parse(setting)
    if kind == "npz":
        return {"unlabeled": [kind, hash_file(path)]}
    if kind == "arrays":
        return {"unlabeled": [kind, identify_arrays(path)]}
    status = [(str(file.relative_to(path)), file.stat()) for file in list_files(path)]
    return {"unlabeled": [kind, hash_json([[name, was.st_size, was.st_mtime_ns] for name, was in status])]}


def load_unlabeled(config: Config, source: Source) -> list[Rows]:
    """All unlabeled examples of a run: of its own .npz file, and of the setting. Raises DataError."""
    parts: list[Rows] = [] if source.x_unlabeled is None else [source.x_unlabeled]
    if config.transfer.unlabeled is None:
        return parts
    kind, path = _parse(config.transfer.unlabeled)
    if kind == "images":
        return [*parts, open_images(path, source)]
    x = read_npz(path) if kind == "npz" else open_arrays(path).x
    check_beside(source.x_train, x, FIELD)
    return [*parts, x]


def read_npz(path: Path) -> Array:
    """The array of a .npz file that holds unlabeled examples. Raises DataError for one that has labels."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held = file.files
            name = next((name for name in NAMES if name in held), None)
            if name is not None and not (name == "x_train" and "y_train" in held):
                return np.asarray(file[name])
    except (*READ_ERRORS, AttributeError) as error:
        raise DataError(
            f"{FIELD}: {str(path)!r} is not a readable .npz file without pickles ({describe_in_line(error)});"
            " write numbers with numpy.savez"
        ) from None
    if name is not None:
        raise DataError(f"{FIELD}: {str(path)!r} has labels, y_train; give it as --data, or save the array as x")
    raise DataError(f"{FIELD}: {str(path)!r} has no array x, only {', '.join(sorted(held)) or 'none'}; save it as x")


def open_images(folder: Path, source: Source) -> ImageRows:
    """The images of a folder, decoded as the run's own were, or of their very size. Raises DataError."""
    if source.form is not None:
        return ImageRows(list_files(folder), source.form, exact=False)
    shape, dtype = source.x_train.shape[1:], source.x_train.dtype
    square = len(shape) in (2, 3) and shape[0] == shape[1] and shape[2:] in ((), (3,))
    if not square or dtype != np.uint8:
        raise DataError(
            f"{FIELD}: images are (size, size) or (size, size, 3) of type uint8, the run's examples {shape} of {dtype};"
            " give npz: with such an array, or --data as images, too"
        )
    return ImageRows(list_files(folder), ImageForm(shape[0], 3 if shape[2:] else 1, "crop"), exact=True)


def list_files(folder: Path) -> list[Path]:
    """Image files below a folder, by name; hidden ones and folders that are links are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))


def _check_size(path: Path, size: int) -> None:
    with Image.open(path) as image:
        if image.size != (size, size):
            raise DataError(
                f"{FIELD}: {str(path)!r} is {image.width} x {image.height} pixels, the run's examples {size} x {size};"
                " resize such images, or give --data as images too, so that both are decoded alike"
            )


def _parse(setting: str) -> tuple[str, Path]:
    kind, _, name = setting.partition(":")
    if kind not in ("npz", "arrays", "images") or not name:
        raise DataError(f"{FIELD}: {setting!r} is not allowed; give {FORMS}")
    return kind, Path(name).expanduser()
