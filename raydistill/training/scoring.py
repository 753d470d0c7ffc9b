"""Predictions of a network for many rows, and what validation says of them.

Comes in: a model, mapped examples, rows. Goes out: logits (N, K), or a `Score`; workers share the rows of a validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raydistill.data.arrays import Examples
from raydistill.training.orders import Rows, count_labels
from raydistill.training.workers import choose_device, device_of, unwrap, worker_rank

if TYPE_CHECKING:
    from raydistill.training.balance import Balance

PREDICT_BATCH = 4096
LARGEST_OUTPUT = 1 << 26  # numbers that one layer makes of a batch of predictions: 256 MB


@dataclass(frozen=True)
class Score:
    """What validation says: loss in nats (lower is better), accuracy from 0 to 1."""

    loss: float
    accuracy: float


Validate = Callable[[nn.Module], Score]


def predict_logits(model: nn.Module, x: Tensor, rows: Tensor | None = None, batch_size: int = PREDICT_BATCH) -> Tensor:
    """Logits of the given rows of x, (N, ...), in evaluation mode, as float32 (N, K) on the CPU."""
    return torch.cat(list(predict_blocks(model, x, torch.arange(len(x)) if rows is None else rows, batch_size)))


def predict_blocks(model: nn.Module, x: Tensor, rows: Tensor, batch_size: int = PREDICT_BATCH) -> Iterator[Tensor]:
    """The same, a batch at a time, for logits larger than memory."""
    training, device = model.training, device_of(model)
    model.eval()
    for part in rows.split(limit_batch(model, batch_size)):
        with torch.inference_mode():
            logits = model(x.index_select(0, part).to(device)).float().cpu()
        yield logits
    model.train(training)


def limit_batch(model: nn.Module, batch_size: int) -> int:
    """The batch size, or fewer examples where a layer of the network makes many numbers of each."""
    largest = getattr(unwrap(model), "largest_activation", 1)
    return min(batch_size, max(1, LARGEST_OUTPUT // largest))


def score_labels(examples: Examples, rows: Rows, balance: Balance | None = None) -> Validate:
    """Validation by cross-entropy and accuracy on the given rows; workers share the rows.

    balance: shares of classes for which the logits hold; the loss is then that of the logits for the rows' own shares,
    and the accuracy that of rows in the shares wanted.
    """
    offset = None if balance is None else balance.offset(sampled=False)
    weights = None if balance is None else balance.weigh_classes(count_labels(examples.y, rows, examples.classes))

    def validate(model: nn.Module) -> Score:
        def judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            right = logits.argmax(1) == labels
            if offset is None or weights is None:
                return cross_entropy(logits, labels, reduction="none"), right
            return cross_entropy(logits + offset, labels, reduction="none"), right * weights[labels]

        return score_blocks(model, examples, rows, judge)

    return validate


def score_blocks(
    model: nn.Module,
    examples: Examples,
    rows: Rows,
    judge: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    batch_size: int = PREDICT_BATCH,
) -> Score:
    """Mean loss and accuracy over the rows, which workers share; a block of them is in memory at a time.

    judge: (logits (n, K), labels (n,)) -> loss and whether it is right of each, (n,).
    """
    (rank, world), size = worker_rank(), limit_batch(model, batch_size)
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(rows), size * world):
        mine = rows[start + rank : start + size * world : world]
        for logits in predict_blocks(model, examples.x, mine, size):  # one, or none
            sums += sum_block(*judge(logits, examples.y[mine]))
    return share_sums(sums)


def share_score(losses: Tensor, correct: Tensor) -> Score:
    """Mean loss and accuracy over the rows of all workers. losses, correct: (N,) of this worker."""
    return share_sums(sum_block(losses, correct))


def sum_block(losses: Tensor, correct: Tensor) -> Tensor:
    """Sum of losses, of what is right, and number of examples: (3,) float64."""
    return torch.tensor([float(losses.double().sum()), float(correct.sum()), float(len(losses))], dtype=torch.float64)


def share_sums(sums: Tensor) -> Score:
    """The score by the sums (3,) of all workers."""
    if worker_rank()[1] > 1:
        sums = sums.to(choose_device() if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(sums)
    total_loss, total_correct, count = sums.tolist()
    return Score(total_loss / count, total_correct / count)
