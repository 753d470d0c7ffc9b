"""What one model gets right that another got wrong, and the other way round: counts by group, and examples.

Comes in: `Answers` of two models to the same examples. Goes out: counts, positions of examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raydistill.report.answers import Answers
from raydistill.storage.files import Array

FEWEST = 2  # errors of a confusion that is listed


def count_changes(members: Array, before: Answers, after: Answers) -> list[dict[str, int]]:
    """By group, the examples of its classes that the second model alone gets right (fixed), or the first (broken).

    members: boolean (M, K). An example whose class is in several groups counts in each.
    """
    fixed, broken = after.correct & ~before.correct, before.correct & ~after.correct
    known = torch.from_numpy(members)[:, before.labels]  # (M, N)
    return [
        {"fixed": int(mended), "broken": int(spoilt)}
        for mended, spoilt in zip((known & fixed).sum(dim=1), (known & broken).sum(dim=1), strict=True)
    ]


def count_errors_inside(members: Array, answers: Answers) -> tuple[int, int]:
    """Errors between two classes of one group, whichever, and all others. members: boolean (M, K)."""
    wrong = ~answers.correct
    groups = torch.from_numpy(members)
    inside = (groups[:, answers.labels[wrong]] & groups[:, answers.predicted[wrong]]).any(dim=0)
    return int(inside.sum()), int((~inside).sum())


def pick_changes(before: Answers, after: Answers, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of examples that are fixed and of some that are broken, at most so many each, drawn by chance.

    Where there are more, they are of different true classes as far as these go.
    """
    fixed, broken = after.correct & ~before.correct, before.correct & ~after.correct
    return _pick(fixed, before.labels, most, seed), _pick(broken, before.labels, most, seed)


def _pick(changed: Tensor, labels: Tensor, most: int, seed: int) -> Tensor:
    positions = changed.nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    shuffled = positions[torch.randperm(len(positions), generator=generator)]
    seen: dict[int, int] = {}
    turns = []
    for label in labels[shuffled].tolist():  # an example's turn is how many of its class came before
        turns.append(seen.get(label, 0))
        seen[label] = turns[-1] + 1
    order = torch.tensor(turns, dtype=torch.int64).argsort(stable=True)[:most]
    picked: Tensor = shuffled[order]
    return picked


def list_confusions(models: Mapping[str, Answers], most: int, inside: Tensor | None = None) -> list[dict[str, Any]]:
    """The first model's most frequent confusions, and how often each model makes them.

    inside: boolean (K,), only examples and answers of these classes. Returns true, said (class numbers) and counts by
    model, those with the most errors first, of equal ones the lower classes; none that the first model makes but once.
    """
    classes = 1 + max(int(max(answers.labels.max(), answers.predicted.max())) for answers in models.values())
    counts = {name: _count_pairs(answers, classes, inside) for name, answers in models.items()}
    codes, numbers = next(iter(counts.values()))
    codes, numbers = codes[numbers >= FEWEST], numbers[numbers >= FEWEST]
    rows = []
    for code in codes[torch.argsort(numbers, descending=True, stable=True)[:most]].tolist():
        by_model = {name: int(number[found == code].sum()) for name, (found, number) in counts.items()}
        rows.append({"true": code // classes, "said": code % classes, "counts": by_model})
    return rows


def _count_pairs(answers: Answers, classes: int, inside: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pairs of true and predicted class as true · K + predicted, ascending, and how many errors each has."""
    wrong = ~answers.correct
    if inside is not None:
        wrong = wrong & inside[answers.labels] & inside[answers.predicted]
    codes, counts = torch.unique(answers.labels[wrong] * classes + answers.predicted[wrong], return_counts=True)
    return codes, counts
