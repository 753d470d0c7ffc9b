"""Stages data and splits: from the source to mapped arrays, and row numbers by purpose.

What the source says of splits goes from the one to the other as split.npy: a number of SPLITS for each training row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from raydistill.data.arrays import measure_normalisation, read_split
from raydistill.data.names import parse_name
from raydistill.data.sources import Source, load_source
from raydistill.data.splits import FIT, SPLITS, TEST, check_splits, place_rows
from raydistill.files import (
    Array,
    link_file,
    publish,
    read_array,
    read_json,
    remove,
    write_array,
    write_json,
    write_mapped,
)
from raydistill.stages.context import Context
from raydistill.stages.ingest import load_ingested


def prepare_data(context: Context) -> None:
    """Write x.npy (training rows, then test rows), y.npy, classes.json and parts.json; form.json of decoded images."""
    folder = context.run.stage_folder("data")
    what = "typefaces rendered" if context.config.data == "glyphs" else "rows verified"

    def on_done(done: int, total: int) -> None:
        context.display.update(done / total, f"{done:,} of {total:,} {what}")

    if parse_name(context.config.data).kind:
        source = load_ingested(context)
    else:
        source = load_source(context.config, lambda *args: context.executor.map(*args), on_done)
    parts = [source.x_train] if source.x_test is None else [source.x_train, source.x_test]
    shape = (sum(len(part) for part in parts), *source.x_train.shape[1:])
    if source.file is not None:
        link_file(source.file, folder / "x.npy")
        publish(folder / "x.npy")
    else:
        with write_mapped(folder / "x.npy", shape, storage_type(source)) as x:
            np.concatenate(parts, out=x, casting="unsafe")
    labels = [source.y_train] if source.y_test is None else [source.y_train, source.y_test]
    write_array(folder / "y.npy", np.concatenate(labels).astype(np.int64))
    if source.keep_apart is not None:
        write_array(folder / "keep_apart.npy", np.unique(source.keep_apart, return_inverse=True)[1].astype(np.int64))
    if source.split is not None:
        write_array(folder / "split.npy", source.split)
    if source.corrupt:
        write_json(folder / "corrupt.json", list(source.corrupt))
    if source.form is not None:
        write_json(folder / "form.json", asdict(source.form))
    write_json(folder / "classes.json", source.class_names)
    write_json(folder / "parts.json", {"train": len(source.x_train), "test": shape[0] - len(source.x_train)})


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
    splits: dict[str, Array] = place_rows(
        train_labels, names, shares, seed=config.seed, given=given, keep_apart=keep_apart
    )
    if parts["test"]:
        splits["test"] = np.arange(parts["train"], parts["train"] + parts["test"])
        check_splits({"test": splits["test"]}, labels, names, ("test",))
    for name in SPLITS:
        write_array(folder / f"{name}.npy", splits[name])
    context.display.note(describe_splits(splits, list_given(data)))
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
