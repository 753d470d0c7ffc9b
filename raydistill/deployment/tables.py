"""Predictions as a table: Parquet, CSV, or arrays in a .npz file, written a block at a time.

Comes in: blocks of records with their log-probabilities. Goes out: a file that is whole or absent. Its columns:

    file               of the record, as it was found
    row                its number in that file; only of arrays
    class, probability the most probable class; empty where there is a problem
    class_2, …         the next ones, with probability_2, …: up to `top`
    problem            why there is no prediction; else empty

A .npz file has arrays: class_index (N,), -1 where there is a problem, class_name (N,), probability (N, K), then
problem_index and problem (P,) of those that have one, and of images file (N,).
"""

from __future__ import annotations

import contextlib
import csv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.deployment.records import BLOCK_ROWS, Block
from raydistill.errors import ConfigError
from raydistill.storage.files import Array, write_aside

SUFFIXES = (".parquet", ".csv", ".npz")


class Write(Protocol):
    """Takes the next block."""

    def __call__(self, block: Block, log_probs: Array) -> None:
        """log_probs: (n, K) of the block's records; those of records with a problem are not looked at."""


def check_output(path: Path) -> None:
    """Raise ConfigError for a file of another kind."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"output: {str(path)!r} is of no known kind; give a file that ends in {', '.join(SUFFIXES)}")


@contextlib.contextmanager
def open_table(path: Path, class_names: tuple[str, ...], top: int, total: int, of_images: bool) -> Iterator[Write]:
    """Give a function that writes blocks in turn. total: number of records. Raises ConfigError for a file's kind."""
    check_output(path)
    names = np.array(class_names, dtype=object)
    with write_aside(path) as aside:
        if path.suffix.lower() == ".npz":
            with _open_npz(aside, names, total, of_images) as write:
                yield write
        else:
            opened = _open_parquet if path.suffix.lower() == ".parquet" else _open_csv
            with opened(aside, list_columns(top, of_images)) as write_columns:
                yield lambda block, log_probs: write_columns(fill_columns(block, log_probs, names, top))


def list_columns(top: int, of_images: bool) -> list[tuple[str, pa.DataType]]:
    """Names and types of the columns."""
    columns = [("file", pa.string())] + ([] if of_images else [("row", pa.int64())])
    for place in range(top):
        end = f"_{place + 1}" if place else ""
        columns += [(f"class{end}", pa.string()), (f"probability{end}", pa.float32())]
    return [*columns, ("problem", pa.string())]


def fill_columns(block: Block, log_probs: Array, names: Array, top: int) -> dict[str, list[Any]]:
    """The block's columns by name."""
    order, probability = rank_classes(log_probs, top)
    good = [place not in block.problems for place in range(len(block.files))]
    columns: dict[str, list[Any]] = {"file": list(block.files)}
    if block.rows is not None:
        columns["row"] = list(block.rows)
    for place in range(top):
        end = f"_{place + 1}" if place else ""
        found, certain = names[order[:, place]].tolist(), probability[:, place].tolist()
        columns[f"class{end}"] = [value if fine else None for value, fine in zip(found, good, strict=True)]
        columns[f"probability{end}"] = [value if fine else None for value, fine in zip(certain, good, strict=True)]
    columns["problem"] = [block.problems.get(place) for place in range(len(good))]
    return columns


def rank_classes(log_probs: Array, top: int) -> tuple[Array, Array]:
    """The most probable classes (n, top), best first, and their probabilities."""
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, :top]
    return order, np.exp(np.take_along_axis(log_probs, order, axis=1))


@contextlib.contextmanager
def _open_parquet(
    path: Path, columns: list[tuple[str, pa.DataType]]
) -> Iterator[Callable[[dict[str, list[Any]]], None]]:
    schema = pa.schema(columns)
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda values: writer.write_table(pa.table(values, schema=schema))


@contextlib.contextmanager
def _open_csv(path: Path, columns: list[tuple[str, pa.DataType]]) -> Iterator[Callable[[dict[str, list[Any]]], None]]:
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow([name for name, _ in columns])
        yield lambda values: writer.writerows(zip(*map(_format, values.values()), strict=True))


def _format(values: list[Any]) -> list[Any]:
    return [f"{value:.6g}" if isinstance(value, float) else value for value in values]


@contextlib.contextmanager
def _open_npz(path: Path, names: Array, total: int, of_images: bool) -> Iterator[Write]:
    """Probabilities go into the file at once; what is kept until the end is a number and a name for each record."""
    index = np.full(total, -1, np.int64)
    files: list[str] = []
    problems: dict[int, str] = {}
    done = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with _append_array(archive, "probability", np.dtype("<f4"), (total, len(names))) as append:

            def write(block: Block, log_probs: Array) -> None:
                nonlocal done
                probability, bad = np.exp(log_probs, dtype=np.float32), list(block.problems)
                best = probability.argmax(axis=1)
                probability[bad], best[bad] = np.nan, -1
                index[done : done + len(best)] = best
                append(probability)
                problems.update({done + place: reason for place, reason in sorted(block.problems.items())})
                if of_images:
                    files.extend(block.files)
                done += len(best)

            yield write
        texts = np.array([*names, ""], dtype=np.str_)  # -1 is the last one
        _save_blocks(archive, "class_index", index.dtype, total, lambda part: index[part])
        _save_blocks(archive, "class_name", texts.dtype, total, lambda part: texts[index[part]])
        _save_blocks(archive, "problem_index", np.dtype("<i8"), len(problems), lambda part: list(problems)[part])
        reasons = list(problems.values())
        _save_blocks(archive, "problem", _text_type(reasons), len(reasons), lambda part: reasons[part])
        if of_images:
            _save_blocks(archive, "file", _text_type(files), total, lambda part: files[part])


def _text_type(texts: list[str]) -> np.dtype[Any]:
    return np.dtype(f"<U{max(map(len, texts), default=1) or 1}")


def _save_blocks(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], total: int, take: Callable[[slice], Any]
) -> None:
    """Write an array of one dimension, a block at a time."""
    with _append_array(archive, name, dtype, (total,)) as append:
        for start in range(0, total, BLOCK_ROWS):
            append(np.asarray(take(slice(start, start + BLOCK_ROWS)), dtype))


@contextlib.contextmanager
def _append_array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Iterator[Callable[[Array], object]]:
    """Give a function that appends rows to an array of the archive; the shape must come true."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        yield lambda rows: stream.write(np.ascontiguousarray(rows, dtype).tobytes())
