"""The ensemble's answer: equation 5 of Hinton, Vinyals, Dean 2015, solved to a certified gap for many images at once.

Comes in: the generalist's log-probabilities, which specialists are active for which image, and theirs. Goes out: log q,
where q minimises KL(p_g, q) + Σ_m KL(p_m, q) over the active specialists m; q outside m's classes is summed against m's
dustbin d_m. With W = 1 + active and a_j = p_g[j] + Σ_{m contains j} p_m[j] the solution is
    q_j = a_j / slack_j,   slack_j = W - Σ_{m not containing j} price_m,   price_m · (q outside m) = d_m.
Classes of the same membership ("pattern") share a slack, so a is summed to a mass for each pattern. What is left,
    q · slack = mass,   price · Cᵀq = d,   slack = W - C price   (C[pattern, m] = 1 where m does not hold the pattern),
is solved by primal-dual Newton: small q and small slacks stay precise, where Newton on the prices alone loses them to
cancellation. Masses below a floor count as the floor, which falls towards 0; its optimum has at most their sum as gap.
N images, K classes, M specialists, G classes in a group, A active specialists, P patterns, S distinct active sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ACTIVE = 40  # a set's number and a pattern's bit mask share an int64; masks are exact in float64
CHUNK_BYTES = 192 << 20  # temporaries of one chunk of images
CACHE_BYTES = 1 << 19  # exponentials that stay in a processor's cache
EM_STEPS = 5000  # bound of the fallback; measured: never used in 3.5 million hostile problems
FIRST_FLOOR = 1e-3  # measured: 1e-1 to 1e-4 take equally long
TO_BOUNDARY = 0.995  # share of the way to the domain's boundary that a step may go
SMALLEST = 1e-290  # smaller probabilities count as 0: near 1e-308 float64 loses digits
TAIL_MASS, TAIL_SLACK = 1e-9, 1e-4  # below that mass and above that slack q is read as mass / slack, free of the floor


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
    specialist_log_probs: for each specialist m (N_m, G_m + 1) log p_m: a row for each image with active[i, m], ascending;
    a column for each class with members[m, j], ascending, then the dustbin. tolerance: nats, for the gap.
    Raises ValueError where shapes disagree, a group holds every class, or probabilities do not sum to 1.
    """
    _check_inputs(generalist_log_probs, members, active, specialist_log_probs)
    log_probs = generalist_log_probs.detach().clone(memory_format=torch.contiguous_format)
    gap = torch.zeros(len(active), dtype=torch.float64, device=active.device)
    iterations, used, size = 0, [0] * len(members), _choose_chunk(members, active)
    for start in range(0, len(active), size):
        here = slice(start, start + size)
        ends = [n + more for n, more in zip(used, active[here].sum(dim=0).tolist(), strict=True)]
        blocks = [x[n:end].detach() for x, n, end in zip(specialist_log_probs, used, ends, strict=True)]
        if ends != used:
            gap[here], taken = _solve_chunk(log_probs[here], members, active[here], blocks, tolerance, max_iterations)
            iterations = max(iterations, taken)
        used = ends
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


def _choose_chunk(members: Tensor, active: Tensor) -> int:
    """Images in a chunk: its tables are (S, K), and its lists have an entry for each class of each active group."""
    cells = float((active.sum(dim=0) * members.sum(dim=1)).sum()) / max(1, len(active))
    row, table = 100 * cells + 40 * members.shape[0] + 8 * members.shape[1], 24 * members.shape[1]
    left = CHUNK_BYTES - table * (len(_find_sets(active)[1]) if len(active) else 0)
    return max(1, int(CHUNK_BYTES / (row + table)), int(left / row))


@dataclass(frozen=True)
class _Patterns:
    """The distinct active sets of a chunk and their patterns; pattern 0 is "in no group". Cell: a class in some group."""

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
            f"generalist_log_probs, specialist_log_probs: the probabilities of an image sum to {float(total[i]):.6g}, allowed is"
            f" {int(expected[i])} for the generalist and its active specialists; give outputs of log_softmax"
        )


@dataclass(frozen=True)
class _Problem:
    """Equation 5 for n images with A specialists each."""

    mass: Tensor  # (n, P)
    dustbins: Tensor  # (n, A)
    outside: Tensor  # (n, P, A) C, as float64
    present: Tensor  # (n, P) false where an image lacks the pattern

    @property
    def total(self) -> Tensor:
        """W (n, 1), as the inputs add up: so q sums to 1 whatever their rounding."""
        return self.mass.sum(dim=1, keepdim=True) + self.dustbins.sum(dim=1, keepdim=True)

    def take(self, rows: Tensor) -> _Problem:
        return _Problem(self.mass[rows], self.dustbins[rows], self.outside[rows], self.present[rows])


def _solve_patterns(
    found: _Patterns, mass: Tensor, dustbins: Tensor, sizes: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, int]:
    """Find log(q / a) (n, P), or log q of each class where a = 0; gap (n,); iterations. Sets of one size go together."""
    log_scale, gap, iterations = torch.zeros_like(mass), torch.zeros_like(mass[:, 0]), 0
    for size in sizes[sizes > 0].unique().tolist():
        images = (sizes == size).nonzero()[:, 0]
        width = int((found.classes[found.set_of[images]] > 0).sum(dim=1).max()) + 1
        for rows in images.split(max(1, CHUNK_BYTES // (32 * width * (size + 8)))):
            classes, bits = (x[found.set_of[rows], :width] for x in (found.classes, found.bits))
            held = bits[:, :, None] >> torch.arange(size, device=bits.device) & 1
            outside = ((held == 0) & (classes > 0)[:, :, None]).double()
            problem = _Problem(mass[rows, :width], dustbins[rows, :size], outside, classes > 0)
            q, gap[rows], taken = _solve(problem, tolerance, max_iterations)
            log_scale[rows, :width] = q.log() - problem.mass.where(problem.mass > 0, classes.double()).log()
            iterations = max(iterations, taken)
    return log_scale, gap, iterations


def _solve(problem: _Problem, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, int]:
    """Find q (n, P), its gap (n,), and the iterations. What Newton leaves above the tolerance is finished by EM."""
    if problem.dustbins.shape[1] == 1:  # one EM step is exact
        q = _step_em(problem, problem.mass.clamp_min(SMALLEST) * problem.present)
        return q, _certify_gap(problem, q), 0
    q, slack, iterations = _run_newton(problem, tolerance, max_iterations)
    tail = (problem.mass < TAIL_MASS) & (slack > TAIL_SLACK)
    exact = _normalise(torch.where(tail, problem.mass / slack, q))
    gap, exact_gap = _certify_gap(problem, q), _certify_gap(problem, exact)
    better = exact_gap <= gap.clamp_min(tolerance)
    q, gap = torch.where(better[:, None], exact, q), torch.where(better, exact_gap, gap)
    left = (~(gap <= tolerance)).nonzero()[:, 0]
    for _ in range(EM_STEPS if len(left) else 0):
        q[left] = _step_em(problem.take(left), q[left])
        gap[left] = _certify_gap(problem.take(left), q[left])
        if bool((gap <= tolerance).all()):
            break
    return q, gap, iterations


def _find_prices(problem: _Problem, q: Tensor) -> Tensor:
    """C d / (q outside): (n, P), what the dustbins add to h."""
    prices = problem.dustbins / _multiply(problem.outside.mT, q)
    return _multiply(problem.outside, prices.where(problem.dustbins > 0, 0.0))


def _certify_gap(problem: _Problem, q: Tensor) -> Tensor:
    """Bound the excess of q (n, P): max_j h_j - W, h_j = a_j / q_j + Σ_{m not containing j} d_m / (q outside m); (n,).

    The objective is convex and -h its gradient: no distribution is lower by more. Where a = q = 0 the dustbins count.
    """
    pull = (problem.mass / q).where(problem.mass > 0, 0.0) + _find_prices(problem, q) - problem.total
    return pull.where(problem.present, 0.0).amax(dim=1).clamp_min(0.0)


def _step_em(problem: _Problem, q: Tensor) -> Tensor:
    """One EM step from q (n, P): each dustbin is shared among the classes outside in proportion to q."""
    return _normalise(problem.mass + q * _find_prices(problem, q))


def _multiply(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[:, :, None]).squeeze(2)


def _normalise(q: Tensor) -> Tensor:
    return q / q.sum(dim=1, keepdim=True)


def _run_newton(problem: _Problem, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, int]:
    """Find q (n, P) normalised, slack (n, P), iterations. Finished images are dropped once they are the majority."""
    lowest = 0.01 * tolerance / (problem.mass.shape[1] + problem.dustbins.shape[1])
    floor = torch.full_like(problem.total, FIRST_FLOOR)
    price = problem.dustbins.maximum(floor)
    slack = problem.total - _multiply(problem.outside, price)
    q = problem.mass.maximum(floor) * problem.present / slack
    all_q, all_slack, rows, iteration = q.clone(), slack.clone(), torch.arange(len(q), device=q.device), 0
    while iteration < max_iterations:
        iteration += 1
        mass, dust = problem.mass.maximum(floor) * problem.present, problem.dustbins.maximum(floor)
        step_q, step_slack, step_price, size = _find_step(problem.outside, mass, dust, q, slack, price)
        q, slack, price = q + size * step_q, slack + size * step_slack, price + size * step_price
        all_q[rows], all_slack[rows] = q, slack
        shrink = torch.where(size > 0.9, 0.01, torch.where(size > 0.5, 0.1, torch.where(size > 0.1, 0.5, 1.0)))
        floor = (floor * shrink).clamp_min(lowest)
        keep = (_certify_gap(problem, _normalise(q)) > tolerance).nonzero()[:, 0]
        if len(keep) == 0:
            break
        if len(keep) < len(rows) / 2:
            problem, rows = problem.take(keep), rows[keep]
            q, slack, price, floor = q[keep], slack[keep], price[keep], floor[keep]
    return _normalise(all_q), all_slack, iteration


def _find_step(
    outside: Tensor, mass: Tensor, dust: Tensor, q: Tensor, slack: Tensor, price: Tensor
) -> tuple[Tensor, ...]:
    """Newton's direction in q, slack and price, and how far (n, 1) to go: at most 1, never to the end of the domain."""
    used = _multiply(outside.mT, q)
    matrix = outside.mT @ (outside * (q / slack)[:, :, None]) + torch.diag_embed(used / price)
    root = matrix.diagonal(dim1=1, dim2=2).rsqrt()  # scaled to a diagonal of 1: its entries span 20 digits
    right = (dust / price - _multiply(outside.mT, mass / slack)) * root
    solved = torch.linalg.solve_ex(matrix * root[:, :, None] * root[:, None, :], right)[0]
    step_price = (solved * root).nan_to_num(0.0, 0.0, 0.0)
    step_slack = -_multiply(outside, step_price)
    step_q = mass / slack - q - q / slack * step_slack
    shares = [-step_q / q, -step_slack / slack, -step_price / price]
    furthest = torch.cat(shares, dim=1).nan_to_num(0.0).amax(dim=1, keepdim=True)
    return step_q, step_slack, step_price, (TO_BOUNDARY / furthest.clamp_min(SMALLEST)).clamp_max(1.0)
