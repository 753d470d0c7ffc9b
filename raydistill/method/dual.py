"""Equation 5 of many images that have equally many active specialists: the problem, its solution, its certificate.

Comes in: a `Problem`, whose classes have been summed to patterns. Goes out: q of each pattern, and a bound of how far
its objective is above the minimum. Minimising KL(p_g, q) + Σ_m KL(p_m, q) is maximising, over distributions q,
    Σ_j mass_j log q_j + Σ_m dustbin_m log(q outside m).
With W the sum of all masses and dustbins, and C[j, m] = 1 where m does not hold pattern j, the maximum is where
    q · slack = mass,   price · Cᵀq = dustbin,   slack = W - C price.
The prices maximise the concave dual Σ_j mass_j log slack_j + Σ_m dustbin_m log price_m: A numbers for an image, however
many classes. Source: equation 5 is from Hinton, Vinyals, Dean 2015; the dual is ours.

Solved by primal-dual Newton: small q and small slacks stay precise, where Newton on the prices alone loses them to
cancellation. Masses below a floor count as the floor, which falls towards 0; its optimum has at most their sum as gap.
n images, P patterns, A active specialists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EM_STEPS = 5000  # bound of the fallback; measured: never used in 3.5 million hostile problems
FIRST_FLOOR = 1e-3  # measured: 1e-1 to 1e-4 take equally long
TO_BOUNDARY = 0.995  # share of the way to the domain's boundary that a step may go
SMALLEST = 1e-290  # smaller probabilities count as 0: near 1e-308 float64 loses digits
TAIL_MASS, TAIL_SLACK = 1e-9, 1e-4  # below that mass and above that slack q is read as mass / slack, free of the floor


@dataclass(frozen=True)
class Problem:
    """Equation 5 for n images with A specialists each.

    mass: (n, P) float64, p_g and the specialists' probabilities, summed over the classes of each pattern.
    dustbins: (n, A) float64. outside: (n, P, A) float64, C. present: (n, P) bool, false where an image lacks the
    pattern; mass and C are 0 there. Masses and dustbins are 0 or above SMALLEST.
    """

    mass: Tensor
    dustbins: Tensor
    outside: Tensor
    present: Tensor

    @property
    def total(self) -> Tensor:
        """W (n, 1), as the inputs add up: so q sums to 1 whatever their rounding."""
        return self.mass.sum(dim=1, keepdim=True) + self.dustbins.sum(dim=1, keepdim=True)

    def take(self, rows: Tensor) -> Problem:
        """The problems of some images."""
        return Problem(self.mass[rows], self.dustbins[rows], self.outside[rows], self.present[rows])


def solve_problem(problem: Problem, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, int]:
    """Find q (n, P), its certified gap (n,) in nats, and Newton's iterations, the most that any image took.

    tolerance: nats, for the gap; what Newton leaves above it is finished by EM.
    """
    if problem.dustbins.shape[1] == 1:  # one EM step is exact
        q = _step_em(problem, problem.mass.clamp_min(SMALLEST) * problem.present)
        return q, certify_gap(problem, q), 0
    q, slack, iterations = _run_newton(problem, tolerance, max_iterations)
    tail = (problem.mass < TAIL_MASS) & (slack > TAIL_SLACK)
    exact = _normalise(torch.where(tail, problem.mass / slack, q))
    gap, exact_gap = certify_gap(problem, q), certify_gap(problem, exact)
    better = exact_gap <= gap.clamp_min(tolerance)
    q, gap = torch.where(better[:, None], exact, q), torch.where(better, exact_gap, gap)
    left = (~(gap <= tolerance)).nonzero()[:, 0]
    for _ in range(EM_STEPS if len(left) else 0):
        q[left] = _step_em(problem.take(left), q[left])
        gap[left] = certify_gap(problem.take(left), q[left])
        if bool((gap <= tolerance).all()):
            break
    return q, gap, iterations


def certify_gap(problem: Problem, q: Tensor) -> Tensor:
    """Bound the excess of q (n, P) over the minimum: max_j h_j - W, (n,) nats.

    h_j = mass_j / q_j + Σ_{m not containing j} dustbin_m / (q outside m). The objective is convex and -h its gradient:
    no distribution is lower by more. Where mass = q = 0 the dustbins count.
    """
    pull = (problem.mass / q).where(problem.mass > 0, 0.0) + _find_prices(problem, q) - problem.total
    return pull.where(problem.present, 0.0).amax(dim=1).clamp_min(0.0)


def _find_prices(problem: Problem, q: Tensor) -> Tensor:
    """C d / (q outside): (n, P), what the dustbins add to h."""
    prices = problem.dustbins / _multiply(problem.outside.mT, q)
    return _multiply(problem.outside, prices.where(problem.dustbins > 0, 0.0))


def _step_em(problem: Problem, q: Tensor) -> Tensor:
    """One EM step from q (n, P): each dustbin is shared among the classes outside in proportion to q."""
    return _normalise(problem.mass + q * _find_prices(problem, q))


def _multiply(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[:, :, None]).squeeze(2)


def _normalise(q: Tensor) -> Tensor:
    return q / q.sum(dim=1, keepdim=True)


def _run_newton(problem: Problem, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, int]:
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
        keep = (certify_gap(problem, _normalise(q)) > tolerance).nonzero()[:, 0]
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
