"""Trained networks on disk: a folder each, with weights, the history of training, and a finished mark that verifies.

weights.safetensors    all parameters and buffers
training.json          history by epoch, best epoch, and the checksum of the weights: the finished mark
checkpoint.safetensors while training: weights, optimiser and history of the last epoch
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from raydistill.batches import choose_batch_size, mix_seed
from raydistill.config import Config
from raydistill.data.arrays import Examples, read_normalisation, read_split, read_transfer_rows
from raydistill.execution import Role
from raydistill.files import hash_file, read_json, read_tensors, refresh, remove, write_json, write_tensors
from raydistill.models import build_model
from raydistill.run_folder import RunFolder
from raydistill.training import Progress, copy_weights
from raydistill.workers import worker_rank

SEEDS = {"generalist": 1, "specialist": 2, "student": 3}
DEFAULT_STEPS, FEWEST_PASSES, MOST_PASSES = 12_000, 8, 40  # of a generalist whose epochs are left out
DEFAULT_SHARES = {"generalist": (1.0, 1), "specialist": (0.4, 3), "student": (1.8, 1)}
"""Passes of each role as a share of the generalist's, and the fewest."""


def network_seed(config: Config, role: str, index: int = 0) -> int:
    """Seed of one network's weights and batches."""
    return mix_seed(config.seed, SEEDS[role], index)


def count_passes(run: RunFolder, config: Config, role: Role) -> int:
    """Passes of a training: as set, or so many that the generalist takes DEFAULT_STEPS, and the others their share."""
    if role == "trial":
        return config.search.epochs or max(2, round(count_passes(run, config, "student") / 6))
    settings = {"generalist": config.generalist, "specialist": config.specialists, "student": config.student}
    given = settings[role].epochs
    if given is not None:
        return given
    rows, share, fewest = len(read_split(run, "fit")), *DEFAULT_SHARES[role]
    if role == "student":
        transfer = len(read_transfer_rows(run))
        share *= max(1.0, rows / transfer)  # a smaller transfer set is seen more often
        rows = max(rows, transfer)  # a larger one, by unlabeled rows, as a generalist of so many rows would be
    steps = rows / (config.generalist.batch_size or choose_batch_size(rows))
    passes = config.generalist.epochs or min(max(round(DEFAULT_STEPS / steps), FEWEST_PASSES), MOST_PASSES)
    return max(fewest, round(share * passes))


def build_generalist(run: RunFolder, config: Config, examples: Examples, index: int = 0) -> nn.Module:
    """The generalist's architecture with seeded weights. index: 0 for the run's own, else that of another seed."""
    seed = network_seed(config, "generalist", index)
    return _build(run, config.generalist.model, config.generalist.options, examples, seed)


def build_student(run: RunFolder, config: Config, examples: Examples) -> nn.Module:
    """The student's architecture with seeded weights; the generalist's, unless student.model names another."""
    model, options = config.student.model, config.student.options
    if model is None:
        model, options = config.generalist.model, options or config.generalist.options
    return _build(run, model, options, examples, network_seed(config, "student"))


def _build(run: RunFolder, model: str, options: dict[str, Any], examples: Examples, seed: int) -> nn.Module:
    return build_model(
        model,
        options,
        input_shape=examples.input_shape,
        classes=examples.classes,
        normalisation=read_normalisation(run.stage_folder("splits")),
        seed=seed,
    )


def train_once(folder: Path, train: Callable[[Path], tuple[nn.Module, Progress]]) -> dict[str, Any]:
    """Train a network unless its folder holds the finished one. `train` is given the checkpoint's path.

    Returns what training.json holds.
    """
    refresh(folder)  # what another node may have done of it
    if not is_trained(folder):
        checkpoint = folder / "checkpoint.safetensors"
        model, progress = train(checkpoint)
        if worker_rank()[0] != 0:
            return {"history": progress.history, "best_epoch": progress.best_epoch}
        write_tensors(folder / "weights.safetensors", copy_weights(model))
        record = {"history": progress.history, "best_epoch": progress.best_epoch}
        write_json(folder / "training.json", {**record, "sha256": hash_file(folder / "weights.safetensors")})
        remove(checkpoint)
    return read_training(folder)


def is_trained(folder: Path) -> bool:
    """Whether the folder holds a finished network whose weights verify."""
    try:
        return bool(read_training(folder)["sha256"] == hash_file(folder / "weights.safetensors"))
    except (OSError, ValueError, KeyError):
        return False


def read_training(folder: Path) -> dict[str, Any]:
    """What training left: history by epoch, best epoch, checksum."""
    return read_json(folder / "training.json")  # type: ignore[no-any-return]


def read_repair(folder: Path) -> dict[str, Any] | None:
    """The biases that were repaired after a student's training: classes, offsets in nats; None where none were."""
    path = folder / "repair.json"
    return read_json(path) if path.exists() else None


def load_weights(model: nn.Module, folder: Path) -> nn.Module:
    """Fill a model with a finished network's weights, in evaluation mode."""
    model.load_state_dict(read_tensors(folder / "weights.safetensors")[0])
    return model.eval()
