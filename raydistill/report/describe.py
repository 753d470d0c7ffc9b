"""What a run's files say beside the models' answers: data, transfer set, groups, the generalist's losses, the machine.

Comes in: the run folder, and answers for the groups' accuracies. Goes out: sections of report.json.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from raydistill.data.arrays import read_split, read_transfer_rows, read_unlabeled_rows
from raydistill.data.splits import SPLITS
from raydistill.method.groups import name_group
from raydistill.report.answers import Answers
from raydistill.report.changes import count_changes
from raydistill.report.shares import measure_distances
from raydistill.stages.context import Context
from raydistill.stages.data import list_given
from raydistill.stages.feeding import open_balance
from raydistill.stages.groups import read_members, read_skipped
from raydistill.stages.networks import read_training
from raydistill.stages.roles import STUDENT
from raydistill.storage.files import Array, read_json

RECORDED_PACKAGES = ("torch", "numpy", "scikit-learn", "ray", "optuna")


def describe_data(context: Context) -> dict[str, Any]:
    """Source, sizes and seed."""
    examples = context.examples
    return {
        "source": context.config.data,
        "examples": int((examples.y >= 0).sum()),
        "classes": examples.classes,
        "shape": list(examples.input_shape),
        "splits": {name: len(read_split(context.run, name)) for name in SPLITS},
        "given": list_given(context.run.stage_folder("data")),
        "corrupt": count_corrupt(context),
        "seed": context.config.seed,
    }


def count_corrupt(context: Context) -> int:
    """Records that could not be read and were left out; the data stage's corrupt.json lists them."""
    path = context.run.stage_folder("data") / "corrupt.json"
    return len(read_json(path)) if path.exists() else 0


def describe_balance(context: Context, test_labels: Tensor) -> dict[str, Any]:
    """How the training rows are spread over the classes, and for which shares the probabilities hold.

    test_labels: (N,), of the test split.
    """
    counts = context.examples.y[read_split(context.run, "fit")].bincount(minlength=context.examples.classes)
    test, balance = test_labels.bincount(minlength=context.examples.classes), context.config.balance
    return {
        **balance.model_dump(),
        "test_distance": measure_distances(counts, test, balance.prior),
        "largest_class": {"class": context.examples.class_names[int(counts.argmax())], "examples": int(counts.max())},
        "smallest_class": {"class": context.examples.class_names[int(counts.argmin())], "examples": int(counts.min())},
    }


def weigh_tests(context: Context, labels: Tensor) -> Tensor | None:
    """What each test example counts for at the shares that balance.prior wants: (N,), of mean 1; None where natural.

    labels: (N,), of the test examples. The shares are those of the classes that have test examples.
    """
    balance = open_balance(context.run, context.config, context.examples)
    if balance is None or balance.prior == 0:
        return None
    return balance.weigh_classes(labels.bincount(minlength=context.examples.classes))[labels]


def describe_transfer(context: Context) -> dict[str, Any]:
    """Size of the transfer set, the share of the training rows in it, and how many rows in it have no labels."""
    chosen, training = len(read_transfer_rows(context.run)), len(read_split(context.run, "fit"))
    unlabeled = len(read_unlabeled_rows(context.run))
    return {"examples": chosen, "share_of_training": (chosen - unlabeled) / training, "unlabeled": unlabeled}


def describe_generalist(context: Context) -> dict[str, Any]:
    """The generalist's losses after its best epoch, on its training examples and on held-out ones, and its epochs."""
    record = read_training(context.run.stage_folder("generalist"))
    best = record["history"][max(record["best_epoch"], 1) - 1]
    return {"train_loss": best["loss"], "valid_loss": best["valid_loss"], "epochs": record["history"][-1]["epoch"]}


def describe_convergence(context: Context) -> dict[str, Any]:
    """The student's passes, its accuracy on the tune split after the last one, and after three quarters of them."""
    values = [record["value"] for record in read_training(context.run.student_folder(STUDENT))["history"]]
    return {"passes": len(values), "last": values[-1], "before": values[-1 - len(values) // 4]}


def describe_groups(context: Context, members: Array, models: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """Each group with its forecast, the accuracy of the models on the test examples of its classes, and its cost.

    Accuracies are None where there are no such examples. fixed, broken: those that the ensemble alone gets right, or
    the generalist; seconds: of the specialist's training, in its last attempt; None where it failed.
    """
    names = context.examples.class_names
    forecasts = read_json(context.run.stage_folder("groups") / "groups.json")["groups"]
    changes, seconds = count_changes(members, models["generalist"], models["ensemble"]), read_seconds(context)
    groups = []
    for index, (row, forecast) in enumerate(zip(members, forecasts, strict=True)):
        known = torch.from_numpy(row)
        examples = int(known[next(iter(models.values())).labels].sum())
        accuracies = {
            f"{name}_accuracy": float(answers.correct[known[answers.labels]].double().mean()) if examples else None
            for name, answers in models.items()
        }
        name = name_group(forecast["members"], names, most=len(names))
        cost = {**changes[index], "seconds": seconds.get(index)}
        groups.append({"name": name, **forecast, "test_examples": examples, **accuracies, **cost})
    return groups


def read_seconds(context: Context) -> dict[int, float]:
    """Seconds that each specialist was trained, by its number, of those that the pool told of."""
    path, skipped = context.run.timing_path("specialists"), {record["index"] for record in read_skipped(context.run)}
    told = {int(job["job"].split()[1]): float(job["seconds"]) for job in (read_json(path) if path.exists() else [])}
    return {index: seconds for index, seconds in told.items() if index not in skipped}


def describe_grouping(context: Context) -> dict[str, Any]:
    """How good the groups were said to be before the fan-out."""
    summary = read_json(context.run.stage_folder("groups") / "groups.json")
    wanted = ("mass_covered", "groups_per_class", "stability", "fixable")
    return {name: summary[name] for name in wanted}


def describe_skipped(context: Context) -> list[dict[str, Any]]:
    """The specialists that failed and are not part of the ensemble: index, attempts, reason, and their classes."""
    names, members = context.examples.class_names, read_members(context.run)
    return [
        {**record, "classes": [name for name, known in zip(names, members[record["index"]], strict=True) if known]}
        for record in read_skipped(context.run)
    ]


def describe_machine() -> dict[str, Any]:
    """Where the report was made, and by which versions."""
    return {
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in RECORDED_PACKAGES},
    }
