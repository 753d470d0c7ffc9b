"""Growing: what a network and groups of K_old classes are for other classes, of which most are the same by name.

Comes in: weights, groups and affinities of an old run, class names of both. Goes out: weights and groups for the new
classes. Classes that are gone are left out everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from raydistill.errors import ModelError
from raydistill.method.groups import grow_group
from raydistill.method.spectral import cluster_spectral
from raydistill.networks.models import find_output_layer
from raydistill.storage.files import Array, Sparse

HOLDS = 0.5  # of the share of its classes' confusion that a group held in the old run; with less, it is dissolved
COVERED = 0.6  # of a new class's confusion that its groups shall hold
MOST_JOINED = 2  # groups that a new class joins: each is a specialist that is trained anew


def map_classes(old: Sequence[str], new: Sequence[str]) -> Array:
    """(K_new,): the old number of each new class, -1 for those that are new."""
    number = {name: index for index, name in enumerate(old)}
    return np.array([number.get(name, -1) for name in new], dtype=np.int64)


def map_weights(
    tensors: Mapping[str, Tensor], model: nn.Module, old: Sequence[str], new: Sequence[str]
) -> dict[str, Tensor]:
    """An old network's weights for the new classes: output rows by class name, new classes' rows as `model` has them.

    model: of the same architecture for the new classes. The output rows are those of its last linear layer with K_new
    outputs; where it has none, of tensors that count classes in their first dimension. Raises ModelError for weights
    of another architecture.
    """
    base, places = model.state_dict(), torch.from_numpy(map_classes(old, new))
    known = places >= 0
    outputs = _name_outputs(model, len(new))
    if tensors.keys() != base.keys():
        odd = sorted(tensors.keys() ^ base.keys())[0]
        raise ModelError(f"grow_from: {odd!r} is in one of the networks alone; grow with the same model and options")
    mapped: dict[str, Tensor] = {}
    for name, tensor in base.items():
        before = tensors[name].to(tensor.device)
        by_class = before.shape[:1] == (len(old),) and tensor.shape[:1] == (len(new),)
        if name in outputs or (not outputs and by_class and before.shape != tensor.shape):
            rows = tensor.clone()
            rows[known] = before[places[known]].to(rows.dtype)
            mapped[name] = rows
        elif before.shape == tensor.shape:
            mapped[name] = before
        else:
            raise ModelError(
                f"grow_from: {name!r} has shape {tuple(before.shape)} there and {tuple(tensor.shape)} here; grow with"
                " the same model and options, on examples of the same shape"
            )
    return mapped


def _name_outputs(model: nn.Module, classes: int) -> set[str]:
    """Names of the parameters of the output layer; none where it is no linear layer."""
    layer = find_output_layer(model, classes)
    own = next((name for name, module in model.named_modules() if module is layer), None)
    return set() if layer is None or own is None else {f"{own}.{name}" for name in layer.state_dict()}


@dataclass(frozen=True)
class GrownGroups:
    """members: boolean (M, K_new). sources: the old group of each, -1 for new ones. gained: classes that each took in.

    dissolved: old groups that hold no more.
    """

    members: Array
    sources: tuple[int, ...]
    gained: tuple[tuple[int, ...], ...]
    dissolved: tuple[int, ...]


def map_members(members: Array, places: Array) -> Array:
    """Old groups (M, K_old) over the new classes, (M, K_new); places: see `map_classes`."""
    return np.where(places >= 0, members[:, np.maximum(places, 0)], False)


def grow_members(
    members: Array,
    places: Array,
    affinity: Sparse | Array,
    old_affinity: Sparse | Array,
    *,
    overlap: float,
    size: int | None = None,
    seed: int = 0,
) -> GrownGroups:
    """Keep the old groups that hold, and find a place for each new class.

    members: boolean (M, K_old). places: (K_new,), see `map_classes`. affinity: (K_new, K_new); old_affinity: (K_old,
    K_old). An old group holds while it has two classes left and there is one outside, and it holds HOLDS of the share
    of its classes' confusion that it held before. A new class, or one whose groups are all dissolved, joins the groups
    that it is most confused with, until these hold COVERED of its confusion, MOST_JOINED at most; those that are
    confused with each other more than with any old group make new groups.
    """
    affinity, rows = csr_array(affinity), map_members(members, places)
    kept = _list_holding(rows, members, places, affinity, csr_array(old_affinity))
    groups = rows[kept]
    loose = _find_loose(rows, groups, places)
    apart = _find_apart(loose, groups, affinity)
    grown = _join_groups(np.setdiff1d(loose, apart), kept, groups, affinity)
    usual = members.shape[1] / len(members)
    new = _make_groups(apart, affinity, usual, overlap, size, seed)
    unique = _drop_twins([*grown, *(_Grown(row, -1, []) for row in new)])
    return GrownGroups(
        np.array([group.row for group in unique], dtype=bool).reshape(len(unique), len(places)),
        tuple(group.source for group in unique),
        tuple(tuple(group.gained) for group in unique),
        tuple(index for index in range(len(members)) if index not in kept),
    )


@dataclass(frozen=True)
class _Grown:
    """One of `GrownGroups`. row: boolean (K_new,)."""

    row: Array
    source: int
    gained: list[int]


def _list_holding(rows: Array, members: Array, places: Array, affinity: Sparse, old_affinity: Sparse) -> list[int]:
    """Numbers of the old groups that still hold. rows: (M, K_new), the groups over the new classes."""
    pairs = enumerate(zip(rows, members, strict=True))
    return [index for index, (row, before) in pairs if _holds(row, before, places, affinity, old_affinity)]


def _holds(row: Array, before: Array, places: Array, affinity: Sparse, old_affinity: Sparse) -> bool:
    """Whether an old group still holds; both shares are over the classes that are in both runs."""
    if row.sum() < 2 or row.all():
        return False
    common = places >= 0
    was = np.zeros(len(before), dtype=bool)
    was[places[common]] = True
    now = _share_held(affinity, row, common)
    return now >= HOLDS * _share_held(old_affinity, before & was, was)


def _share_held(affinity: Sparse, group: Array, among: Array) -> float:
    """Share of a group's classes' confusion, with classes of `among`, that is within the group."""
    rows = affinity[np.flatnonzero(group)]
    total = rows[:, np.flatnonzero(among)].sum()
    return float(rows[:, np.flatnonzero(group)].sum() / total) if total > 0 else 1.0


def _find_loose(rows: Array, groups: Array, places: Array) -> Array:
    """Classes that need a place: those in no kept group that are new, or whose groups are all dissolved."""
    return np.flatnonzero(~groups.any(axis=0) & ((places < 0) | rows.any(axis=0)))


def _find_apart(loose: Array, groups: Array, affinity: Sparse) -> Array:
    """Those of the loose classes that are confused with each other more than with any group; none or at least two."""
    if len(loose) < 2:
        return loose[:0]
    pull = affinity[loose]
    among = np.asarray(pull[:, loose].sum(axis=1)).ravel()
    best = np.asarray(pull @ groups.T.astype(float)).max(axis=1) if len(groups) else np.zeros(len(loose))
    apart = loose[among > best]
    return apart if len(apart) > 1 else loose[:0]


def _join_groups(labels: Array, kept: Sequence[int], groups: Array, affinity: Sparse) -> list[_Grown]:
    """The kept groups, each with the loose classes that join it. kept: their old numbers."""
    grown = [_Grown(row.copy(), source, []) for source, row in zip(kept, groups, strict=True)]
    for label in labels.tolist():
        for place in _choose_groups(label, groups, affinity):
            grown[place].gained.append(label)
    for group in grown:
        group.row[group.gained] = True
        if group.row.all():
            left_out = _find_least_confused(group.gained, affinity)
            group.gained.remove(left_out)
            group.row[left_out] = False
    return grown


def _find_least_confused(labels: Sequence[int] | Array, affinity: Sparse) -> int:
    """Which of these classes to leave out of a group of all: a specialist needs a class outside."""
    return int(labels[int(np.asarray(affinity[labels].sum(axis=1)).ravel().argmin())])


def _choose_groups(label: int, groups: Array, affinity: Sparse) -> list[int]:
    """Groups for a class, those that hold most of its confusion first."""
    pull = affinity[[label]].toarray().ravel()
    left, total, chosen = pull.copy(), pull.sum(), list[int]()
    while len(groups) and len(chosen) < MOST_JOINED and left.sum() > (1 - COVERED) * total:
        held = groups @ left
        if held.max() <= 0:
            break
        chosen.append(int(held.argmax()))
        left[groups[chosen[-1]]] = 0
    return chosen


def _make_groups(
    labels: Array, affinity: Sparse, usual: float, overlap: float, size: int | None, seed: int
) -> list[Array]:
    """New groups of classes that belong together, of the old ones' usual size, each grown as all groups are."""
    if len(labels) == 0:
        return []
    count = min(max(1, round(len(labels) / usual)), len(labels) // 2)
    parts = np.zeros(len(labels), dtype=np.int64)
    if count > 1:
        parts = cluster_spectral(affinity[labels][:, labels], count, seed=seed)
    made = []
    for part in np.unique(parts):
        row = np.zeros(affinity.shape[0], dtype=bool)
        row[labels[parts == part]] = True
        if row.all():
            row[_find_least_confused(labels, affinity)] = False
        made.append(grow_group(row, affinity, overlap=overlap, size=size))
    return made


def _drop_twins(groups: Sequence[_Grown]) -> list[_Grown]:
    """Those that have other classes than all before them."""
    return [group for i, group in enumerate(groups) if not any((group.row == other.row).all() for other in groups[:i])]


def measure_change(old: Mapping[str, set[int]], new: Mapping[str, set[int]], names: Sequence[str]) -> float:
    """Share by which the training examples of some classes changed: those that came or went, of those that there were.

    old, new: fingerprints of the training examples by class name.
    """
    moved = sum(len(old.get(name, set()) ^ new.get(name, set())) for name in names)
    return moved / max(1, sum(len(old.get(name, set())) for name in names))


def measure_odds(
    old: Mapping[str, set[int]], new: Mapping[str, set[int]], inside: Sequence[str], outside: Sequence[str]
) -> float:
    """Factor by which the odds of a group's examples against the other known classes' changed, 1 or more."""

    def odds(rows: Mapping[str, set[int]]) -> float:
        own, others = (sum(len(rows.get(name, set())) for name in names) for names in (inside, outside))
        return max(1, own) / max(1, others)

    ratio = odds(new) / odds(old)
    return max(ratio, 1 / ratio)
