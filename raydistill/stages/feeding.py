"""What networks are fed: how often each row, which classes count for how much, and how batches are changed.

Comes in: the run folder, settings and examples. Goes out: the parts that a stage makes its `Batches` and losses of.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raydistill.data.arrays import Examples, read_normalisation, read_split
from raydistill.data.augment import Augment, Draw
from raydistill.settings.config import Config
from raydistill.settings.networks import TrainingConfig
from raydistill.storage.files import map_array, write_mapped
from raydistill.storage.run_folder import RunFolder
from raydistill.training.balance import Balance, read_balance, sample_by_weight
from raydistill.training.batches import Batch, Change, Sampler, repeat_rows
from raydistill.training.mixup import mix_batch
from raydistill.training.orders import BLOCK_ROWS, LARGE, ByClass, count_labels, order_by_weight, sort_by_class
from raydistill.training.seeds import mix_seed

AUGMENT_STREAM = 2  # of a network's seed


def open_balance(run: RunFolder, config: Config, examples: Examples) -> Balance | None:
    """What is done for rare classes, by the shares of classes in the fit split; None where nothing is."""
    if config.balance.prior == config.balance.sampling == "natural":
        return None
    return read_balance(config.balance, count_labels(examples.y, read_split(run, "fit"), examples.classes))


def sample_rows(
    examples: Examples, rows: Tensor, count: int, balance: Balance | None, sorted_rows: Tensor | None = None
) -> Sampler:
    """So many rows an epoch: all alike, again and again, or each class as often as the balance wants it.

    sorted_rows: the same by class, where there are many; those without a label last.
    """
    if balance is None or balance.sampling == 0:
        return repeat_rows(rows, count)
    if sorted_rows is not None:
        by_class = weigh_by_class(sorted_rows, count_labels(examples.y, sorted_rows, examples.classes), balance)
        return lambda generator: order_by_weight(by_class, count, generator)
    return sample_by_weight(rows, balance.weigh_rows(examples.y[rows]), count)


def open_by_class(folder: Path, name: str) -> Tensor | None:
    """Rows sorted by class, mapped: those of `write_by_class`; None where they are few."""
    path = folder / f"{name}_by_class.npy"
    return torch.from_numpy(map_array(path)) if path.exists() else None


def write_by_class(folder: Path, name: str, rows: Tensor, labels: Tensor, classes: int) -> None:
    """Write many rows (N,) sorted by class, a block at a time, those without a label last; few are parted when used."""
    path = folder / f"{name}_by_class.npy"
    if len(rows) <= LARGE:
        return
    counts = count_labels(labels, rows, classes)
    free = torch.cat([counts.cumsum(0) - counts, counts.sum().view(1)])  # where the next of each class goes
    with write_mapped(path, (len(rows),), np.int64) as array:
        for block in rows.split(BLOCK_ROWS):
            own = labels[block].where(labels[block] >= 0, classes)
            order, here = own.argsort(stable=True), own.bincount(minlength=classes + 1)
            begins = free - (here.cumsum(0) - here)
            array[(begins[own[order]] + torch.arange(len(block))).numpy()] = block[order].numpy()
            free += here


def weigh_by_class(rows: Tensor, counts: Tensor, balance: Balance | None) -> ByClass:
    """Rows sorted by class, so many of each (K,); those without a label, if any, as a class of their own."""
    weights = torch.ones(len(counts)).double() if balance is None else balance.weigh_kinds(counts)
    unlabeled = (len(rows) - counts.sum()).view(1)
    return sort_by_class(rows, torch.cat([counts, unlabeled]), torch.cat([weights, torch.ones(1).double()]))


def build_augment(run: RunFolder, names: tuple[str, ...], seed: int) -> Augment | None:
    """What is done to batches by name, mixup aside; None for nothing."""
    changes = tuple(name for name in names if name != "mixup")
    return Augment(changes, read_normalisation(run.stage_folder("splits")), seed) if changes else None


def build_change(run: RunFolder, settings: TrainingConfig, seed: int) -> Change | None:
    """What is done to a generalist's or specialist's batches; None for nothing."""
    if not settings.augment:
        return None
    seed = mix_seed(seed, AUGMENT_STREAM)
    augment = build_augment(run, settings.augment, seed)

    def change(batch: Batch, keys: Tensor, epoch: int) -> Batch:
        if augment is not None:
            batch = replace(batch, inputs=augment(batch.inputs, keys, epoch))
        return mix_batch(batch, Draw(keys, seed, epoch)("mixup", 1)[:, 0]) if "mixup" in settings.augment else batch

    return change
