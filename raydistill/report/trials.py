"""The trials of a search, compared although some were stopped early.

Comes in: trials as search.json holds them. Goes out: how far each lies behind the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def measure_gaps(trials: Sequence[Mapping[str, Any]]) -> list[float]:
    """How much accuracy each trial lacked at its last pass against the best of all trials at that pass; 0 and more.

    trials: "values" holds the accuracy by pass; a trial that was stopped early has fewer.
    """
    longest = max(len(trial["values"]) for trial in trials)
    best = [max(trial["values"][index] for trial in trials if len(trial["values"]) > index) for index in range(longest)]
    return [best[len(trial["values"]) - 1] - trial["values"][-1] for trial in trials]
