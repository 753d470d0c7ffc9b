"""What a model answers to labelled examples, reduced to a few numbers for each example.

Comes in: log-probabilities (N, K), a block at a time, and labels. Goes out: `Answers`, from which every figure of the
report follows, so that no (N, K) table outlives its block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """A model's answers to N examples."""

    labels: Tensor
    """(N,) the true classes"""
    predicted: Tensor
    """(N,) the most probable classes"""
    confidence: Tensor
    """(N,) their probabilities"""
    label_log_prob: Tensor
    """(N,) log-probability of the true class, nats"""
    rank: Tensor
    """(N,) how many classes are more probable than the true one"""

    @property
    def correct(self) -> Tensor:
        """Boolean (N,)."""
        return self.predicted == self.labels


def reduce_answers(log_probs: Tensor, labels: Tensor) -> Answers:
    """Answers of one block. log_probs: (N, K), normalised; labels: (N,)."""
    top = log_probs.max(dim=1)
    own = log_probs.gather(1, labels[:, None])
    rank = (log_probs > own).sum(dim=1)
    return Answers(labels, top.indices, top.values.double().exp(), own.squeeze(1).double(), rank)


def join_answers(parts: Sequence[Answers]) -> Answers:
    """Answers of consecutive blocks as one."""
    return Answers(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Answers)))
