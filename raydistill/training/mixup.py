"""Mixup: each example of a batch is mixed with another one, and so are their losses.

Comes in: a batch and a loss for one label an example. Goes out: a batch whose `partners` and `own_shares` say what was
mixed, and a loss that heeds them. Source: Zhang et al. 2018 (arXiv 1710.09412); shares are from Beta(1/2, 1/2).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from raydistill.training.batches import Batch
from raydistill.training.losses import Loss, WithGradient


def mix_batch(batch: Batch, uniform: Tensor) -> Batch:
    """Mix each example with the one before it. uniform: (B,) from 0 to 1, of which the shares are made.

    The quantile of Beta(1/2, 1/2) at u is sin²(πu / 2).
    """
    shares = (uniform * (math.pi / 2)).sin().square().to(batch.inputs.device)
    inputs = batch.inputs.float()
    spread = shares.view(-1, *[1] * (inputs.dim() - 1))
    return replace(
        batch,
        inputs=torch.lerp(inputs.roll(1, 0), inputs, spread),
        partners=batch.labels.roll(1, 0),
        own_shares=shares,
    )


def mixed_loss(loss: Loss) -> Loss:
    """The loss of mixed batches: that with the own label and that with the partner's, in their shares."""

    def mixed(logits: Tensor, batch: Batch) -> WithGradient:
        value, gradient = loss(logits, batch)
        if batch.partners is None or batch.own_shares is None:
            return value, gradient
        other, other_gradient = loss(logits, replace(batch, labels=batch.partners))
        shares = batch.own_shares.to(value.dtype)
        return torch.lerp(other, value, shares), torch.lerp(other_gradient, gradient, shares.unsqueeze(1))

    return mixed
