"""Teachers, each a function of a batch: a generalist with its specialists, and generalists that differ by their seeds.

Comes in: a batch in the stored type. Goes out: log q, (N, K). A specialist runs only on the examples for which it is
active.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softmax

from raydistill.method.ensemble import choose_active, solve_ensemble
from raydistill.method.specialists import Group, specialist_log_probs
from raydistill.training.scoring import predict_logits


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
        return self.extend(log_softmax(predict_logits(self.generalist, x, rows), dim=1), x, rows)

    def extend(self, generalist: Tensor, x: Tensor, rows: Tensor) -> TeacherOutput:
        """Equation 5 where the generalist's log-probabilities (N, K) are known."""
        members = self.members
        active = choose_active(generalist, members, self.top_n)
        answers = [
            self._ask(index, x, rows[active[:, index]], generalist[active[:, index]])
            for index in range(len(self.specialists))
        ]
        solution = solve_ensemble(generalist, members, active, answers)
        return TeacherOutput(solution.log_probs, generalist, active, solution.gap)

    def _ask(self, index: int, x: Tensor, rows: Tensor, generalist: Tensor) -> Tensor:
        group = self.groups[index]
        if len(rows) == 0:
            return torch.empty(0, len(group.members) + 1)
        return specialist_log_probs(predict_logits(self.specialists[index], x, rows), group, generalist)


Mean = Literal["arithmetic", "geometric"]
CACHED_VALUES = (
    1 << 20
)  # log-probabilities in work at once; measured: 3 · 2^20 take 1.2 times as long, 3 · 2^22 1.6 times
SMALLEST_TOTAL = 1e-30  # a float32 sum of probabilities above it has all its digits


def average_log_probs(log_probs: Tensor, mean: Mean) -> Tensor:
    """Log of the mean of members' probabilities. log_probs: (S, N, K), normalised. Returns (N, K), normalised.

    The geometric mean is the softmax of the mean logits; both are used in Hinton, Vinyals, Dean 2015, section 2.
    """
    if mean == "geometric":
        return log_softmax(log_probs.mean(dim=0), dim=1)
    return log_probs.logsumexp(dim=0) - math.log(len(log_probs))


@dataclass(frozen=True)
class SeedEnsemble:
    """Generalists that differ by their seeds. Call it with a batch (N, ...) for log-probabilities (N, K)."""

    members: Sequence[nn.Module]
    mean: Mean = "arithmetic"

    def __call__(self, batch: Tensor) -> Tensor:
        """Log-probabilities (N, K) of a batch in the stored type."""
        first = log_softmax(predict_logits(self.members[0], batch), dim=1)
        return self.extend(first, batch, torch.arange(len(batch)))

    def extend(self, first: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """Log-probabilities (N, K) for rows of x, where the first member's are known."""
        size = max(1, CACHED_VALUES // first.shape[1])
        blocks = zip(first.split(size), rows.split(size), strict=True)
        return torch.cat([self._extend_block(known, x, part) for known, part in blocks])

    def _extend_block(self, first: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """Add up the members' probabilities; for examples where some underflow, average their log-probabilities."""
        if self.mean == "geometric":
            return self._average_exactly(first, x, rows)
        total = first.exp()
        for member in self.members[1:]:
            total += softmax(predict_logits(member, x, rows), dim=1)
        log_mean = (total / len(self.members)).log_()
        small = (total.amin(dim=1) < SMALLEST_TOTAL).nonzero().squeeze(1)
        if len(small):
            log_mean[small] = self._average_exactly(first[small], x, rows[small])
        return log_mean

    def _average_exactly(self, first: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        others = [log_softmax(predict_logits(member, x, rows), dim=1) for member in self.members[1:]]
        return average_log_probs(torch.stack([first, *others]), self.mean)


@dataclass(frozen=True)
class TeacherAnswers:
    """log_probs: (N, K) of each teacher by its name; active: boolean (N, M) and gap: (N,) nats, with specialists."""

    log_probs: dict[str, Tensor]
    active: Tensor | None = None
    gap: Tensor | None = None


@dataclass(frozen=True)
class Teachers:
    """All teachers of a run; they share the generalist, which answers once for all."""

    generalist: nn.Module
    ensemble: Ensemble | None = None
    seeds: SeedEnsemble | None = None

    def answer(self, x: Tensor, rows: Tensor) -> TeacherAnswers:
        """Answers of 'generalist', and of 'ensemble' and 'seeds' where there are such, to rows of x."""
        generalist = log_softmax(predict_logits(self.generalist, x, rows), dim=1)
        log_probs = {"generalist": generalist}
        if self.seeds is not None:
            log_probs["seeds"] = self.seeds.extend(generalist, x, rows)
        if self.ensemble is None:
            return TeacherAnswers(log_probs)
        output = self.ensemble.extend(generalist, x, rows)
        return TeacherAnswers({**log_probs, "ensemble": output.log_probs}, output.active, output.gap)
