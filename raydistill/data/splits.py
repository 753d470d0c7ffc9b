"""Splits by purpose: fit (weights), confuse (confusions, early stopping), tune (search), test (the report alone).

Comes in: labels and shares. Goes out: row numbers for each split, stratified by class and seeded; with `keep_apart`,
examples of one value stay in one split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from raydistill.errors import DataError
from raydistill.files import Array

SPLITS = ("fit", "confuse", "tune", "test")
RARE_FIRST = ("fit", "test", "confuse", "tune")  # which splits get one of the rows where there are not enough for all
Rare = Literal["refuse", "allow"]


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


def check_splits(splits: Mapping[str, Array], labels: Array, class_names: Sequence[str], rare: Rare = "refuse") -> None:
    """Raise DataError if a class has no example in some split. rare: allow, and only fit must have all classes."""
    for name, rows in splits.items():
        if rare == "allow" and name != "fit":
            continue
        counts = np.bincount(labels[rows], minlength=len(class_names))
        if not counts.all():
            absent = int(np.argmin(counts))
            total = int((labels == absent).sum())
            raise DataError(
                f"splits.{name}: class {class_names[absent]!r} has no example there ({total} in all);"
                " give it more examples, remove it, change the shares, or give --splits.rare allow"
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
