"""Splits by purpose: fit (weights), confuse (confusions, early stopping), tune (search), test (the report alone).

Comes in: labels and shares, and what the user has said of some examples. Goes out: row numbers for each split; those
that are drawn are stratified by class and seeded; with `keep_apart`, examples of one value stay in one split.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Literal

import numpy as np

from raydistill.errors import DataError
from raydistill.storage.files import Array
from raydistill.words import list_some

SPLITS = ("fit", "confuse", "tune", "test")
RARE_FIRST = ("fit", "test", "confuse", "tune")  # which splits get one of the rows where there are not enough for all
Rare = Literal["refuse", "allow"]
FIT, CONFUSE, TUNE, TEST = range(len(SPLITS))
SPLIT_NAMES = {
    **{"train": FIT, "fit": FIT, "confuse": CONFUSE},
    **{"tune": TUNE, "validation": TUNE, "valid": TUNE, "val": TUNE, "test": TEST},
}
"""What users call them, in values and in names of folders, files and splits. Of fit, what is missing is drawn."""


def number_splits(names: Sequence[str | None], where: str) -> Array:
    """Users' names as numbers of SPLITS, (N,) int8. where: what holds them. Raises DataError for unknown names."""
    unknown = sorted({str(name) for name in names if name not in SPLIT_NAMES})
    if unknown:
        raise DataError(
            f"{where}: {list_some(map(repr, unknown), 5)} is not a split; allowed are {', '.join(SPLIT_NAMES)}"
        )
    return np.array([SPLIT_NAMES[str(name)] for name in names], np.int8)


def check_apart(values: Array, given: Array, where: str) -> None:
    """Raise DataError where examples of one value were put into several splits by the user.

    values: (N,); given: (N,) numbers of SPLITS. where: the setting and what holds the values.
    """
    distinct, inverse = np.unique(values, return_inverse=True)
    low, high = np.full(len(distinct), TEST, np.int8), np.zeros(len(distinct), np.int8)
    np.minimum.at(low, inverse, given)
    np.maximum.at(high, inverse, given)
    if (low < high).any():
        value = int(np.argmax(low < high))
        first, second = (SPLITS[splits[value]].replace("fit", "train") for splits in (low, high))
        raise DataError(
            f"{where}: examples of {str(distinct[value])!r} are in {first} and in {second}"
            f" ({int((low < high).sum())} values are torn apart so); mend the splits, or leave keep_apart out"
        )


def place_rows(
    labels: Array,
    class_names: Sequence[str],
    shares: Mapping[str, float],
    *,
    seed: int,
    given: Array | None = None,
    keep_apart: Array | None = None,
    rare: Rare = "refuse",
) -> dict[str, Array]:
    """Splits of training rows 0 to N-1 of which some are given, (N,) numbers of SPLITS or None; the others are drawn.

    Those of fit are where splits without any row are drawn from; see `split_rows`.
    """
    if given is None:
        return split_rows(labels, class_names, shares, seed=seed, keep_apart=keep_apart, rare=rare)
    free = np.flatnonzero(given == FIT)
    missing = {name: share for name, share in shares.items() if not (given == SPLITS.index(name)).any()}
    apart = None if keep_apart is None else keep_apart[free]
    drawn = split_rows(labels[free], class_names, missing, seed=seed, keep_apart=apart, rare=rare)
    splits = {name: free[rows] for name, rows in drawn.items()}
    splits |= {name: np.flatnonzero(given == SPLITS.index(name)) for name in shares if name not in missing}
    check_splits(splits, labels, class_names, rare, shares.keys() - missing.keys())
    return splits


def split_rows(
    labels: Array,
    class_names: Sequence[str],
    shares: Mapping[str, float],
    *,
    seed: int,
    keep_apart: Array | None = None,
    rare: Rare = "refuse",
) -> dict[str, Array]:
    """Split rows 0 to N-1.

    labels: (N,) class of each row. shares: share of the rows for each split but 'fit', which gets the rest.
    keep_apart: (N,) values that must not be torn apart, or None. rare: see `check_splits`.
    Returns sorted row numbers by split. Raises DataError if a class would have no example in some split.
    """
    rest = 1.0 - sum(shares.values())
    if rest <= 0:
        raise DataError(f"splits: shares {dict(shares)} leave nothing to fit weights on; their sum must be below 1")
    generator = np.random.default_rng([seed, 0x5B117])
    if keep_apart is None:
        places = _place_by_class(labels, shares, generator)
    else:
        places = _place_by_value(keep_apart, shares, generator)
    names = ["fit", *shares]
    splits = {name: np.flatnonzero(places == index) for index, name in enumerate(names)}
    check_splits(splits, labels, class_names, rare)
    return splits


def check_splits(
    splits: Mapping[str, Array],
    labels: Array,
    class_names: Sequence[str],
    rare: Rare = "refuse",
    given: Container[str] = (),
) -> None:
    """Raise DataError if a class has no example in some split.

    rare: allow, and only fit must have all classes. given: names of splits that the user gave.
    """
    for name, rows in splits.items():
        if rare == "allow" and name != "fit":
            continue
        counts = np.bincount(labels[rows], minlength=len(class_names))
        if not counts.all():
            absent = int(np.argmin(counts))
            total = int((labels == absent).sum())
            remedy = "give it more examples, remove it, change the shares, or give --splits.rare allow"
            if name in given:
                remedy = "add some there, or leave this split out of your data, and it is drawn"
            raise DataError(
                f"splits.{name}: class {class_names[absent]!r} has no example there ({total} in all); {remedy}"
            )


def _place_by_class(labels: Array, shares: Mapping[str, float], generator: np.random.Generator) -> Array:
    """Split number of each row: within each class a random order is cut by the shares, at least one row a split.

    A class of fewer rows than splits has one in each of the first of RARE_FIRST.
    """
    ranks = {name: rank for rank, name in enumerate(name for name in RARE_FIRST if name in ("fit", *shares))}
    order = np.lexsort((generator.random(len(labels)), labels))  # by class, at random within it
    counts = np.bincount(labels)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(labels)) - starts[labels[order]]
    places = np.zeros(len(labels), dtype=np.int64)
    edge = np.zeros_like(counts)
    for index, (name, share) in enumerate(shares.items(), start=1):
        size = np.maximum(1, np.rint(share * counts).astype(np.int64))
        size = np.where(counts > len(shares), size, ranks.get(name, 0) < counts)
        inside = (rank >= edge[labels[order]]) & (rank < (edge + size)[labels[order]])
        places[order[inside]] = index
        edge = edge + size
    return places


def _place_by_value(values: Array, shares: Mapping[str, float], generator: np.random.Generator) -> Array:
    """Split number of each row: whole values are dealt out until each split has its share of the rows."""
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) < len(shares) + 1:
        raise DataError(f"splits.keep_apart: {len(distinct)} distinct values; at least {len(shares) + 1} are needed")
    place_of_value = np.zeros(len(distinct), dtype=np.int64)
    order = list(generator.permutation(len(distinct)))
    for index, share in enumerate(shares.values(), start=1):
        taken = 0
        while taken == 0 or (
            taken + counts[order[-1]] / 2 < share * len(values) and len(order) > len(shares) - index + 1
        ):
            value = order.pop()
            place_of_value[value] = index
            taken += int(counts[value])
    return place_of_value[inverse]
