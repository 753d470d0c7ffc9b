"""Views: a few seeded, changed versions of each row's image, the same ones wherever and whenever they are made.

Comes in: images, their row numbers, the number of a view. Goes out: images that are shifted, or changed otherwise. The
cache of soft targets holds the teacher's answer to each view, as in Shen and Xing 2022 (FKD): teacher and student see
the same images, which Beyer et al. 2022 found to matter most, together with a long training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raydistill.data.arrays import prepare_images
from raydistill.errors import ConfigError
from raydistill.training.orders import LARGE
from raydistill.training.permutation import permute, scramble

if TYPE_CHECKING:
    from raydistill.data.augment import Augment

DEFAULT_VIEWS = 8
BLOCK_ROWS = 1 << 16  # whose random numbers are in memory at once


@dataclass(frozen=True)
class Views:
    """The views of N rows. View 0 is the image itself; the others are shifts, all different for a row.

    pixels: shifts go up to so many, down and right. count: views of a row, 1 to (2 pixels + 1)² of them, more only with
    augment: what is done to all views but the first, beside, as a function of row and view.
    """

    rows: int
    pixels: int
    count: int
    seed: int
    augment: Augment | None = None

    @cached_property
    def _shifts(self) -> Tensor:
        """(N, count, 2) int8, of no more than LARGE rows."""
        moved = _list_shifts(self.pixels)
        generator = torch.Generator().manual_seed(self.seed)
        shifts = torch.zeros(self.rows, self.count, 2, dtype=torch.int8)
        for block in shifts.split(BLOCK_ROWS):
            order = torch.rand(len(block), len(moved), generator=generator).argsort(dim=1)
            block[:, 1:] = moved[order[:, torch.arange(self.count - 1) % len(moved)]]
        return shifts

    def shifts(self, rows: Tensor, view: int) -> Tensor | None:
        """Shifts (B, 2) int8 of one view of the given rows (B,), down and right; None for the images as they are."""
        if view == 0 or self.pixels == 0:
            return None
        return self._shifts[rows, view] if self.rows <= LARGE else self._compute_shifts(rows, view)

    def _compute_shifts(self, rows: Tensor, view: int) -> Tensor:
        """The same in no memory by row: a row's key gives the order of all shifts, whose next one each view takes."""
        moved = _list_shifts(self.pixels)
        turn = torch.full_like(rows, (view - 1) % len(moved))
        return moved[permute(turn, len(moved), scramble(rows + scramble(torch.tensor([self.seed]))))]

    def change(self, images: Tensor, rows: Tensor, view: int) -> Tensor:
        """What is done to one view of the images (B, ...) of the given rows (B,), once they are shifted."""
        return images if view == 0 or self.augment is None else self.augment(images, rows, view)

    def show(self, images: Tensor, rows: Tensor, view: int) -> Tensor:
        """One view of the images (B, ...) of the given rows (B,)."""
        shifts = self.shifts(rows, view)
        take = prepare_images(images, images.device)
        shown = take(torch.arange(len(images)), shifts if shifts is None else shifts.long())
        return self.change(shown, rows, view)


def _list_shifts(pixels: int) -> Tensor:
    """All shifts of up to so many pixels but none, (n, 2) int8."""
    side = torch.arange(-pixels, pixels + 1, dtype=torch.int8)
    every = torch.cartesian_prod(side, side)
    return every[(every != 0).any(dim=1)]


def count_views(asked: int | None, pixels: int, input_shape: tuple[int, ...], *, augmented: bool = False) -> int:
    """Number of views: as asked, or the default. Raises ConfigError if there are not so many."""
    possible = (2 * pixels + 1) ** 2 if len(input_shape) > 1 else 1
    if augmented:
        return asked or DEFAULT_VIEWS
    if asked is None:
        return min(DEFAULT_VIEWS, possible)
    if asked > possible:
        raise ConfigError(
            f"targets.views: {asked} is not allowed; give 1 to {possible}, as many as student.shift = {pixels} makes of"
            f" examples of shape {input_shape}, a larger student.shift, or student.augment"
        )
    return asked
