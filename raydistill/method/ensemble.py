"""The ensemble's answer: equation 5 of Hinton, Vinyals, Dean 2015, solved to a certified gap for many images at once.

Comes in: the generalist's log-probabilities, which specialists are active for which image, and theirs. Goes out: log q,
where q minimises KL(p_g, q) + Σ_m KL(p_m, q) over the active specialists m; q outside m's classes is summed against m's
dustbin d_m. With W = 1 + active and a_j = p_g[j] + Σ_{m contains j} p_m[j] the solution is
    q_j = a_j / slack_j,   slack_j = W - Σ_{m not containing j} price_m,   price_m · (q outside m) = d_m.
Classes of the same membership ("pattern") share a slack, so a is summed to a mass for each pattern, which is done here;
what is left is a small problem for each image, which `dual` solves.
N images, K classes, M specialists, G classes in a group, A active specialists, P patterns, S distinct active sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.kernels.launch import has_kernels
from raydistill.method.image_by_image import solve_rows
from raydistill.method.patterns import MAX_ACTIVE, solve_by_operations


@dataclass(frozen=True)
class EnsembleSolution:
    """The answer to equation 5.

    log_probs: (N, K) log q, in the input's type. gap: (N,) float64, nats: the objective is at most this far above its
    minimum (before q is rounded to the input's type). iterations: Newton's, the most that any batch took.
    """

    log_probs: Tensor
    gap: Tensor
    iterations: int


def choose_active(generalist_log_probs: Tensor, members: Tensor, top_n: int = 1) -> Tensor:
    """Choose the specialists whose classes meet the generalist's top_n most probable classes (the paper: 1).

    generalist_log_probs: (N, K). members: (M, K) bool. Returns (N, M) bool. Raises ValueError for top_n outside 1 to K.
    """
    _check_shape("members", members, (None, generalist_log_probs.shape[-1]), "a row a specialist, a column a class")
    if not 1 <= top_n <= members.shape[1]:
        raise ValueError(f"top_n: {top_n} is not allowed; give 1 to {members.shape[1]}, the number of classes")
    top = generalist_log_probs.topk(top_n, dim=1).indices
    return members.t()[top].any(dim=1)


def solve_ensemble(
    generalist_log_probs: Tensor,
    members: Tensor,
    active: Tensor,
    specialist_log_probs: Sequence[Tensor],
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 100,
) -> EnsembleSolution:
    """Solve equation 5 for each image: argmin over q of KL(p_g, q) + Σ over active m of KL(p_m, q).

    generalist_log_probs: (N, K) log p_g, float32 or float64, -inf allowed. members: (M, K) bool. active: (N, M) bool.
    specialist_log_probs: for each specialist m (N_m, G_m + 1) log p_m: a row for each image with active[i, m],
    ascending; a column for each class with members[m, j], ascending, then the dustbin. tolerance: nats, for the gap.
    Raises ValueError where shapes disagree, a group holds every class, or probabilities do not sum to 1.
    """
    _check_inputs(generalist_log_probs, members, active, specialist_log_probs)
    if not tolerance > 0:
        raise ValueError(f"tolerance: {tolerance} is not allowed; give nats above 0, such as 1e-9")
    inputs = (generalist_log_probs.detach(), members, active, [block.detach() for block in specialist_log_probs])
    if has_kernels(generalist_log_probs, *specialist_log_probs) and bool(active.any()):
        return _solve_by_kernel(*inputs, tolerance, max_iterations)
    return EnsembleSolution(*solve_by_operations(*inputs, tolerance, max_iterations))


def _solve_by_kernel(
    generalist: Tensor,
    members: Tensor,
    active: Tensor,
    specialists: Sequence[Tensor],
    tolerance: float,
    max_iterations: int,
) -> EnsembleSolution:
    """Image by image; what the kernel leaves is solved by operations."""
    log_probs, gap, steps = solve_rows(generalist, members, active, specialists, tolerance)
    left = steps < 0
    iterations = int(steps.amax()) if len(steps) else 0
    if bool(left.any()):
        blocks = [block[left[rows]] for block, rows in zip(specialists, active.t(), strict=True)]
        log_probs[left], gap[left], more = solve_by_operations(
            generalist[left], members, active[left], blocks, tolerance, max_iterations
        )
        iterations = max(iterations, more)
    return EnsembleSolution(log_probs, gap, iterations)


def _check_shape(name: str, value: Tensor, shape: tuple[int | None, ...], remedy: str) -> None:
    if value.dim() != len(shape) or any(want not in (None, n) for want, n in zip(shape, value.shape, strict=True)):
        allowed = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name}: shape {tuple(value.shape)} is not allowed, only ({allowed}); give {remedy}")


def _check_inputs(generalist: Tensor, members: Tensor, active: Tensor, specialists: Sequence[Tensor]) -> None:
    _check_shape("generalist_log_probs", generalist, (None, None), "a row an image, a column a class")
    _check_shape("members", members, (None, generalist.shape[1]), "a row a specialist, a column a class")
    _check_shape("active", active, (len(generalist), len(members)), "a row an image, a column a specialist")
    for name, marks in (("members", members), ("active", active)):
        if marks.dtype != torch.bool:
            raise ValueError(f"{name}: {marks.dtype} is not allowed, only torch.bool; give {name} != 0")
    if generalist.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"generalist_log_probs: {generalist.dtype} is not allowed; convert to float32 or float64")
    if len(specialists) != len(members):
        raise ValueError(f"specialist_log_probs: {len(specialists)} given, allowed is {len(members)}; give one a group")
    images, sizes = active.sum(dim=0).tolist(), members.sum(dim=1).tolist()
    for m, (block, rows, size) in enumerate(zip(specialists, images, sizes, strict=True)):
        remedy = "a row for each image where it is active, a column for each of its classes and the dustbin"
        _check_shape(f"specialist_log_probs[{m}]", block, (rows, size + 1), remedy)
        if rows and size == generalist.shape[1]:
            raise ValueError(
                f"members: row {m} holds all {size} classes, at most {size - 1} are allowed; leave some to its dustbin"
            )
    most = int(active.sum(dim=1).max()) if active.numel() else 0
    if most > MAX_ACTIVE:
        raise ValueError(
            f"active: {most} specialists for one image, at most {MAX_ACTIVE} are allowed; lower top_n or the overlap"
        )
