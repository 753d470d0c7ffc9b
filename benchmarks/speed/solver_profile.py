"""Where equation 5's time goes: the loops of `kernels.equation5` for one image, one by one, on one thread.

The image has five specialists of 61 and 2965 classes. A loop is called from Python over and over, with everything in
the cache; what an empty function takes so is taken off.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numba
import numpy as np

from benchmarks.speed.solver import draw_images
from raydistill.kernels import equation5, prices

CLASSES, ACTIVE, CALLS = 2965, 5, 2000


@numba.njit
def _do_nothing(a: object, b: object, c: object, d: object, e: object, f: object) -> None:
    pass


def time_call(call: Callable[[], object]) -> float:
    """Median microseconds of a call."""
    call()
    taken = []
    for _ in range(CALLS):
        clock = time.perf_counter()
        call()
        taken.append(time.perf_counter() - clock)
    return 1e6 * statistics.median(taken)


def profile_image() -> Sequence[str]:
    """A Markdown table: microseconds of each loop for one image."""
    images = draw_images(256, CLASSES)
    i = int((images.active.sum(dim=1) == ACTIVE).nonzero()[0])
    groups = images.active[i].nonzero()[:, 0].numpy()
    sizes = images.members.sum(dim=1).numpy()
    class_start, class_of = np.append(0, sizes.cumsum()), images.members.nonzero()[:, 1].int().numpy()
    rows = [images.active[:i, m].sum() for m in groups]
    answers = [images.specialists[m][row].numpy() for m, row in zip(groups, rows, strict=True)]
    places = np.append(0, np.cumsum([len(answer) for answer in answers]))[:-1]
    flat, generalist = np.concatenate(answers), images.generalist[i].numpy()

    most = int(sizes[groups].sum())
    cell_at = np.full(CLASSES, equation5.NONE, np.uint32)
    cell_class, cell_pattern, cell_of = np.empty((3, most), np.uint32)
    spare, bits, outside = np.empty((3, most + 2), np.uint32), np.empty(most + 2, np.int64), np.empty((5, most + 2))
    a, probs, dustbins = np.empty(most, np.float32), np.empty(CLASSES, np.float32), np.empty(ACTIVE)
    log_q = np.empty(CLASSES, np.float32)

    def build() -> tuple[int, int]:
        table = (class_start, class_of, cell_at, cell_class, cell_pattern, cell_of, spare, bits, outside)
        return equation5._build_table(groups, *table)  # type: ignore[no-any-return]

    cells, patterns = build()
    own, of_cells, own_patterns = a[:cells], cell_class[:cells], cell_pattern[:cells]
    mass, slack, weight, sums = np.empty(patterns), np.empty(patterns), np.empty(patterns), np.empty((4, patterns))

    def add_up() -> None:
        equation5._add_up(generalist, flat, places, groups, class_start, of_cells, cell_of, probs, a, dustbins)

    def solve(tolerance: float) -> Callable[[], tuple[int, float]]:
        return lambda: prices.find_slacks(mass, dustbins, outside, True, tolerance, slack, weight)

    add_up()
    added = a.copy()

    def write() -> None:
        a[:] = added
        equation5._write(generalist, own, of_cells, own_patterns, slack.copy(), log_q)

    mass[0] = equation5._sum_rest(generalist, of_cells, log_q)
    equation5._sum_patterns(own, own_patterns, sums, mass)
    steps, _ = solve(1e-9)()
    loops: dict[str, Callable[[], object]] = {
        "table of the set (once for all its images)": build,
        "gather the cells, exponentials, add the specialists": add_up,
        "sum over the other classes": lambda: equation5._sum_rest(generalist, of_cells, log_q),
        "sum by pattern": lambda: equation5._sum_patterns(own, own_patterns, sums, mass),
        "first prices and certificate": solve(np.inf),
        f"the same and {steps} steps of Newton's method to 1e-9 nats": solve(1e-9),
        "logarithms, scatter, write": write,
    }
    empty = time_call(lambda: _do_nothing(a, generalist, log_q, mass, slack, sums))
    lines = [f"| one image: {ACTIVE} specialists, {cells} cells, {patterns} patterns | µs on a thread |", "|---|---|"]
    return lines + [f"| {name} | {time_call(call) - empty:.1f} |" for name, call in loops.items()]
