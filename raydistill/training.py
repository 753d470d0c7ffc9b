"""The one training loop, for generalist, specialist and student: they differ by their batches and their loss.

Comes in: a model, `Batches`, a loss for each example, settings. Goes out: the trained model and its history. A
checkpoint an epoch holds weights, optimiser and history in one file; a run that is started again goes on from it, and
ends with the same weights as an undisturbed one (same kind of processor, same number of threads and workers).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raydistill.config import TrainingConfig
from raydistill.data.arrays import Examples, shift_images
from raydistill.execution import Beat
from raydistill.files import read_tensors, write_tensors

WARM_UP = 0.05  # share of all steps over which the learning rate rises
BEAT_SECONDS = 0.5
PREDICT_BATCH = 4096


@dataclass(frozen=True)
class Batch:
    """rows: (B,) row numbers; inputs: (B, ...) in the stored type; labels: (B,)."""

    rows: Tensor
    inputs: Tensor
    labels: Tensor


Loss = Callable[[Tensor, Batch], Tensor]
"""(logits (B, K), batch) -> nats for each example, (B,)."""
Sampler = Callable[[torch.Generator], Tensor]
"""Generator -> the row numbers of one epoch, in the order of use, always equally many."""


@dataclass(frozen=True)
class Score:
    """What validation says: loss in nats (lower is better), accuracy from 0 to 1."""

    loss: float
    accuracy: float


Validate = Callable[[nn.Module], Score]


@dataclass
class Progress:
    """Where a training stands. history: a record an epoch; best_*: of the epoch with the lowest validation loss."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf


@dataclass(frozen=True)
class Batches:
    """Batches of one training: the same for the same seed and epoch, wherever and whenever they are made."""

    examples: Examples
    sampler: Sampler
    batch_size: int
    shift: int
    seed: int
    device: torch.device

    def rows_of(self, epoch: int) -> Tensor:
        """Row numbers of an epoch."""
        return self.sampler(self._generator(epoch, 0))

    def iterate(self, epoch: int) -> Iterator[Batch]:
        """Whole batches of an epoch; with several workers, this worker's share of each."""
        rank, world = worker_rank()
        shift_generator = self._generator(epoch, 1 + rank)
        rows = self.rows_of(epoch)
        size = min(self.batch_size, len(rows))
        for start in range(0, len(rows) - size + 1, size):
            mine = rows[start + rank : start + size : world]
            inputs = self.examples.x[mine].to(self.device, non_blocking=True)
            labels = self.examples.y[mine].to(self.device, non_blocking=True)
            yield Batch(mine, shift_images(inputs, self.shift, shift_generator), labels)

    def count_steps(self) -> int:
        """Steps in an epoch."""
        rows = len(self.rows_of(0))
        return rows // min(self.batch_size, rows)

    def _generator(self, epoch: int, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(mix_seed(self.seed, epoch, stream))


def shuffle_rows(rows: Tensor) -> Sampler:
    """Each row once, in random order."""
    return lambda generator: rows[torch.randperm(len(rows), generator=generator)]


def train_model(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    settings: TrainingConfig,
    *,
    validate: Validate,
    patience: int | None = None,
    checkpoint: Path | None = None,
    beat: Beat,
) -> Progress:
    """Train in place; with `patience`, stop early and end with the best epoch's weights (epoch 0 is the start).

    patience: epochs without improvement of the validation loss, or None to train in full and keep the last weights.
    checkpoint: file to resume from and to write an epoch; None for none.
    Raises FloatingPointError if the loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    best = copy_weights(model)
    progress = Progress()
    if checkpoint is not None and checkpoint.exists():
        progress, best = _restore(checkpoint, model, optimizer)
        for past in progress.history:  # whoever listens hears the whole story again
            beat({**past, "epochs": settings.epochs, "fraction": past["epoch"] / settings.epochs})
    elif patience is not None:
        progress.best_loss = validate(model).loss
    while progress.epoch < settings.epochs and not _is_stale(progress, patience):
        train_loss = _train_epoch(model, batches, loss, optimizer, settings, progress.epoch, beat)
        score = validate(model)
        _record(progress, train_loss, score)
        if patience is not None and progress.best_epoch == progress.epoch:
            best = copy_weights(model)
        if checkpoint is not None and worker_rank()[0] == 0:
            _save(checkpoint, model, best if patience is not None else {}, optimizer, progress)
        beat({**progress.history[-1], "epochs": settings.epochs, "fraction": progress.epoch / settings.epochs})
    if patience is not None:
        model.load_state_dict(best)
    return progress


def predict_logits(model: nn.Module, x: Tensor, rows: Tensor | None = None, batch_size: int = PREDICT_BATCH) -> Tensor:
    """Logits of the given rows of x, (N, ...), in evaluation mode, as float32 (N, K) on the CPU."""
    training, device = model.training, device_of(model)
    model.eval()
    rows = torch.arange(len(x)) if rows is None else rows
    with torch.inference_mode():
        parts = [model(x[part].to(device)).float().cpu() for part in rows.split(batch_size)]
    model.train(training)
    return torch.cat(parts)


def score_labels(examples: Examples, rows: Tensor) -> Validate:
    """Validation by cross-entropy and accuracy on the given rows; workers share the rows."""

    def validate(model: nn.Module) -> Score:
        rank, world = worker_rank()
        mine = rows[rank::world]
        logits = predict_logits(model, examples.x, mine)
        labels = examples.y[mine]
        return share_score(cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels)

    return validate


def share_score(losses: Tensor, correct: Tensor) -> Score:
    """Mean loss and accuracy over the rows of all workers. losses, correct: (N,) of this worker."""
    sums = torch.tensor([float(losses.double().sum()), float(correct.sum()), float(len(losses))], dtype=torch.float64)
    if worker_rank()[1] > 1:
        sums = sums.to(choose_device() if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(sums)
    total_loss, total_correct, count = sums.tolist()
    return Score(total_loss / count, total_correct / count)


def worker_rank() -> tuple[int, int]:
    """This worker's rank and the number of data-parallel workers."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def choose_device() -> torch.device:
    """The GPU of this process, if it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


def share_model(model: nn.Module) -> nn.Module:
    """Wrap for data-parallel training where there are several workers; gradients are averaged over them."""
    return nn.parallel.DistributedDataParallel(model) if worker_rank()[1] > 1 else model


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in unwrap(model).state_dict().items()}


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside data-parallel wrapping."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; different parts give unrelated seeds."""
    mixed = 0
    for part in parts:  # splitmix64's finaliser
        mixed = (mixed + part + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return mixed >> 1


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _train_epoch(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    settings: TrainingConfig,
    epoch: int,
    beat: Beat,
) -> float:
    model.train()
    torch.manual_seed(mix_seed(batches.seed, epoch, 1000 + worker_rank()[0]))  # dropout
    steps = batches.count_steps()
    total, next_beat = torch.zeros((), device=device_of(model)), time.monotonic() + BEAT_SECONDS
    for step, batch in enumerate(batches.iterate(epoch)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(epoch * steps + step, settings.epochs * steps, settings.learning_rate)
        value = loss(model(batch.inputs), batch).mean()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        total += value.detach()
        if time.monotonic() >= next_beat:
            next_beat = time.monotonic() + BEAT_SECONDS
            beat({"epoch": epoch, "epochs": settings.epochs, "fraction": (epoch + step / steps) / settings.epochs})
    mean = float(total) / steps
    if not math.isfinite(mean):
        raise FloatingPointError(
            f"loss is {mean} in epoch {epoch + 1}; lower learning_rate, or look for outliers in the data"
        )
    return mean


def _record(progress: Progress, train_loss: float, score: Score) -> None:
    progress.epoch += 1
    progress.history.append(
        {"epoch": progress.epoch, "loss": train_loss, "valid_loss": score.loss, "value": score.accuracy}
    )
    if score.loss < progress.best_loss:
        progress.best_loss, progress.best_epoch = score.loss, progress.epoch


def _is_stale(progress: Progress, patience: int | None) -> bool:
    return patience is not None and progress.epoch - progress.best_epoch >= patience


def _save(
    path: Path, model: nn.Module, best: dict[str, Tensor], optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in unwrap(model).state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    metadata = {**vars(progress)}
    if math.isinf(progress.best_loss):
        metadata["best_loss"] = None
    write_tensors(path, tensors, metadata)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Progress, dict[str, Tensor]]:
    tensors, metadata = read_tensors(path)
    unwrap(model).load_state_dict(_take(tensors, "model."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _take(tensors, "optimizer.").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    if metadata["best_loss"] is None:
        metadata["best_loss"] = math.inf
    device = device_of(model)
    return Progress(**metadata), {name: tensor.to(device) for name, tensor in _take(tensors, "best.").items()}


def _take(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
