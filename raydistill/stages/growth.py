"""Growing from an old run: groups that are kept, specialists that are kept as they are; see warm.py for other networks.

A specialist is kept where nothing that it says has changed: its group is the old one, trained with the same settings,
and its classes' examples are nearly the same ones. What it knows is P(class | a class that it has seen), and that stays
true when other classes come; whether an example is of one of these is left to the new generalist, see
specialists.specialist_log_probs. All others are copies of the new generalist, trained as ever. grown.json in the
specialists' folder names those that are kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from raydistill.data.arrays import Examples, read_split
from raydistill.data.splits import SPLITS
from raydistill.method.growing import GrownGroups, grow_members, map_classes, measure_change, measure_odds
from raydistill.settings.config import Config
from raydistill.stages.roles import has_specialists
from raydistill.stages.warm import has_network, list_warm, map_network, read_old_prior, read_old_settings
from raydistill.storage.files import (
    Array,
    Sparse,
    hash_file,
    read_array,
    read_json,
    read_sparse,
    write_json,
    write_tensors,
)
from raydistill.storage.run_folder import ORIGIN, RunFolder
from raydistill.words import list_some

SHOWN = 8  # names, then 'and n more'

NOT_TRAINING = ("groups", "on_failure", "workers")  # settings of specialists that change no specialist


def has_old_groups(run: RunFolder, config: Config) -> bool:
    """Whether there are groups to keep."""
    return config.grow_from is not None and (run.stage_folder(ORIGIN) / "members.npy").exists()


def grow_old_groups(run: RunFolder, config: Config, examples: Examples, affinity: Sparse) -> GrownGroups:
    """The old groups that hold, with the new classes in their places."""
    folder = run.stage_folder(ORIGIN)
    return grow_members(
        read_array(folder / "members.npy"),
        map_classes(read_json(folder / "origin.json")["classes"], examples.class_names),
        affinity,
        read_sparse(folder / "affinity.npz"),
        overlap=config.grouping.overlap,
        size=config.grouping.size,
        seed=config.seed,
    )


@dataclass(frozen=True)
class Decision:
    """What becomes of a specialist. source: the old one's number, -1 for none; reasons: why it is trained, if it is.

    unseen: new classes that a kept one says nothing of.
    """

    index: int
    source: int
    reasons: tuple[str, ...]
    unseen: tuple[int, ...]

    @property
    def kept(self) -> bool:
        """Whether it stays as it is."""
        return not self.reasons


def decide_specialists(run: RunFolder, config: Config, examples: Examples) -> list[Decision]:
    """What becomes of each specialist. Empty where no old groups were kept."""
    path = run.stage_folder("groups") / "grown.json"
    if config.grow_from is None or not has_specialists(config) or not path.exists():
        return []
    grown, origin = read_json(path), read_json(run.stage_folder(ORIGIN) / "origin.json")
    names, old_members = examples.class_names, read_array(run.stage_folder(ORIGIN) / "members.npy")
    rows = (read_old_rows(run, origin["classes"]), read_new_rows(run, examples))
    settings = list_changed_settings(read_old_settings(run), config)
    decisions = []
    for index, (source, gained) in enumerate(zip(grown["sources"], grown["gained"], strict=True)):
        if source < 0:
            decisions.append(Decision(index, -1, ("a new group",), ()))
            continue
        before = [name for name, inside in zip(origin["classes"], old_members[source], strict=True) if inside]
        reasons = [f"its group gained {list_some((names[label] for label in gained), SHOWN)}"] if gained else []
        lost = [name for name in before if name not in set(names)]
        reasons += [f"its group lost {list_some(lost, SHOWN)}"] if lost else []
        reasons += [f"changed: {list_some(settings, SHOWN)}"] if settings else []
        if not has_network(run, f"specialists/{source:03d}"):
            reasons.append("it failed in the old run")
        if config.specialists.dustbin == "single":
            reasons.append("its dustbin is a single unit, which stands for the classes of its time")
        unseen_before = set(origin["unseen"].get(f"{source:03d}", ()))
        seen = {name for name in origin["classes"] if name not in unseen_before}
        reasons += describe_data_change(*rows, before, seen, config.grow.changed)
        unseen = tuple(label for label, name in enumerate(names) if name not in seen)
        decisions.append(Decision(index, source, tuple(reasons), () if reasons else unseen))
    return decisions


def list_changed_settings(old: Mapping[str, Any], config: Config) -> list[str]:
    """Settings by which specialists are trained that are not what they were. old: the old run's, nested."""
    new = config.model_dump(mode="json", include={"balance": True, "specialists": True})
    return [
        f"{section}.{name} {old[section][name]} -> {value}"
        for section in new
        for name, value in new[section].items()
        if name not in NOT_TRAINING and name in old[section] and old[section][name] != value
    ]


Rows = dict[str, set[int]]
"""Fingerprints of training examples by class name."""


def describe_data_change(old: Rows, new: Rows, inside: list[str], seen: set[str], limit: float) -> list[str]:
    """Why the examples of a group's classes call for training; nothing where they are nearly the same."""
    change = measure_change(old, new, inside)
    if change > limit:
        return [f"{change:.0%} of its examples changed"]
    odds = measure_odds(old, new, inside, sorted(seen & set(old) & set(new) - set(inside)))
    if odds - 1 > limit:
        return [f"its examples' odds against the other known classes' changed by a factor of {odds:.2f}"]
    return []


def read_old_rows(run: RunFolder, classes: list[str]) -> Rows:
    """Of the old run's fit split."""
    folder = run.stage_folder(ORIGIN)
    fit = read_array(folder / "splits.npy") == SPLITS.index("fit")
    return _collect(read_array(folder / "rows.npy")[fit], read_array(folder / "labels.npy")[fit], classes)


def read_new_rows(run: RunFolder, examples: Examples) -> Rows:
    """Of this run's fit split."""
    rows = read_split(run, "fit").numpy()
    hashes = read_array(run.stage_folder("splits") / "rows.npy")
    return _collect(hashes[rows], examples.y[rows].numpy(), examples.class_names)


def _collect(rows: Array, labels: Array, classes: Any) -> Rows:
    found: Rows = defaultdict(set)
    for label in np.unique(labels):
        found[classes[label]] = set(rows[labels == label].tolist())
    return dict(found)


def keep_specialists(run: RunFolder, decisions: list[Decision], generalist: nn.Module, examples: Examples) -> None:
    """Write the kept specialists and grown.json. Rows of classes that one has not seen are the generalist's; not read.

    generalist: this run's, with its weights.
    """
    kept = [decision for decision in decisions if decision.kept]
    for decision in kept:
        name, folder = f"specialists/{decision.source:03d}", run.specialist_folder(decision.index)
        record = read_json(run.stage_folder(ORIGIN) / "networks" / name / "training.json")
        write_tensors(folder / "weights.safetensors", map_network(run, generalist, name, examples))
        write_json(folder / "training.json", {**record, "sha256": hash_file(folder / "weights.safetensors")})
    write_json(run.stage_folder("specialists") / "grown.json", [asdict(decision) for decision in kept])


def describe_decisions(decisions: list[Decision]) -> list[str]:
    """A line for each specialist, those that are trained first."""
    trained = [f"specialist {one.index:03d} is trained: {'; '.join(one.reasons)}" for one in decisions if not one.kept]
    kept = [f"{one.index:03d} ({one.source:03d} there)" for one in decisions if one.kept]
    return [*trained, *([f"kept as they are: {', '.join(kept)}"] if kept else [])]


def list_dissolved(run: RunFolder, config: Config) -> list[int]:
    """Numbers of the old groups that hold no more; all, where not even one is kept."""
    if not has_specialists(config) or not has_old_groups(run, config):
        return []
    path = run.stage_folder("groups") / "grown.json"
    if path.exists():
        return list(read_json(path)["dissolved"])
    return list(range(len(read_array(run.stage_folder(ORIGIN) / "members.npy"))))


def describe_growth(run: RunFolder, config: Config, examples: Examples) -> dict[str, Any]:
    """What report.json says of a run that grew: from where, and what was kept or trained anew, and why."""
    origin, names = read_json(run.stage_folder(ORIGIN) / "origin.json"), examples.class_names
    decisions = decide_specialists(run, config, examples)
    return {
        "from": origin["from"],
        "version": origin["version"],
        "new_classes": [name for name in names if name not in set(origin["classes"])],
        "gone_classes": [name for name in origin["classes"] if name not in set(names)],
        "examples": read_json(run.stage_folder("splits") / "known.json"),
        "prior": read_old_prior(run),
        "warm": list_warm(run, config),
        "passes": config.grow.passes,
        "dissolved_groups": list_dissolved(run, config),
        "kept": [asdict(one) | {"unseen": [names[label] for label in one.unseen]} for one in decisions if one.kept],
        "trained": [asdict(one) for one in decisions if not one.kept],
    }
