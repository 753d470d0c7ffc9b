"""Orders of an epoch's rows that take no memory by row, for epochs too long to be drawn at once.

Comes in: mapped row numbers, whose like a generator draws. Goes out: an `Order`, which computes the rows of any places
of the epoch when it is asked for them, and says the same each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from raydistill.training.permutation import permute, scramble, shift_right

LARGE = 1 << 18  # rows of an epoch from which they are computed; fewer are drawn at once
BLOCK_ROWS = 1 << 16  # that are in memory at once
EXACT = 1 << 20  # steps of the fraction at which a systematic sample begins


@dataclass(frozen=True)
class Order:
    """Rows of an epoch. count: of them; find: places (B,) int64 in the epoch -> their row numbers (B,)."""

    count: int
    find: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, places: slice) -> Tensor:
        return self.find(torch.arange(*places.indices(self.count)))


Rows = Tensor | Order
"""What has a length, and row numbers by slices."""


@dataclass(frozen=True)
class ByClass:
    """Rows of some classes, out of all rows sorted by class.

    rows: (N,) of all classes, mapped. begins, counts: (C,) where each class begins there and how many it has, none of
    them without any. weights: (C,) float64, how often each row of a class is drawn, relative to others.
    """

    rows: Tensor
    begins: Tensor
    counts: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return int(self.counts.sum())

    @cached_property
    def edges(self) -> Tensor:
        """(C,): all weights of each class and those before it."""
        return (self.weights * self.counts).cumsum(0)

    @property
    def total(self) -> float:
        """All weights."""
        return float(self.edges[-1]) if len(self.edges) else 0.0

    def keep(self, classes: Tensor) -> ByClass:
        """Those of some classes, by their places here."""
        return ByClass(self.rows, self.begins[classes], self.counts[classes], self.weights[classes])

    def find(self, places: Tensor, key: int | None = None) -> Tensor:
        """Rows (B,) at the places (B,), float64, from 0 to the total, along the weights laid end to end.

        key: of the random order within each class; None: as they are sorted.
        """
        index = torch.searchsorted(self.edges, places, right=True).clamp_max_(len(self.edges) - 1)
        counts, weights = self.counts[index], self.weights[index]
        within = ((places - self.edges[index]) / weights).floor().long() + counts
        within = within.clamp_min_(0).minimum(counts - 1)
        return self.rows[self.begins[index] + (within if key is None else permute(within, counts, index + key))]


def sort_by_class(rows: Tensor, counts: Tensor, weights: Tensor | None = None) -> ByClass:
    """Rows (N,) that are sorted by class, with the number of each class's, (C,); weights (C,): 1 by default."""
    own = torch.ones(len(counts), dtype=torch.float64) if weights is None else weights.double()
    begins, some = counts.cumsum(0) - counts, counts > 0
    return ByClass(rows, begins[some], counts[some], own[some])


def order_rounds(rows: Tensor, count: int, generator: torch.Generator) -> Order:
    """So many of the rows (N,): all of them in random order, again and again."""
    key, size = draw_key(generator), len(rows)
    return Order(count, lambda places: rows[permute(places % size, size, scramble(places // size + key))])


def order_by_weight(rows: ByClass, count: int, generator: torch.Generator) -> Order:
    """So many rows, each in proportion to its weight, up to less than one; see `balance.sample_by_weight`."""
    key, own_key = draw_key(generator), draw_key(generator)
    return Order(count, lambda places: find_evenly(rows, permute(places, count, key), count, own_key))


def order_enriched(own: ByClass, rest: ByClass, others: int, generator: torch.Generator, *, weighted: bool) -> Order:
    """As many of a group's rows as there are, and so many others, with replacement, all in random order.

    weighted: the group's by their weights; otherwise each once.
    """
    mine, (key, own_key, rest_key) = len(own), (draw_key(generator) for _ in range(3))

    def find(places: Tensor) -> Tensor:
        places = permute(places, mine + others, key)
        rows, inside = torch.empty_like(places), places < mine
        taken, drawn = places[inside], places[~inside]
        rows[inside] = find_evenly(own, taken, mine, own_key) if weighted else own.find(taken.double())
        uniform = shift_right(scramble(drawn + rest_key), 11).double().mul_(2.0**-53)
        rows[~inside] = rest.find(uniform * rest.total) if len(drawn) else drawn
        return rows

    return Order(mine + others, find)


def find_evenly(rows: ByClass, numbers: Tensor, count: int, key: int) -> Tensor:
    """Of `count` rows drawn by systematic sampling those of the given numbers (B,)."""
    begin = (key % EXACT) / EXACT
    return rows.find((numbers + begin) * (rows.total / count), key)


def draw_key(generator: torch.Generator) -> int:
    """A key of 62 bits."""
    return int(torch.randint(1 << 62, (), generator=generator))


def count_labels(labels: Tensor, rows: Rows, classes: int) -> Tensor:
    """How many of the rows are of each class, (K,), a block at a time; rows without a label, -1, are of none."""
    counts = torch.zeros(classes + 1, dtype=torch.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        counts += (labels[rows[start : start + BLOCK_ROWS]] + 1).bincount(minlength=classes + 1)
    return counts[1:]
