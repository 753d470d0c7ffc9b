"""Ratios from one run: contenders take turns, so that what else the machine does meets all of them.

Comes in: functions that do some work and return how much. Goes out: for each, its rate in every round; a `Line` holds
the ratios of one contender to another with their median and spread, and the target that the median should meet.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Work = Callable[[], float]
"""Does some work; returns how much: images, trials, bytes ..."""


@dataclass(frozen=True)
class Setup:
    """How to measure. rounds: turns of each contender; quick: less work, for the check against the floors."""

    device: torch.device
    rounds: int = 9
    quick: bool = False


@dataclass(frozen=True)
class Target:
    """What a line's median should be."""

    bound: Literal["at least", "at most"]
    value: float

    def holds(self, value: float) -> bool:
        """Whether a value meets it."""
        return value >= self.value if self.bound == "at least" else value <= self.value

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}"


@dataclass(frozen=True)
class Line:
    """A figure and its target. values: one a round; unit: '' for ratios. exact: the same on any machine and day."""

    name: str
    values: Sequence[float]
    target: Target | None = None
    unit: str = ""
    exact: bool = False

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.values)

    def figure(self) -> str:
        """Median and unit."""
        return f"{self.median:.3g}{self.unit and ' '}{self.unit}"

    def spread(self) -> str:
        """Lower and upper quartile over the rounds."""
        if len(self.values) < 2:
            return "–"
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return f"{low:.3g} to {high:.3g}"


@dataclass(frozen=True)
class Part:
    """What a part measured. notes: what explains it: profiles, what was tried where one is missed. table: Markdown."""

    lines: Sequence[Line]
    notes: Sequence[str] = ()
    table: Sequence[str] = ()


def at_least(value: float) -> Target:
    """The median should be this or more."""
    return Target("at least", value)


def at_most(value: float) -> Target:
    """The median should be this or less."""
    return Target("at most", value)


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


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def divide(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Ratios, round by round."""
    return [a / b for a, b in zip(upper, lower, strict=True)]
