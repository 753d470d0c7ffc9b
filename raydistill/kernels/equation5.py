"""Equation 5 image by image: what `ensemble` says, for images whose numbers float32 can hold.

Images are taken in the order of their active sets, so that a set's table is built once: its cells (classes in some
active group) and their patterns (which of the groups hold them). An image then needs one pass over its K classes, one
over its cells and each specialist's answer, and Newton's method on the dual, in as many numbers as specialists. What
does not come out within the tolerance, or has cells below SMALLEST, is left to `ensemble`'s general way.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from raydistill.kernels.launch import compile_kernel, compile_part
from raydistill.kernels.numbers import exp32, f32, i32, log32, u32
from raydistill.kernels.prices import find_slacks

SMALLEST = 1e-30  # of a cell: exp32's floor, 1.6e-38 from each network, is less than a digit of it
SMALLEST_REST = 1e-28  # the same for the sum over the other classes
NONE = u32(2**32 - 1)
PARTS = 64  # of the images, shared out to threads


@compile_kernel
def list_active(active: Any, sizes: Any, keys: Any, start: Any, group: Any, place: Any, hashes: Any) -> None:
    """For each image, from start[i] to start[i + 1]: its groups, and where its row of each one's answers begins.

    active: (N, M) bool; sizes: (M,) G; keys: (M,) random. place counts numbers in all answers, one block a group after
    the other. hashes: (N,) zeros, that become equal for equal sets.
    """
    row = np.zeros(len(sizes) + 1, np.int64)
    for i in range(len(active)):
        for m in range(len(sizes)):
            row[m + 1] += np.int64(active[i, m]) * (sizes[m] + 1)
    row = row.cumsum()
    n = 0
    for i in range(len(active)):
        start[i] = n
        for m in range(len(sizes)):
            if active[i, m]:
                group[n], place[n] = m, row[m]
                row[m] += sizes[m] + 1
                hashes[i] ^= keys[m]
                n += 1
    start[len(active)] = n


@compile_kernel
def solve_images(
    generalist: Any,
    answers: Any,
    order: Any,
    start: Any,
    group: Any,
    place: Any,
    class_start: Any,
    class_of: Any,
    most: Any,
    tolerance: float,
    log_q: Any,
    gap: Any,
    steps: Any,
) -> None:
    """Fill log_q (N, K), gap (N,) nats, and steps (N,), Newton's; -1 for an image that is left to others.

    generalist: (N, K) log p_g; answers: all specialists' log p_m; order: (N,) images; start, group, place: of
    `list_active`; class_start, class_of: the classes of each group; most: (2,) of an image: specialists, cells.
    """
    count, classes = generalist.shape
    for part in prange(PARTS):
        cell_at = np.full(classes, NONE, np.uint32)
        cell_class, cell_pattern = np.empty(most[1], np.uint32), np.empty(most[1], np.uint32)
        cell_of = np.empty(most[1], np.uint32)
        spare, bits = np.empty((3, most[1] + 2), np.uint32), np.empty(most[1] + 2, np.int64)
        outside = np.empty((most[0], most[1] + 2))
        a, probs = np.empty(most[1], np.float32), np.empty(classes, np.float32)
        sums = np.empty((4, most[1] + 2))
        mass, slack, weight = np.empty(most[1] + 2), np.empty(most[1] + 2), np.empty(most[1] + 2)
        table, cells, patterns = -1, 0, 0
        for n in range(part * count // PARTS, (part + 1) * count // PARTS):
            i = order[n]
            groups = group[start[i] : start[i + 1]]
            steps[i], gap[i] = 0, 0.0
            if len(groups) == 0:
                for j in range(classes):
                    log_q[i, j] = generalist[i, j]
                continue
            if table < 0 or not _are_equal(groups, group[start[table] : start[table + 1]]):
                cells, patterns = _build_table(
                    groups, class_start, class_of, cell_at, cell_class, cell_pattern, cell_of, spare, bits, outside
                )
                table = i
            places = place[start[i] : start[i + 1]]
            dustbins = np.empty(len(groups))
            _add_up(
                generalist[i], answers, places, groups, class_start, cell_class[:cells], cell_of, probs, a, dustbins
            )
            mass[0] = _sum_rest(generalist[i], cell_class[:cells], log_q[i])
            smallest = _sum_patterns(a[:cells], cell_pattern[:cells], sums[:, :patterns], mass[:patterns])
            if smallest < SMALLEST or (mass[0] < SMALLEST_REST and cells < classes) or dustbins.min() < SMALLEST:
                steps[i] = -1
                continue
            if cells == classes:
                mass[0] = 0.0
            steps[i], gap[i] = find_slacks(
                mass[:patterns], dustbins, outside, cells < classes, tolerance, slack[:patterns], weight[:patterns]
            )
            if steps[i] >= 0:
                _write(generalist[i], a, cell_class[:cells], cell_pattern[:cells], slack[:patterns], log_q[i])


@compile_part
def _are_equal(groups: Any, others: Any) -> bool:
    equal = len(groups) == len(others)
    for k in range(min(len(groups), len(others))):
        equal = equal and groups[k] == others[k]
    return equal


@compile_part
def _build_table(
    groups: Any,
    class_start: Any,
    class_of: Any,
    cell_at: Any,
    cell_class: Any,
    cell_pattern: Any,
    cell_of: Any,
    spare: Any,
    bits: Any,
    outside: Any,
) -> Any:
    """Find the cells and patterns of a set of groups, by refinement: each group splits the patterns found so far.

    Fills cell_class and cell_pattern (cells,); cell_of: the cell of each group's classes, one group after the other;
    outside (A, patterns): 1 where a group lacks it; pattern 0 is "in no group". cell_at: (K,), NONE before and after.
    Returns the numbers of cells and patterns.
    """
    child, stamp, held = spare[0], spare[1], spare[2]
    known, cells, filled = u32(1), u32(0), u32(0)
    bits[0], stamp[0] = 0, NONE
    for k in range(len(groups)):
        split = u32(k)
        for t in range(class_start[groups[k]], class_start[groups[k] + 1]):
            c = u32(class_of[t])
            cell = cell_at[c]
            if cell == NONE:
                cell, old = cells, u32(0)
                cell_at[c], cell_class[cell] = cell, c
                cells += u32(1)
            else:
                old = cell_pattern[cell]
                held[old] -= u32(1)
            if stamp[old] != split:
                stamp[old], child[old] = split, known
                bits[known], stamp[known], held[known] = bits[old] | (np.int64(1) << k), NONE, u32(0)
                known += u32(1)
            new = child[old]
            cell_pattern[cell], cell_of[filled] = new, cell
            held[new] += u32(1)
            filled += u32(1)
    patterns = u32(1)
    for k in range(len(groups)):
        outside[k, 0] = 1.0 if cells < len(cell_at) else 0.0
    for number in range(1, known):
        child[number] = patterns
        if held[number] > 0:
            for k in range(len(groups)):
                outside[k, patterns] = 1.0 - np.float64((bits[number] >> k) & 1)
            patterns += u32(1)
    for cell in range(cells):
        cell_pattern[cell] = child[cell_pattern[cell]]
        cell_at[cell_class[cell]] = NONE
    return np.int64(cells), np.int64(patterns)


@compile_part
def _add_up(
    generalist: Any,
    answers: Any,
    places: Any,
    groups: Any,
    class_start: Any,
    cell_class: Any,
    cell_of: Any,
    probs: Any,
    a: Any,
    dustbins: Any,
) -> None:
    """Fill a (cells,), p_g and the specialists' probabilities, and dustbins (A,)."""
    for c in range(len(cell_class)):
        a[c] = generalist[cell_class[c]]
    for c in range(len(cell_class)):
        a[c] = exp32(a[c])
    filled = 0
    for k in range(len(groups)):
        size = class_start[groups[k] + 1] - class_start[groups[k]]
        answer, cells = answers[places[k] : places[k] + size + 1], cell_of[filled : filled + size]
        for c in range(size):
            probs[c] = exp32(answer[c])
        for c in range(size):
            a[cells[c]] += probs[c]
        dustbins[k] = math.exp(answer[size])
        filled += size


@compile_part
def _sum_rest(generalist: Any, cell_class: Any, spare: Any) -> float:
    """The generalist's mass outside the cells; total less theirs would cancel. spare: (K,)."""
    total = f32(0.0)
    for j in range(len(spare)):
        spare[j] = generalist[j]
    for c in range(len(cell_class)):
        spare[cell_class[c]] = f32(-np.inf)
    for j in range(len(spare)):
        total += exp32(spare[j])
    return np.float64(total)


@compile_part
def _sum_patterns(a: Any, cell_pattern: Any, sums: Any, mass: Any) -> float:
    """Fill mass (patterns,) from 1 on. sums: (4, patterns) of memory. Returns the smallest a that is a number.

    Four sums in turn, because an addition waits for the one before to the same place.
    """
    for k in range(4):
        for p in range(len(mass)):
            sums[k, p] = 0.0
    whole = len(a) // 4 * 4
    for c in range(0, whole, 4):
        sums[0, cell_pattern[c]] += np.float64(a[c])
        sums[1, cell_pattern[c + 1]] += np.float64(a[c + 1])
        sums[2, cell_pattern[c + 2]] += np.float64(a[c + 2])
        sums[3, cell_pattern[c + 3]] += np.float64(a[c + 3])
    for c in range(whole, len(a)):
        sums[0, cell_pattern[c]] += np.float64(a[c])
    for p in range(1, len(mass)):
        mass[p] = sums[0, p] + sums[1, p] + sums[2, p] + sums[3, p]
    bits = a.view(np.int32)  # of numbers above 0 in their own order, and the compiler's vectors know integers
    smallest = bits[0]
    for c in range(len(bits)):
        smallest = min(smallest, bits[c])
    return np.float64(i32(smallest).view(np.float32))


@compile_part
def _write(generalist: Any, a: Any, cell_class: Any, cell_pattern: Any, slack: Any, log_q: Any) -> None:
    """Fill log_q (K,): log a - log slack, a being p_g outside the cells."""
    scale = f32(math.log(slack[0]))
    for j in range(len(log_q)):
        log_q[j] = generalist[j] - scale
    for p in range(1, len(slack)):
        slack[p] = math.log(slack[p])
    for c in range(len(cell_class)):
        a[c] = log32(a[c])
    for c in range(len(cell_class)):
        log_q[cell_class[c]] = a[c] - f32(slack[cell_pattern[c]])
