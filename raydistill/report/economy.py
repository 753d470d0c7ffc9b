"""What to conclude from search, training, size, speed and time, in a sentence each; see conclusions.py.

Comes in: the numbers of report.json. Goes out: sentences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raydistill.display import format_seconds
from raydistill.report.metrics import NORMAL_95
from raydistill.report.names import NAMES, Numbers
from raydistill.report.trials import measure_gaps
from raydistill.stages.roles import STUDENT
from raydistill.words import join_words

LAST = 4  # the last quarter of the passes
FEWEST_TRIALS = 6  # for a trend
FANNED_OUT = {"ensemble": "specialists", "seeds": "generalists of other seeds"}
"""By teacher, what is trained in parallel."""


def conclude_search(numbers: Numbers) -> str:
    """What was chosen, and how much the choice matters."""
    search, student = numbers["search"], numbers["student"]
    chosen = f"temperature {student['temperature']:.2f} and label weight {student['label_weight']:.2f}"
    if not search["trials"]:
        return f"Fixed by the settings: {chosen}."
    values = [-gap for gap in measure_gaps(search["trials"])]
    stopped = sum(trial["stopped_early"] for trial in search["trials"])
    text = (
        f"Chosen of {len(values)} trials, {stopped} of them stopped early: {chosen}. The worst was"
        f" {-100 * min(values):.1f} points behind the best of its pass"
    )
    trends = [
        f"{'higher' if trend > 0 else 'lower'} {word} did better"
        for word, trend in (
            ("temperatures", _trend([trial["temperature"] for trial in search["trials"]], values)),
            ("label weights", _trend([trial["label_weight"] for trial in search["trials"]], values)),
        )
        if trend
    ]
    return f"{text}; {join_words(trends) if trends else 'neither of the two shows a clear trend'}."


def conclude_curves(numbers: Numbers) -> str | None:
    """Whether the student was still gaining."""
    history = numbers["convergence"]
    if history["passes"] < LAST:
        return f"The student ends with {history['last']:.2%} of the tune split right, after {history['passes']} passes."
    gain = history["last"] - history["before"]
    return (
        f"The student ends with {history['last']:.2%} of the tune split right, after {history['passes']} passes; the"
        f" last quarter of them brought {100 * gain:+.2f} points."
    )


def conclude_serving(numbers: Numbers) -> str | None:
    """The student's size and speed against its teacher's."""
    models, teacher = numbers["serving"]["models"], numbers["teacher"]
    student, other = models[STUDENT], models[teacher]
    size, one, batch = (_ratio(other[what], student[what]) for what in ("weight_bytes", "one_ms", "batch_ms"))
    return (
        f"Against {NAMES[teacher]}, the student's weights take {size} of the space, one example {one} of the time, and"
        f" a batch of {student['batch']} {batch}."
    )


def conclude_time(numbers: Numbers) -> str:
    """Which stage took most of the time, and how busy the slots were."""
    stages = numbers["stages"]
    total, longest = sum(stage["seconds"] for stage in stages), max(stages, key=lambda stage: stage["seconds"])
    share = longest["seconds"] / max(total, 1e-9)
    text = f"Most of the {format_seconds(total)} went into stage {longest['name']} ({share:.0%})"
    use, who = numbers["slots_at_work"], FANNED_OUT.get(numbers["teacher"])
    if use is None or who is None:
        return f"{text}."
    return f"{text}; while {who} were trained, their slots were at work {use:.0%} of the time."


def format_short(seconds: float) -> str:
    """5.8 s, 12 s, 3 min 20 s."""
    return f"{seconds:.1f} s" if seconds < 10 else format_seconds(seconds)


def _ratio(teacher: float, student: float) -> str:
    """The student's share of what the teacher takes, such as '1/17' or '98%'."""
    ratio = teacher / max(student, 1e-12)
    return f"1/{ratio:.0f}" if ratio >= 1.5 else f"{1 / ratio:.0%}"


def _trend(places: Sequence[float], values: Sequence[float]) -> float:
    """Kendall's rank correlation where it is beyond chance (p < 0.05, by its normal approximation), else 0."""
    count = len(values)
    if count < FEWEST_TRIALS:
        return 0.0
    x, y = (np.sign(np.subtract.outer(series, series)) for series in (np.asarray(places), np.asarray(values)))
    tau = float((x * y).sum() / (count * (count - 1)))
    deviation = math.sqrt(2 * (2 * count + 5) / (9 * count * (count - 1)))
    return tau if abs(tau) > NORMAL_95 * deviation else 0.0
