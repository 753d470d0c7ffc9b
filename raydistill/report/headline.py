"""The top of the page: the verdict in one line, and the key numbers.

Comes in: the numbers of report.json. Goes out: text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydistill.report.shares import judged_accuracy, name_measure, say_weighted
from raydistill.report.verdict import format_share, outcome_of
from raydistill.stages.roles import STUDENT

WHO = {"ensemble": "The specialists", "seeds": "The ensemble"}


def write_headline(numbers: Mapping[str, Any]) -> str:
    """The verdict in one line, and by what, where test examples are weighted."""
    return _sum_up(numbers) + say_weighted(numbers, f", by {name_measure(numbers)}")


def list_cards(numbers: Mapping[str, Any], labels: Mapping[str, str]) -> list[dict[str, str]]:
    """Key numbers: accuracy of generalist, teacher and student; what the gain is worth; what the student saves.

    labels: names of models. Each card has a value, a label, a note and, for a model, its name.
    """
    teacher, cards = numbers["teacher"], []
    for name in dict.fromkeys(("generalist", teacher, STUDENT)):
        note = name_measure(numbers) if name == "generalist" else _against(numbers, name)
        value = f"{judged_accuracy(numbers[name]):.2%}"
        cards.append({"value": value, "label": labels[name], "note": note, "model": name})
    models = numbers["serving"]["models"]
    smaller = models[teacher]["weight_bytes"] / models[STUDENT]["weight_bytes"]
    faster = models[teacher]["one_ms"] / models[STUDENT]["one_ms"]
    told = f"the {labels[teacher]}, weights of {format_bytes(models[STUDENT]['weight_bytes'])}"
    cards.append(
        {
            "value": _times(smaller),
            "label": "smaller" if smaller >= 1 else "larger",
            "note": f"than {told}",
            "model": "",
        }
    )
    cards.append(
        {
            "value": _times(faster),
            "label": "faster" if faster >= 1 else "slower",
            "note": f"for one example, {models[STUDENT]['one_ms']:.2g} ms",
            "model": "",
        }
    )
    return cards


def format_bytes(count: float) -> str:
    """357 kB, 6.1 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _sum_up(numbers: Mapping[str, Any]) -> str:
    kept = numbers["verdict"]["student_kept"]
    if numbers["teacher"] == "generalist":
        if kept is None:
            return "The teacher has no lead over labels alone"
        return f"The student kept {format_share(kept)} lead that its teacher has over labels alone"
    who = WHO[numbers["teacher"]]
    outcome = outcome_of(numbers["significance"][f"{numbers['teacher']}_vs_generalist"])
    if outcome != "better" or kept is None:
        return f"{who} {'did harm' if outcome == 'worse' else 'made no significant difference'}"
    return f"{who} paid, and the student kept {format_share(kept)} gain"


def _against(numbers: Mapping[str, Any], name: str) -> str:
    difference = numbers["significance"][f"{name}_vs_generalist"]["difference"]
    return f"{100 * difference:+.2f} points"


def _times(ratio: float) -> str:
    ratio = max(ratio, 1 / ratio)
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:.0f}×"
