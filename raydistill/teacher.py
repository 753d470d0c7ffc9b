"""The teacher: a generalist and its specialists as one function of a batch.

Comes in: a batch in the stored type. Goes out: log q, (N, K), by equation 5; a specialist runs only on the examples for
which it is active.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from raydistill.ensemble import choose_active, solve_ensemble
from raydistill.scoring import predict_logits
from raydistill.specialists import Group, specialist_log_probs


@dataclass(frozen=True)
class TeacherOutput:
    """log_probs, generalist_log_probs: (N, K); active: boolean (N, M); gap: (N,) nats, certified."""

    log_probs: Tensor
    generalist_log_probs: Tensor
    active: Tensor
    gap: Tensor


@dataclass(frozen=True)
class Ensemble:
    """Generalist and specialists. Call it with a batch (N, ...) for log-probabilities (N, K)."""

    generalist: nn.Module
    specialists: Sequence[nn.Module]
    groups: Sequence[Group]
    top_n: int = 1

    def __call__(self, batch: Tensor) -> Tensor:
        """Log-probabilities (N, K) of a batch in the stored type."""
        return self.combine(batch, torch.arange(len(batch))).log_probs

    @property
    def members(self) -> Tensor:
        """Boolean (M, K)."""
        inside = torch.zeros(len(self.groups), self.groups[0].classes, dtype=torch.bool)
        for row, group in zip(inside, self.groups, strict=True):
            row[group.members] = True
        return inside

    def combine(self, x: Tensor, rows: Tensor) -> TeacherOutput:
        """Equation 5 for the given rows of x."""
        generalist = log_softmax(predict_logits(self.generalist, x, rows), dim=1)
        members = self.members
        active = choose_active(generalist, members, self.top_n)
        answers = [self._ask(index, x, rows[active[:, index]]) for index in range(len(self.specialists))]
        solution = solve_ensemble(generalist, members, active, answers)
        return TeacherOutput(solution.log_probs, generalist, active, solution.gap)

    def _ask(self, index: int, x: Tensor, rows: Tensor) -> Tensor:
        group = self.groups[index]
        if len(rows) == 0:
            return torch.empty(0, len(group.members) + 1)
        return specialist_log_probs(predict_logits(self.specialists[index], x, rows), group)
