"""The one training loop, for generalist, specialist and student: they differ by their batches and their loss.

Comes in: a model, `Batches`, a loss for each example, settings. Goes out: the trained model and its history. A
checkpoint an epoch holds weights, optimiser and history in one file; a run that is started again goes on from it, and
ends with the same weights as an undisturbed one (same kind of processor, same number of threads and workers). So does
one that finds its checkpoint damaged: it begins anew.
"""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.execution.jobs import Beat
from raydistill.networks.frozen import rest_frozen, trained_state
from raydistill.settings.networks import TrainingConfig
from raydistill.storage.files import read_tensors, write_tensors
from raydistill.training.batches import Batches
from raydistill.training.forward import Forward, choose_forward
from raydistill.training.losses import Loss
from raydistill.training.scoring import Score, Validate
from raydistill.training.seeds import mix_seed
from raydistill.training.workers import device_of, unwrap, worker_rank

WARM_UP = 0.05  # share of all steps over which the learning rate rises
BEAT_SECONDS = 0.5
LOSS_STEPS = 1024  # whose examples' losses are in memory at once
RECENT = 16  # passes that a beat tells of: not every beat reaches the driver


@dataclass
class Progress:
    """Where a training stands.

    history: a record an epoch; best_*: of the epoch whose weights count: the one with the lowest validation loss, or
    simply the last one where a network trains in full.
    """

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf


def train_model(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    settings: TrainingConfig,
    *,
    epochs: int,
    validate: Validate,
    patience: int | None = None,
    checkpoint: Path | None = None,
    beat: Beat,
) -> Progress:
    """Train in place; with `patience`, stop early and end with the best epoch's weights (epoch 0 is the start).

    model: from forward.place_model.
    epochs: passes over the batches, at most; the learning rate is planned over all of them.
    patience: epochs without improvement of the validation loss, or None to train in full and keep the last weights.
    checkpoint: file to resume from and to write an epoch; None for none.
    Raises FloatingPointError if a loss is not finite.
    """
    optimizer, forward = _build_optimizer(model, settings), choose_forward(model, settings)
    best = _copy_trained(model)
    progress = Progress()
    saved = _read_checkpoint(checkpoint) if checkpoint is not None else None
    if saved is not None:
        progress, best = _restore(*saved, model, optimizer)
        for past in progress.history:  # whoever listens hears the whole story again
            beat({**past, "epochs": epochs, "fraction": past["epoch"] / epochs, "recent": [past]})
    elif patience is not None:
        progress.best_loss = validate(model).loss
    while progress.epoch < epochs and not _is_stale(progress, patience):
        train_loss = _train_epoch(model, forward, batches, loss, optimizer, settings, progress, epochs, beat)
        score = validate(model)
        _check_finite("loss on held-out examples", score.loss, progress.epoch)
        _record(progress, train_loss, score, optimizer.param_groups[0]["lr"], last_counts=patience is None)
        if patience is not None and progress.best_epoch == progress.epoch:
            best = _copy_trained(model)
        if checkpoint is not None and worker_rank()[0] == 0:
            _save(checkpoint, model, best if patience is not None else {}, optimizer, progress)
        beat({**progress.history[-1], **_describe(progress, epochs, 0.0)})
    if patience is not None:
        _put_back(model, best)
    return progress


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return _clone(unwrap(model).state_dict())


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def list_weights(model: nn.Module) -> list[Tensor]:
    """Trained weights of all linear and convolutional layers; the first dimension of each counts the layer's units."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [layer.weight for layer in model.modules() if isinstance(layer, kinds) and layer.weight.requires_grad]


@torch.no_grad()
def limit_norms(weights: list[Tensor], max_norm: float) -> None:
    """Shorten each unit's vector of incoming weights to max_norm where it is longer: w · min(1, max_norm / |w|).

    weights: (units, ...) each, changed in place; |w| is the Euclidean length over all dimensions but the first.
    Source: Hinton et al. 2012, arXiv 1207.0580; Srivastava et al. 2014, JMLR 15, section 5.1.
    """
    for weight in weights:
        weight.renorm_(p=2, dim=0, maxnorm=max_norm)


def _build_optimizer(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW, whose steps end with the limit on norms where there is one."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    max_norm = settings.max_norm
    if max_norm is not None:
        weights = list_weights(model)
        optimizer.register_step_post_hook(lambda *_: limit_norms(weights, max_norm))
    return optimizer


def _list_trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _copy_trained(model: nn.Module) -> dict[str, Tensor]:
    """A copy of what training changes: buffers, and parameters that are not frozen."""
    return _clone(trained_state(unwrap(model)))


def _clone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _put_back(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill a model with what `trained_state` gave. Raises RuntimeError if that is of another network."""
    unwrap(model).load_state_dict({**unwrap(model).state_dict(), **weights})


def _train_epoch(
    model: nn.Module,
    forward: Forward,
    batches: Batches,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    settings: TrainingConfig,
    progress: Progress,
    epochs: int,
    beat: Beat,
) -> float:
    epoch = progress.epoch
    model.train()
    rest_frozen(model)
    torch.manual_seed(mix_seed(batches.seed, epoch, 1000 + worker_rank()[0]))  # dropout
    steps = batches.count_steps()
    parameters, losses, next_beat = _list_trained(optimizer), torch.empty(0), time.monotonic() + BEAT_SECONDS
    mean = 0.0
    for step, batch in enumerate(batches.iterate(epoch)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(epoch * steps + step, epochs * steps, settings.learning_rate)
        logits = forward(batch.inputs)
        values, gradient = loss(logits.detach(), batch)
        for parameter in parameters:  # what zero_grad does, for a tenth of its time
            parameter.grad = None
        logits.backward(gradient)
        optimizer.step()
        if step == 0:  # one tensor: small ones that are kept between large ones that are not scatter the heap
            losses = values.new_empty((min(steps, LOSS_STEPS), len(values)))
        losses[step % LOSS_STEPS] = values
        if (step + 1) % LOSS_STEPS == 0 or step + 1 == steps:
            part = losses[: step % LOSS_STEPS + 1]
            mean += float(part.flatten().mean()) * (len(part) / steps)
        if time.monotonic() >= next_beat:
            next_beat = time.monotonic() + BEAT_SECONDS
            beat(_describe(progress, epochs, step / steps))
    _check_finite("loss", mean, epoch)
    return mean


def _describe(progress: Progress, epochs: int, part: float) -> dict[str, Any]:
    """A beat's progress, within a pass of which a part is done, 0 to 1; and what the last passes gave."""
    fraction = (progress.epoch + part) / epochs
    return {"epoch": progress.epoch, "epochs": epochs, "fraction": fraction, "recent": progress.history[-RECENT:]}


def _check_finite(name: str, value: float, epoch: int) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{name} is {value} in epoch {epoch + 1}; lower learning_rate, or look for outliers in the data"
        )


def _record(progress: Progress, train_loss: float, score: Score, rate: float, *, last_counts: bool) -> None:
    progress.epoch += 1
    record = {"epoch": progress.epoch, "loss": train_loss, "valid_loss": score.loss, "value": score.accuracy}
    progress.history.append({**record, "learning_rate": rate})
    if last_counts or score.loss < progress.best_loss:
        progress.best_loss, progress.best_epoch = score.loss, progress.epoch


def _is_stale(progress: Progress, patience: int | None) -> bool:
    return patience is not None and progress.epoch - progress.best_epoch >= patience


def _save(
    path: Path, model: nn.Module, best: dict[str, Tensor], optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in trained_state(unwrap(model)).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    metadata = {**vars(progress), "crc32": _sum_bytes(tensors)}
    if math.isinf(progress.best_loss):
        metadata["best_loss"] = None
    write_tensors(path, tensors, metadata)


def _sum_bytes(tensors: dict[str, Tensor]) -> int:
    """CRC-32 of all tensors' bytes, in the order of their names."""
    total = 0
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        total = zlib.crc32(flat.view(torch.uint8).numpy().data, total)
    return total


def _read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and metadata of a checkpoint; None if there is none, or one that is truncated or has wrong bytes."""
    from safetensors import SafetensorError

    try:
        tensors, metadata = read_tensors(path)
        return (tensors, metadata) if metadata.pop("crc32") == _sum_bytes(tensors) else None
    except (FileNotFoundError, SafetensorError, ValueError, KeyError):
        return None


def _restore(
    tensors: dict[str, Tensor], metadata: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor]]:
    _put_back(model, _take(tensors, "model."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _take(tensors, "optimizer.").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    _lay_out(optimizer)
    if metadata["best_loss"] is None:
        metadata["best_loss"] = math.inf
    device = device_of(model)
    return Progress(**metadata), {name: tensor.to(device) for name, tensor in _take(tensors, "best.").items()}


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's numbers the memory layout of their weights: a fused step takes them in memory's order."""
    for weight, state in optimizer.state.items():
        for name, tensor in state.items():
            if tensor.shape == weight.shape and tensor.stride() != weight.stride():
                state[name] = torch.empty_like(weight, requires_grad=False).copy_(tensor)


def _take(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
