"""Stage origin: what a run takes from the run that it grows from. After it, the old run is not needed any more.

    origin.json        where it was, its version, class names, settings, and for each specialist what it has not seen
    networks/          weights of the generalist, of other seeds, specialists, the student and its controls
    members.npy, affinity.npz    the groups, and what the old generalist confused, where it had specialists
    rows.npy, splits.npy, labels.npy    fingerprint, split (-1: none) and class of each of its examples

No example that the old run trained on, stopped by or chose by may be held out for the test here: what an example was
for in the old run, it is for in this one (`follow_splits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.data.row_hashes import hash_rows
from raydistill.data.splits import SPLITS
from raydistill.errors import ConfigError, DataError, RunFolderError
from raydistill.settings.config import Config
from raydistill.stages.context import Context
from raydistill.storage.files import Array, link_file, map_array, read_array, read_json, write_array, write_json
from raydistill.storage.folders import publish
from raydistill.storage.run_folder import ORIGIN, RunFolder

NONE = -1  # split of an example that was in none


def identify_origin(config: Config) -> dict[str, Any]:
    """What decides what is taken: where from, and the architectures."""
    return {
        "from": config.grow_from,
        "generalist": [config.generalist.model, config.generalist.options],
        "student": _student_architecture(config.model_dump(mode="json")),
    }


def copy_origin(context: Context) -> None:
    """Link the old run's networks and groups, and fingerprint its examples.

    Raises RunFolderError if it has no finished generalist, or a file of it is damaged, ConfigError for another model.
    """
    old, folder = find_origin(context.config), context.run.stage_folder(ORIGIN)
    manifest = read_finished(old)
    check_architecture(context.config, manifest["settings"])
    networks = list_networks(old, manifest, context.config)
    for name, source in networks.items():
        for file in ("weights.safetensors", "training.json"):
            link_file(source / file, folder / "networks" / name / file)
    if "specialists" in manifest["stages"]:
        link_file(old.stage_folder("groups") / "members.npy", folder / "members.npy")
        link_file(old.stage_folder("confusion") / "affinity.npz", folder / "affinity.npz")
    write_examples(old, folder)
    publish(folder)
    classes = read_json(old.stage_folder("data") / "classes.json")
    write_json(
        folder / "origin.json",
        {
            "from": old.location,
            "version": manifest["version"],
            "settings": manifest["settings"],
            "classes": classes,
            "unseen": read_unseen(old, classes),
        },
    )
    context.display.note(f"{len(networks)} networks of {len(classes)} classes from {old.location}")


def find_origin(config: Config) -> RunFolder:
    """The old run. Raises RunFolderError if it is the very run that grows, which would write over it."""
    old = RunFolder(str(config.grow_from))
    if old.path.resolve() == RunFolder(config.run_dir).path.resolve():
        raise RunFolderError(f"grow_from: {old.location!r} is this very run folder; give another --run-dir")
    return old


def read_finished(old: RunFolder) -> dict[str, Any]:
    """The old run's manifest, once all that is taken verifies. Raises RunFolderError."""
    try:
        manifest = old.read_manifest()
    except RunFolderError as error:
        told = str(error).removeprefix("run_dir: ")
        raise RunFolderError(f"grow_from: {told}; give the folder of a finished run") from None
    for stage in ("data", "splits", "generalist", "confusion", "groups", "specialists", "seeds", "student"):
        record = manifest["stages"].get(stage)
        if record is None and stage in ("data", "splits", "generalist"):
            raise RunFolderError(
                f"grow_from: {old.location!r} has no finished {stage}; finish it first (raydistill status tells how)"
            )
        if record is not None and not old.is_finished(stage, record["key"]):
            raise RunFolderError(
                f"grow_from: a file of {stage} in {old.location!r} is damaged or gone;"
                " the command that made it mends it"
            )
    return manifest


def check_architecture(config: Config, old: Mapping[str, Any]) -> None:
    """Raise ConfigError where the old networks cannot be this run's, or groups are asked for that are not the old."""
    for name, before, now in (
        ("generalist.model", old["generalist"]["model"], config.generalist.model),
        ("generalist.options", old["generalist"]["options"], config.generalist.options),
    ):
        if before != now:
            raise ConfigError(f"grow_from: {name} is {before!r} there and {now!r} here; give the same, or a new run")
    groups = config.specialists.groups
    if groups is not None and groups != old["specialists"]["groups"]:
        raise ConfigError(
            f"specialists.groups: {groups} is not what the run has that this one grows from"
            f" ({old['specialists']['groups'] or 'left out'}); its groups are kept: leave it as it was,"
            " or leave --grow-from out"
        )


def list_networks(old: RunFolder, manifest: Mapping[str, Any], config: Config) -> dict[str, Path]:
    """Folders of the old run's finished networks, by the name under which this run asks for them."""
    networks = {"generalist": old.stage_folder("generalist")}
    students = _student_architecture(manifest["settings"]) == _student_architecture(config.model_dump(mode="json"))
    for stage, wanted in (("specialists", True), ("seeds", True), ("student", students)):
        if stage in manifest["stages"] and wanted:
            found = sorted(path.parent for path in old.stage_folder(stage).glob("*/training.json"))
            networks |= {f"{stage}/{path.name}": path for path in found}
    return networks


def _student_architecture(settings: Mapping[str, Any]) -> list[Any]:
    """The student's model and options, by nested settings."""
    student, generalist = settings["student"], settings["generalist"]
    if student["model"] is None:
        return [generalist["model"], student["options"] or generalist["options"]]
    return [student["model"], student["options"]]


def read_unseen(old: RunFolder, classes: list[str]) -> dict[str, list[str]]:
    """Names of the classes that the old run's own kept specialists have never seen, by specialist."""
    path = old.stage_folder("specialists") / "grown.json"
    if not path.exists():
        return {}
    return {f"{one['index']:03d}": [classes[label] for label in one["unseen"]] for one in read_json(path)}


def write_examples(old: RunFolder, folder: Path) -> None:
    """Fingerprints, splits and labels of the old run's examples."""
    data, splits = old.stage_folder("data"), old.stage_folder("splits")
    x, labels = map_array(data / "x.npy"), read_array(data / "y.npy")
    places = np.full(len(labels), NONE, dtype=np.int8)
    for number, name in enumerate(SPLITS):
        places[read_array(splits / f"{name}.npy")] = number
    write_array(folder / "rows.npy", hash_rows(x, np.arange(len(labels))))
    write_array(folder / "splits.npy", places)
    write_array(folder / "labels.npy", labels)
    write_json(folder / "examples.json", {"shape": list(x.shape[1:]), "dtype": str(x.dtype)})


def follow_splits(context: Context, splits: Mapping[str, Array], parts: Mapping[str, int]) -> dict[str, Array]:
    """The splits (row numbers by name), with each example that the old run had in the split that it had there.

    parts: how many rows are for training, which come first and were split here, and of a test set of their own, which
    follow; further rows have no labels and are in no split. An example that was in several splits is in the one that
    was used first: fit, confuse, tune, test. With keep_apart, all examples of a value go with those of it that the old
    run had. Raises DataError for examples of another shape or type.
    """
    run, folder = context.run, context.run.stage_folder(ORIGIN)
    data = run.stage_folder("data")
    x = map_array(data / "x.npy")
    check_form(x, read_json(folder / "examples.json"))
    rows = hash_rows(x, np.arange(len(x)))
    write_array(run.stage_folder("splits") / "rows.npy", rows)
    train, labelled = parts["train"], parts["train"] + parts["test"]
    known = _find_known(rows[:labelled], read_array(folder / "rows.npy"), read_array(folder / "splits.npy"))
    places = np.full(train, NONE, dtype=np.int8)
    for number, name in enumerate(SPLITS):
        places[splits[name][splits[name] < train]] = number
    settled = known[:train].copy()
    if parts["test"]:  # the test set is given: what was for the test before is as good as new
        settled[settled == SPLITS.index("test")] = NONE
    if (data / "keep_apart.npy").exists():
        settled = _spread(settled, read_array(data / "keep_apart.npy"))
    places = np.where(settled == NONE, places, settled)
    leaked = int((known[train:] >= 0).sum() - (known[train:] == SPLITS.index("test")).sum())
    if leaked:
        context.display.note(f"{leaked:,} test examples are ones that the old run learned from: its weights know them")
    context.display.note(
        f"{int((known >= 0).sum()):,} of {labelled:,} examples were in the old run, and keep their split"
    )
    write_json(run.stage_folder("splits") / "known.json", {"known": int((known >= 0).sum()), "leaked": leaked})
    found = {name: np.flatnonzero(places == number) for number, name in enumerate(SPLITS)}
    return {**found, "test": splits["test"]} if parts["test"] else found


def check_form(x: Array, form: Mapping[str, Any]) -> None:
    """Raise DataError for examples of another shape or type than the old run's."""
    if [list(x.shape[1:]), str(x.dtype)] != [form["shape"], form["dtype"]]:
        raise DataError(
            f"grow_from: its examples are {form['dtype']} {tuple(form['shape'])}, these are {x.dtype} {x.shape[1:]};"
            " give examples of the same shape and type"
        )


def _find_known(rows: Array, old_rows: Array, old_places: Array) -> Array:
    """The old split of each row, (N,): NONE for new ones."""
    inside = old_places >= 0
    order = np.lexsort((old_places[inside], old_rows[inside]))  # by fingerprint, and within it the first split first
    distinct, first = np.unique(old_rows[inside][order], return_index=True)
    spot = np.searchsorted(distinct, rows).clip(max=max(0, len(distinct) - 1))
    if not len(distinct):
        return np.full(len(rows), NONE, dtype=np.int8)
    found: Array = np.where(distinct[spot] == rows, old_places[inside][order][first][spot], NONE)
    return found


def _spread(settled: Array, values: Array) -> Array:
    """Give all rows of a value the first split that any of them is settled in."""
    first = np.full(int(values.max()) + 1, len(SPLITS), dtype=np.int64)
    inside = settled >= 0
    np.minimum.at(first, values[inside], settled[inside])
    return np.where(first[values] == len(SPLITS), NONE, first[values])
