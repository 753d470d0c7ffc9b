"""Ratios from one run: contenders take turns, so that what else the machine does meets all of them.

Comes in: functions that do some work and return how much. Goes out: for each, its rate in every round; a `Line` holds
the ratios of one contender to another with their median and spread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Work = Callable[[], float]
"""Does some work; returns how much: images, trials, bytes ..."""


@dataclass(frozen=True)
class Line:
    """A ratio and its goal. ratios: one a round; target: text such as 'at least 0.95'."""

    name: str
    ratios: Sequence[float]
    target: str = "shown"

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.ratios)

    def spread(self) -> str:
        """Lower and upper quartile over the rounds."""
        if len(self.ratios) < 2:
            return "–"
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return f"{low:.3g} to {high:.3g}"


def take_turns(contenders: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Rates (work per second) of each contender in each round; one more round before them warms up."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        names = list(contenders) if turn % 2 else list(reversed(contenders))  # none is always the first
        for name in names:
            clock = time.perf_counter()
            work = contenders[name]()
            if turn:
                rates[name].append(work / (time.perf_counter() - clock))
    return rates


def divide(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Ratios, round by round."""
    return [a / b for a, b in zip(upper, lower, strict=True)]
