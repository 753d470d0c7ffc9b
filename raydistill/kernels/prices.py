"""The prices of equation 5 for one image: Newton's method on the dual that `dual` explains, in loops over few numbers.

Maximises the concave Σ mass log slack + Σ dustbin log price with slack = W - Cᵀ price. Its unknowns are the prices'
relative changes, so that prices of all sizes are solved for alike. Small slacks lose digits to cancellation here: then
the gap stays above the tolerance, and `dual`'s primal-dual way takes over.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raydistill.kernels.launch import compile_part

MOST_STEPS = 40
TO_BOUNDARY = 0.995  # share of the way to the domain's boundary that a step may go


@compile_part
def find_slacks(
    mass: Any, dustbins: Any, outside: Any, has_rest: bool, tolerance: float, slack: Any, weight: Any
) -> tuple[int, float]:
    """Fill slack (patterns,) with mass / q, q being the normalised solution. Returns Newton's steps and the gap, nats.

    mass: (patterns,); dustbins: (A,); outside: (A, patterns), 1 where a group lacks a pattern; has_rest: whether
    pattern 0, "in no group", has classes; weight: (patterns,) of memory. The steps are -1 where the gap stays above
    tolerance.
    """
    size, patterns = len(dustbins), len(mass)
    own = 0.0
    for p in range(patterns):
        own += mass[p]
    total = own
    for k in range(size):
        total += dustbins[k]
    if not abs(total - 1 - size) < 0.01:
        return -1, 0.0
    price, used = np.empty(size), np.empty(size)
    matrix, change = np.empty((size, size)), np.empty(size)
    _guess_prices(mass, dustbins, outside, own, total, weight, price)
    for step in range(MOST_STEPS):
        norm, gap = _certify(mass, dustbins, outside, price, total, has_rest, slack, weight, used)
        if gap <= tolerance:
            for p in range(patterns):
                slack[p] *= norm
            return step, gap
        if norm == 0.0:  # outside the domain
            for k in range(size):
                price[k] *= 0.5
            continue
        for p in range(patterns):
            weight[p] /= slack[p]
        for k in range(size):
            for other in range(k + 1):
                entry = 0.0
                for p in range(patterns):
                    entry += outside[k, p] * outside[other, p] * weight[p]
                matrix[k, other] = entry * price[k] * price[other]
            matrix[k, k] += dustbins[k]
            change[k] = dustbins[k] - price[k] * used[k]
        if not _solve_symmetric(matrix, change):
            break
        share = _choose_share(outside, price, slack, change, weight)
        for k in range(size):
            price[k] *= 1.0 + share * change[k]
    return -1, 0.0


@compile_part
def _guess_prices(mass: Any, dustbins: Any, outside: Any, own: float, total: float, q: Any, price: Any) -> None:
    """Fill price (A,) from one EM step on q = mass, which is the solution where there is one specialist."""
    for k in range(len(price)):
        used = 0.0
        for p in range(len(mass)):
            used += outside[k, p] * mass[p]
        price[k] = dustbins[k] / used
    for p in range(len(mass)):
        q[p] = 1.0
    for k in range(len(price)):
        for p in range(len(mass)):
            q[p] += outside[k, p] * price[k]
    for p in range(len(mass)):
        q[p] *= mass[p] / total
    for k in range(len(price)):
        used = 0.0
        for p in range(len(mass)):
            used += outside[k, p] * q[p]
        price[k] = dustbins[k] / used


@compile_part
def _certify(
    mass: Any, dustbins: Any, outside: Any, price: Any, total: float, has_rest: bool, slack: Any, q: Any, used: Any
) -> tuple[float, float]:
    """Fill slack, q = mass / slack, and used (A,), Σ q outside each group. Returns Σ q and the gap of q / Σ q.

    The gap is `dual.certify_gap`'s: max over patterns of mass / q + Σ dustbin / (q outside) - W. Σ q is 0, and the gap
    infinite, where some slack is not above 0.
    """
    lowest, norm = np.inf, 0.0
    for p in range(len(mass)):
        slack[p] = total
    for k in range(len(price)):
        for p in range(len(mass)):
            slack[p] -= outside[k, p] * price[k]
    for p in range(len(mass)):
        lowest = min(lowest, slack[p])
    if not lowest > 0:
        return 0.0, np.inf
    for p in range(len(mass)):
        q[p] = mass[p] / slack[p]
        norm += q[p]
    largest = -np.inf
    for k in range(len(price)):
        used[k] = 0.0
        for p in range(len(mass)):
            used[k] += outside[k, p] * q[p]
    for p in range(0 if has_rest else 1, len(mass)):
        pull = slack[p]
        for k in range(len(price)):
            pull += outside[k, p] * dustbins[k] / used[k]
        largest = max(largest, pull)
    return norm, max(largest * norm - total, 0.0)


@compile_part
def _choose_share(outside: Any, price: Any, slack: Any, change: Any, fall: Any) -> float:
    """How much of the step to take: at most all, never to the end of the domain."""
    furthest = 0.0
    for p in range(len(slack)):
        fall[p] = 0.0
    for k in range(len(price)):
        furthest = max(furthest, -change[k])
        for p in range(len(slack)):
            fall[p] += outside[k, p] * price[k] * change[k]
    for p in range(len(slack)):
        furthest = max(furthest, fall[p] / slack[p])
    return 1.0 if furthest <= TO_BOUNDARY else TO_BOUNDARY / furthest


@compile_part
def _solve_symmetric(matrix: Any, right: Any) -> bool:
    """Replace right (n,) by the solution, by Cholesky's method on the lower half of matrix. False if it is singular."""
    size = len(right)
    for k in range(size):
        for other in range(k + 1):
            entry = matrix[k, other]
            for t in range(other):
                entry -= matrix[k, t] * matrix[other, t]
            if other < k:
                matrix[k, other] = entry / matrix[other, other]
            elif not entry > 0:
                return False
            else:
                matrix[k, k] = math.sqrt(entry)
        for t in range(k):
            right[k] -= matrix[k, t] * right[t]
        right[k] /= matrix[k, k]
    for k in range(size - 1, -1, -1):
        for t in range(k + 1, size):
            right[k] -= matrix[t, k] * right[t]
        right[k] /= matrix[k, k]
    return True
