"""Equation 5 by PyTorch's operations, on any device, for many images at once: what `ensemble` offers.

Comes in: checked inputs of `ensemble.solve_ensemble`. Goes out: log q and the certified gap. The classes of an image
are summed to patterns (which of its active groups hold them), and `dual` solves for those.
N images, K classes, M specialists, A active specialists, P patterns, S distinct active sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.method.dual import SMALLEST, Problem, solve_problem

MAX_ACTIVE = 40  # a set's number and a pattern's bit mask share an int64; masks are exact in float64
CHUNK_BYTES = 192 << 20  # temporaries of one chunk of images
CACHE_BYTES = 1 << 19  # exponentials that stay in a processor's cache


def solve_by_operations(
    generalist: Tensor,
    members: Tensor,
    active: Tensor,
    specialists: Sequence[Tensor],
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor, int]:
    """Log q (N, K), the gap (N,), and Newton's iterations. Raises ValueError where probabilities do not sum to 1."""
    log_probs = generalist.clone(memory_format=torch.contiguous_format)
    gap = torch.zeros(len(active), dtype=torch.float64, device=active.device)
    iterations, used, size = 0, [0] * len(members), _choose_chunk(members, active)
    for start in range(0, len(active), size):
        here = slice(start, start + size)
        ends = [n + more for n, more in zip(used, active[here].sum(dim=0).tolist(), strict=True)]
        blocks = [x[n:end] for x, n, end in zip(specialists, used, ends, strict=True)]
        if ends != used:
            gap[here], taken = _solve_chunk(log_probs[here], members, active[here], blocks, tolerance, max_iterations)
            iterations = max(iterations, taken)
        used = ends
    return log_probs, gap, iterations


def _choose_chunk(members: Tensor, active: Tensor) -> int:
    """Images in a chunk: its tables are (S, K), and its lists have an entry for each class of each active group."""
    cells = float((active.sum(dim=0) * members.sum(dim=1)).sum()) / max(1, len(active))
    row, table = 100 * cells + 40 * members.shape[0] + 8 * members.shape[1], 24 * members.shape[1]
    left = CHUNK_BYTES - table * (len(_find_sets(active)[1]) if len(active) else 0)
    return max(1, int(CHUNK_BYTES / (row + table)), int(left / row))


@dataclass(frozen=True)
class _Patterns:
    """Distinct active sets of a chunk and their patterns; pattern 0 is "in no group". Cell: a class in some group."""

    set_of: Tensor  # (n,) each image's set
    bit: Tensor  # (S, M) a specialist's number in a set that it belongs to
    bits: Tensor  # (S, P) int64: which specialists hold the pattern
    classes: Tensor  # (S, P) number of classes; 0 where a set lacks the pattern
    rank: Tensor  # (S, K) number of a cell in its set
    cell_class: Tensor  # (cells of all sets,) sorted by set, then class
    cell_pattern: Tensor  # (cells of all sets,)


def _find_patterns(active: Tensor, members: Tensor) -> _Patterns:
    """Patterns of the distinct rows of active (n, M), without a loop over them."""
    set_of, sets = _find_sets(active)
    bit = sets.cumsum(dim=1) - 1
    masks = torch.where(sets, torch.exp2(bit.double()), 0.0) @ members.double()  # (S, K) sums of distinct powers of 2
    cell_set, cell_class = masks.nonzero(as_tuple=True)
    keys = (cell_set << MAX_ACTIVE) + masks[cell_set, cell_class].long()
    keys, key_of, count = keys.unique(return_inverse=True, return_counts=True)
    owner = keys >> MAX_ACTIVE
    held = torch.bincount(owner, minlength=len(sets))
    number = torch.arange(1, len(keys) + 1, device=active.device) - (held.cumsum(0) - held)[owner]
    bits = torch.zeros(len(sets), int(held.max()) + 1, dtype=torch.int64, device=active.device)
    classes = torch.zeros_like(bits)
    bits[owner, number], classes[owner, number] = keys & ((1 << MAX_ACTIVE) - 1), count
    classes[:, 0] = members.shape[1] - classes.sum(dim=1)
    rank = (masks > 0).cumsum(dim=1, dtype=torch.int32) - 1
    return _Patterns(set_of, bit, bits, classes, rank, cell_class, number[key_of])


def _find_sets(active: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows of active (n, M): the number of each row's set (n,), and the sets (S, M)."""
    set_of = torch.zeros(len(active), dtype=torch.int64, device=active.device)
    for columns in active.split(MAX_ACTIVE, dim=1):
        powers = torch.exp2(torch.arange(columns.shape[1], dtype=torch.float64, device=active.device))
        values, value_of = (columns.double() @ powers).unique(return_inverse=True)
        set_of = (set_of * len(values) + value_of).unique(return_inverse=True)[1]
    example = torch.empty(int(set_of.max()) + 1, dtype=torch.int64, device=active.device)
    example[set_of] = torch.arange(len(active), device=active.device)
    return set_of, active[example]


def _solve_chunk(
    log_probs: Tensor, members: Tensor, active: Tensor, blocks: list[Tensor], tolerance: float, max_iterations: int
) -> tuple[Tensor, int]:
    """Overwrite log_probs (n, K), log p_g, by log q. Returns the gap (n,) and the iterations."""
    found, flat = _find_patterns(active, members), log_probs.view(-1)
    per_set = members.shape[1] - found.classes[:, 0]
    cells = per_set[found.set_of]
    first = cells.cumsum(0) - cells
    image = torch.arange(len(cells), device=flat.device).repeat_interleave(cells)
    source = torch.arange(len(image), device=flat.device) + ((per_set.cumsum(0) - per_set)[found.set_of] - first)[image]
    place = image * members.shape[1] + found.cell_class[source]
    slot = image * found.bits.shape[1] + found.cell_pattern[source]

    a = flat[place].double().exp()
    dustbins = _add_specialists(a, first, found, members, active, blocks)
    flat[place] = -torch.inf  # the rest sums to the mass in no group; total minus the others would cancel
    mass = torch.zeros(len(cells), found.bits.shape[1], dtype=torch.float64, device=flat.device)
    mass[:, 0] = _sum_rows(log_probs)
    mass.view(-1).index_add_(0, slot, a)
    _check_sums(mass.sum(dim=1) + dustbins.sum(dim=1), 1 + active.sum(dim=1))
    mass, dustbins = (x.where(x > SMALLEST, 0.0) for x in (mass, dustbins))
    log_scale, gap, iterations = _solve_patterns(found, mass, dustbins, active.sum(dim=1), tolerance, max_iterations)

    log_probs[(mass[:, 0] == 0).nonzero()[:, 0]] = 0  # q of classes without mass is shared evenly
    log_probs += log_scale[:, :1].to(flat.dtype)
    log_a = a.where(mass.view(-1)[slot] > 0, 1.0).log()
    flat[place] = (log_a + log_scale.view(-1)[slot]).to(flat.dtype)
    return gap, iterations


def _add_specialists(
    a: Tensor, first: Tensor, found: _Patterns, members: Tensor, active: Tensor, blocks: list[Tensor]
) -> Tensor:
    """Add p_m to a (cells,), in place; first: (n,) number of an image's first cell. Returns d (n, A), padded by 0."""
    dustbins = torch.zeros(len(active), int(active.sum(dim=1).max()), dtype=torch.float64, device=a.device)
    images = active.t().nonzero()[:, 1].split([len(block) for block in blocks])
    for m, (rows, block) in enumerate(zip(images, blocks, strict=True)):
        sets, probs = found.set_of[rows], block.double().exp()
        cell = first[rows][:, None] + found.rank[sets[:, None], members[m].nonzero()[:, 0]]
        a.index_add_(0, cell.view(-1), probs[:, :-1].reshape(-1))
        dustbins[rows, found.bit[sets, m]] = probs[:, -1]
    return dustbins


def _sum_rows(log_probs: Tensor) -> Tensor:
    """Σ exp over each row of (n, K): (n,) float64; in float64 where float32 would underflow."""
    rows = max(1, CACHE_BYTES // (log_probs.shape[1] * log_probs.element_size()))
    total = torch.cat([part.exp().sum(dim=1) for part in log_probs.split(rows)]).double()
    for part in (total < 1e-30).nonzero()[:, 0].split(rows):
        total[part] = log_probs[part].double().exp().sum(dim=1)
    return total


def _check_sums(total: Tensor, expected: Tensor) -> None:
    wrong = (~((total - expected).abs() < 0.01)).nonzero()  # also where NaN
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            "generalist_log_probs, specialist_log_probs: the probabilities of an image sum to"
            f" {float(total[i]):.6g}, allowed is {int(expected[i])} for the generalist and its active specialists;"
            " give outputs of log_softmax"
        )


def _solve_patterns(
    found: _Patterns, mass: Tensor, dustbins: Tensor, sizes: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, int]:
    """Find log(q / a) (n, P), or log q of each class where a = 0; gap (n,); iterations. One batch for each set size."""
    log_scale, gap, iterations = torch.zeros_like(mass), torch.zeros_like(mass[:, 0]), 0
    for size in sizes[sizes > 0].unique().tolist():
        images = (sizes == size).nonzero()[:, 0]
        width = int((found.classes[found.set_of[images]] > 0).sum(dim=1).max()) + 1
        for rows in images.split(max(1, CHUNK_BYTES // (32 * width * (size + 8)))):
            classes, bits = (x[found.set_of[rows], :width] for x in (found.classes, found.bits))
            held = bits[:, :, None] >> torch.arange(size, device=bits.device) & 1
            outside = ((held == 0) & (classes > 0)[:, :, None]).double()
            problem = Problem(mass[rows, :width], dustbins[rows, :size], outside, classes > 0)
            q, gap[rows], taken = solve_problem(problem, tolerance, max_iterations)
            log_scale[rows, :width] = q.log() - problem.mass.where(problem.mass > 0, classes.double()).log()
            iterations = max(iterations, taken)
    return log_scale, gap, iterations
