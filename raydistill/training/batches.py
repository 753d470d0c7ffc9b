"""What a training is fed: batches that depend on nothing but seed and epoch, wherever and whenever they are made.

Comes in: mapped examples, a sampler of rows, a seed. Goes out: whole batches of an epoch in the stored type, on the
device; with several data-parallel workers, this worker's share of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from raydistill.data.arrays import Examples, draw_shifts, prepare_images
from raydistill.data.views import Views
from raydistill.training.orders import LARGE, Rows, order_rounds
from raydistill.training.seeds import mix_seed
from raydistill.training.workers import worker_rank

SMALLEST_BATCH, LARGEST_BATCH = 16, 256
CHUNK_ROWS = 1 << 16  # of an epoch whose row numbers are looked up at once
FEWEST_STEPS = 32  # of a pass; measured: digits, 1078 examples, learn nothing in 20 passes of 4 steps


@dataclass(frozen=True)
class Batch:
    """rows: (B,) row numbers; inputs: (B, ...) in the stored type; labels: (B,); view: which of the rows' views.

    partners: (B,) labels of the examples that each is mixed with, own_shares: (B,) its own share; None: not mixed.
    """

    rows: Tensor
    inputs: Tensor
    labels: Tensor
    view: int = 0
    partners: Tensor | None = None
    own_shares: Tensor | None = None


Sampler = Callable[[torch.Generator], Rows]
"""Generator -> the row numbers of one epoch, in the order of use, always equally many."""


Change = Callable[[Batch, Tensor, int], Batch]
"""(batch, keys (B,), epoch) -> the batch that is learned from."""


@dataclass(frozen=True)
class Batches:
    """Batches of one training.

    batch_size: examples in a step over all workers; None: by the number of examples. shift: random shifts of up to so
    many pixels, afresh at each pass. views: the rows' views in turn instead, one a pass. change: what else is done to a
    batch, by its keys (B,), the places of its examples in the epoch, and the epoch: see augment.py and mixup.py.
    """

    examples: Examples
    sampler: Sampler
    batch_size: int | None
    shift: int
    seed: int
    device: torch.device
    views: Views | None = None
    change: Change | None = None

    def rows_of(self, epoch: int) -> Rows:
        """Row numbers of an epoch."""
        return self.sampler(self._generator(epoch, 0))

    def iterate(self, epoch: int) -> Iterator[Batch]:
        """Whole batches of an epoch; with several workers, this worker's share of each. A chunk of them at a time."""
        rank, world = worker_rank()
        rows, view = self.rows_of(epoch), epoch % self.views.count if self.views else 0
        take, size, generator = prepare_images(self.examples.x, self.device), self._size, self._generator(epoch, 1)
        whole, chunk = len(rows) // size * size, max(1, CHUNK_ROWS // size) * size
        for first in range(0, whole, chunk):
            chosen = rows[first : min(first + chunk, whole)]
            shifts = self._shifts_of(chosen, view, generator)
            for start in range(0, len(chosen), size):
                here = slice(start + rank, start + size, world)
                mine = chosen[here]
                inputs = take(mine, shifts if shifts is None else shifts[here].long())
                labels = self.examples.y.index_select(0, mine).to(self.device, non_blocking=True)
                if self.views is not None:
                    inputs = self.views.change(inputs, mine, view)
                batch = Batch(mine, inputs, labels, view)
                if self.change is not None:
                    batch = self.change(batch, torch.arange(first + here.start, first + here.stop, world), epoch)
                yield batch

    def _shifts_of(self, rows: Tensor, view: int, generator: torch.Generator) -> Tensor | None:
        """Shifts (n, 2) of the next of an epoch's rows (n,), in their order, if any, in a small type."""
        if self.views is not None:
            return self.views.shifts(rows, view)
        return draw_shifts(len(rows), self.shift, generator).short() if self.shift else None

    def count_steps(self) -> int:
        """Steps in an epoch."""
        return self._epoch_rows // self._size

    @cached_property
    def _epoch_rows(self) -> int:
        return len(self.rows_of(0))

    @property
    def _size(self) -> int:
        return min(self.batch_size or choose_batch_size(self._epoch_rows), self._epoch_rows)

    def _generator(self, epoch: int, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(mix_seed(self.seed, epoch, stream))


def choose_batch_size(rows: int) -> int:
    """Examples in a step for a pass over so many: a power of two that leaves 32 steps or more, from 16 to 256."""
    most = max(1, rows // FEWEST_STEPS)
    return min(max(1 << (most.bit_length() - 1), SMALLEST_BATCH), LARGEST_BATCH)


def shuffle_rows(rows: Tensor) -> Sampler:
    """Each row once, in random order."""
    return repeat_rows(rows, len(rows))


def repeat_rows(rows: Tensor, count: int) -> Sampler:
    """So many rows an epoch: all of them, in random order, again and again; of the last round as many as are left."""
    rounds = -(-count // len(rows))

    def sample(generator: torch.Generator) -> Rows:
        if count > LARGE:
            return order_rounds(rows, count, generator)
        return torch.cat([rows[torch.randperm(len(rows), generator=generator)] for _ in range(rounds)])[:count]

    return sample
