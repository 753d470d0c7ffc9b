"""The ensemble's answer: equation 5 of Hinton, Vinyals, Dean 2015, solved exactly for many images at once.

Comes in: the generalist's log-probabilities, which specialists are active for which image, and theirs. Goes out: log q that
minimises KL(p_g, q) + Σ_m KL(p_m, q), m over the active specialists; q outside m's classes is summed against m's dustbin.

With W = 1 + active, d_m = p_m[dustbin] and a_j = p_g[j] + Σ_{m contains j} p_m[j], the solution is q_j = a_j / slack_j, with
slack_j = W - Σ_{m not containing j} price_m and price_m · (q outside m) = d_m. Classes with the same membership ("pattern")
share a slack, so a is summed to mass for each pattern, and what is left does not depend on the number of classes:
    q · slack = mass,    price · outside = d,    slack = W - C price,    outside = Cᵀ q,    C[pattern, m] = 1 if not in m.
These are the equations of an interior-point method: primal-dual Newton keeps small q and small slacks precise, where Newton on
the prices alone loses them to cancellation. Masses below a floor count as the floor while it is lowered towards zero; the
optimum for a floor is within its sum of the true one. N images, K classes, M specialists, G classes in a group, A active
specialists, P patterns, S distinct active sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

MAX_ACTIVE = 52  # bits that a float64 holds exactly: patterns are bit masks, made by a matrix product
CHUNK_BYTES = 192 << 20  # temporaries of one chunk of images
CACHE_ROWS_BYTES = 1 << 19  # rows whose exponentials stay in the processor's cache
EM_STEPS = 1  # bound of the fallback
FIRST_FLOOR = 1e-3  # measured: 1e-1 to 1e-4 need equally many iterations
SMALLEST = 1e-290  # smaller probabilities count as 0: near 1e-308 float64 loses digits
SMALLEST = 1e-290  # smaller probabilities count as 0: near 1e-308 float64 loses digits
TO_BOUNDARY = 0.995  # share of the way to the boundary that a step may go
TAIL_MASS, TAIL_SLACK = 1e-9, 1e-4  # below this mass and above this slack q = mass / slack holds to better than 1e-5


@dataclass(frozen=True)
class EnsembleSolution:
    """log_probs: (N, K) log q, in the input's type. gap: (N,) float64, nats: the objective of equation 5 is at most this far
    above its minimum (for q before rounding to the input's type). iterations: of Newton, the most that any batch took."""

    log_probs: Tensor
    gap: Tensor
    iterations: int


def choose_active(generalist_log_probs: Tensor, members: Tensor, top_n: int = 1) -> Tensor:
    """Choose the specialists whose classes meet the generalist's top_n most probable classes (section 5.4: 1).

    generalist_log_probs: (N, K). members: (M, K) bool. Returns (N, M) bool; rows without any are allowed.
    """
    _check_shape("members", members, (None, generalist_log_probs.shape[1]), "mark for each specialist its classes of K")
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

    generalist_log_probs: (N, K) log p_g, -inf allowed. members: (M, K) bool. active: (N, M) bool.
    specialist_log_probs: for each specialist m (N_m, G_m + 1) log p_m: a row for each image with active[i, m], ascending; a
    column for each class with members[m, j], ascending, then the dustbin. tolerance: nats, for the gap.
    Raises ValueError where shapes disagree, a group holds every class, or probabilities do not sum to 1.
    """
    _check_inputs(generalist_log_probs, members, active, specialist_log_probs)
    log_probs = generalist_log_probs.clone(memory_format=torch.contiguous_format)
    gap = torch.zeros(len(active), dtype=torch.float64, device=active.device)
    iterations = 0
    used = [0] * len(members)
    for rows in torch.arange(len(active), device=active.device).split(_choose_chunk(members, active)):
        here = slice(int(rows[0]), int(rows[-1]) + 1)
        counts = active[here].sum(dim=0).tolist()
        blocks = [block[start : start + n] for block, start, n in zip(specialist_log_probs, used, counts, strict=True)]
        used = [start + n for start, n in zip(used, counts, strict=True)]
        if any(counts):
            chunk = _Chunk(log_probs[here], gap[here], members, active[here], blocks)
            iterations = max(iterations, _solve_chunk(chunk, tolerance, max_iterations))
    return EnsembleSolution(log_probs, gap, iterations)


@dataclass(frozen=True)
class _Chunk:
    """Consecutive images. log_probs (n, K): log p_g, overwritten by log q. gap (n,): overwritten. blocks: their specialists' rows."""

    log_probs: Tensor
    gap: Tensor
    members: Tensor
    active: Tensor
    blocks: list[Tensor]


@dataclass(frozen=True)
class _Patterns:
    """The distinct active sets of a chunk, and the patterns in which their specialists share classes.

    Lists of all sets lie end to end. A cell is a class of a set that is in some group; pattern 0 of a set is "in no group".
    """

    set_of: Tensor  # (n,) the set of each image
    bit: Tensor  # (S, M) a specialist's number in the set, where it belongs to it
    size: Tensor  # (S,) specialists in the set
    cell_rank: Tensor  # (S, K) the number of a class among the set's cells, where it is one
    cells: Tensor  # (S,) number of cells
    cell_class: Tensor  # (all cells,)
    cell_pattern: Tensor  # (all cells,) number of the cell's pattern in its set
    patterns: Tensor  # (S,) number of patterns
    bits: Tensor  # (all patterns,) int64, bit `bit` set where the specialist holds the pattern's classes
    classes: Tensor  # (all patterns,) number of classes; 0 where a set leaves no class outside


def _find_patterns(active: Tensor, members: Tensor) -> _Patterns:
    """Find the distinct rows of active (n, M), and for each the patterns of its groups. No loop over sets."""
    set_of, chosen = _find_sets(active)
    bit = chosen.cumsum(dim=1) - 1
    weights = torch.where(chosen, torch.exp2(bit.double()), 0.0)
    masks = weights @ members.double()  # (S, K), exact: sums of distinct powers of two
    inside = masks > 0
    cell_set, cell_class = inside.nonzero(as_tuple=True)
    values, value_of = masks[cell_set, cell_class].unique(return_inverse=True)
    keys, key_of, classes = (cell_set * len(values) + value_of).unique(return_inverse=True, return_counts=True)
    sets = torch.arange(len(chosen), device=active.device)
    owner = keys // max(len(values), 1)
    patterns = torch.bincount(owner, minlength=len(sets)) + 1
    place = torch.arange(len(keys), device=active.device) + owner + 1  # each set's pattern 0 comes before its others
    first = patterns.cumsum(0) - patterns
    bits = torch.zeros(len(keys) + len(sets), dtype=torch.int64, device=active.device)
    bits[place] = values[keys % max(len(values), 1)].long()
    cells = inside.sum(dim=1)
    count = torch.empty_like(bits)
    count[first], count[place] = members.shape[1] - cells, classes
    rank = inside.cumsum(dim=1, dtype=torch.int32) - 1
    local = place[key_of] - first[cell_set]
    return _Patterns(set_of, bit, chosen.sum(dim=1), rank, cells, cell_class, local, patterns, bits, count)


def _find_sets(active: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of active (n, M): the number of each row's set (n,), and the sets (S, M)."""
    set_of = torch.zeros(len(active), dtype=torch.int64, device=active.device)
    for columns in active.split(MAX_ACTIVE, dim=1):
        powers = torch.exp2(torch.arange(columns.shape[1], dtype=torch.float64, device=active.device))
        values, value_of = (columns.double() @ powers).unique(return_inverse=True)
        set_of = (set_of * len(values) + value_of).unique(return_inverse=True)[1]
    example = torch.empty(int(set_of.max()) + 1, dtype=torch.int64, device=active.device)
    example[set_of] = torch.arange(len(active), device=active.device)
    return set_of, active[example]


def _solve_chunk(chunk: _Chunk, tolerance: float, max_iterations: int) -> int:
    """Overwrite a chunk's log_probs and gap by the solution; returns the iterations."""
    found = _find_patterns(chunk.active, chunk.members)
    flat, classes = chunk.log_probs.view(-1), chunk.log_probs.shape[1]
    cells, patterns = found.cells[found.set_of], found.patterns[found.set_of]
    first_cell, first_slot = cells.cumsum(0) - cells, patterns.cumsum(0) - patterns
    image = torch.arange(len(cells), device=flat.device).repeat_interleave(cells)
    shift = (found.cells.cumsum(0) - found.cells)[found.set_of] - first_cell
    source = torch.arange(len(image), device=flat.device) + shift[image]
    place = image * classes + found.cell_class[source]
    slot = first_slot[image] + found.cell_pattern[source]

    sums, dustbins = _add_specialists(chunk, found, flat[place].double().exp(), first_cell)
    flat[place] = -torch.inf  # what is left sums exactly to the mass in no group; total minus the rest would cancel
    mass = torch.zeros(int(patterns.sum()), dtype=torch.float64, device=flat.device)
    mass[first_slot] = _sum_rows(chunk.log_probs)
    mass.index_add_(0, slot, sums)
    mass, dustbins = (torch.where(x < SMALLEST, 0.0, x) for x in (mass, dustbins))
    mass, dustbins = (torch.where(x < SMALLEST, 0.0, x) for x in (mass, dustbins))
    log_scale, iterations = _solve_patterns(chunk, found, mass, dustbins, first_slot, tolerance, max_iterations)

    empty = (mass[first_slot] == 0).nonzero().squeeze(1)  # q of classes without mass is shared evenly
    chunk.log_probs[empty] = 0
    chunk.log_probs.add_(log_scale[first_slot].to(flat.dtype)[:, None])
    log_sums = torch.where(mass[slot] > 0, sums, 1.0).log()
    flat[place] = (log_sums + log_scale[slot]).to(flat.dtype)
    return iterations


def _add_specialists(chunk: _Chunk, found: _Patterns, sums: Tensor, first_cell: Tensor) -> tuple[Tensor, Tensor]:
    """Add p_m to the cells' probabilities, in place; returns them and d (n, A), zero beyond an image's specialists."""
    dustbins = torch.zeros(len(chunk.active), int(found.size.max()), dtype=torch.float64, device=sums.device)
    images = chunk.active.t().nonzero()[:, 1].split([len(block) for block in chunk.blocks])
    for m, (rows, block) in enumerate(zip(images, chunk.blocks, strict=True)):
        if len(rows):
            sets, columns = found.set_of[rows], chunk.members[m].nonzero().squeeze(1)
            cell = first_cell[rows][:, None] + found.cell_rank[sets[:, None], columns]
            probs = block.double().exp()
            sums.index_add_(0, cell.view(-1), probs[:, :-1].reshape(-1))
            dustbins[rows, found.bit[sets, m]] = probs[:, -1]
    return sums, dustbins


def _sum_rows(log_probs: Tensor) -> Tensor:
    """Σ exp over each row of (n, K), float64; rows so small that the exponentials underflow are summed in float64."""
    rows = max(1, CACHE_ROWS_BYTES // (log_probs.shape[1] * log_probs.element_size()))
    total = torch.cat([part.exp().sum(dim=1) for part in log_probs.split(rows)]).double()
    tiny = (total < 1e-30).nonzero().squeeze(1)
    for part in tiny.split(rows):
        total[part] = log_probs[part].double().exp().sum(dim=1)
    return total


def _solve_patterns(
    chunk: _Chunk,
    found: _Patterns,
    mass: Tensor,
    dustbins: Tensor,
    first_slot: Tensor,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, int]:
    """Solve all images of a chunk, those with equally many specialists together. Writes the gap.

    Returns log(q / a) for each slot (log q where a = 0), and the iterations.
    """
    log_scale, iterations = torch.zeros_like(mass), 0
    sizes = found.size[found.set_of]
    for size in sizes[sizes > 0].unique().tolist():
        images = (sizes == size).nonzero().squeeze(1)
        width = int(found.patterns[found.set_of[images]].max())
        for rows in images.split(max(1, CHUNK_BYTES // (32 * width * (size + 8)))):
            numbers = torch.arange(width, device=mass.device)
            source = ((found.patterns.cumsum(0) - found.patterns)[found.set_of[rows]])[:, None] + numbers
            real = numbers < found.patterns[found.set_of[rows]][:, None]
            source = torch.where(real, source, 0)
            slot = torch.where(real, first_slot[rows][:, None] + numbers, 0)
            classes = found.classes[source] * real
            bits = found.bits[source][:, :, None] >> torch.arange(size, device=mass.device)
            outside = ((bits & 1 == 0) & (classes > 0)[:, :, None]).double()
            b = mass[slot] * (classes > 0)
            problem = _Problem(b, dustbins[rows, :size], outside, classes > 0)
            q, chunk.gap[rows], taken = _solve(problem, tolerance, max_iterations)
            scale = q.log() - torch.where(b > 0, b, classes.double()).log()
            log_scale[slot[real]] = scale[real]
            iterations = max(iterations, taken)
    return log_scale, iterations


@dataclass(frozen=True)
class _Problem:
    """Images with equally many specialists. mass: (n, P) a summed over each pattern. dustbins: (n, A) d. outside: (n, P, A) 1.0
    where the specialist does not hold the pattern. present: (n, P) false where an image has fewer patterns than others."""

    mass: Tensor
    dustbins: Tensor
    outside: Tensor
    present: Tensor

    @property
    def total(self) -> Tensor:
        """W: (n,), 1 + A up to the rounding of the inputs; their own sum makes q sum to 1."""
        return self.mass.sum(dim=1) + self.dustbins.sum(dim=1)

    def take(self, rows: Tensor) -> _Problem:
        """The same for some of the images."""
        return _Problem(self.mass[rows], self.dustbins[rows], self.outside[rows], self.present[rows])


def _solve(problem: _Problem, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, int]:
    """Returns q (n, P), gap (n,) and the iterations; images that Newton leaves above the tolerance are finished by EM."""
    if problem.dustbins.shape[1] == 1:
        q, iterations = _share_dustbins(problem, problem.mass.clamp_min(SMALLEST) * problem.present), 0
        return q, _certify(problem, q), 0
    q, slack, iterations = _run_newton(problem, tolerance, max_iterations)
    gap = _certify(problem, q)
    tail = (problem.mass < TAIL_MASS) & (slack > TAIL_SLACK)
    exact = _normalise(torch.where(tail, problem.mass / slack, q))
    exact_gap = _certify(problem, exact)
    better = exact_gap <= gap.clamp_min(tolerance)
    q, gap = torch.where(better[:, None], exact, q), torch.where(better, exact_gap, gap)
    left = (gap > tolerance).nonzero().squeeze(1)
    if len(left):
        q[left], gap[left] = _run_em(problem.take(left), q[left], tolerance)
    return q, gap, iterations


def _certify(problem: _Problem, q: Tensor) -> Tensor:
    """max over classes of h_j - W, h_j = a_j / q_j + Σ_{m not containing j} d_m / (q outside m): (n,) nats, at least 0.

    The objective is convex and -h its gradient, so no other distribution can be lower by more. q: (n, P), sums to 1.
    """
    gap = (_compute_pull(problem, q) - problem.total[:, None]).masked_fill(~problem.present, 0.0)
    return gap.amax(dim=1).clamp_min(0.0)


def _compute_pull(problem: _Problem, q: Tensor) -> Tensor:
    """h (n, P); a pattern without mass and without q pulls by its dustbins only."""
    return torch.where(problem.mass > 0, problem.mass / q, 0.0) + _multiply(problem.outside, _price(problem, q))


def _price(problem: _Problem, q: Tensor) -> Tensor:
    """d / (q outside m), 0 where d = 0: (n, A)."""
    outside = _multiply(problem.outside.mT, q)
    return torch.where(problem.dustbins > 0, problem.dustbins / outside, 0.0)


def _multiply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(n, X, Y) times (n, Y): (n, X)."""
    return (matrices @ vectors[:, :, None]).squeeze(2)


def _normalise(q: Tensor) -> Tensor:
    return q / q.sum(dim=1, keepdim=True)


def _share_dustbins(problem: _Problem, q: Tensor) -> Tensor:
    """One EM step from q (n, P): each dustbin is shared among the classes outside in proportion to q."""
    return _normalise(problem.mass + q * _multiply(problem.outside, _price(problem, q)))


def _run_em(problem: _Problem, q: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """EM from q, at most EM_STEPS. It cannot diverge, and the gap returned is true whether or not it got there."""
    for _ in range(EM_STEPS):
        q = _share_dustbins(problem, q)
        gap = _certify(problem, q)
        if bool((gap <= tolerance).all()):
            break
    return q, gap


def _run_newton(problem: _Problem, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, int]:
    """Primal-dual Newton with a falling floor. Returns q (n, P) normalised, slack (n, P) and the iterations."""
    floor = torch.full_like(problem.total, FIRST_FLOOR)
    lowest = 0.01 * tolerance / (problem.mass.shape[1] + problem.dustbins.shape[1])
    targets, dust = problem.mass.maximum(floor[:, None]) * problem.present, problem.dustbins.maximum(floor[:, None])
    price = dust
    slack = problem.total[:, None] - _multiply(problem.outside, price)
    q = targets / slack
    best, best_slack = q.clone(), slack.clone()
    rows = torch.arange(len(q), device=q.device)
    for iteration in range(max_iterations):
        targets, dust = problem.mass.maximum(floor[:, None]) * problem.present, problem.dustbins.maximum(floor[:, None])
        step_q, step_slack, step_price, size = _find_step(problem.outside, targets, dust, q, slack, price)
        q, slack, price = q + size * step_q, slack + size * step_slack, price + size * step_price
        shrink = torch.where(size > 0.9, 0.01, torch.where(size > 0.5, 0.1, torch.where(size > 0.1, 0.5, 1.0)))
        floor = (floor * shrink.squeeze(1)).clamp_min(lowest)
        best[rows], best_slack[rows] = q, slack
        keep = (_certify(problem, _normalise(q)) > tolerance).nonzero().squeeze(1)
        if len(keep) == 0:
            break
        if len(keep) < len(rows) / 2:
            problem, rows = problem.take(keep), rows[keep]
            q, slack, price, floor = q[keep], slack[keep], price[keep], floor[keep]
    return _normalise(best), best_slack, iteration + 1


def _find_step(outside: Tensor, mass: Tensor, dust: Tensor, q: Tensor, slack: Tensor, price: Tensor) -> tuple[Tensor, ...]:
    """Newton's direction for q · slack = mass and price · outside = dust, and the step (n, 1) that keeps all four positive."""
    used = _multiply(outside.mT, q)
    matrix = outside.mT @ (outside * (q / slack)[:, :, None]) + torch.diag_embed(used / price)
    root = matrix.diagonal(dim1=1, dim2=2).rsqrt()
    right = dust / price - _multiply(outside.mT, mass / slack)
    solved = torch.linalg.solve_ex(matrix * root[:, :, None] * root[:, None, :], right * root)[0]
    step_price = (solved * root).nan_to_num(0.0, 0.0, 0.0)
    step_slack = -_multiply(outside, step_price)
    step_q = mass / slack - q - q / slack * step_slack
    ratios = [-step_q / q, -step_slack / slack, -step_price / price, -_multiply(outside.mT, step_q) / used]
    furthest = torch.cat(ratios, dim=1).nan_to_num(0.0).amax(dim=1, keepdim=True)
    return step_q, step_slack, step_price, (TO_BOUNDARY / furthest.clamp_min(1e-300)).clamp_max(1.0)


def _choose_chunk(members: Tensor, active: Tensor) -> int:
    """Images in a chunk, so that its temporaries stay near CHUNK_BYTES: tables (S, K), S up to n, and cells."""
    cells = float((active.sum(dim=0) * members.sum(dim=1)).sum()) / max(1, len(active))
    return max(1, int(CHUNK_BYTES / (24 * members.shape[1] + 40 * members.shape[0] + 100 * cells)))


def _check_shape(name: str, value: Tensor, shape: tuple[int | None, ...], remedy: str) -> None:
    fits = value.dim() == len(shape) and all(want in (None, have) for want, have in zip(shape, value.shape, strict=True))
    if not fits:
        allowed = "(" + ", ".join("any" if want is None else str(want) for want in shape) + ")"
        raise ValueError(f"{name}: shape {tuple(value.shape)} is not allowed; give {allowed}: {remedy}")


def _check_inputs(generalist: Tensor, members: Tensor, active: Tensor, specialists: Sequence[Tensor]) -> None:
    pass
