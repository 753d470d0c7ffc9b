"""Rare and frequent classes: how often each is sampled, and for which shares of classes the probabilities hold.

Comes in: labels of the training rows and the `balance` section. Goes out: `Balance`, or None where nothing is asked
for: an offset of the logits while training, weights of rows for samplers and validation.

With shares π of the training rows, rows are sampled in shares π' ∝ π^(1 - sampling), and probabilities shall hold for
shares π* ∝ π^(1 - prior). Bayes: the posterior under π' is softmax(z + log π' - log π*) where that under π* is
softmax(z). So the labels' loss takes z + (prior - sampling) · log π, and z itself is what ships: every network, and all
that equation 5 mixes, holds for the same shares. With prior = 1 and sampling = 0 this is the logit-adjusted loss of
Menon et al. 2021 (arXiv 2007.07314, equation 10), consistent for the balanced error; with sampling = prior it is plain
resampling, and with prior = 0 resampling whose effect on probabilities is undone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.settings.config import BalanceConfig
from raydistill.training.batches import Batch, Sampler
from raydistill.training.losses import Loss, WithGradient, batch_label_loss, label_loss

EXPONENTS = {"natural": 0.0, "sqrt": 0.5, "equal": 1.0}


@dataclass(frozen=True)
class Balance:
    """log_shares: (K,) log π, float32. prior, sampling: exponents from 0 (as the training rows) to 1 (all equal)."""

    log_shares: Tensor
    prior: float
    sampling: float

    def offset(self, *, sampled: bool = True) -> Tensor:
        """Nats (K,) to add to logits before a loss with the labels of sampled rows, or of held-out ones as they are."""
        return (self.prior - sampled * self.sampling) * self.log_shares

    def offset_together(self, classes: Tensor, *, sampled: bool = True) -> float:
        """The same for one logit that stands for all of the classes (n,): what is seen of them stays as sampled."""
        shares = self.log_shares[classes].double()
        came, wanted = (1 - sampled * self.sampling) * shares, (1 - self.prior) * shares
        return float(came.logsumexp(0) - wanted.logsumexp(0))

    def weigh_rows(self, labels: Tensor) -> Tensor:
        """How often each row (N,) is sampled, of mean 1 over those with labels; a row without one (-1) has weight 1."""
        known, weights = labels >= 0, torch.ones(len(labels), dtype=torch.float64)
        own = (-self.sampling * self.log_shares.double()).exp()[labels[known]]
        weights[known] = own / own.mean()
        return weights

    def weigh_kinds(self, counts: Tensor) -> Tensor:
        """The same by class, (K,), where there are so many rows of each, (K,)."""
        own = (-self.sampling * self.log_shares.double()).exp()
        return own * (counts.sum() / (own * counts).sum())

    def weigh_classes(self, counts: Tensor) -> Tensor:
        """What a held-out row of each class counts for in shares π*, (K,), of mean 1 over as many rows of each, (K,).

        Accuracy of rows so weighted is balanced accuracy where prior is 1.
        """
        wanted = ((1 - self.prior) * self.log_shares.double()).exp()
        weights = wanted / counts.clamp_min(1)
        return weights * (counts.sum() / (weights * counts).sum())


def read_balance(settings: BalanceConfig, counts: Tensor) -> Balance | None:
    """What the settings make of so many training rows of each class, (K,), all above 0. None: nothing to balance."""
    prior, sampling = EXPONENTS[settings.prior], EXPONENTS[settings.sampling]
    if prior == sampling == 0:
        return None
    return Balance((counts.double() / counts.sum()).log().float(), prior, sampling)


def balanced_label_loss(balance: Balance | None) -> Loss:
    """Cross-entropy with the batch's labels, of logits with the offset."""
    if balance is None:
        return batch_label_loss
    place = place_offset(balance.offset())
    return lambda logits, batch: label_loss(logits + place(logits), batch.labels)


def balance_soft_loss(soft_loss: Loss, balance: Balance, label_weight: float) -> Loss:
    """A student's loss by its soft part: (1 - w) · soft + w · H(label, softmax(z + offset)); w is 0 without a label."""
    place = place_offset(balance.offset())

    def loss(logits: Tensor, batch: Batch) -> WithGradient:
        soft, soft_gradient = soft_loss(logits, batch)
        hard, hard_gradient = label_loss(logits + place(logits), batch.labels.clamp_min(0))
        weights = label_weight * (batch.labels >= 0).to(logits.dtype)
        column = weights.unsqueeze(1)
        return soft.lerp(hard, weights), soft_gradient.lerp(hard_gradient, column)

    return loss


def place_offset(offset: Tensor) -> Callable[[Tensor], Tensor]:
    """The offset (K,) as logits want it: on their device, in their type."""
    placed: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def place(logits: Tensor) -> Tensor:
        key = logits.device, logits.dtype
        if key not in placed:
            placed[key] = offset.to(*key)
        return placed[key]

    return place


def sample_by_weight(rows: Tensor, weights: Tensor, count: int) -> Sampler:
    """So many rows an epoch, each in proportion to its weight, up to less than one; in random order.

    rows, weights: (N,). Systematic sampling: along the weights, laid end to end, one row every step. Rows of one weight
    lie together, in random order, so that classes come in their shares, too.
    """

    def sample(generator: torch.Generator) -> Tensor:
        order = torch.randperm(len(rows), generator=generator)
        order = order[weights[order].argsort(stable=True)]
        edges = weights[order].cumsum(0)
        begin = torch.rand((), generator=generator, dtype=torch.float64)
        steps = (torch.arange(count, dtype=torch.float64) + begin) * (edges[-1] / count)
        taken = order[torch.searchsorted(edges, steps, right=True).clamp_max(len(rows) - 1)]
        return rows[taken[torch.randperm(count, generator=generator)]]

    return sample
