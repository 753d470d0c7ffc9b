"""What networks are fed: how often each row, which classes count for how much, and how batches are changed.

Comes in: the run folder, settings and examples. Goes out: the parts that a stage makes its `Batches` and losses of.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from raydistill.balance import Balance, read_balance, sample_by_weight
from raydistill.batches import Batch, Change, Sampler, mix_seed, repeat_rows
from raydistill.config import Config, TrainingConfig
from raydistill.data.arrays import Examples, read_normalisation, read_split
from raydistill.data.augment import Augment, Draw
from raydistill.mixup import mix_batch
from raydistill.run_folder import RunFolder

AUGMENT_STREAM = 2  # of a network's seed


def open_balance(run: RunFolder, config: Config, examples: Examples) -> Balance | None:
    """What is done for rare classes, by the shares of classes in the fit split; None where nothing is."""
    return read_balance(config.balance, examples.y[read_split(run, "fit")], examples.classes)


def sample_rows(examples: Examples, rows: Tensor, count: int, balance: Balance | None) -> Sampler:
    """So many rows an epoch: all alike, again and again, or each class as often as the balance wants it."""
    if balance is None or balance.sampling == 0:
        return repeat_rows(rows, count)
    return sample_by_weight(rows, balance.weigh_rows(examples.y[rows]), count)


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
