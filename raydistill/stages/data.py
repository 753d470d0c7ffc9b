"""Stages data and splits: from the source to mapped arrays, and row numbers by purpose.

What the source says of splits goes from the one to the other as split.npy: a number of SPLITS for each training row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from raydistill.data.arrays import measure_normalisation, read_split
from raydistill.data.examples import Source
from raydistill.data.names import parse_name
from raydistill.data.sources import load_source
from raydistill.data.splits import FIT, SPLITS, TEST, check_splits, place_rows
from raydistill.data.unlabeled import Rows, load_unlabeled
from raydistill.stages.context import Context
from raydistill.stages.feeding import write_by_class
from raydistill.stages.ingest import load_ingested
from raydistill.stages.origin import follow_splits
from raydistill.storage.files import (
    Array,
    link_file,
    read_array,
    read_json,
    write_array,
    write_json,
    write_mapped,
    write_rows,
)
from raydistill.storage.folders import publish, remove
from raydistill.training.orders import BLOCK_ROWS

IMBALANCED = 20  # times as many examples of the largest class as of the smallest, from which rare ones are told of
BLOCK_BYTES = 1 << 24  # that are copied at once


def prepare_data(context: Context) -> None:
    """Write x.npy (training, test, then unlabeled rows), y.npy, classes.json, parts.json; form.json of decoded images.

    y.npy: -1 where there is no label.
    """
    folder = context.run.stage_folder("data")
    what = "typefaces rendered" if context.config.data == "glyphs" else "rows verified"

    def on_done(done: int, total: int) -> None:
        context.display.update(done / total, f"{done:,} of {total:,} {what}")

    if parse_name(context.config.data).kind:
        source = load_ingested(context)
    else:
        source = load_source(context.config, lambda *args: context.executor.map(*args), on_done)
    unlabeled = load_unlabeled(context.config, source)
    if source.file is not None and not unlabeled:
        link_file(source.file, folder / "x.npy")
        publish(folder / "x.npy")
    else:
        parts = [source.x_train, *([] if source.x_test is None else [source.x_test]), *unlabeled]
        write_examples(folder / "x.npy", parts, storage_type(source))
    labels = [source.y_train] if source.y_test is None else [source.y_train, source.y_test]
    counts = {"train": len(source.x_train), "test": sum(map(len, labels[1:])), "unlabeled": sum(map(len, unlabeled))}
    labels.append(np.broadcast_to(-1, counts["unlabeled"]))
    with write_rows(folder / "y.npy", (sum(map(len, labels)),), np.int64) as append:
        for part in labels:
            for start in range(0, len(part), BLOCK_ROWS):
                append(part[start : start + BLOCK_ROWS])
    if source.keep_apart is not None:
        write_array(folder / "keep_apart.npy", np.unique(source.keep_apart, return_inverse=True)[1].astype(np.int64))
    if source.split is not None:
        write_array(folder / "split.npy", source.split)
    if source.corrupt:
        write_json(folder / "corrupt.json", list(source.corrupt))
    if source.form is not None:
        write_json(folder / "form.json", asdict(source.form))
    write_json(folder / "classes.json", source.class_names)
    write_json(folder / "parts.json", counts)


def write_examples(path: Path, parts: Sequence[Rows], dtype: np.dtype) -> None:
    """Write examples as one array, a block at a time. parts: (N, ...) each, of one shape."""
    shape, done = parts[0][:1].shape[1:], 0
    size = max(1, BLOCK_BYTES // (math.prod(shape) * dtype.itemsize))
    with write_mapped(path, (sum(map(len, parts)), *shape), dtype) as x:
        for part in parts:
            for start in range(0, len(part), size):
                block = part[start : start + size]
                x[done : done + len(block)] = block
                done += len(block)


def storage_type(source: Source) -> np.dtype:
    """Type in which examples are stored: as they came, but float64 as float32, and what torch lacks as a larger one."""
    came = source.x_train.dtype
    if came == np.float64:
        return np.dtype(np.float32)
    if came.kind == "u" and came.itemsize > 1:
        return np.dtype(np.int32 if came.itemsize == 2 else np.int64)
    return came.newbyteorder("=")


def split_data(context: Context) -> None:
    """Write the rows of each split, and the normalisation measured on the fit rows."""
    data, folder, config = context.run.stage_folder("data"), context.run.stage_folder("splits"), context.config
    parts, labels, names = read_json(data / "parts.json"), read_array(data / "y.npy"), read_json(data / "classes.json")
    keep_apart, given = (_read_optional(data / name) for name in ("keep_apart.npy", "split.npy"))
    shares = {"confuse": config.splits.confuse, "tune": config.splits.tune}
    if parts["test"] == 0:
        shares["test"] = config.splits.test
    train_labels = labels[: parts["train"]]
    rare = config.splits.rare
    splits: dict[str, Array] = place_rows(
        train_labels, names, shares, seed=config.seed, given=given, keep_apart=keep_apart, rare=rare
    )
    if parts["test"]:
        splits["test"] = np.arange(parts["train"], parts["train"] + parts["test"])
        check_splits({"test": splits["test"]}, labels, names, rare, ("test",))
    if config.grow_from is not None:
        splits = follow_splits(context, splits, parts)
        check_splits(splits, labels, names, rare)
    for name in SPLITS:
        write_array(folder / f"{name}.npy", splits[name])
    for name in ("fit", "confuse"):
        write_by_class(folder, name, torch.from_numpy(splits[name]), torch.from_numpy(labels), len(names))
    context.display.note(describe_splits(splits, list_given(data)))
    counts = np.bincount(labels[splits["fit"]])
    if counts.max() > IMBALANCED * counts.min() and config.balance.prior == "natural":
        context.display.note(
            f"classes have from {counts.min():,} to {counts.max():,} training examples; where rare ones matter as much"
            " as frequent ones, give --balance.prior equal"
        )
    fit = read_split(context.run, "fit")
    normalisation = measure_normalisation(context.examples.x, fit)
    write_json(folder / "normalisation.json", vars(normalisation))
    remove(context.run.ingest_folder)


def list_given(data: Path) -> list[str]:
    """Names of the splits that the examples in the data stage's folder bring themselves; the others are drawn."""
    split = _read_optional(data / "split.npy")
    given = set() if split is None else set(split.tolist())
    given |= {TEST} if read_json(data / "parts.json")["test"] else set()
    return [SPLITS[number] for number in sorted(given - {FIT})]


def describe_splits(splits: Mapping[str, Array], given: Sequence[str]) -> str:
    """Sizes of the splits, and which of them were given."""
    sizes = [f"{name} {len(splits[name]):,}{' (given)' if name in given else ''}" for name in SPLITS]
    return ", ".join(sizes)


def _read_optional(path: Path) -> Array | None:
    """An array that not every source has."""
    return read_array(path) if path.exists() else None
