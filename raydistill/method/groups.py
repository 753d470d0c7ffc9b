"""Groups of confused classes, one for each specialist, and what can be said of them before the fan-out.

Comes in: an affinity (K, K), sparse or dense. Goes out: `members`, a boolean matrix (M, K); its coverage, stability
and forecast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from raydistill.errors import ConfigError
from raydistill.method.confusion import Affinity, Predictions, build_affinity, measure_confusion, measure_covariance
from raydistill.method.spectral import cluster_spectral
from raydistill.storage.files import Array, Sparse

Method = Literal["spectral", "kmeans", "random"]


def choose_group_count(classes: int) -> int:
    """Default number of specialists: 0.7 √K (16 for 523 classes, 38 for 2965), at least 2."""
    return max(2, round(0.7 * math.sqrt(classes)))


def check_group_count(groups: int, classes: int) -> None:
    """Raise ConfigError unless 2 <= groups <= K // 2, so that groups can have two classes each."""
    allowed = max(2, classes // 2)
    if not 2 <= groups <= allowed:
        raise ConfigError(
            f"specialists.groups: {groups} for {classes} classes is not allowed;"
            f" give 2 to {allowed}, so that a group has 2 classes"
        )


def cluster_covariance(covariance: Array, groups: int, *, seed: int) -> Array:
    """Partition classes by k-means on the covariance's columns. Source: Hinton, Vinyals, Dean 2015, section 5.3."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(groups, random_state=seed, n_init=3, batch_size=max(1024, len(covariance)))
    return model.fit_predict(covariance.T)  # type: ignore[no-any-return]


def group_classes(
    affinity: Sparse | Array,
    groups: int,
    *,
    covariance: Array | None = None,
    overlap: float = 0.5,
    size: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
) -> Array:
    """Overlapping groups of confused classes.

    affinity: (K, K) symmetric, non-negative, zero diagonal; a scipy.sparse matrix or an array. covariance: (K, K); if
    given, the paper's k-means on its columns makes the partition instead of spectral clustering. overlap, size: see
    `grow_groups`. shuffle: exchange the classes of the finished groups by one random permutation, a control with the
    same sizes and overlaps.
    Returns members, boolean (M, K), 2 <= M <= groups: empty clusters and repeated groups are dropped. Where all classes
    fall into one cluster (nothing is confused), they are cut in order into equal parts. Raises ConfigError for a wrong
    count.
    """
    classes = affinity.shape[0]
    check_group_count(groups, classes)
    if covariance is None:
        partition = cluster_spectral(affinity, groups, seed=seed)
    else:
        partition = cluster_covariance(covariance, groups, seed=seed)
    if len(np.unique(partition)) == 1:
        partition = np.arange(classes) * groups // classes
    members = grow_groups(partition, affinity, overlap=overlap, size=size)
    return members[:, np.random.default_rng(seed).permutation(classes)] if shuffle else members


def grow_groups(partition: Array, affinity: Sparse | Array, *, overlap: float, size: int | None = None) -> Array:
    """Let each group of a partition (K,) take in the classes that it is most confused with.

    partition: group numbers, at least 2 of them. overlap: growth as a share of the group's size; size: classes to grow
    to, instead. A group ends with 2 to K - 1 classes. Only classes with some confusion are taken, but for reaching 2.
    Returns members (M, K); groups that became the same are one.
    """
    affinity = csr_array(affinity)
    members = np.stack([partition == group for group in np.unique(partition)])
    members = np.stack([grow_group(row, affinity, overlap=overlap, size=size) for row in members])
    return members[np.sort(np.unique(members, axis=0, return_index=True)[1])]  # a twin would count double in equation 5


def grow_group(row: Array, affinity: Sparse, *, overlap: float, size: int | None = None) -> Array:
    """One group, boolean (K,), with the classes that it takes in; see `grow_groups`. affinity: a csr_array."""
    row, own = row.copy(), int(row.sum())
    goal = size if size is not None else math.ceil(own * (1 + overlap))
    goal = min(max(goal, 2, own), len(row) - 1)
    pull = affinity[row].sum(axis=0)
    pull[row] = -1.0
    candidates = np.argsort(-pull, kind="stable")[: max(0, goal - own)]
    enough = np.arange(len(candidates)) < 2 - own
    row[candidates[(pull[candidates] > 0) | enough]] = True
    return row


def measure_mass_covered(members: Array, affinity: Sparse | Array) -> float:
    """Share of the confusion between pairs of classes that some group holds both of, from 0 to 1."""
    pairs, groups_of_class = coo_array(affinity), np.packbits(members.T, axis=1)  # (K, M / 8)
    total, covered = pairs.data.sum(), 0.0
    for start in range(0, pairs.nnz, 2**20):
        part = slice(start, start + 2**20)
        together = (groups_of_class[pairs.row[part]] & groups_of_class[pairs.col[part]]).any(axis=1)
        covered += pairs.data[part][together].sum()
    return float(covered / total) if total > 0 else 0.0


def measure_stability(
    predictions: Predictions,
    labels: Tensor,
    groups: int,
    *,
    affinity: Affinity,
    method: Method,
    bootstraps: int,
    seed: int,
) -> list[float]:
    """Adjusted Rand index between the partition and that of resampled examples, for each bootstrap; 1 is the same.

    Method random: of the spectral partition, before its classes are exchanged.
    """
    from sklearn.metrics import adjusted_rand_score

    def partition(rows: Tensor) -> Array:
        part, part_labels = predictions[rows.numpy()], labels[rows]
        if method == "kmeans":
            return cluster_covariance(measure_covariance(part), groups, seed=seed)
        return cluster_spectral(build_affinity(measure_confusion(part, part_labels, affinity)), groups, seed=seed)

    if not bootstraps:
        return []
    generator = torch.Generator().manual_seed(seed)
    whole = partition(torch.arange(len(labels)))
    resampled = [torch.randint(len(labels), (len(labels),), generator=generator) for _ in range(bootstraps)]
    return [float(adjusted_rand_score(whole, partition(rows))) for rows in resampled]


@dataclass(frozen=True)
class GroupForecast:
    """What a perfect specialist of one group could gain, and what it costs. Shares are of the confuse split, 0 to 1."""

    classes: int
    natural_share: float
    """share of the examples that belong to the group"""
    fixable: float
    """share of all examples that the generalist takes for another class of the group: the most that can be gained"""
    examples_an_epoch: int
    """training examples in an epoch of this specialist"""


def forecast_groups(
    members: Array, predictions: Predictions, labels: Tensor, fit_labels: Tensor, *, top_n: int, group_share: float
) -> tuple[list[GroupForecast], float]:
    """Upper bounds of the gain in accuracy, group by group and for all groups together.

    members: (M, K). predictions and labels (N,): of the confuse split. fit_labels: labels of the training rows.
    A specialist can mend an error if it is asked (its classes meet the top_n predictions, as far as these were kept)
    and it knows the true class.
    Returns the groups' forecasts and the accuracy that perfect specialists together could add. Raises ConfigError for a
    top_n above K, which equation 5 would refuse once all specialists are trained.
    """
    classes = predictions.classes
    if top_n > classes:
        raise ConfigError(f"ensemble.top_n: {top_n} for {classes} classes is not allowed; give 1 to {classes}")
    known = torch.from_numpy(members)
    top = torch.from_numpy(predictions.top[:, :top_n]).long()
    wrong = top[:, 0] != labels
    fixable_by_any = torch.zeros(len(labels), dtype=torch.bool)
    forecasts = []
    for row in known:
        fixable = wrong & row[labels] & row[top].any(dim=1)
        fixable_by_any |= fixable
        examples = int(row[fit_labels].sum())
        forecasts.append(
            GroupForecast(
                classes=int(row.sum()),
                natural_share=float(row[fit_labels].double().mean()),
                fixable=float(fixable.double().mean()),
                examples_an_epoch=round(examples / group_share),
            )
        )
    return forecasts, float(fixable_by_any.double().mean())


def name_group(members: Sequence[int], class_names: Sequence[str], most: int = 24) -> str:
    """Class names of a group in a line: «AÀÁÂ» for single characters, 'cat, dog' otherwise."""
    names = [class_names[index] for index in members]
    shown = names[:most]
    dots = "…" if len(names) > most else ""
    return f"«{''.join(shown)}{dots}»" if all(len(name) == 1 for name in names) else ", ".join(shown) + dots
