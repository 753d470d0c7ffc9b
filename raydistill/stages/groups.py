"""Stages confusion and groups: what the generalist confuses, and the groups of classes that specialists will learn."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydistill.data.arrays import read_split
from raydistill.method.confusion import (
    Predictions,
    build_affinity,
    check_dense,
    keep_probable,
    measure_confusion,
    measure_covariance,
)
from raydistill.method.groups import (
    check_group_count,
    choose_group_count,
    forecast_groups,
    group_classes,
    measure_mass_covered,
    measure_stability,
    name_group,
)
from raydistill.method.specialists import Group
from raydistill.settings.config import Config
from raydistill.stages.context import Context
from raydistill.stages.growth import grow_old_groups, has_old_groups
from raydistill.stages.networks import build_generalist, load_weights
from raydistill.storage.files import (
    Array,
    Sparse,
    read_array,
    read_json,
    read_sparse,
    write_array,
    write_json,
    write_sparse,
)
from raydistill.storage.run_folder import RunFolder
from raydistill.training.scoring import PREDICT_BATCH, predict_blocks
from raydistill.training.workers import choose_device

MOST_LOGITS = 2**24  # of a batch: 64 MB


def measure_confusions(context: Context) -> None:
    """Write what the generalist thinks probable on the confuse split, and the affinity between classes."""
    run, config, examples = context.run, context.config, context.examples
    rows = read_split(run, "confuse")
    model = load_weights(build_generalist(run, config, examples), run.stage_folder("generalist")).to(choose_device())
    batch_size = min(PREDICT_BATCH, max(1, MOST_LOGITS // examples.classes))
    predictions = keep_probable(predict_blocks(model, examples.x, rows, batch_size), len(rows))
    folder = run.stage_folder("confusion")
    write_array(folder / "top.npy", predictions.top)
    write_array(folder / "probs.npy", predictions.probs)
    confusion = measure_confusion(predictions, examples.y[rows], config.grouping.affinity)
    write_sparse(folder / "affinity.npz", build_affinity(confusion))
    context.display.note(
        f"generalist: {measure_accuracy(predictions, examples.y[rows]):.1%} right on the confuse split"
    )


def measure_accuracy(predictions: Predictions, labels: torch.Tensor) -> float:
    """Share of the examples whose most probable class is right."""
    return float(np.mean(predictions.top[:, 0] == labels.numpy()))


def count_groups(config: Config, classes: int) -> int:
    """Number of groups asked for, or the default. Raises ConfigError if groups, or a covariance, cannot be had."""
    check_dense(config.grouping, classes)
    groups = config.specialists.groups or choose_group_count(classes)
    check_group_count(groups, classes)
    return groups


def find_groups(context: Context) -> None:
    """Write members.npy (M, K) and groups.json: coverage, stability, forecast."""
    run, config, grouping = context.run, context.config, context.config.grouping
    predictions, affinity = read_predictions(run, context.examples.classes), read_affinity(run)
    count = count_groups(config, context.examples.classes)
    members = keep_groups(context, affinity)
    if members is None:
        members = group_classes(
            affinity,
            count,
            covariance=measure_covariance(predictions) if grouping.method == "kmeans" else None,
            overlap=grouping.overlap,
            size=grouping.size,
            shuffle=grouping.method == "random",
            seed=config.seed,
        )
    summary = {"asked": count, **describe_groups(context, members, affinity, predictions)}
    folder = run.stage_folder("groups")
    write_array(folder / "members.npy", members)
    write_json(folder / "groups.json", summary)
    sizes = members.sum(axis=1)
    context.display.note(
        f"{len(members)} groups of {sizes.min()} to {sizes.max()} classes hold {summary['mass_covered']:.0%} of the"
        f" confusion; perfect specialists would add {summary['fixable']:.1%} accuracy"
    )


def keep_groups(context: Context, affinity: Sparse) -> Array | None:
    """The groups of the run that this one grows from, with the new classes, and grown.json; None where none holds."""
    run, config = context.run, context.config
    if not has_old_groups(run, config):
        return None
    grown = grow_old_groups(run, config, context.examples, affinity)
    if not any(source >= 0 for source in grown.sources):
        context.display.note("no group of the old run holds any more: all are found anew")
        return None
    written = {"sources": grown.sources, "gained": grown.gained, "dissolved": grown.dissolved}
    write_json(run.stage_folder("groups") / "grown.json", written)
    taken, new = sum(bool(labels) for labels in grown.gained), sum(source < 0 for source in grown.sources)
    context.display.note(
        f"{len(grown.sources) - new} groups of the old run are kept, {taken} of them with new classes; {new} are new,"
        f" {len(grown.dissolved)} are dissolved"
    )
    return grown.members


def describe_groups(context: Context, members: Array, affinity: Sparse, predictions: Predictions) -> dict[str, Any]:
    """What can be said of groups before the fan-out. members: (M, K). predictions: of the confuse split."""
    run, config, grouping = context.run, context.config, context.config.grouping
    labels = context.examples.y[read_split(run, "confuse")]
    forecasts, fixable = forecast_groups(
        members,
        predictions,
        labels,
        context.examples.y[read_split(run, "fit")],
        top_n=config.ensemble.top_n,
        group_share=config.specialists.group_share,
    )
    stability = measure_stability(
        predictions,
        labels,
        count_groups(config, context.examples.classes),
        affinity=grouping.affinity,
        method=grouping.method,
        bootstraps=grouping.bootstraps,
        seed=config.seed,
    )
    return {
        "mass_covered": measure_mass_covered(members, affinity),
        "groups_per_class": float(members.sum(axis=0).mean()),
        "stability": stability,
        "accuracy": measure_accuracy(predictions, labels),
        "fixable": fixable,
        "groups": [
            {"members": np.flatnonzero(row).tolist(), **asdict(forecast)}
            for row, forecast in zip(members, forecasts, strict=True)
        ],
    }


def read_predictions(run: RunFolder, classes: int) -> Predictions:
    """What the generalist thinks probable of each example of the confuse split."""
    folder = run.stage_folder("confusion")
    return Predictions(read_array(folder / "top.npy"), read_array(folder / "probs.npy"), classes)


def read_affinity(run: RunFolder) -> Sparse:
    """The affinity between classes, sparse (K, K)."""
    return read_sparse(run.stage_folder("confusion") / "affinity.npz")


def read_members(run: RunFolder) -> torch.Tensor:
    """Boolean (M, K): which classes each specialist knows."""
    return torch.from_numpy(read_array(run.stage_folder("groups") / "members.npy"))


def read_group(run: RunFolder, config: Config, index: int) -> Group:
    """The classes of one specialist."""
    row, path = read_members(run)[index], run.stage_folder("specialists") / "grown.json"
    kept = {one["index"]: tuple(one["unseen"]) for one in read_json(path)} if path.exists() else {}
    return Group(torch.nonzero(row).squeeze(1), len(row), config.specialists.dustbin, kept.get(index, ()))


def skipped_path(run: RunFolder) -> Path:
    """Where the specialists stage says which specialists failed and are left out; no such file where none are."""
    return run.stage_folder("specialists") / "skipped.json"


def read_skipped(run: RunFolder) -> list[dict[str, Any]]:
    """The specialists that are left out: index, attempts and reason of each."""
    return read_json(skipped_path(run)) if skipped_path(run).exists() else []


def list_trained(run: RunFolder) -> list[int]:
    """Numbers of the groups whose specialists are part of the ensemble, ascending."""
    missing = {record["index"] for record in read_skipped(run)}
    return [index for index in range(len(read_members(run))) if index not in missing]


def describe_plan(run: RunFolder) -> dict[str, Any]:
    """What `raydistill plan` prints: the groups with names, and the forecast of each."""
    summary: dict[str, Any] = read_json(run.stage_folder("groups") / "groups.json")
    names = read_json(run.stage_folder("data") / "classes.json")
    for group in summary["groups"]:
        group["name"] = name_group(group["members"], names)
    return summary
