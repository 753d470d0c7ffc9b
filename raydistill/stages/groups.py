"""Stages confusion and groups: what the generalist confuses, and the groups of classes that specialists will learn."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from raydistill.config import Config
from raydistill.confusion import build_affinity, measure_confusion, measure_covariance
from raydistill.data.arrays import read_split
from raydistill.files import Array, read_array, read_json, write_array, write_json
from raydistill.groups import (
    check_group_count,
    choose_group_count,
    forecast_groups,
    group_classes,
    measure_mass_covered,
    measure_stability,
    name_group,
)
from raydistill.run_folder import RunFolder
from raydistill.scoring import predict_logits
from raydistill.specialists import Group
from raydistill.stages.context import Context
from raydistill.stages.networks import build_generalist, load_weights
from raydistill.workers import choose_device


def measure_confusions(context: Context) -> None:
    """Write the generalist's logits on the confuse split, and the affinity between classes."""
    run, config, examples = context.run, context.config, context.examples
    rows = read_split(run, "confuse")
    model = load_weights(build_generalist(run, config, examples), run.stage_folder("generalist")).to(choose_device())
    logits = predict_logits(model, examples.x, rows)
    folder = run.stage_folder("confusion")
    write_array(folder / "logits.npy", logits.numpy())
    confusion = measure_confusion(logits, examples.y[rows], config.grouping.affinity)
    write_array(folder / "affinity.npy", build_affinity(confusion))
    accuracy = float((logits.argmax(dim=1) == examples.y[rows]).double().mean())
    context.display.note(f"generalist: {accuracy:.1%} right on the confuse split")


def count_groups(config: Config, classes: int) -> int:
    """Number of groups asked for, or the default. Raises ConfigError if there are too many for the classes."""
    groups = config.specialists.groups or choose_group_count(classes)
    check_group_count(groups, classes)
    return groups


def find_groups(context: Context) -> None:
    """Write members.npy (M, K) and groups.json: coverage, stability, forecast."""
    run, config, grouping = context.run, context.config, context.config.grouping
    logits = torch.from_numpy(read_array(run.stage_folder("confusion") / "logits.npy"))
    affinity = read_array(run.stage_folder("confusion") / "affinity.npy")
    count = count_groups(config, context.examples.classes)
    members = group_classes(
        affinity,
        count,
        covariance=measure_covariance(logits) if grouping.method == "kmeans" else None,
        overlap=grouping.overlap,
        size=grouping.size,
        shuffle=grouping.method == "random",
        seed=config.seed,
    )
    summary = {"asked": count, **describe_groups(context, members, affinity, logits)}
    folder = run.stage_folder("groups")
    write_array(folder / "members.npy", members)
    write_json(folder / "groups.json", summary)
    sizes = members.sum(axis=1)
    context.display.note(
        f"{len(members)} groups of {sizes.min()} to {sizes.max()} classes hold {summary['mass_covered']:.0%} of the"
        f" confusion; perfect specialists would add {summary['fixable']:.1%} accuracy"
    )


def describe_groups(context: Context, members: Array, affinity: Array, logits: torch.Tensor) -> dict[str, Any]:
    """What can be said of groups before the fan-out. members: (M, K). logits: (N, K) of the confuse split."""
    run, config, grouping = context.run, context.config, context.config.grouping
    labels = context.examples.y[read_split(run, "confuse")]
    forecasts, fixable = forecast_groups(
        members,
        logits,
        labels,
        context.examples.y[read_split(run, "fit")],
        top_n=config.ensemble.top_n,
        group_share=config.specialists.group_share,
    )
    stability = measure_stability(
        logits,
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
        "accuracy": float((logits.argmax(dim=1) == labels).double().mean()),
        "fixable": fixable,
        "groups": [
            {"members": np.flatnonzero(row).tolist(), **asdict(forecast)}
            for row, forecast in zip(members, forecasts, strict=True)
        ],
    }


def read_members(run: RunFolder) -> torch.Tensor:
    """Boolean (M, K): which classes each specialist knows."""
    return torch.from_numpy(read_array(run.stage_folder("groups") / "members.npy"))


def read_group(run: RunFolder, config: Config, index: int) -> Group:
    """The classes of one specialist."""
    row = read_members(run)[index]
    return Group(torch.nonzero(row).squeeze(1), len(row), config.specialists.dustbin)


def describe_plan(run: RunFolder) -> dict[str, Any]:
    """What `raydistill plan` prints: the groups with names, and the forecast of each."""
    summary: dict[str, Any] = read_json(run.stage_folder("groups") / "groups.json")
    names = read_json(run.stage_folder("data") / "classes.json")
    for group in summary["groups"]:
        group["name"] = name_group(group["members"], names)
    return summary
