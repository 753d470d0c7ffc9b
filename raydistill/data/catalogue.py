"""What a source of `raydistill ingest` holds, in an order of its own that no parallelism changes.

Comes in: a folder of images in class folders, Parquet files, or a Hugging Face dataset. Goes out: a `Catalogue`:
labels, class names, and a reader that any process can open. Nothing is decoded here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raydistill.data.images import (
    SAMPLED,
    CorruptRecord,
    FormWish,
    ImageForm,
    decode_image,
    peek_images,
    settle_form,
)
from raydistill.data.ingest_errors import IngestError
from raydistill.data.labels import FEWEST_CLASSES
from raydistill.data.splits import SPLIT_NAMES
from raydistill.storage.files import Array

PARTS = tuple(name for name in SPLIT_NAMES if name != "fit")
"""Names of folders, files and splits that say what examples are for; where there is no train, all are for training."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class Rows(Protocol):
    """Records that are open for reading."""

    def fill(self, start: int, names: Sequence[str], out: Array) -> dict[int, tuple[str, str]]:
        """Fill out (n, ...) with rows start to start + n - 1; zeros where a record is corrupt.

        names: of these records, where the catalogue has them. Returns name and reason of each corrupt one, by its
        place in out. Raises OSError or DataError where it is not a record that is at fault, but the storage.
        """


class Reader(Protocol):
    """Opens the records of a source; travels to other processes and nodes."""

    def open(self) -> AbstractContextManager[Rows]:
        """Open for reading; rows in ascending order are read fastest."""


@dataclass(frozen=True)
class Columns:
    """Columns of a table. x, label: None where only one fits. split, keep_apart: None where they are not wanted."""

    x: str | None = None
    label: str | None = None
    split: str | None = None
    keep_apart: str | None = None


@dataclass(frozen=True)
class Catalogue:
    """All N records of a source, in an order of its own.

    labels: (N,) int64 class numbers, -1 where a record has none. split: (N,) int8, the split of SPLITS that each is
    given; those of fit are for training, and what is missing is drawn from them. form: what images become, None for
    vectors. shape, dtype: of one example. identity: JSON that changes with the source's bytes. name_row: what people
    call a record. files: of image folders, name, bytes and time of change (nanoseconds) of each record. left_out: what
    the source holds beside, in words. keep_apart: (N,) int64, examples of one number stay in one split; or None.
    """

    reader: Reader
    labels: Array
    class_names: list[str]
    split: Array
    form: ImageForm | None
    shape: tuple[int, ...]
    dtype: str
    identity: Any
    name_row: Callable[[int], str]
    files: Sequence[tuple[str, int, int]] = ()
    left_out: list[str] = field(default_factory=list)
    keep_apart: Array | None = None


@dataclass(frozen=True)
class ImageFiles:
    """Reader and rows of an image folder."""

    root: str
    form: ImageForm

    def open(self) -> AbstractContextManager[Rows]:
        """Nothing is held open between images."""
        return nullcontext(self)

    def fill(self, start: int, names: Sequence[str], out: Array) -> dict[int, tuple[str, str]]:
        """See `Rows`."""
        corrupt = {}
        for place, name in enumerate(names):
            try:
                out[place] = decode_image(self._read(name), self.form)
            except CorruptRecord as error:
                out[place] = 0
                corrupt[place] = (name, str(error))
        return corrupt

    def _read(self, name: str) -> bytes:
        try:
            return Path(self.root, name).read_bytes()
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise CorruptRecord(error.strerror or "cannot be read") from error


def list_images(root: Path, wish: FormWish | ImageForm) -> Catalogue:
    """Images of a folder of class folders, or of train/, tune/, test/ and so on in it: by part, class and name.

    Raises IngestError for a folder without images, links that leave it, and classes of a part that train/ has not.
    """
    folders = {part: root / part for part in PARTS if _is_part(root / part)}
    if "train" not in folders:
        folders = {"train": root}
    listed = {part: _list_part(root, folder) for part, folder in folders.items()}
    names = sorted(listed["train"][0])
    _check_names(root, names)
    files: list[tuple[str, int, int]] = []
    labels: list[Array] = []
    split: list[Array] = []
    for part, (classes, _) in listed.items():
        unknown = sorted(set(classes) - set(names))
        if unknown:
            raise IngestError("source", f"class {unknown[0]!r} of {part}/ is not in train/; add it there, or remove it")
        for index, name in enumerate(names):
            files += classes.get(name, [])
            labels.append(np.full(len(classes.get(name, [])), index, np.int64))
        split.append(np.full(sum(map(len, classes.values())), SPLIT_NAMES[part], np.int8))
    reader = ImageFiles(str(root), settle_form(wish, peek_images(_read_sample(root, files))))
    return Catalogue(
        reader,
        np.concatenate(labels),
        names,
        np.concatenate(split),
        reader.form,
        reader.form.shape,
        "uint8",
        "images",
        lambda row: files[row][0],
        files,
        _list_beside(root, folders.values(), [name for _, others in listed.values() for name in others]),
    )


def _check_names(root: Path, names: Sequence[str]) -> None:
    """Raise IngestError for fewer class folders with images than classes are needed."""
    if not names:
        raise IngestError(
            "source",
            f"{str(root)!r} has no images in class folders ({', '.join(SUFFIXES)}); give a folder with a folder"
            " for each class, Parquet files, or a saved Hugging Face dataset",
        )
    if len(names) < FEWEST_CLASSES:
        shown = ", ".join(f"{name}/" for name in names)
        raise IngestError(
            "source",
            f"{str(root)!r} has images in {len(names)} class folder{'s' * (len(names) > 1)} alone ({shown});"
            f" give a folder with a folder for each class, {FEWEST_CLASSES} at least",
        )


def _list_beside(root: Path, folders: Collection[Path], names: Sequence[str]) -> list[str]:
    """What is said of files that are no images of a class, and of folders that are no part."""
    told = []
    if len(names) == 1:
        told.append(f"{names[0]}, which is no image by its name, or lies in no class folder")
    elif names:
        told.append(
            f"{len(names):,} files that are no images by their names, or lie in no class folder, such as {names[0]}"
        )
    if root in folders:
        return told
    return told + [f"{entry.name}/" for entry in _scan(root) if entry.is_dir() and root / entry.name not in folders]


def _read_sample(root: Path, files: Sequence[tuple[str, int, int]]) -> Iterator[bytes | None]:
    """Bytes of images from all over the listing."""
    for name, *_ in files[:: max(1, len(files) // SAMPLED)]:
        try:
            yield (root / name).read_bytes()
        except OSError:  # told when they are decoded
            yield None


def _is_part(folder: Path) -> bool:
    """Whether it holds class folders, and is not one itself."""
    return folder.is_dir() and any(entry.is_dir() for entry in _scan(folder))


def _list_part(root: Path, folder: Path) -> tuple[Mapping[str, list[tuple[str, int, int]]], list[str]]:
    """Images by class, each with its name below root; and the names of other files."""
    classes: dict[str, list[tuple[str, int, int]]] = {}
    others: list[str] = []
    for entry in _scan(folder):
        _check_link(root, entry)
        if not entry.is_dir():
            others.append(Path(entry.path).relative_to(root).as_posix())
            continue
        images = []
        for file in _walk(root, Path(entry.path)):
            if file.name.lower().endswith(SUFFIXES):
                status = file.stat()
                images.append((Path(file.path).relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
            else:
                others.append(Path(file.path).relative_to(root).as_posix())
        if images:
            classes[entry.name] = sorted(images)
    return classes, others


def _walk(root: Path, folder: Path) -> Iterator[os.DirEntry[str]]:
    """All files below a folder."""
    for entry in _scan(folder):
        _check_link(root, entry)
        if entry.is_dir():
            yield from _walk(root, Path(entry.path))
        else:
            yield entry


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Entries that are not hidden, sorted by name. Raises IngestError for names that are no text, and no access."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise IngestError(
            "source", f"{str(folder)!r} cannot be read ({error.strerror}); give a readable folder"
        ) from None
    for entry in entries:
        if not entry.name.isprintable():
            raise IngestError("source", f"the name {entry.path!a} is not plain text; rename it")
    return sorted(entries, key=lambda entry: entry.name)


def _check_link(root: Path, entry: os.DirEntry[str]) -> None:
    """Refuse links to folders, and links that leave the source."""
    if not entry.is_symlink():
        return
    target = Path(entry.path).resolve()
    if entry.is_dir() or not target.is_relative_to(root.resolve()):
        raise IngestError(
            "source",
            f"{entry.path!r} is a link to {str(target)!r}; links to folders, or to files outside the source,"
            " are not followed; copy what it links to",
        )
