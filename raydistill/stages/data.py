"""Stages data and splits: from the source to mapped arrays, and row numbers by purpose."""

from __future__ import annotations

import numpy as np

from raydistill.data.arrays import measure_normalisation, read_split
from raydistill.data.sources import Source, load_source
from raydistill.data.splits import SPLITS, check_splits, split_rows
from raydistill.files import Array, link_file, publish, read_array, read_json, write_array, write_json, write_mapped
from raydistill.stages.context import Context
from raydistill.stages.origin import follow_splits


def prepare_data(context: Context) -> None:
    """Write x.npy (training rows, then test rows), y.npy, classes.json and parts.json."""
    folder = context.run.stage_folder("data")
    what = "typefaces rendered" if context.config.data == "glyphs" else "rows verified"

    def on_done(done: int, total: int) -> None:
        context.display.update(done / total, f"{done:,} of {total:,} {what}")

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
    keep_apart = read_array(data / "keep_apart.npy") if (data / "keep_apart.npy").exists() else None
    shares = {"confuse": config.splits.confuse, "tune": config.splits.tune}
    if parts["test"] == 0:
        shares["test"] = config.splits.test
    train_labels = labels[: parts["train"]]
    splits: dict[str, Array] = split_rows(train_labels, names, shares, seed=config.seed, keep_apart=keep_apart)
    if parts["test"]:
        splits["test"] = np.arange(parts["train"], parts["train"] + parts["test"])
        check_splits({"test": splits["test"]}, labels, names)
    if config.grow_from is not None:
        splits = follow_splits(context, splits, parts["train"])
        check_splits(splits, labels, names)
    for name in SPLITS:
        write_array(folder / f"{name}.npy", splits[name])
    context.display.note(", ".join(f"{name} {len(splits[name]):,}" for name in SPLITS))
    fit = read_split(context.run, "fit")
    normalisation = measure_normalisation(context.examples.x, fit)
    write_json(folder / "normalisation.json", vars(normalisation))
