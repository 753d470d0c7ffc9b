"""The transfer set: the training rows that the student learns from.

Comes in: labels of the training rows and the `transfer` section. Goes out: the chosen rows, or a ConfigError.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydistill.errors import ConfigError
from raydistill.settings.config import TransferConfig


def choose_transfer_rows(
    rows: Tensor, labels: Tensor, settings: TransferConfig, class_names: Sequence[str], seed: int
) -> Tensor:
    """The part of the training rows that the settings ask for, in their order.

    rows: (N,); labels: (N,), theirs. A share is drawn class by class, by the seed, at least one row of each class.
    """
    kept = torch.isin(labels, find_kept_classes(settings, class_names))
    if settings.share < 1:
        kept &= _draw_share(labels, settings.share, seed)
    return rows[kept]


def find_kept_classes(settings: TransferConfig, class_names: Sequence[str]) -> Tensor:
    """Numbers of the classes of the transfer set. Raises ConfigError for an unknown class, or if none is left."""
    number = {name: index for index, name in enumerate(class_names)}
    for field, names in (("only", settings.only), ("without", settings.without)):
        unknown = [name for name in names if name not in number]
        if unknown:
            shown = ", ".join(class_names[:10]) + (", …" if len(class_names) > 10 else "")
            raise ConfigError(f"transfer.{field}: {unknown[0]!r} is not a class; give some of {shown}")
    kept = [number[name] for name in settings.only or class_names if name not in settings.without]
    if not kept:
        raise ConfigError("transfer.without: no class is left; leave at least one in the transfer set")
    return torch.tensor(sorted(kept))


def _draw_share(labels: Tensor, share: float, seed: int) -> Tensor:
    """Boolean (N,): a random share of each class, at least one."""
    order = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)).argsort()
    order = order[labels[order].argsort(stable=True)]  # by class, at random within it
    counts = labels.bincount()
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    drawn[order] = rank < (share * counts).round().clamp(min=1)[labels[order]]
    return drawn
