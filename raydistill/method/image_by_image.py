"""Equation 5 on a processor, image by image: prepares what the loops of `kernels.equation5` read.

Comes in: checked float32 inputs of `ensemble.solve_ensemble`. Goes out: log q, the certified gap, and which images
those loops leave to `patterns`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydistill.kernels import equation5


def solve_rows(
    generalist: Tensor, members: Tensor, active: Tensor, specialists: Sequence[Tensor], tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log q (N, K), the gap (N,) in nats, and Newton's steps (N,), -1 for an image that is left."""
    sizes, count = members.sum(dim=1), active.sum(dim=1)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**62), 2**62, (len(members),), generator=generator)
    start, hashes = torch.empty(len(active) + 1, dtype=torch.int64), torch.zeros(len(active), dtype=torch.int64)
    group, place = torch.empty((2, int(count.sum())), dtype=torch.int64)
    equation5.list_active(active.contiguous(), sizes, keys, start, group, place, hashes)

    most = torch.stack([count.amax(), (active * sizes).sum(dim=1).amax()]) if len(active) else sizes.new_zeros(2)
    class_start = torch.cat([sizes.new_zeros(1), sizes.cumsum(dim=0)])
    class_of = members.nonzero()[:, 1].int()
    answers = torch.cat([block.flatten() for block in specialists])
    log_probs, gap = torch.empty_like(generalist), torch.empty(len(active), dtype=torch.float64)
    steps = torch.empty(len(active), dtype=torch.int64)
    equation5.solve_images(
        generalist,
        answers,
        hashes.argsort(stable=True),
        start,
        group,
        place,
        class_start,
        class_of,
        most,
        tolerance,
        log_probs,
        gap,
        steps,
    )
    return log_probs, gap, steps
